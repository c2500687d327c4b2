//! A client with every way to connect and to end, for scenarios with hundreds of connections.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

/// Arguments of `lab internal connect`.
#[derive(Debug, clap::Args)]
pub(crate) struct ConnectArguments {
    /// Where to; a v4-mapped address is used with an IPv6 socket.
    #[arg(long)]
    to: SocketAddr,
    /// Connections of each thread, one after the other.
    #[arg(long, default_value_t = 1)]
    count: u32,
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// Pause after each connection, and between the starts of the threads.
    #[arg(long, default_value_t = 0)]
    interval_us: u64,
    /// Use MPTCP sockets.
    #[arg(long)]
    mptcp: bool,
    /// Bytes to send and to get back.
    #[arg(long, default_value_t = 0)]
    exchange: usize,
    /// Pause between exchange and end.
    #[arg(long, default_value_t = 0)]
    linger_ms: u64,
    /// How connections end.
    #[arg(long, default_value = "first")]
    end: End,
    /// Close unanswered connects after this time.
    #[arg(long, default_value_t = 0)]
    abort_after_ms: u64,
    /// Name that the process gives itself.
    #[arg(long)]
    comm: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum End {
    /// FIN before the server's.
    First,
    /// Wait for the server's end.
    Last,
    /// RST.
    Reset,
    /// Stay open until stdin closes, then FIN.
    Hold,
}

/// What became of one connect: the generator's own truth.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Attempt {
    /// Local port; 0 when there was none.
    pub(crate) port: u16,
    pub(crate) pid: u32,
    /// errno of the connect, 0 for success.
    pub(crate) error: i32,
    /// errno of what came after it.
    pub(crate) later: i32,
}

/// The attempts that a finished generator printed.
pub(crate) fn attempts(output: &str) -> Result<Vec<Attempt>> {
    output
        .lines()
        .filter(|line| *line != "ready")
        .map(|line| serde_json::from_str(line).context("attempt"))
        .collect()
}

/// Connects, prints one [`Attempt`] per line; with `--end hold` also `ready` once all are open.
pub(crate) fn run(arguments: &ConnectArguments) -> Result<()> {
    if let Some(comm) = &arguments.comm {
        nix::sys::prctl::set_name(&std::ffi::CString::new(comm.as_str())?)?;
    }
    let held = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for thread in 0..arguments.threads {
            let held = &held;
            scope.spawn(move || {
                thread::sleep(Duration::from_micros(arguments.interval_us) * thread);
                for _ in 0..arguments.count {
                    let (attempt, socket) = one(arguments);
                    if let Ok(line) = serde_json::to_string(&attempt) {
                        println!("{line}");
                    }
                    if let Some(socket) = socket {
                        held.lock().expect("no holder panics").push(socket);
                    }
                    thread::sleep(Duration::from_micros(arguments.interval_us));
                }
            });
        }
    });
    if arguments.end == End::Hold {
        println!("ready");
        io::stdin().read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(-1)
}

/// One connection from connect to end; the socket is given back when it is to stay open.
fn one(arguments: &ConnectArguments) -> (Attempt, Option<Socket>) {
    let mut attempt = Attempt {
        port: 0,
        pid: std::process::id(),
        error: 0,
        later: 0,
    };
    let socket = match connect(arguments) {
        (socket, Ok(())) => socket,
        (socket, Err(error)) => {
            attempt.error = errno(&error);
            attempt.port = socket.map_or(0, |socket| port(&socket));
            return (attempt, None);
        }
    };
    let Some(mut socket) = socket else {
        return (attempt, None);
    };
    attempt.port = port(&socket);
    let mut ended = exchange(&socket, arguments.exchange);
    thread::sleep(Duration::from_millis(arguments.linger_ms));
    match arguments.end {
        End::Hold => return (attempt, Some(socket)),
        End::Reset => ended = ended.and_then(|()| socket.set_linger(Some(Duration::ZERO))),
        End::First => ended = ended.and_then(|()| socket.shutdown(Shutdown::Write)),
        End::Last => {}
    }
    if arguments.end != End::Reset {
        ended = ended.and_then(|()| socket.read_to_end(&mut Vec::new()).map(drop));
    }
    attempt.later = ended.err().as_ref().map_or(0, errno);
    (attempt, None)
}

fn connect(arguments: &ConnectArguments) -> (Option<Socket>, io::Result<()>) {
    let protocol = arguments.mptcp.then_some(Protocol::MPTCP);
    let socket = match Socket::new(Domain::for_address(arguments.to), Type::STREAM, protocol) {
        Ok(socket) => socket,
        Err(error) => return (None, Err(error)),
    };
    let result = if arguments.abort_after_ms == 0 {
        socket.connect(&arguments.to.into())
    } else {
        socket.connect_timeout(&arguments.to.into(), Duration::from_millis(arguments.abort_after_ms))
    };
    (Some(socket), result)
}

fn port(socket: &Socket) -> u16 {
    socket
        .local_addr()
        .ok()
        .and_then(|address| address.as_socket())
        .map_or(0, |address| address.port())
}

/// Sends and receives at the same time: an echo of megabytes fills both directions.
fn exchange(socket: &Socket, bytes: usize) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let mut socket = socket;
            socket.write_all(&vec![b'x'; bytes])
        });
        let mut reader = socket;
        reader.read_exact(&mut vec![0; bytes])?;
        sender.join().expect("sending does not panic")
    })
}
