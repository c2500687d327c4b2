//! Clients that ask again and again on connections that stay open: for scenarios about round trips. And a process that
//! keeps the processors busy.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Bytes of a request and of an answer. The first byte asks the server to think, in units of [`THINK_UNIT`].
pub(super) const MESSAGE: usize = 16;
/// Unit of a request's first byte.
pub(super) const THINK_UNIT: Duration = Duration::from_millis(10);

/// Arguments of `lab internal pulse`.
#[derive(Debug, clap::Args)]
pub(crate) struct PulseArguments {
    /// One connection to each, on a thread of its own.
    #[arg(required = true)]
    to: Vec<SocketAddr>,
    /// How long, from the first connect on.
    #[arg(long)]
    milliseconds: u64,
    /// Pause after each answer.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// Every so many requests the server is asked to think; 0: never.
    #[arg(long, default_value_t = 0)]
    think_every: u32,
    /// For how long then, in units of 10 ms.
    #[arg(long, default_value_t = 0)]
    think: u8,
}

/// What one connection did: the generator's own truth.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Pulse {
    /// Whom it asked.
    pub(crate) to: SocketAddr,
    /// Local port.
    pub(crate) port: u16,
    /// Requests that were answered.
    pub(crate) answered: u64,
}

/// What a finished generator printed.
pub(crate) fn pulses(output: &str) -> Result<Vec<Pulse>> {
    let lines = output.lines().map(|line| serde_json::from_str(line).context("pulse"));
    lines.collect()
}

/// Asks until the time is over, then closes; one [`Pulse`] a line.
pub(crate) fn run(arguments: &PulseArguments) -> Result<()> {
    let end = Instant::now() + Duration::from_millis(arguments.milliseconds);
    thread::scope(|scope| {
        let threads: Vec<_> = arguments
            .to
            .iter()
            .map(|to| scope.spawn(move || ask(*to, arguments, end)))
            .collect();
        for thread in threads {
            let pulse = thread.join().expect("asking does not panic")?;
            println!("{}", serde_json::to_string(&pulse)?);
        }
        Ok(())
    })
}

fn ask(to: SocketAddr, arguments: &PulseArguments, end: Instant) -> Result<Pulse> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("connecting to {to}"))?;
    stream.set_nodelay(true)?;
    let port = stream.local_addr()?.port();
    let mut answered = 0;
    while Instant::now() < end {
        let mut message = [0; MESSAGE];
        let thinks = arguments.think_every > 0 && (answered + 1) % u64::from(arguments.think_every) == 0;
        message[0] = if thinks { arguments.think } else { 0 };
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        answered += 1;
        thread::sleep(Duration::from_millis(arguments.pause_ms));
    }
    Ok(Pulse { to, port, answered })
}

/// Arguments of `lab internal burn`.
#[derive(Debug, clap::Args)]
pub(crate) struct BurnArguments {
    /// Share of each processor.
    #[arg(long)]
    percent: u32,
}

/// Keeps every processor busy until stdin closes.
pub(crate) fn burn(arguments: &BurnArguments) -> Result<()> {
    const PERIOD: Duration = Duration::from_millis(20);
    let busy = PERIOD * arguments.percent / 100;
    for processor in 0..thread::available_parallelism()?.get() {
        thread::spawn(move || {
            let mut set = CpuSet::new();
            let _else_it_burns_elsewhere = set
                .set(processor)
                .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
            loop {
                let begin = Instant::now();
                while begin.elapsed() < busy {
                    std::hint::spin_loop();
                }
                thread::sleep(PERIOD.saturating_sub(busy));
            }
        });
    }
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
