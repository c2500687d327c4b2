//! Datagrams and their answers on loopback: of DNS by their port, or not.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::traffic::stay_on_cpu;

/// A query for `mirror.example.`; with one bit more it is an answer without addresses.
const QUERY: &[u8] = b"\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06mirror\x07example\x00\x00\x01\x00\x01";
const IS_ANSWER: u8 = 0x80;

/// Sends so many to `port` and waits for each answer; with a new socket for each where `fresh`, as libc does.
pub(super) fn run(port: u16, count: u32, fresh: bool) -> Result<Duration> {
    let server = UdpSocket::bind(("127.0.0.1", port)).with_context(|| format!("port {port}"))?;
    server.set_read_timeout(Some(Duration::from_secs(5)))?;
    let to = server.local_addr()?;
    let serving = thread::spawn(move || {
        stay_on_cpu(1);
        serve(&server, count)
    });
    stay_on_cpu(0);
    let begin = Instant::now();
    ask(to, count, fresh).context("client")?;
    let taken = begin.elapsed();
    serving
        .join()
        .map_err(|_| anyhow!("the server panicked"))?
        .context("server")?;
    Ok(taken)
}

fn serve(server: &UdpSocket, count: u32) -> Result<()> {
    let mut message = [0; 512];
    for _ in 0..count {
        let (length, from) = server.recv_from(&mut message)?;
        message[2] |= IS_ANSWER;
        server.send_to(&message[..length], from)?;
    }
    Ok(())
}

fn ask(to: SocketAddr, count: u32, fresh: bool) -> Result<()> {
    let socket = || -> Result<UdpSocket> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect(to)?;
        Ok(socket)
    };
    let mut client = socket()?;
    let mut message = QUERY.to_vec();
    let mut answer = [0; 512];
    for number in 0..count {
        if fresh && number > 0 {
            client = socket()?;
        }
        message[..2].copy_from_slice(&(number as u16).to_be_bytes());
        client.send(&message)?;
        let length = client.recv(&mut answer)?;
        ensure!(answer[..2] == message[..2] && length == message.len(), "another answer");
    }
    Ok(())
}
