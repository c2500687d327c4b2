//! A client that asks and gets an answer, again and again on one connection, and times it by its own clock.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Bytes of a request and of its answer.
const BYTES: usize = 64;

/// Arguments of `lab internal talk`.
#[derive(Debug, clap::Args)]
pub(crate) struct TalkArguments {
    /// An echo server.
    #[arg(long)]
    to: SocketAddr,
    /// Pause after each exchange.
    #[arg(long, default_value_t = 50)]
    pause_ms: u64,
    /// Name that the process gives itself.
    #[arg(long)]
    comm: String,
}

/// Prints its port, then talks until stdin closes, then prints how long each exchange took, in microseconds.
pub(crate) fn run(arguments: &TalkArguments) -> Result<()> {
    nix::sys::prctl::set_name(&std::ffi::CString::new(arguments.comm.as_str())?)?;
    let mut stream = TcpStream::connect(arguments.to)?;
    stream.set_nodelay(true)?;
    println!("{}", stream.local_addr()?.port());
    let ended = AtomicBool::new(false);
    let mut times_us = Vec::new();
    thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            // Nothing comes: it ends when the scenario lets go.
            drop(io::stdin().read_to_end(&mut Vec::new()));
            ended.store(true, Ordering::Relaxed);
        });
        while !ended.load(Ordering::Relaxed) {
            let from = Instant::now();
            stream.write_all(&[b'x'; BYTES])?;
            stream.read_exact(&mut [0; BYTES])?;
            times_us.push(from.elapsed().as_micros() as u64);
            thread::sleep(Duration::from_millis(arguments.pause_ms));
        }
        Ok(())
    })?;
    println!("{}", serde_json::to_string(&times_us)?);
    Ok(())
}

/// What a finished one printed last.
pub(crate) fn times_us(output: &str) -> Result<Vec<u64>> {
    let line = output.lines().last().context("a client that printed nothing")?;
    serde_json::from_str(line).with_context(|| format!("times `{line}`"))
}
