//! Sockets that stay where they should not: a listener that accepts nobody, connects that pile up before it, clients that
//! drip, and writes on connections that the server has closed.

use std::ffi::CString;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

/// Arguments of `lab internal stay`.
#[derive(Debug, clap::Args)]
pub(crate) struct StayArguments {
    way: Way,
    /// Where to, or where to listen.
    #[arg(long)]
    at: SocketAddr,
    /// Connections; of a listener its backlog.
    #[arg(long)]
    count: u32,
    /// Between two bytes of a drip, or before the write on a connection that the server has closed.
    #[arg(long, default_value_t = 500)]
    pause_ms: u64,
    /// Name that the process gives itself.
    #[arg(long)]
    comm: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// Listens and never accepts.
    Listen,
    /// Connects without waiting for an answer.
    Pile,
    /// Sends a byte now and then on each connection.
    Drip,
    /// One exchange, a pause in which the server closes, and a write.
    Dead,
}

/// One write on a connection that the server had closed: the generator's own truth.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DeadWrite {
    /// Local port.
    pub(crate) port: u16,
    /// From the last byte of the answer to the write.
    pub(crate) idle_us: u64,
}

/// Does its work, says `ready`, and stays until stdin closes.
pub(crate) fn run(arguments: &StayArguments) -> Result<()> {
    nix::sys::prctl::set_name(&CString::new(arguments.comm.as_str())?)?;
    match arguments.way {
        Way::Listen => {
            let socket = Socket::new(Domain::for_address(arguments.at), Type::STREAM, None)?;
            socket.bind(&arguments.at.into())?;
            socket.listen(i32::try_from(arguments.count)?)?;
            until_released(&socket)
        }
        Way::Pile => until_released(&pile(arguments)?),
        Way::Drip => drip(arguments),
        Way::Dead => dead(arguments),
    }
}

/// Holds what it is given.
fn until_released<T>(_held: &T) -> Result<()> {
    println!("ready");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn pile(arguments: &StayArguments) -> Result<Vec<Socket>> {
    let connects = (0..arguments.count).map(|_| {
        let socket = Socket::new(Domain::for_address(arguments.at), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&arguments.at.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error.into()),
            _ => Ok(socket),
        }
    });
    connects.collect()
}

fn drip(arguments: &StayArguments) -> Result<()> {
    let connects = (0..arguments.count).map(|_| TcpStream::connect(arguments.at));
    let mut streams: Vec<TcpStream> = connects.collect::<io::Result<_>>()?;
    println!("ready");
    let (release, released) = channel();
    thread::spawn(move || {
        // Whatever ends it ends the drip.
        drop(io::stdin().read_to_end(&mut Vec::new()));
        release.send(()).ok();
    });
    loop {
        for stream in &mut streams {
            stream.write_all(b"x")?;
        }
        match released.recv_timeout(Duration::from_millis(arguments.pause_ms)) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return Ok(()),
        }
    }
}

/// Prints one [`DeadWrite`] per connection.
fn dead(arguments: &StayArguments) -> Result<()> {
    let mut held = Vec::new();
    for _ in 0..arguments.count {
        let mut stream = TcpStream::connect(arguments.at)?;
        stream.write_all(b"question")?;
        stream.read_exact(&mut [0; 8]).context("the answer")?;
        held.push((stream, Instant::now()));
    }
    thread::sleep(Duration::from_millis(arguments.pause_ms));
    for (stream, answered) in &mut held {
        stream.write_all(b"another!")?;
        let write = DeadWrite {
            port: stream.local_addr()?.port(),
            idle_us: answered.elapsed().as_micros() as u64,
        };
        println!("{}", serde_json::to_string(&write)?);
    }
    until_released(&held)
}
