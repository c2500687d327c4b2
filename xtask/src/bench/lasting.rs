//! Loads on connections that last. One process holds a connection for each side (nothing, empty programs, hopline) and
//! lets the sides work in turns of some tens of milliseconds, so that what else the machine does meets all alike.
//!
//! A socket belongs to the cgroup that it was made in: the process makes those of a side there, and its processors,
//! threads and memory are the same for all. What hopline costs outside its cgroup would be in every side: nothing, per packet.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum;

use super::traffic::stay_on_cpu;

/// Bytes of a request and of a small answer.
const MESSAGE: usize = 64;
const MEBIBYTE: usize = 1 << 20;
/// Downloads at once.
const STREAMS: usize = 16;

/// What passes on the connections, and which ends of them hopline watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Load {
    /// A request and an answer of 64 bytes, one after the other.
    RoundTrips,
    /// One download.
    Bulk,
    /// Sixteen downloads at once.
    Streams,
    /// Of these hopline watches the client alone, as if the server were on another machine.
    FarRoundTrips,
    FarBulk,
    FarStreams,
}

/// Hidden: what the sandbox runs.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    load: Load,
    /// Turns of each side, after one that warms it.
    turns: u32,
    /// What nobody watches: servers are there that are far.
    home: PathBuf,
    /// A side's cgroup.
    #[arg(required = true)]
    sides: Vec<PathBuf>,
}

impl Load {
    pub(super) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Round trips, or MiB, of one turn.
    pub(super) fn operations(self) -> u32 {
        match self {
            Self::RoundTrips | Self::FarRoundTrips => 2_000,
            Self::Bulk | Self::FarBulk | Self::Streams | Self::FarStreams => 160,
        }
    }

    fn is_far(self) -> bool {
        matches!(self, Self::FarRoundTrips | Self::FarBulk | Self::FarStreams)
    }

    fn is_small(self) -> bool {
        matches!(self, Self::RoundTrips | Self::FarRoundTrips)
    }

    fn connections(self) -> usize {
        match self {
            Self::Streams | Self::FarStreams => STREAMS,
            _ => 1,
        }
    }

    /// One turn at the client's end of a connection, and at the server's.
    fn call(self, stream: &mut TcpStream) -> Result<()> {
        let mut message = [7; MESSAGE];
        if self.is_small() {
            for _ in 0..self.operations() {
                stream.write_all(&message)?;
                stream.read_exact(&mut message)?;
            }
            return Ok(());
        }
        stream.write_all(&message)?;
        let mut part = vec![0; MEBIBYTE];
        for _ in 0..self.operations() / self.connections() as u32 {
            stream.read_exact(&mut part)?;
        }
        Ok(())
    }

    fn serve(self, stream: &mut TcpStream) -> Result<()> {
        let mut message = [0; MESSAGE];
        if self.is_small() {
            for _ in 0..self.operations() {
                stream.read_exact(&mut message)?;
                stream.write_all(&message)?;
            }
            return Ok(());
        }
        stream.read_exact(&mut message)?;
        let part = vec![1; MEBIBYTE];
        for _ in 0..self.operations() / self.connections() as u32 {
            stream.write_all(&part)?;
        }
        Ok(())
    }
}

impl Display for Load {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoundTrips | Self::FarRoundTrips => "round trips",
            Self::Bulk | Self::FarBulk => "MiB of a download",
            Self::Streams | Self::FarStreams => "MiB of 16 downloads",
        })?;
        f.write_str(if self.is_far() { ", one end" } else { "" })
    }
}

/// Runs the load and prints the seconds of each turn, a list for each side.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let (load, turns) = (arguments.load, arguments.turns);
    let mut pairs = Vec::new();
    for side in &arguments.sides {
        let server_side = if load.is_far() { &arguments.home } else { side };
        pairs.push(connect(server_side, side, load.connections())?);
    }
    join(&arguments.home)?;
    let (mut clients, mut servers): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    // One processor each: left to the scheduler they meet on one in some runs and not in others, which is another load.
    let server = thread::spawn(move || -> Result<()> {
        stay_on_cpu(1);
        for_each_turn(turns, servers.len(), |side| {
            at_once(&mut servers[side], |stream| load.serve(stream))
        })
    });
    stay_on_cpu(0);
    let mut seconds = vec![Vec::new(); clients.len()];
    for_each_turn(turns, clients.len(), |side| {
        let begin = Instant::now();
        at_once(&mut clients[side], |stream| load.call(stream))?;
        seconds[side].push(begin.elapsed().as_secs_f64());
        Ok(())
    })
    .context("client")?;
    server
        .join()
        .map_err(|_| anyhow!("the server panicked"))?
        .context("server")?;
    for side in &mut seconds {
        side.remove(0);
    }
    println!("{}", serde_json::to_string(&seconds)?);
    Ok(())
}

/// Who goes first changes from turn to turn. The first turn of all warms caches and windows.
fn for_each_turn(turns: u32, sides: usize, mut work: impl FnMut(usize) -> Result<()>) -> Result<()> {
    for turn in 0..=turns as usize {
        for place in 0..sides {
            work((turn + place) % sides)?;
        }
    }
    Ok(())
}

/// Connections between two cgroups: the clients' ends, the servers' ends.
fn connect(servers: &Path, clients: &Path, count: usize) -> Result<(Vec<TcpStream>, Vec<TcpStream>)> {
    join(servers)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    join(clients)?;
    let pair = || -> Result<(TcpStream, TcpStream)> {
        let client = TcpStream::connect(listener.local_addr()?)?;
        let server = listener.accept()?.0;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        Ok((client, server))
    };
    Ok((0..count)
        .map(|_| pair())
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .unzip())
}

/// Does the same on all streams, each on a thread of its own, on this thread's processor.
fn at_once(streams: &mut [TcpStream], work: impl Fn(&mut TcpStream) -> Result<()> + Sync) -> Result<()> {
    if let [stream] = streams {
        return work(stream);
    }
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = streams
            .iter_mut()
            .map(|stream| scope.spawn(move || work(stream)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a stream panicked"))?)
    })
}

fn join(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| format!("joining {}", cgroup.display()))
}
