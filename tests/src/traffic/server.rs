//! Servers: listeners with a behaviour each, until stdin closes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use socket2::{Domain, Protocol, Socket, Type};

use super::pulse::{MESSAGE, THINK_UNIT};
use crate::hello::FATAL_ALERT;

/// How long [`Behaviour::HangUpLater`] takes.
pub(crate) const HANGS_UP_AFTER: Duration = Duration::from_secs(2);
/// Content type of a record with a hello (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Arguments of `lab internal serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArguments {
    /// ADDRESS:PORT/BEHAVIOUR, with `/mptcp` behind it for an MPTCP listener.
    listen: Vec<Listen>,
    /// Threads that accept on each listener.
    #[arg(long, default_value_t = 1)]
    acceptors: u32,
}

#[derive(Clone, Copy, Debug)]
struct Listen {
    address: SocketAddr,
    behaviour: Behaviour,
    mptcp: bool,
}

#[derive(Clone, Copy, Debug)]
enum Behaviour {
    /// Sends back what comes, closes after the client did.
    Echo,
    /// Sends back what comes first, then closes before the client.
    CloseFirst,
    /// Reads until the client closes, on the accepting thread.
    Drain,
    /// Closes at once, on the accepting thread.
    Sink,
    /// Answers `GET /think/MS` after that many milliseconds, by HTTP/1.0.
    Think,
    /// The same by HTTP/1.1, again and again.
    ThinkOn,
    /// Reads what comes first and closes.
    HangUp,
    /// Reads what comes first and closes two seconds later.
    HangUpLater,
    /// Never reads: the connection stays as the kernel accepted it.
    Hold,
    /// Answers messages of [`MESSAGE`] bytes, after as long as the first byte says.
    Pulse,
    /// Answers one HTTP/1 request, or a TLS hello with an alert, and closes.
    Http,
}

impl FromStr for Listen {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split('/');
        let address = parts.next().unwrap_or_default().parse()?;
        let behaviour = match parts.next() {
            Some("echo") => Behaviour::Echo,
            Some("close-first") => Behaviour::CloseFirst,
            Some("drain") => Behaviour::Drain,
            Some("sink") => Behaviour::Sink,
            Some("think") => Behaviour::Think,
            Some("think-on") => Behaviour::ThinkOn,
            Some("hang-up") => Behaviour::HangUp,
            Some("hang-up-later") => Behaviour::HangUpLater,
            Some("hold") => Behaviour::Hold,
            Some("http") => Behaviour::Http,
            Some("pulse") => Behaviour::Pulse,
            other => return Err(anyhow!("behaviour {other:?}")),
        };
        Ok(Self {
            address,
            behaviour,
            mptcp: parts.next() == Some("mptcp"),
        })
    }
}

/// Listens everywhere, says `ready`, and serves until stdin closes.
pub(crate) fn run(arguments: &ServeArguments) -> Result<()> {
    for listen in &arguments.listen {
        let listener = open(listen).with_context(|| format!("listening on {}", listen.address))?;
        for _ in 0..arguments.acceptors {
            let (listener, behaviour) = (listener.try_clone()?, listen.behaviour);
            thread::spawn(move || accept(&listener, behaviour));
        }
    }
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn open(listen: &Listen) -> Result<Socket> {
    let domain = Domain::for_address(listen.address);
    let socket = Socket::new(domain, Type::STREAM, listen.mptcp.then_some(Protocol::MPTCP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(!listen.address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&listen.address.into())?;
    socket.listen(65_535)?;
    Ok(socket)
}

fn accept(listener: &Socket, behaviour: Behaviour) {
    let mut held = Vec::new();
    // A connection that was reset before it was accepted is no reason to stop.
    loop {
        let Ok((socket, _)) = listener.accept() else { continue };
        match behaviour {
            Behaviour::Sink => drop(socket),
            Behaviour::Drain | Behaviour::Http => serve(socket, behaviour),
            Behaviour::Hold => held.push(socket),
            Behaviour::Echo | Behaviour::CloseFirst | Behaviour::HangUp | Behaviour::HangUpLater => {
                thread::spawn(move || serve(socket, behaviour));
            }
            Behaviour::Think | Behaviour::ThinkOn => {
                thread::spawn(move || think(&socket, matches!(behaviour, Behaviour::ThinkOn)));
            }
            Behaviour::Pulse => {
                thread::spawn(move || pulse(socket));
            }
        }
    }
}

/// Errors end the connection: the client tells what it saw.
fn serve(mut socket: Socket, behaviour: Behaviour) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length @ 1..) = socket.read(&mut buffer) {
        let answered = match behaviour {
            Behaviour::Drain
            | Behaviour::Sink
            | Behaviour::Hold
            | Behaviour::Think
            | Behaviour::ThinkOn
            | Behaviour::Pulse => continue,
            Behaviour::Echo | Behaviour::CloseFirst => socket.write_all(&buffer[..length]),
            Behaviour::HangUp => return,
            Behaviour::HangUpLater => {
                thread::sleep(HANGS_UP_AFTER);
                return;
            }
            Behaviour::Http if buffer[0] == TLS_HANDSHAKE => socket.write_all(&FATAL_ALERT),
            // Its clients send a request in one piece.
            Behaviour::Http => socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        };
        if answered.is_err() || matches!(behaviour, Behaviour::CloseFirst | Behaviour::Http) {
            return;
        }
    }
}

/// Answers until the client closes.
fn pulse(mut socket: Socket) {
    let mut message = [0; MESSAGE];
    if socket.set_tcp_nodelay(true).is_err() {
        return;
    }
    while socket.read_exact(&mut message).is_ok() {
        thread::sleep(THINK_UNIT * u32::from(message[0]));
        if socket.write_all(&message).is_err() {
            return;
        }
    }
}

/// One request and its answer; what is no such request gets none.
fn think(mut socket: &Socket, goes_on: bool) {
    let mut lines = BufReader::new(socket).lines().map_while(Result::ok);
    // It ends with the client.
    while let Some(request) = lines.next() {
        let milliseconds = request
            .split(' ')
            .nth(1)
            .and_then(|path| path.strip_prefix("/think/")?.parse().ok());
        // To the end of the head: bytes that are not read make a RST of the close.
        let has_end = lines.any(|line| line.is_empty());
        let Some(milliseconds) = milliseconds.filter(|_| has_end) else {
            return;
        };
        thread::sleep(Duration::from_millis(milliseconds));
        let version = if goes_on { "1.1" } else { "1.0" };
        let answer = format!("HTTP/{version} 200 OK\r\nContent-Length: 9\r\n\r\nanswered\n");
        // The proxy tells what it saw.
        if socket.write_all(answer.as_bytes()).is_err() || !goes_on {
            return;
        }
    }
}
