//! Connections that end in masses: threads that connect and close as fast as told, and one that opens many, holds them and
//! closes all at once, again and again. Both ends are here. The count is its truth.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

/// Descriptors beside those of the connections that are held.
const OTHER_DESCRIPTORS: u64 = 1_024;
/// So long all are held.
const HOLD: Duration = Duration::from_millis(1_500);
/// One connection in so many ends by FIN, the others by RST: those leave no `TIME_WAIT` behind, so that ports do not run out.
const FIN_EVERY: u64 = 4;
/// Addresses that the short ones go to in turn: source ports are then plenty.
const ADDRESSES: u64 = 4;

/// Arguments of `lab internal storm`.
#[derive(Debug, clap::Args)]
pub(crate) struct StormArguments {
    /// Threads that connect and close.
    #[arg(long)]
    threads: u64,
    /// Where they go, on loopback.
    #[arg(long)]
    port: u16,
    /// Connections of all threads per second.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Connections that are held and closed at once.
    #[arg(long)]
    held: u32,
    /// Where those go.
    #[arg(long)]
    held_port: u16,
    #[arg(long)]
    seconds: u64,
}

/// What a storm did.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Stormed {
    /// Connects that succeeded; all are closed.
    pub(crate) connected: u64,
    /// Failed ones by errno.
    pub(crate) failed: BTreeMap<i32, u64>,
    /// How often the held ones were closed.
    pub(crate) rounds: u64,
    /// How long it took.
    pub(crate) seconds: f64,
}

impl Stormed {
    /// Connects, however they went.
    pub(crate) fn total(&self) -> u64 {
        self.connected + self.failed.values().sum::<u64>()
    }

    fn note<T>(&mut self, made: io::Result<T>) -> Option<T> {
        match made {
            Ok(made) => {
                self.connected += 1;
                Some(made)
            }
            Err(error) => {
                *self.failed.entry(error.raw_os_error().unwrap_or(-1)).or_default() += 1;
                None
            }
        }
    }
}

/// Storms and prints [`Stormed`] once everything is closed.
pub(crate) fn run(arguments: &StormArguments) -> Result<()> {
    step_back()?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = 2 * u64::from(arguments.held) + OTHER_DESCRIPTORS;
    setrlimit(Resource::RLIMIT_NOFILE, wanted.min(most), most).context("raising the limit of open files")?;
    let listener = listen(arguments.port)?;
    let held_listener = listen(arguments.held_port)?;
    for _ in 0..arguments.threads.div_ceil(2) {
        let listener = listener.try_clone()?;
        // These end with the process, once no client is left.
        thread::spawn(move || {
            loop {
                drop(listener.accept());
            }
        });
    }
    let begin = Instant::now();
    let ends = AtomicBool::new(false);
    let all = Mutex::new(Stormed::default());
    thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| add(&all, short_ones(arguments, begin, &ends)));
        }
        scope.spawn(|| add(&all, held_ones(arguments, &held_listener, &ends)));
        thread::sleep(Duration::from_secs(arguments.seconds));
        ends.store(true, Ordering::Relaxed);
    });
    let mut stormed = all.into_inner().expect("no thread panics");
    stormed.seconds = begin.elapsed().as_secs_f64();
    println!("{}", serde_json::to_string(&stormed)?);
    Ok(())
}

/// A little behind the agent, which has to answer, and not so far that it would never be preempted in the middle of a walk.
fn step_back() -> Result<()> {
    const NICE: i32 = 4;
    // SAFETY: takes and gives numbers; 0 is this process, whose threads are yet to come.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    ensure!(result == 0, "lowering the priority: {}", io::Error::last_os_error());
    Ok(())
}

fn listen(port: u16) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    socket.listen(65_535)?;
    Ok(socket)
}

fn add(all: &Mutex<Stormed>, one: Stormed) {
    let mut all = all.lock().expect("no thread panics");
    all.connected += one.connected;
    all.rounds += one.rounds;
    for (errno, count) in one.failed {
        *all.failed.entry(errno).or_default() += count;
    }
}

/// One thread's connections that end at once.
fn short_ones(arguments: &StormArguments, begin: Instant, ends: &AtomicBool) -> Stormed {
    let mut stormed = Stormed::default();
    let every = Duration::from_secs_f64(arguments.threads as f64 / arguments.rate as f64);
    for number in 0.. {
        let due = begin + every.mul_f64(number as f64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if ends.load(Ordering::Relaxed) {
            break;
        }
        let address = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + (number % ADDRESSES) as u32);
        let made = connect((address, arguments.port).into(), number % FIN_EVERY != 0);
        drop(stormed.note(made));
    }
    stormed
}

/// Rounds of connections that are closed all at once: by RST, by FIN, in turn.
fn held_ones(arguments: &StormArguments, listener: &Socket, ends: &AtomicBool) -> Stormed {
    let mut stormed = Stormed::default();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, arguments.held_port));
    while !ends.load(Ordering::Relaxed) {
        let mut held = Vec::new();
        for _ in 0..arguments.held {
            if let Some(client) = stormed.note(connect(to, stormed.rounds % 2 == 0)) {
                held.push(client);
                // One that was reset in the queue has no other end to hold.
                held.extend(listener.accept().map(|(server, _)| server));
            }
        }
        thread::sleep(HOLD);
        drop(held);
        stormed.rounds += 1;
    }
    stormed
}

fn connect(to: SocketAddr, ends_by_reset: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if ends_by_reset {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    socket.connect(&to.into())?;
    Ok(socket)
}
