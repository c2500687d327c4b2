//! Asks for thousands of hosts by name, each once, at an even rate; one host again and again. The count is its truth.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::hello::client_hello;

/// Name of the host that is asked again and again.
pub(crate) const BUSY: &str = "busy.lab.test";
/// One connection in so many is for the busy host.
const BUSY_EVERY: u64 = 20;
/// One other connection in so many is a TLS hello, the rest are cleartext requests.
const TLS_EVERY: u64 = 10;
/// Enough for an even rate where a connection takes milliseconds.
const THREADS: u64 = 4;

/// Arguments of `lab internal hosts`.
#[derive(Debug, clap::Args)]
pub(crate) struct HostsArguments {
    #[arg(long)]
    to: SocketAddr,
    /// Different hosts.
    #[arg(long)]
    count: u64,
    /// Spread over so long.
    #[arg(long)]
    seconds: u64,
}

/// What was done. Every connection was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// Different hosts, by a cleartext request.
    pub(crate) http: u64,
    /// Different hosts, by a TLS hello that was refused.
    pub(crate) tls: u64,
    /// Requests to the busy host.
    pub(crate) busy: u64,
}

impl Asked {
    pub(crate) fn connections(self) -> u64 {
        self.http + self.tls + self.busy
    }
}

/// Asks, and prints [`Asked`].
pub(crate) fn run(arguments: &HostsArguments) -> Result<()> {
    let [http, tls, busy] = [const { AtomicU64::new(0) }; 3];
    let start = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|worker| {
                let (http, tls, busy) = (&http, &tls, &busy);
                scope.spawn(move || -> Result<()> {
                    for number in (worker..arguments.count).step_by(THREADS as usize) {
                        let due = arguments.seconds as f64 * number as f64 / arguments.count as f64;
                        thread::sleep((start + Duration::from_secs_f64(due)).saturating_duration_since(Instant::now()));
                        if number % BUSY_EVERY == 0 {
                            exchange(arguments.to, &request(BUSY), b"HTTP/1.1 200 ")?;
                            busy.fetch_add(1, Ordering::Relaxed);
                        }
                        let host = format!("h{number}.lab.test");
                        if number % TLS_EVERY == 0 {
                            exchange(arguments.to, &client_hello(&host), &[21, 3, 3])?;
                            tls.fetch_add(1, Ordering::Relaxed);
                        } else {
                            exchange(arguments.to, &request(&host), b"HTTP/1.1 200 ")?;
                            http.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("a worker reports its trouble"))
    })?;
    let asked = Asked {
        http: http.into_inner(),
        tls: tls.into_inner(),
        busy: busy.into_inner(),
    };
    println!("{}", serde_json::to_string(&asked)?);
    Ok(())
}

fn request(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Sends, waits for the server's end, and resets: no `TIME_WAIT` stays behind, so ports do not run out.
fn exchange(to: SocketAddr, send: &[u8], answer_begins: &[u8]) -> Result<()> {
    let mut socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect(&to.into())?;
    socket.write_all(send)?;
    let mut answer = Vec::new();
    let read: io::Result<usize> = socket.read_to_end(&mut answer);
    ensure!(
        read.is_ok() && answer.starts_with(answer_begins),
        "an unexpected answer ({read:?}): {:?}",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}
