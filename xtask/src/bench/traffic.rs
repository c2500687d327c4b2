//! The load of the bench: one client and one server thread on loopback, blocking sockets, nothing else in the way.
//!
//! Runs as a process of its own (`bench traffic`) in the sandbox; says what it did as one JSON line.

use std::fmt::{self, Display, Formatter};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Subcommand;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{datagrams, https, tls};

/// Bytes of a request and of a response.
const MESSAGE: usize = 64;
/// Bytes of a download that count as one operation.
const MEBIBYTE: usize = 1 << 20;
/// In the environment: the cgroup to join once the server listens outside it.
pub(super) const LATE_CGROUP: &str = "HOPLINE_BENCH_LATE_CGROUP";
/// Downloads at once.
const STREAMS: u32 = 16;

/// Hidden: what the sandbox runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    load: Load,
}

/// Kind and amount of traffic.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Load {
    /// So many connections one after the other: connect, a byte each way, close.
    Connections {
        count: u32,
    },
    /// So many requests and responses on one connection.
    RoundTrips {
        count: u32,
    },
    /// One answer of so many MiB.
    Bulk {
        count: u32,
    },
    /// Answers of so many MiB in all, on [`STREAMS`] connections at once.
    Streams {
        count: u32,
    },
    /// Of these three hopline watches the client alone, as if the server were on another machine.
    FarRoundTrips {
        count: u32,
    },
    FarBulk {
        count: u32,
    },
    FarStreams {
        count: u32,
    },
    /// So many DNS queries, each from a socket of its own, and their answers.
    Dns {
        count: u32,
    },
    /// So many datagrams that are not of DNS, and their answers, from one socket.
    Datagrams {
        count: u32,
    },
    /// So many HTTPS connections one after the other: a full handshake, a request, an answer.
    Https {
        count: u32,
    },
    /// So many requests and responses on one TLS connection between two programs with OpenSSL.
    TlsRoundTrips {
        count: u32,
    },
}

impl Load {
    pub(super) fn operations(self) -> u32 {
        match self {
            Self::Connections { count }
            | Self::RoundTrips { count }
            | Self::Bulk { count }
            | Self::Streams { count }
            | Self::FarRoundTrips { count }
            | Self::FarBulk { count }
            | Self::FarStreams { count }
            | Self::Dns { count }
            | Self::Datagrams { count }
            | Self::Https { count }
            | Self::TlsRoundTrips { count } => count,
        }
    }

    /// The words that make `bench traffic` this load.
    pub(super) fn words(self) -> [String; 2] {
        let name = match self {
            Self::Connections { .. } => "connections",
            Self::RoundTrips { .. } => "round-trips",
            Self::Bulk { .. } => "bulk",
            Self::Streams { .. } => "streams",
            Self::FarRoundTrips { .. } => "far-round-trips",
            Self::FarBulk { .. } => "far-bulk",
            Self::FarStreams { .. } => "far-streams",
            Self::Dns { .. } => "dns",
            Self::Datagrams { .. } => "datagrams",
            Self::Https { .. } => "https",
            Self::TlsRoundTrips { .. } => "tls-round-trips",
        };
        [name.to_owned(), self.operations().to_string()]
    }

    /// The server is outside what hopline watches.
    pub(super) fn is_far(self) -> bool {
        matches!(
            self,
            Self::FarRoundTrips { .. } | Self::FarBulk { .. } | Self::FarStreams { .. }
        )
    }
}

impl Display for Load {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connections { count } => write!(f, "{count} connections"),
            Self::RoundTrips { count } => write!(f, "{count} round trips"),
            Self::Bulk { count } => write!(f, "a download of {count} MiB"),
            Self::Streams { count } => write!(f, "{STREAMS} downloads of {count} MiB"),
            Self::FarRoundTrips { count } => write!(f, "{count} round trips, one end"),
            Self::FarBulk { count } => write!(f, "a download of {count} MiB, one end"),
            Self::FarStreams { count } => write!(f, "{STREAMS} of {count} MiB, one end"),
            Self::Dns { count } => write!(f, "{count} DNS queries"),
            Self::Datagrams { count } => write!(f, "{count} datagrams and answers"),
            Self::Https { count } => write!(f, "{count} HTTPS connections"),
            Self::TlsRoundTrips { count } => write!(f, "{count} TLS round trips"),
        }
    }
}

/// How fast a load ran.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Rate {
    operations: u32,
    seconds: f64,
}

impl Rate {
    pub(super) fn per_second(self) -> f64 {
        f64::from(self.operations) / self.seconds
    }
}

/// Runs the load and prints its [`Rate`].
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let load = arguments.load;
    let seconds = match load {
        Load::Https { count } => https::run(count)?.as_secs_f64(),
        Load::TlsRoundTrips { count } => tls::round_trips(count)?.as_secs_f64(),
        Load::Dns { count } => datagrams::run(53, count, true)?.as_secs_f64(),
        Load::Datagrams { count } => datagrams::run(5_300, count, false)?.as_secs_f64(),
        _ => run_bare(load)?,
    };
    let rate = Rate {
        operations: load.operations(),
        seconds,
    };
    println!("{}", serde_json::to_string(&rate)?);
    Ok(())
}

fn run_bare(load: Load) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    if let Some(cgroup) = std::env::var_os(LATE_CGROUP) {
        // The listener is of the cgroup that it was made in, and its connections with it.
        std::fs::write(Path::new(&cgroup).join("cgroup.procs"), "0").context("joining the cgroup")?;
    }
    // On one CPU each: left to the scheduler they meet on one in some runs and not in others, which is another load.
    let server = thread::spawn(move || {
        stay_on_cpu(1);
        serve(&listener, load)
    });
    stay_on_cpu(0);
    let begin = Instant::now();
    call(address, load).context("client")?;
    let seconds = begin.elapsed().as_secs_f64();
    server
        .join()
        .map_err(|_| anyhow!("the server panicked"))?
        .context("server")?;
    Ok(seconds)
}

/// Binds this thread to a CPU; where there is none of that number it runs anywhere.
pub(super) fn stay_on_cpu(cpu: usize) {
    let mut set = CpuSet::new();
    let bound = set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(error) = bound {
        eprintln!("xtask: not bound to CPU {cpu}: {error}");
    }
}

fn serve(listener: &TcpListener, load: Load) -> Result<()> {
    match load {
        Load::Connections { count } => {
            for _ in 0..count {
                let mut stream = listener.accept()?.0;
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                stream.write_all(&byte)?;
                // The client closes first, and keeps the TIME_WAIT.
                let rest = stream.read(&mut byte)?;
                ensure!(rest == 0, "more than one byte");
            }
        }
        Load::Bulk { count } | Load::FarBulk { count } => send_bulk(listener.accept()?.0, count)?,
        Load::Streams { count } | Load::FarStreams { count } => {
            at_once(|| Ok(listener.accept()?.0), |stream| send_bulk(stream, count / STREAMS))?;
        }
        Load::Dns { .. }
        | Load::Datagrams { .. }
        | Load::RoundTrips { .. }
        | Load::FarRoundTrips { .. }
        | Load::Https { .. }
        | Load::TlsRoundTrips { .. } => {
            let mut stream = listener.accept()?.0;
            stream.set_nodelay(true)?;
            let mut message = [0; MESSAGE];
            while stream.read_exact(&mut message).is_ok() {
                stream.write_all(&message)?;
            }
        }
    }
    Ok(())
}

/// Does the same on all streams, each on a thread of its own, on this thread's CPU.
fn at_once(open: impl Fn() -> Result<TcpStream>, work: impl Fn(TcpStream) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let work = &work;
        let streams = (0..STREAMS).map(|_| open()).collect::<Result<Vec<_>>>()?;
        let threads: Vec<_> = streams
            .into_iter()
            .map(|stream| scope.spawn(move || work(stream)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a stream panicked"))?)
    })
}

fn send_bulk(mut stream: TcpStream, mebibytes: u32) -> Result<()> {
    stream.read_exact(&mut [0; MESSAGE])?;
    let part = vec![1; MEBIBYTE];
    for _ in 0..mebibytes {
        stream.write_all(&part)?;
    }
    Ok(())
}

fn read_bulk(mut stream: TcpStream, mebibytes: u32) -> Result<()> {
    stream.write_all(&[7; MESSAGE])?;
    let mut part = vec![0; MEBIBYTE];
    for _ in 0..mebibytes {
        stream.read_exact(&mut part)?;
    }
    Ok(())
}

fn call(address: SocketAddr, load: Load) -> Result<()> {
    match load {
        Load::Connections { count } => {
            for _ in 0..count {
                let mut stream = TcpStream::connect(address)?;
                stream.write_all(&[1])?;
                stream.read_exact(&mut [0])?;
            }
        }
        Load::Bulk { count } | Load::FarBulk { count } => read_bulk(TcpStream::connect(address)?, count)?,
        Load::Streams { count } | Load::FarStreams { count } => {
            at_once(
                || Ok(TcpStream::connect(address)?),
                |stream| read_bulk(stream, count / STREAMS),
            )?;
        }
        Load::Dns { count }
        | Load::Datagrams { count }
        | Load::RoundTrips { count }
        | Load::FarRoundTrips { count }
        | Load::Https { count }
        | Load::TlsRoundTrips { count } => {
            let mut stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            let mut message = [7; MESSAGE];
            for _ in 0..count {
                stream.write_all(&message)?;
                stream.read_exact(&mut message)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_load_runs_to_its_end() {
        for load in [
            Load::Connections { count: 20 },
            Load::RoundTrips { count: 20 },
            Load::Bulk { count: 2 },
            Load::Streams { count: 32 },
            Load::FarRoundTrips { count: 20 },
            Load::FarBulk { count: 2 },
            Load::FarStreams { count: 32 },
        ] {
            run(&Arguments { load }).unwrap();
        }
    }
}
