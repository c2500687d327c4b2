//! What `ss -tin` shows of the TCP connections of a namespace: the kernel's own smoothed and smallest RTT.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::netns::NetNs;
use crate::tools;

/// One established connection; times in microseconds.
#[derive(Debug, PartialEq)]
pub(super) struct Socket {
    /// Least and greatest that was seen.
    srtt_us: (f64, f64),
    /// As seen last.
    pub(super) min_us: f64,
}

impl Socket {
    /// What was seen that is nearest to `value`.
    pub(super) fn srtt_us_beside(&self, value: Option<f64>) -> f64 {
        let (least, greatest) = self.srtt_us;
        value.unwrap_or(least).clamp(least, greatest)
    }
}

/// Local and remote address.
type Ends = (SocketAddr, SocketAddr);

/// Asks for all of them, over and over for this long.
pub(super) fn sockets_during(netns: &NetNs, length: Duration) -> Result<HashMap<Ends, Socket>> {
    const PAUSE: Duration = Duration::from_millis(250);
    let end = Instant::now() + length;
    let mut sockets = HashMap::<Ends, Socket>::new();
    loop {
        let text = netns.run(|| tools::output_of(Command::new("ss").args(["-tinHO", "state", "established"])))?;
        for line in text.lines().filter(|line| line.contains(" rtt:")) {
            let (ends, mut socket) = parse(line).with_context(|| format!("ss said `{line}`"))?;
            if let Some((least, greatest)) = sockets.get(&ends).map(|before| before.srtt_us) {
                socket.srtt_us = (least.min(socket.srtt_us.0), greatest.max(socket.srtt_us.1));
            }
            sockets.insert(ends, socket);
        }
        if Instant::now() >= end {
            return Ok(sockets);
        }
        thread::sleep(PAUSE);
    }
}

/// `0 0 10.99.1.2:4000 10.99.2.20:8080 ts sack cubic rto:204 rtt:2.5/0.1 … minrtt:2.4`.
fn parse(line: &str) -> Result<(Ends, Socket)> {
    let mut words = line.split_whitespace();
    let mut addresses = words.by_ref().filter_map(|word| word.parse().ok());
    let local = addresses.next().context("local address")?;
    let remote = addresses.next().context("remote address")?;
    let milliseconds = |name: &str| -> Result<f64> {
        let word = line.split_whitespace().find_map(|word| word.strip_prefix(name));
        let number = word.and_then(|word| word.split('/').next()).context(name.to_owned())?;
        Ok(number.parse::<f64>()? * 1_000.0)
    };
    let srtt_us = milliseconds("rtt:")?;
    let socket = Socket {
        srtt_us: (srtt_us, srtt_us),
        min_us: milliseconds("minrtt:")?,
    };
    Ok(((local, remote), socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_ss_is_read() {
        let line = "0      0      10.99.1.2:40000 10.99.2.20:8080 ts sack cubic wscale:7,7 rto:204 rtt:2.5/0.1 ato:40 minrtt:2.125 snd_wnd:64256";
        let ((_, remote), mut socket) = parse(line).expect("a socket");
        assert_eq!(remote, SocketAddr::from(([10, 99, 2, 20], 8_080)));
        assert!((socket.srtt_us_beside(None) - 2_500.0).abs() < 1e-6 && (socket.min_us - 2_125.0).abs() < 1e-6);
        socket.srtt_us.1 = 3_000.0;
        for (value, nearest) in [(2_000.0, 2_500.0), (2_700.0, 2_700.0), (4_000.0, 3_000.0)] {
            assert!((socket.srtt_us_beside(Some(value)) - nearest).abs() < 1e-6, "{value}");
        }
        assert!(parse("0 0 10.99.1.2:1 10.99.2.2:2 cubic").is_err());
    }
}
