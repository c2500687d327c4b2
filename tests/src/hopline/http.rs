//! One GET to the agent. HTTP/1.0, so that the answer ends with the connection and has no chunks.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Socket, Type};

use crate::netns::NetNs;

/// Status and body of `path`.
pub(crate) fn get(agent: SocketAddr, path: &str) -> Result<(u16, String)> {
    let timeout = Duration::from_secs(20);
    let mut stream = TcpStream::connect_timeout(&agent, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {agent}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("HTTP answer without end of head")?;
    let status = head.split(' ').nth(1).context("HTTP answer without status")?;
    Ok((status.parse()?, body.to_owned()))
}

/// One GET from inside a namespace, from a certain address if it matters: the time until the whole answer was there.
pub(crate) fn timed_get(netns: &NetNs, from: Option<Ipv4Addr>, agent: SocketAddr, path: &str) -> Result<Duration> {
    let timeout = Duration::from_secs(20);
    netns.run(|| {
        let begin = Instant::now();
        let socket = Socket::new(Domain::for_address(agent), Type::STREAM, None)?;
        if let Some(from) = from {
            socket.bind(&SocketAddr::new(from.into(), 0).into())?;
        }
        socket.connect_timeout(&agent.into(), timeout)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(timeout))?;
        // In one segment, as any HTTP client sends it.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {agent}\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer).context("reading the answer");
        let took = begin.elapsed();
        read?;
        let head = answer.lines().next().unwrap_or_default();
        ensure!(head.contains(" 200 "), "{path} was answered with `{head}`");
        Ok(took)
    })
}
