//! Lookups of long names, each once, with addresses of their own behind long aliases; and queries without an answer.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{long_name, stay};

/// Where the resolver is.
const RESOLVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
/// Names that nobody answers begin with it.
const LOST: &str = "lost";
/// Queries of one `more`.
const QUERIES: u32 = 3_000;
/// Aliases of each name.
const ALIASES: u32 = 4;
/// The numbers of aliases and of lost names begin there.
const OTHERS: u32 = 1 << 28;

pub(super) fn run(first: u32, count: u32) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(RESOLVER)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answer = [0; 4_096];
    for number in first..first + count {
        socket.send(&query(number as u16, &long_name(number)))?;
        socket.recv(&mut answer).context("an answer of the resolver")?;
    }
    let mut next = OTHERS + first;
    stay(|| {
        for number in next..next + QUERIES {
            socket.send(&query(
                number as u16,
                &format!("{LOST}{}", &long_name(number)[LOST.len()..]),
            ))?;
        }
        next += QUERIES;
        Ok(())
    })
}

/// The resolver: answers everything but what is lost. Says `ready` and runs until its stdin closes.
pub(crate) fn serve() -> Result<()> {
    let socket = UdpSocket::bind(RESOLVER)?;
    println!("ready");
    let mut bytes = [0; 4_096];
    loop {
        let (length, from) = socket.recv_from(&mut bytes)?;
        if !bytes[13..].starts_with(LOST.as_bytes()) {
            socket.send_to(&answer(&bytes[..length]), from)?;
        }
    }
}

/// A question for an A record (RFC 1035 section 4.1).
fn query(id: u16, name: &str) -> Vec<u8> {
    let head = [0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&id.to_be_bytes()[..], &head, &labels(name), &[0, 1, 0, 1]].concat()
}

/// The aliases of the question's name, then the address of the last.
fn answer(query: &[u8]) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[2] |= 0x80;
    bytes[7] = ALIASES as u8 + 1;
    // The question's name begins with a label of sixty digits.
    let number: u32 = std::str::from_utf8(&query[13..73])
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let mut name = vec![0xc0, 12];
    for alias in 0..ALIASES {
        let target = labels(&long_name(OTHERS + ALIASES * number + alias));
        bytes.extend(
            [
                &name[..],
                &[0, 5, 0, 1, 0, 0, 14, 16],
                &(target.len() as u16).to_be_bytes(),
                &target,
            ]
            .concat(),
        );
        name = target;
    }
    let address = (0x0b00_0000 + number).to_be_bytes();
    bytes.extend([&name[..], &[0, 1, 0, 1, 0, 0, 14, 16, 0, 4], &address].concat());
    bytes
}

fn labels(name: &str) -> Vec<u8> {
    let label = |label: &str| [&[label.len() as u8], label.as_bytes()].concat();
    [name.split('.').flat_map(label).collect(), vec![0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_follow_the_question() {
        let question = query(7, &long_name(9));
        let answer = answer(&question);
        assert!(answer.len() < 4_096, "{}", answer.len());
        assert_eq!(answer[..3], [0, 7, 0x81]);
        assert_eq!(answer[answer.len() - 4..], [11, 0, 0, 9]);
    }
}
