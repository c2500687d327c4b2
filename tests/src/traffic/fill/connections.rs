//! Connections that stay open, both ends in this process: requests in clear and TLS hellos, each for a host of its own.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{long_name, stay};
use crate::hello::{FATAL_ALERT, client_hello};

/// One connection in so many begins with a TLS hello.
const TLS_EVERY: u32 = 3;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
/// So many are opened without a pause: events of more would not fit into the ring at once.
const AT_ONCE: u32 = 500;
const PAUSE: Duration = Duration::from_millis(50);

struct Pair {
    client: TcpStream,
    server: TcpStream,
    number: u32,
}

pub(super) fn run(first: u32, count: u32) -> Result<()> {
    let listener = TcpListener::bind(("127.2.0.1", 0))?;
    let address = listener.local_addr()?;
    let mut pairs = Vec::new();
    for number in first..first + count {
        pairs.push(pair(address, &listener, number)?);
        if number % AT_ONCE == 0 {
            thread::sleep(PAUSE);
        }
    }
    // Half of the answers come late, when all was asked: round trips are of many lengths.
    stay(|| {
        for pair in &mut pairs {
            let (request, answer) = exchange(pair.number, "again");
            pair.client.write_all(&request)?;
            read_some(&mut pair.server)?;
            if !pair.number.is_multiple_of(2) {
                pair.server.write_all(answer)?;
            }
        }
        for pair in &mut pairs {
            if pair.number.is_multiple_of(2) {
                let (_, answer) = exchange(pair.number, "again");
                pair.server.write_all(answer)?;
            }
            read_some(&mut pair.client)?;
        }
        Ok(())
    })
}

fn pair(address: SocketAddr, listener: &TcpListener, number: u32) -> Result<Pair> {
    let mut client = TcpStream::connect(address).context("connecting")?;
    let (mut server, _) = listener.accept()?;
    let (request, answer) = exchange(number, &long_name(number));
    client.write_all(&request)?;
    read_some(&mut server)?;
    server.write_all(answer)?;
    read_some(&mut client)?;
    Ok(Pair { client, server, number })
}

fn exchange(number: u32, host: &str) -> (Vec<u8>, &'static [u8]) {
    if number.is_multiple_of(TLS_EVERY) {
        (client_hello(host), &FATAL_ALERT)
    } else {
        (format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes(), ANSWER)
    }
}

fn read_some(stream: &mut TcpStream) -> Result<()> {
    stream.read(&mut [0; 1_024]).context("reading")?;
    Ok(())
}
