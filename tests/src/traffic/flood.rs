//! Connects and resets as fast as told, from one thread; the count is its truth.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

/// Arguments of `lab internal flood`.
#[derive(Debug, clap::Args)]
pub(crate) struct FloodArguments {
    /// Where to, in turn.
    #[arg(required = true)]
    to: Vec<SocketAddr>,
    /// Connects per second; 0 for as fast as it goes.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    #[arg(long)]
    seconds: u64,
}

/// What a flood did.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Flooded {
    /// Connects that succeeded; each was ended by a RST.
    pub(crate) connected: u64,
    /// Failed ones by errno.
    pub(crate) failed: BTreeMap<i32, u64>,
    /// How long it took.
    pub(crate) seconds: f64,
}

impl Flooded {
    /// Connects, however they went.
    pub(crate) fn total(&self) -> u64 {
        self.connected + self.failed.values().sum::<u64>()
    }
}

/// Floods and prints [`Flooded`].
pub(crate) fn run(arguments: &FloodArguments) -> Result<()> {
    let mut flooded = Flooded::default();
    let start = Instant::now();
    let length = Duration::from_secs(arguments.seconds);
    let mut targets = arguments.to.iter().cycle();
    while start.elapsed() < length {
        let due = if arguments.rate == 0 {
            u64::MAX
        } else {
            (start.elapsed().as_secs_f64() * arguments.rate as f64) as u64
        };
        if flooded.total() >= due {
            std::thread::sleep(Duration::from_micros(500));
            continue;
        }
        let Some(target) = targets.next() else { break };
        match connect_and_reset(*target) {
            Ok(()) => flooded.connected += 1,
            Err(error) => *flooded.failed.entry(error.raw_os_error().unwrap_or(-1)).or_default() += 1,
        }
    }
    flooded.seconds = start.elapsed().as_secs_f64();
    println!("{}", serde_json::to_string(&flooded)?);
    Ok(())
}

/// A RST leaves no `TIME_WAIT` behind, so ports do not run out.
fn connect_and_reset(target: SocketAddr) -> std::io::Result<()> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect(&target.into())
}
