//! GET from the agent on loopback: HTTP/1.0, so that the answer is neither chunked nor kept open. For `run` and `bench`.
//! [`events`] listens to an answer that does not end.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// No answer of the agent may take longer.
const LIMIT: Duration = Duration::from_secs(5);

/// The body of a 200 answer.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = ask(address, path)?;
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

/// Every event of a stream (`data:` lines with JSON), until the agent ends it or nobody listens.
pub(crate) fn events(address: SocketAddr, path: &str) -> Result<Receiver<Value>> {
    let stream = ask(address, path)?;
    stream.set_read_timeout(None)?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let event = line
                .strip_prefix("data:")
                .and_then(|json| serde_json::from_str(json).ok());
            if event.is_some_and(|event| sender.send(event).is_err()) {
                return;
            }
        }
    });
    Ok(receiver)
}

fn ask(address: SocketAddr, path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: text/plain\r\n\r\n"
    )?;
    Ok(stream)
}
