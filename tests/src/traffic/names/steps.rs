//! A client that does what a list of steps says, one after the other: resolves as a libc does, connects and speaks.
//! Its times, and those that the kernel put on its answers, are the truth of the `dns` phase; the list itself is the truth
//! of names.

use std::collections::HashMap;
use std::fs;
use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::message::{A, AAAA, Answer, Question};
use crate::hello::client_hello;

/// libc's own patience with a server.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `lab internal steps`.
#[derive(Debug, clap::Args)]
pub(crate) struct StepsArguments {
    /// A [`Plan`], as JSON.
    #[arg(long)]
    plan: PathBuf,
}

/// What a process does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) resolver: SocketAddr,
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Asks for the addresses of one family and keeps the first.
    Resolve { name: String, ipv6: bool, how: How },
    /// Connects from this port, speaks, and waits for the server's end; or for its first answer, and stays connected.
    Connect {
        to: Target,
        port: u16,
        local_port: u16,
        speak: Speak,
        stay: bool,
    },
    /// Does nothing.
    Pause { ms: u64 },
}

/// By which socket and with what beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum How {
    /// A socket that takes datagrams of the resolver alone, as most libcs have.
    Connected,
    /// One that takes everybody's.
    Unconnected,
    /// The other family is asked for at the same time from the same socket, and both answers are awaited: glibc.
    BothFamilies,
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Target {
    /// What this process last resolved the name to.
    Name(String),
    /// An address that it was told.
    Address(IpAddr),
}

/// What is said first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Speak {
    /// A hello with this server name.
    Tls(String),
    /// A request with this Host.
    Http(String),
    /// Nothing that has a name in it.
    Plain,
}

/// What was done. Every step succeeded.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ran {
    pub(crate) pid: u32,
    /// For each step; zeroes where nothing was asked.
    pub(crate) took: Vec<Took>,
}

/// How long a lookup took, in microseconds from before its first query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Took {
    /// Until the kernel had the answer with the address: no later when others keep the process from running.
    pub(crate) arrived_us: u64,
    /// Until the process had all answers: no phase is longer.
    pub(crate) read_us: u64,
}

/// Does all, and prints [`Ran`].
pub(crate) fn run(arguments: &StepsArguments) -> Result<()> {
    let plan: Plan = serde_json::from_slice(&fs::read(&arguments.plan)?).context("the plan")?;
    let mut open: Vec<Socket> = Vec::new();
    let mut known: HashMap<&str, IpAddr> = HashMap::new();
    let mut ran = Ran {
        pid: std::process::id(),
        took: Vec::new(),
    };
    for step in &plan.steps {
        let mut took = Took::default();
        match step {
            Step::Resolve { name, ipv6, how } => {
                let (address, lasted) = resolve(plan.resolver, name, *ipv6, *how)
                    .with_context(|| format!("resolving {name} by {}", plan.resolver))?;
                known.insert(name, address);
                took = lasted;
            }
            Step::Connect {
                to,
                port,
                local_port,
                speak,
                stay,
            } => {
                let address = match to {
                    Target::Name(name) => *known.get(name.as_str()).context("a name that was not resolved")?,
                    Target::Address(address) => *address,
                };
                let socket = exchange(SocketAddr::new(address, *port), *local_port, &speak.bytes(), *stay)
                    .with_context(|| format!("connecting to {to:?} for {speak:?}"))?;
                if *stay {
                    open.push(socket);
                }
            }
            Step::Pause { ms } => thread::sleep(Duration::from_millis(*ms)),
        }
        ran.took.push(took);
    }
    println!("{}", serde_json::to_string(&ran)?);
    Ok(())
}

impl Speak {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Tls(name) => client_hello(name),
            Self::Http(host) => format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").into_bytes(),
            // A length and a word, as many protocols of databases begin.
            Self::Plain => b"\0\0\0\x08lab\x01".to_vec(),
        }
    }
}

/// On a socket of its own; what is no answer to it is passed over, as every resolver does.
fn resolve(resolver: SocketAddr, name: &str, ipv6: bool, how: How) -> Result<(IpAddr, Took)> {
    let any: IpAddr = match resolver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    setsockopt(&socket, ReceiveTimestampns, &true)?;
    let question = |ipv6: bool| Question {
        id: fastrand::u16(..),
        name: name.to_owned(),
        kind: if ipv6 { AAAA } else { A },
    };
    let mut open = vec![question(ipv6)];
    if how == How::BothFamilies {
        open.push(question(!ipv6));
    }
    if how != How::Unconnected {
        socket.connect(resolver)?;
    }
    let (from, from_unix) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH)?);
    for question in &open {
        match how {
            How::Unconnected => socket.send_to(&question.encode(), resolver)?,
            How::Connected | How::BothFamilies => socket.send(&question.encode())?,
        };
    }
    let mut told = None;
    let mut buffer = [0; 4096];
    while !open.is_empty() {
        let (length, from, arrived) = receive(&socket, &mut buffer)?;
        let answer = Answer::read(&buffer[..length]).filter(|_| from == resolver);
        let Some(answer) = answer.filter(|answer| open.contains(&answer.question)) else {
            continue;
        };
        open.retain(|question| *question != answer.question);
        let found = answer.addresses.into_iter().find(|address| address.is_ipv6() == ipv6);
        told = told.or(found.map(|address| (address, arrived)));
    }
    let (address, arrived) = told.context("no address")?;
    let took = Took {
        arrived_us: arrived.saturating_sub(from_unix).as_micros() as u64,
        read_us: from.elapsed().as_micros() as u64,
    };
    Ok((address, took))
}

/// A datagram: its length, whose it is, and when the kernel had it, since 1970.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Result<(usize, SocketAddr, Duration)> {
    let mut control = nix::cmsg_space!(TimeSpec);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty())?;
    let arrived = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
        _ => None,
    });
    let from = message.address.context("a datagram of nobody")?;
    let from: SocketAddr = match (from.as_sockaddr_in(), from.as_sockaddr_in6()) {
        (Some(from), _) => SocketAddr::V4((*from).into()),
        (_, Some(from)) => SocketAddr::V6((*from).into()),
        _ => anyhow::bail!("a datagram of an unknown family"),
    };
    Ok((message.bytes, from, arrived.context("a datagram without its time")?))
}

/// Sends and waits for an answer, or for the server's end. Whoever drops it resets: no `TIME_WAIT` stays behind.
fn exchange(to: SocketAddr, local_port: u16, bytes: &[u8], stay: bool) -> Result<Socket> {
    let mut socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_reuse_address(true)?;
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    socket.bind(&SocketAddr::new(any, local_port).into())?;
    socket.connect(&to.into())?;
    socket.write_all(bytes)?;
    let mut answer = vec![0; 1];
    let mut read: io::Result<usize> = socket.read_exact(&mut answer).map(|()| 1);
    if !stay && read.is_ok() {
        read = socket.read_to_end(&mut answer);
    }
    ensure!(read.is_ok(), "no answer ({read:?})");
    Ok(socket)
}
