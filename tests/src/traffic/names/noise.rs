//! A client that misbehaves: thousands of new names, queries that nobody answers, names that nobody may have, bytes that
//! are no DNS at all. The count of each is its truth.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::message::{A, Question};

/// Arguments of `lab internal noise`.
#[derive(Debug, clap::Args)]
pub(crate) struct NoiseArguments {
    #[arg(long)]
    resolver: SocketAddr,
    /// Never answers.
    #[arg(long)]
    silent: SocketAddr,
    #[arg(long)]
    seconds: u64,
    /// Names per second that are resolved, each another one.
    #[arg(long)]
    names: u64,
    /// Queries per second to the silent one.
    #[arg(long)]
    unanswered: u64,
    /// Of each kind of what nobody may send, per second.
    #[arg(long)]
    bad: u64,
    /// Queries to the silent one as fast as it goes.
    #[arg(long)]
    flat_out: bool,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Noise {
    /// Names that were resolved, each another one.
    pub(crate) names: u64,
    /// Queries to the silent one.
    pub(crate) unanswered: u64,
    /// Queries for names of bytes that are no host name's.
    pub(crate) control: u64,
    /// Queries for names of more than 255 bytes.
    pub(crate) long: u64,
    /// Answers with a name that has no end.
    pub(crate) circles: u64,
    /// Datagrams shorter than a header.
    pub(crate) short: u64,
    /// Datagrams of random bytes.
    pub(crate) random: u64,
}

impl Noise {
    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            names: self.names + other.names,
            unanswered: self.unanswered + other.unanswered,
            control: self.control + other.control,
            long: self.long + other.long,
            circles: self.circles + other.circles,
            short: self.short + other.short,
            random: self.random + other.random,
        }
    }
}

/// Makes noise of all kinds at once, and prints [`Noise`].
pub(crate) fn run(arguments: &NoiseArguments) -> Result<()> {
    let total = thread::scope(|scope| {
        let workers = [
            scope.spawn(|| names(arguments)),
            scope.spawn(|| unanswered(arguments)),
            scope.spawn(|| bad(arguments)),
        ];
        let counts = workers.map(|worker| worker.join().expect("a worker reports its trouble"));
        counts
            .into_iter()
            .try_fold(Noise::default(), |sum, count| anyhow::Ok(sum.plus(count?)))
    })?;
    println!("{}", serde_json::to_string(&total)?);
    Ok(())
}

/// Numbers at an even rate until the time is over.
fn paced(arguments: &NoiseArguments, per_second: u64, mut each: impl FnMut(u64) -> Result<()>) -> Result<u64> {
    let start = Instant::now();
    let total = per_second * arguments.seconds;
    for number in 0..total {
        let due = start + Duration::from_secs_f64(number as f64 / per_second as f64);
        // Some at a time: a sleep is longer than the pause between two.
        let early = due.saturating_duration_since(Instant::now());
        if early > Duration::from_millis(2) {
            thread::sleep(early);
        }
        each(number)?;
    }
    Ok(total)
}

fn socket(to: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(socket)
}

fn question(number: u64, name: String) -> Question {
    Question {
        id: number as u16,
        name,
        kind: A,
    }
}

/// A socket for each, as libc has it.
fn names(arguments: &NoiseArguments) -> Result<Noise> {
    let names = paced(arguments, arguments.names, |number| {
        let socket = socket(arguments.resolver)?;
        let name = format!("n{number}-{}.flood.test", std::process::id());
        socket.send(&question(number, name).encode())?;
        let length = socket.recv(&mut [0; 512])?;
        ensure!(length > 0, "an empty answer");
        Ok(())
    })?;
    Ok(Noise {
        names,
        ..Noise::default()
    })
}

/// One socket for all, as a stub resolver has it.
fn unanswered(arguments: &NoiseArguments) -> Result<Noise> {
    let socket = socket(arguments.silent)?;
    let ask = |number| -> Result<()> {
        socket.send(&question(number, format!("u{number}.silent.test")).encode())?;
        Ok(())
    };
    let unanswered = if arguments.flat_out {
        let start = Instant::now();
        let in_time = (0..).take_while(|_| start.elapsed() < Duration::from_secs(arguments.seconds));
        in_time.map(ask).try_fold(0, |sum, asked| asked.map(|()| sum + 1))?
    } else {
        paced(arguments, arguments.unanswered, ask)?
    };
    Ok(Noise {
        unanswered,
        ..Noise::default()
    })
}

/// Each time one of each kind. Only circles are answered.
fn bad(arguments: &NoiseArguments) -> Result<Noise> {
    let silent = socket(arguments.silent)?;
    let label = "l".repeat(59);
    let rounds = paced(arguments, arguments.bad, |number| {
        let control = question(number, format!("\u{1}\n\u{7f}{number}.flood.test"));
        silent.send(&control.encode())?;
        // Five labels of 60 bytes each.
        let long = question(number, [label.as_str(); 5].join("."));
        silent.send(&long.encode())?;
        silent.send(&vec![number as u8; 1 + (number % 11) as usize])?;
        let random: Vec<u8> = (0..fastrand::usize(12..600)).map(|_| fastrand::u8(..)).collect();
        silent.send(&random)?;
        let circle = socket(arguments.resolver)?;
        circle.send(&question(number, format!("c{number}.circle.test")).encode())?;
        circle.recv(&mut [0; 512])?;
        Ok(())
    })?;
    Ok(Noise {
        control: rounds,
        long: rounds,
        circles: rounds,
        short: rounds,
        random: rounds,
        ..Noise::default()
    })
}
