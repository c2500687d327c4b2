//! Asks the lab's name server by one socket that hears everybody, as no resolver would: an id used again while its answer
//! is awaited, and noise. Says what it sent.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::message::{A, Query};

/// Of each kind.
const ROUNDS: u16 = 10;
/// Kinds of names that make the server misbehave, with the datagrams that come back for each query.
const KINDS: [(&str, u16); 5] = [("ok", 1), ("twice", 2), ("unasked", 2), ("question", 2), ("server", 2)];
/// Datagrams of noise.
const NOISE: u16 = 200;
const LIMIT: Duration = Duration::from_secs(5);

/// Arguments of `lab internal dns-astray`.
#[derive(Debug, clap::Args)]
pub(crate) struct AstrayArguments {
    #[arg(long)]
    to: SocketAddr,
    /// Local address; the port is any.
    #[arg(long)]
    from: SocketAddr,
}

/// What it sent; the server's log has the queries.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// Queries, each with its right answer.
    pub(crate) queries: u64,
    /// Of each kind of misbehaviour, the answers that nobody may count.
    pub(crate) wrong_of_each: u64,
    /// Datagrams of noise, each way.
    pub(crate) noise: u64,
}

/// Sends everything, waits for what must come back, and prints [`Sent`].
pub(crate) fn run(arguments: &AstrayArguments) -> Result<()> {
    let socket = UdpSocket::bind(arguments.from)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut queries = 0;
    for round in 0..ROUNDS {
        for (number, (kind, answers)) in (0..).zip(KINDS) {
            // By one id each, all under way at once.
            for twin in ["x", "y"] {
                let name = format!("{kind}-e-sure-{round}-{twin}.ext.test");
                socket.send_to(&Query::encode(round * 100 + number, &name, A), arguments.to)?;
                queries += 1;
            }
            receive(&socket, answers * 2)?;
        }
    }
    let mut random = fastrand::Rng::with_seed(18);
    let mut noise = 0;
    while noise < NOISE {
        let mut bytes = vec![0; random.usize(1..400)];
        random.fill(&mut bytes);
        // What the server takes for a query is none.
        if Query::read(&bytes).is_none() {
            socket.send_to(&bytes, arguments.to)?;
            receive(&socket, 1)?;
            noise += 1;
        }
    }
    let sent = Sent {
        queries,
        wrong_of_each: u64::from(ROUNDS) * 2,
        noise: noise.into(),
    };
    println!("{}", serde_json::to_string(&sent)?);
    Ok(())
}

fn receive(socket: &UdpSocket, count: u16) -> Result<()> {
    let begin = Instant::now();
    for _ in 0..count {
        while socket.recv_from(&mut [0; 4096]).is_err() {
            ensure!(begin.elapsed() < LIMIT, "an answer did not come");
        }
    }
    Ok(())
}

/// Reads what [`run`] printed.
pub(crate) fn read(output: &str) -> Result<Sent> {
    serde_json::from_str(output.trim()).context("what was sent")
}
