//! HTTP/1.0 both ways, as little of it as the monitoring needs: a GET, and a server that takes whole requests.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

const LIMIT: Duration = Duration::from_secs(20);
/// Longest body of a request.
const BODY: usize = 16 << 20;

/// Status and body of `path`.
pub(super) fn get(server: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {server}\r\nAccept: text/plain, application/json\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("HTTP answer without end of head")?;
    let status = head.split(' ').nth(1).context("HTTP answer without status")?;
    Ok((status.parse()?, body.to_owned()))
}

/// What a client asked.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) path: String,
    pub(super) body: Vec<u8>,
}

/// Answers every request with what `answer` gives, on a thread that ends with the lab; where it listens.
pub(super) fn serve(answer: impl Fn(Request) -> Result<String> + Send + 'static) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(std::result::Result::ok) {
            if let Err(error) = take(stream, &answer) {
                eprintln!("lab: a request of the monitoring: {error:#}");
            }
        }
    });
    Ok(address)
}

fn take(stream: TcpStream, answer: &impl Fn(Request) -> Result<String>) -> Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).context("a request without a path")?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let header = line.trim_end();
        if header.is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
    }
    ensure!(length <= BODY, "a body of {length} bytes");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let answered = answer(Request { path, body });
    let (status, text) = match &answered {
        Ok(text) => ("200 OK", text.as_str()),
        Err(_) => ("502 Bad Gateway", ""),
    };
    write!(
        reader.into_inner(),
        "HTTP/1.0 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    )?;
    answered.map(drop)
}

/// `text` as a value in a query string.
pub(super) fn encoded(text: &str) -> String {
    let encode = |byte: u8| {
        if byte.is_ascii_alphanumeric() {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    text.bytes().map(encode).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_and_answered() {
        let address = serve(|request| Ok(format!("{} {}", request.path, request.body.len()))).expect("a server");
        assert_eq!(get(address, "/x?y=1").expect("an answer"), (200, "/x?y=1 0".to_owned()));
        let failing = serve(|_| anyhow::bail!("no")).expect("a server");
        assert_eq!(get(failing, "/").expect("an answer").0, 502);
    }

    #[test]
    fn what_a_query_may_not_hold_is_encoded() {
        assert_eq!(encoded("a{b=\"c\"} > 1"), "a%7Bb%3D%22c%22%7D%20%3E%201");
    }
}
