//! What `ss -tin` shows of the TCP connections of a namespace: the kernel's own smoothed and smallest RTT.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::netns::NetNs;
use crate::tools;

/// One established connection; times in microseconds.
#[derive(Debug, PartialEq)]
pub(super) struct Socket {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) srtt_us: f64,
    pub(super) min_us: f64,
}

/// Asks for all of them, now.
pub(super) fn sockets(netns: &NetNs) -> Result<Vec<Socket>> {
    let text = netns.run(|| tools::output_of(Command::new("ss").args(["-tinHO", "state", "established"])))?;
    let lines = text.lines().filter(|line| line.contains(" rtt:"));
    lines
        .map(|line| parse(line).with_context(|| format!("ss said `{line}`")))
        .collect()
}

/// `0 0 10.99.1.2:4000 10.99.2.20:8080 ts sack cubic rto:204 rtt:2.5/0.1 … minrtt:2.4`.
fn parse(line: &str) -> Result<Socket> {
    let mut words = line.split_whitespace();
    let mut addresses = words.by_ref().filter_map(|word| word.parse().ok());
    let local = addresses.next().context("local address")?;
    let remote = addresses.next().context("remote address")?;
    let milliseconds = |name: &str| -> Result<f64> {
        let word = line.split_whitespace().find_map(|word| word.strip_prefix(name));
        let number = word.and_then(|word| word.split('/').next()).context(name.to_owned())?;
        Ok(number.parse::<f64>()? * 1_000.0)
    };
    Ok(Socket {
        local,
        remote,
        srtt_us: milliseconds("rtt:")?,
        min_us: milliseconds("minrtt:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_ss_is_read() {
        let line = "0      0      10.99.1.2:40000 10.99.2.20:8080 ts sack cubic wscale:7,7 rto:204 rtt:2.5/0.1 ato:40 minrtt:2.125 snd_wnd:64256";
        let socket = parse(line).expect("a socket");
        assert_eq!(socket.remote, SocketAddr::from(([10, 99, 2, 20], 8_080)));
        assert!((socket.srtt_us - 2_500.0).abs() < 1e-6 && (socket.min_us - 2_125.0).abs() < 1e-6);
        assert!(parse("0 0 10.99.1.2:1 10.99.2.2:2 cubic").is_err());
    }
}
