//! GET from the agent on loopback: HTTP/1.0, so that the answer is neither chunked nor kept open. For `run` and `bench`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// No answer of the agent may take longer.
const LIMIT: Duration = Duration::from_secs(5);

/// The body of a 200 answer.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: text/plain\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .with_context(|| format!("reading http://{address}{path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a header")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(
        status == "200",
        "http://{address}{path} answered {status}: {}",
        body.trim()
    );
    Ok(body.to_owned())
}
