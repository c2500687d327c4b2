//! One line of tshark's output: what it found in one packet. Pure.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};

use crate::tshark::{numbers, values};

/// What tshark is asked for, in the order in which [`Frame::parse`] takes it.
pub(super) const FIELDS: &[&str] = &[
    "frame.number",
    "frame.time_epoch",
    "ip.src",
    "ipv6.src",
    "tcp.srcport",
    "ip.dst",
    "ipv6.dst",
    "tcp.dstport",
    "tcp.seq",
    "tcp.len",
    "tcp.segment",
    "tls.handshake.type",
    "tls.handshake.extensions_server_name",
    "tls.handshake.extensions.supported_version",
    "tls.handshake.ciphersuite",
    "tls.alert_message.level",
    "tls.alert_message.desc",
];

/// One packet. Lists are in the order of the wire.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) number: u64,
    /// Wall clock.
    pub(super) time_ns: u64,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    /// Relative to the connection's first.
    pub(super) sequence: u64,
    pub(super) payload: u64,
    /// Packets that the messages in this one were put together from.
    pub(super) segments: Vec<u64>,
    /// RFC 8446 section 4.
    pub(super) handshake_types: Vec<u64>,
    pub(super) server_name: Option<String>,
    pub(super) supported_versions: Vec<u64>,
    pub(super) cipher_suites: Vec<u64>,
    pub(super) alert_levels: Vec<u64>,
    pub(super) alert_descriptions: Vec<u64>,
}

impl Frame {
    pub(super) fn parse(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.split('\t').collect();
        ensure!(fields.len() == FIELDS.len(), "tshark line `{line}`");
        let in_line = || format!("tshark line `{line}`");
        let address = |v4: usize| -> Result<SocketAddr> {
            let ip: IpAddr = first(fields[v4]).or_else(|_| first(fields[v4 + 1]))?;
            Ok(SocketAddr::new(ip, first(fields[v4 + 2])?))
        };
        Ok(Self {
            number: first(fields[0]).with_context(in_line)?,
            time_ns: nanoseconds(fields[1]).with_context(in_line)?,
            source: address(2).with_context(in_line)?,
            destination: address(5).with_context(in_line)?,
            sequence: first(fields[8]).with_context(in_line)?,
            payload: first(fields[9]).with_context(in_line)?,
            segments: numbers(fields[10]).with_context(in_line)?,
            handshake_types: numbers(fields[11]).with_context(in_line)?,
            server_name: values(fields[12]).next().map(str::to_owned),
            supported_versions: numbers(fields[13]).with_context(in_line)?,
            cipher_suites: numbers(fields[14]).with_context(in_line)?,
            alert_levels: numbers(fields[15]).with_context(in_line)?,
            alert_descriptions: numbers(fields[16]).with_context(in_line)?,
        })
    }
}

fn first<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(list: &str) -> Result<T> {
    Ok(list.split(',').next().unwrap_or_default().parse()?)
}

/// `1700000000.123456789`.
fn nanoseconds(seconds: &str) -> Result<u64> {
    let (whole, fraction) = seconds.split_once('.').context("time without fraction")?;
    let fraction = format!("{fraction:0<9}");
    Ok(whole.parse::<u64>()? * 1_000_000_000 + fraction[..9].parse::<u64>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_tshark_is_read() {
        let line = "7\t1700000000.000001500\t10.99.1.2\t\t40000\t10.99.2.2\t\t9001\t1\t517\t6,7\t1\tc0.lab.test\t\
                    0x0304,0x0303\t0x1302,0x1301\t\t";
        let frame = Frame::parse(line).expect("frame");
        assert_eq!((frame.number, frame.time_ns % 1_000_000), (7, 1_500));
        assert_eq!(frame.source.to_string(), "10.99.1.2:40000");
        assert_eq!(
            (frame.segments, frame.supported_versions),
            (vec![6, 7], vec![0x304, 0x303])
        );
        assert_eq!(frame.server_name.as_deref(), Some("c0.lab.test"));
        assert!(Frame::parse("7\t1").is_err());
    }
}
