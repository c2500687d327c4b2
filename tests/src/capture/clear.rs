//! The truth about HTTP in clear: a capture as tshark reads it. An exchange is a request and its final response, of each stream.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::tshark::{self, numbers, values};

/// Columns, in order.
const FIELDS: [&str; 11] = [
    "frame.time_epoch",
    "ip.src",
    "tcp.srcport",
    "ip.dst",
    "tcp.dstport",
    "http.request.method",
    "http.response.code",
    "http2.type",
    "http2.streamid",
    "http2.headers.status",
    "tcp.len",
];
/// HTTP/2's HEADERS.
const HEADERS: u8 = 1;

/// One connection's exchanges, microseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clear {
    /// Request's first byte to the first byte of its final response, in the order of the requests.
    pub(crate) exchanges_us: Vec<f64>,
    /// Status codes of final responses of HTTP/1, in their order.
    pub(crate) statuses: Vec<u16>,
    open: Vec<Open>,
    latest_stream: u32,
    /// First payload since the last final response.
    begun_ns: Option<u64>,
}

/// A request that was not answered yet.
#[derive(Clone, Copy, Debug)]
struct Open {
    stream: u32,
    begun_ns: u64,
}

/// By client and server.
pub(crate) type ByConnection = HashMap<(SocketAddr, SocketAddr), Clear>;

/// Reads all connections to these server ports.
pub(crate) fn read(capture: &Path, http1: &RangeInclusive<u16>, http2: &RangeInclusive<u16>) -> Result<ByConnection> {
    let first = http1.start().min(http2.start());
    let last = http1.end().max(http2.end());
    let filter = format!("tcp.port in {{{first}..{last}}} && tcp.len > 0");
    let decode =
        |ports: &RangeInclusive<u16>, protocol| format!("tcp.port=={}-{},{protocol}", ports.start(), ports.end());
    let decode = [decode(http1, "http"), decode(http2, "http2")];
    let text = tshark::fields(capture, None, &filter, &[], &decode, &FIELDS)?;
    parse(&text, &(*first..=*last))
}

fn parse(text: &str, ports: &RangeInclusive<u16>) -> Result<ByConnection> {
    let mut all = ByConnection::new();
    for line in text.lines() {
        packet(line, ports, &mut all).with_context(|| format!("tshark's line `{line}`"))?;
    }
    Ok(all)
}

fn packet(line: &str, ports: &RangeInclusive<u16>, all: &mut ByConnection) -> Result<()> {
    let columns: Vec<&str> = line.split('\t').collect();
    let [
        time,
        source,
        source_port,
        destination,
        destination_port,
        method,
        code,
        kinds,
        streams,
        statuses,
        _,
    ] = columns[..]
    else {
        anyhow::bail!("{} columns", columns.len());
    };
    let now_ns = nanoseconds(time)?;
    let from = SocketAddr::new(source.parse()?, source_port.parse()?);
    let to = SocketAddr::new(destination.parse()?, destination_port.parse()?);
    let from_client = ports.contains(&to.port());
    let of = all
        .entry(if from_client { (from, to) } else { (to, from) })
        .or_default();
    let (kinds, streams): (Vec<u8>, Vec<u32>) = (numbers(kinds)?, numbers(streams)?);
    ensure!(kinds.len() == streams.len(), "as many streams as frames");
    if !kinds.is_empty() || !streams.is_empty() {
        let mut statuses = values(statuses).map(str::parse::<u16>);
        for (_, stream) in kinds.iter().zip(streams).filter(|(kind, _)| **kind == HEADERS) {
            if from_client {
                of.ask(stream, now_ns);
            } else if statuses.next().transpose()?.is_none_or(is_final) {
                of.answer(stream, now_ns)?;
            }
        }
        return Ok(());
    }
    if from_client {
        of.begun_ns.get_or_insert(now_ns);
        for _ in values(method) {
            // Its head may have begun in an earlier packet.
            let begun_ns = of.begun_ns.unwrap_or(now_ns);
            of.open.push(Open { stream: 0, begun_ns });
        }
        return Ok(());
    }
    for code in numbers::<u16>(code)?.into_iter().filter(|code| is_final(*code)) {
        of.statuses.push(code);
        of.answer(0, now_ns)?;
        of.begun_ns = None;
    }
    Ok(())
}

fn is_final(status: u16) -> bool {
    status >= 200 || status == 101
}

impl Clear {
    fn ask(&mut self, stream: u32, begun_ns: u64) {
        // Trailers begin no stream.
        if stream > self.latest_stream {
            self.latest_stream = stream;
            self.open.push(Open { stream, begun_ns });
        }
    }

    fn answer(&mut self, stream: u32, now_ns: u64) -> Result<()> {
        let Some(at) = self.open.iter().position(|open| open.stream == stream) else {
            return Ok(());
        };
        let took_ns = now_ns
            .checked_sub(self.open.remove(at).begun_ns)
            .context("time runs backward")?;
        self.exchanges_us.push(took_ns as f64 / 1e3);
        Ok(())
    }
}

/// `1764553200.123456789` in nanoseconds.
fn nanoseconds(time: &str) -> Result<u64> {
    let (seconds, fraction) = time.split_once('.').context("a time with a fraction")?;
    ensure!(fraction.len() == 9, "nanoseconds");
    Ok(seconds.parse::<u64>()? * 1_000_000_000 + fraction.parse::<u64>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interim_responses_and_control_frames_answer_nothing() {
        let line = |time: &str, to_server: bool, rest: &str| {
            let (from, to) = ("10.0.0.1\t40000", "10.0.0.2\t9100");
            let (from, to) = if to_server { (from, to) } else { (to, from) };
            format!("1.{time}\t{from}\t{to}\t{rest}\t9\n")
        };
        let http1 = [
            line("000001000", true, "\t\t\t\t"),
            line("000002000", true, "GET\t\t\t\t"),
            line("000003000", false, "\t103\t\t\t"),
            line("000007000", false, "\t404\t\t\t"),
        ]
        .concat();
        let truth = parse(&http1, &(9_100..=9_149)).expect("truth");
        let one = truth.values().next().expect("one");
        assert_eq!((&one.exchanges_us[..], &one.statuses[..]), (&[6.0][..], &[404][..]));
        let http2 = [
            line("000001000", true, "\t\t4,1\t0,1\t"),
            line("000002000", false, "\t\t4,4\t0,0\t"),
            line("000003000", true, "\t\t1\t3\t"),
            line("000005000", false, "\t\t1,0\t3,3\t200"),
            line("000009000", false, "\t\t1,0,1\t1,1,1\t200"),
        ]
        .concat();
        let truth = parse(&http2, &(9_100..=9_149)).expect("truth");
        assert_eq!(truth.values().next().expect("one").exchanges_us, [2.0, 8.0]);
    }
}
