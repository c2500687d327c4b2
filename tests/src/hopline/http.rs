//! One GET to the agent. HTTP/1.0, so that the answer ends with the connection and has no chunks.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Status and body of `path`.
pub(super) fn get(agent: SocketAddr, path: &str) -> Result<(u16, String)> {
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
