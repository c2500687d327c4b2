//! Thousands of connections that an HTTP server should not keep: half a request, a head without end, readers that take
//! nothing. Whatever the server closes is opened again, at a rate, until stdin closes.

use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

/// Bytes of a head without end: hyper's own limit for a head.
const LONG_HEAD: usize = 400_000;
/// What a socket may hold for a reader that takes little.
const SMALL_BUFFER: usize = 4_096;
/// Between two bytes of those who are slow.
const DRIP: Duration = Duration::from_mins(1);

/// Arguments of `lab internal starve`.
#[derive(Debug, clap::Args)]
pub(crate) struct StarveArguments {
    way: Way,
    #[arg(long)]
    to: SocketAddr,
    /// First of the addresses to come from.
    #[arg(long)]
    from: Ipv4Addr,
    #[arg(long)]
    addresses: u32,
    /// Connections at once.
    #[arg(long)]
    count: usize,
    /// Connects a second.
    #[arg(long)]
    rate: u64,
    /// What readers ask for.
    #[arg(long, default_value = "/metrics")]
    path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// A request head that stops in the middle.
    Half,
    /// One that does not stop.
    Long,
    /// One that comes by a byte a minute.
    Drip,
    /// A whole request, and an answer that is taken by a byte a minute.
    Read,
}

/// What it did.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Starved {
    /// Connects begun.
    pub(crate) begun: u64,
    /// Connections that the server ended.
    pub(crate) ended: u64,
    /// Most that were open at a time.
    pub(crate) most: u64,
}

/// One of the connections.
#[derive(Debug, Default)]
struct Slot {
    socket: Option<Socket>,
    sent: usize,
    moved: Option<Instant>,
}

/// Prints [`Starved`].
pub(crate) fn run(arguments: &StarveArguments) -> Result<()> {
    static RELEASED: AtomicBool = AtomicBool::new(false);

    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("as many descriptors as there may be")?;
    thread::spawn(|| {
        // Whatever ends it ends the attack.
        drop(io::stdin().read_to_end(&mut Vec::new()));
        RELEASED.store(true, Ordering::Relaxed);
    });
    let text = arguments.text();
    let mut slots: Vec<Slot> = std::iter::repeat_with(Slot::default).take(arguments.count).collect();
    let mut starved = Starved::default();
    let begin = Instant::now();
    while !RELEASED.load(Ordering::Relaxed) {
        let mut open = 0;
        for (number, slot) in slots.iter_mut().enumerate() {
            if slot.socket.is_some() {
                if slot.step(arguments.way, &text).is_err() {
                    *slot = Slot::default();
                    starved.ended += 1;
                }
            } else if starved.begun < (begin.elapsed().as_secs_f64() * arguments.rate as f64) as u64 {
                starved.begun += 1;
                slot.socket = arguments.connect(number).ok();
            }
            open += u64::from(slot.socket.is_some());
        }
        starved.most = starved.most.max(open);
        // Those who hold what they have need no processor.
        thread::sleep(Duration::from_millis(5));
    }
    println!("{}", serde_json::to_string(&starved)?);
    Ok(())
}

impl StarveArguments {
    /// All that a connection has to say.
    fn text(&self) -> Vec<u8> {
        let path = &self.path;
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", self.to);
        match self.way {
            Way::Half | Way::Drip => format!("{head}Accept: text/plain, application/json, text/html, */*"),
            Way::Long => head + &format!("X-Long: {}\r\n", "x".repeat(4_000)).repeat(LONG_HEAD / 4_000),
            Way::Read => head + "\r\n",
        }
        .into_bytes()
    }

    fn connect(&self, number: usize) -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        if self.way == Way::Read {
            socket.set_recv_buffer_size(SMALL_BUFFER)?;
        }
        let from = Ipv4Addr::from_bits(self.from.to_bits() + number as u32 % self.addresses);
        socket.bind(&SockAddr::from(SocketAddr::new(IpAddr::V4(from), 0)))?;
        match socket.connect(&self.to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(socket),
        }
    }
}

impl Slot {
    /// Says what is due; an error when the connection is over.
    fn step(&mut self, way: Way, text: &[u8]) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        let is_due = self.moved.is_none_or(|moved| moved.elapsed() > DRIP);
        let most = if way == Way::Drip { self.sent + 1 } else { text.len() };
        if self.sent < text.len().min(most) && (way != Way::Drip || is_due) {
            self.sent += blocked_is_none(socket.write(&text[self.sent..most]))?.unwrap_or_default();
            self.moved = Some(Instant::now());
        }
        let mut byte = [MaybeUninit::uninit()];
        let seen = if way == Way::Read && is_due && self.sent == text.len() {
            self.moved = Some(Instant::now());
            socket.recv(&mut byte)
        } else {
            socket.peek(&mut byte)
        };
        match blocked_is_none(seen)? {
            Some(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Nothing, when it would have to wait: for room, for bytes, or for the connect.
fn blocked_is_none(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOTCONN)) => Ok(None),
        Err(error) => Err(error),
    }
}
