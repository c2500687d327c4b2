//! The DNS messages of a capture, as tshark reads them.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};

use crate::tshark::{self, numbers, values};

const FIELDS: &[&str] = &[
    "frame.time_epoch",
    "ip.src",
    "ipv6.src",
    "udp.srcport",
    "tcp.srcport",
    "ip.dst",
    "ipv6.dst",
    "udp.dstport",
    "tcp.dstport",
    "dns.flags.response",
    "dns.id",
    "dns.qry.name",
    "dns.qry.type",
    "dns.flags.rcode",
    "dns.flags.truncated",
    "dns.count.answers",
];

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Wall clock when its last packet passed the device.
    pub(crate) time_ns: u64,
    pub(crate) is_udp: bool,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) is_response: bool,
    pub(crate) id: u16,
    /// Lower case.
    pub(crate) name: String,
    pub(crate) kind: u16,
    /// 0 in a query.
    pub(crate) rcode: u8,
    pub(crate) truncated: bool,
    /// Records in the answer.
    pub(crate) answers: u16,
}

/// Those of a capture, in the order of the wire.
#[derive(Debug)]
pub(crate) struct Messages {
    pub(crate) heard: Vec<Message>,
    /// Answers for a socket that was closed by then, as the client's kernel told the sender.
    pub(crate) unheard: Vec<Message>,
}

/// Port unreachable (RFC 792, RFC 4443).
const UNREACHABLE: &str = "(icmp.type == 3 && icmp.code == 3) || (icmpv6.type == 1 && icmpv6.code == 4)";

/// All messages that can be read.
pub(crate) fn messages(capture: &Path) -> Result<Messages> {
    // Each quotes the message, and the client's address is in both headers: as who refuses, and to whom it went.
    let refused: HashSet<(SocketAddr, u16)> = read(capture, &format!("dns && ({UNREACHABLE})"))?
        .iter()
        .map(|quoted| {
            (
                SocketAddr::new(quoted.source.ip(), quoted.destination.port()),
                quoted.id,
            )
        })
        .collect();
    let (unheard, heard) = read(capture, "dns && !icmp && !icmpv6")?
        .into_iter()
        .partition(|message| message.is_response && refused.contains(&(message.destination, message.id)));
    Ok(Messages { heard, unheard })
}

fn read(capture: &Path, filter: &str) -> Result<Vec<Message>> {
    let text = tshark::fields(capture, None, filter, &[], &[], FIELDS)?;
    let lines = text
        .lines()
        .map(|line| parse(line).with_context(|| format!("tshark line `{line}`")));
    Ok(lines.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// A segment may hold more than one message; a packet's have one direction.
fn parse(line: &str) -> Result<Vec<Message>> {
    let fields: Vec<&str> = line.split('\t').collect();
    ensure!(fields.len() == FIELDS.len(), "columns");
    let endpoint = |at: usize| -> Result<SocketAddr> {
        let ip: IpAddr = first(fields[at]).or_else(|_| first(fields[at + 1]))?;
        let port = first(fields[at + 2]).or_else(|_| first(fields[at + 3]))?;
        Ok(SocketAddr::new(ip, port))
    };
    let (seconds, fraction) = fields[0].split_once('.').context("time")?;
    let time_ns = seconds.parse::<u64>()? * 1_000_000_000 + format!("{fraction:0<9}")[..9].parse::<u64>()?;
    let (source, destination) = (endpoint(1)?, endpoint(5)?);
    let flags = |at: usize| -> Vec<bool> { values(fields[at]).map(|value| matches!(value, "1" | "True")).collect() };
    let (responses, truncated) = (flags(9), flags(14));
    let (ids, kinds, answers): (Vec<u16>, Vec<u16>, Vec<u16>) =
        (numbers(fields[10])?, numbers(fields[12])?, numbers(fields[15])?);
    let rcodes: Vec<u8> = numbers(fields[13])?;
    let names = values(fields[11]);
    let messages = names.enumerate().map(|(index, name)| {
        Ok(Message {
            time_ns,
            is_udp: !fields[3].is_empty(),
            source,
            destination,
            is_response: *responses.get(index).context("response")?,
            id: *ids.get(index).context("id")?,
            name: name.to_lowercase(),
            kind: *kinds.get(index).context("type")?,
            rcode: rcodes.get(index).copied().unwrap_or_default(),
            truncated: *truncated.get(index).context("truncated")?,
            answers: *answers.get(index).context("answers")?,
        })
    });
    messages.collect()
}

fn first<T: FromStr>(column: &str) -> Result<T> {
    let value = values(column).next().context("no value")?;
    value.parse().ok().with_context(|| format!("value `{value}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_queries_in_one_segment() {
        let line =
            "1700000000.5\t10.0.0.1\t\t\t4000\t10.0.0.2\t\t\t53\t0,0\t0x0007,0x0008\tA.test,a.test\t1,28\t\t0,0\t0,0";
        let messages = parse(line).expect("messages");
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0].time_ns, 1_700_000_000_500_000_000);
        assert!(!messages[0].is_udp && !messages[0].is_response);
        let second = &messages[1];
        assert_eq!((second.id, second.kind, second.name.as_str()), (8, 28, "a.test"));
        assert!(parse("1.0\t10.0.0.1").is_err());
    }

    #[test]
    fn quoted_by_who_refuses_it() {
        let line = "1.5\t10.0.0.1,10.0.0.2\t\t53\t\t10.0.0.2,10.0.0.1\t\t4000\t\t1\t0x0007\ta.test\t1\t0\t0\t1";
        let quoted = &parse(line).expect("a message")[0];
        assert_eq!(quoted.source.ip().to_string(), "10.0.0.1");
        assert_eq!((quoted.destination.port(), quoted.id), (4000, 7));
    }
}
