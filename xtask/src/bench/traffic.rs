//! The load of the bench: one client and one server thread on loopback, blocking sockets, nothing else in the way.
//!
//! Runs as a process of its own (`bench traffic`) in the sandbox; says what it did as one JSON line.

use std::fmt::{self, Display, Formatter};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Subcommand;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{datagrams, https, tls};

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
    Connections { count: u32 },
    /// So many DNS queries, each from a socket of its own, and their answers.
    Dns { count: u32 },
    /// So many datagrams that are not of DNS, and their answers, from one socket.
    Datagrams { count: u32 },
    /// So many HTTPS connections one after the other: a full handshake, a request, an answer.
    Https { count: u32 },
    /// So many requests and responses on one TLS connection between two programs with OpenSSL.
    TlsRoundTrips { count: u32 },
}

impl Load {
    pub(super) fn operations(self) -> u32 {
        match self {
            Self::Connections { count }
            | Self::Dns { count }
            | Self::Datagrams { count }
            | Self::Https { count }
            | Self::TlsRoundTrips { count } => count,
        }
    }

    pub(super) fn name(self) -> String {
        let name = match self {
            Self::Connections { .. } => "connections",
            Self::Dns { .. } => "dns",
            Self::Datagrams { .. } => "datagrams",
            Self::Https { .. } => "https",
            Self::TlsRoundTrips { .. } => "tls-round-trips",
        };
        name.to_owned()
    }
}

impl Display for Load {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connections { count } => write!(f, "{count} connections"),
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
        Load::Connections { count } => connections(count)?,
    };
    let rate = Rate {
        operations: load.operations(),
        seconds,
    };
    println!("{}", serde_json::to_string(&rate)?);
    Ok(())
}

fn connections(count: u32) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    // On one CPU each: left to the scheduler they meet on one in some runs and not in others, which is another load.
    let server = thread::spawn(move || {
        stay_on_cpu(1);
        serve(&listener, count)
    });
    stay_on_cpu(0);
    let begin = Instant::now();
    call(address, count).context("client")?;
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

fn serve(listener: &TcpListener, count: u32) -> Result<()> {
    for _ in 0..count {
        let mut stream = listener.accept()?.0;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
        // The client closes first, and keeps the TIME_WAIT.
        let rest = stream.read(&mut byte)?;
        ensure!(rest == 0, "more than one byte");
    }
    Ok(())
}

fn call(address: SocketAddr, count: u32) -> Result<()> {
    for _ in 0..count {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_load_runs_to_its_end() {
        let load = Load::Connections { count: 20 };
        run(&Arguments { load }).unwrap();
    }
}
