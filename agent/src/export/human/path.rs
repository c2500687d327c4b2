//! The hops of a path, one a line.
use std::fmt::Write as _;

use super::{columns, endpoint, printable, time, time_of_day};
use crate::{
    connection::routers_by_ttl,
    events::PathEvent,
    path::{HopRecord, PathRecord},
};

const HEAD: [&str; 9] = [
    "HOP",
    "ADDRESS",
    "LOSS",
    "UNANSWERED",
    "PROBES",
    "MIN",
    "P50",
    "P95",
    "TTL",
];

/// The path as a table, with what stands out below it.
pub fn path(record: &PathRecord) -> String {
    let port = record.port.map_or_else(String::new, |port| format!(" port {port}"));
    let host = printable(&record.host);
    let mut text = format!(
        "{host} ({}){port} by {}, from {}\n\n",
        record.address, record.protocol, record.source
    );
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(record.hops.iter().map(row));
    text.push_str(&columns(&rows, &[1]));
    text.push('\n');
    match (&record.end, record.end_by) {
        (Some(end), Some(by)) if !record.reached => append(&mut text, format_args!("{by} says: {end}\n")),
        (Some(end), _) => append(&mut text, format_args!("the destination answered: {end}\n")),
        (None, _) => text.push_str("the destination has not answered\n"),
    }
    if let Some((there, back)) = routers(record) {
        append(
            &mut text,
            format_args!("routers: {there} on the way there, {back} on the way back by the TTL of its answer\n"),
        );
    }
    if let Some(step) = &record.step
        && record.hops.len() > 1
    {
        let (from, to) = (place(step.from_hop, step.from), place(step.to_hop, step.to));
        append(
            &mut text,
            format_args!("most latency: {} between {from} and {to}\n", time(step.added_us as f64)),
        );
    }
    text
}

/// What real connections to the destination took, as `/api/v1/paths` has it; nothing when there were none.
pub fn path_connections(connections: &serde_json::Value) -> String {
    let rtt = &connections["rtt_us"];
    let mut text = String::new();
    if let (Some(p50), Some(p95), Some(samples)) = (
        rtt["p50"].as_f64(),
        rtt["p95"].as_f64(),
        connections["samples"].as_u64(),
    ) {
        append(
            &mut text,
            format_args!(
                "connections of late: P50 {}, P95 {} by {samples} round trips\n",
                time(p50),
                time(p95)
            ),
        );
    }
    if let Some(hops) = connections["hops"].as_u64() {
        append(
            &mut text,
            format_args!("routers on the way back by the TTL of what they got: {hops}\n"),
        );
    }
    text
}

/// Routers before the destination: by the probes, and by the TTL that its answer came with.
fn routers(record: &PathRecord) -> Option<(u8, u8)> {
    let last = record.hops.last().filter(|_| record.reached)?;
    Some((last.hop.saturating_sub(1), routers_by_ttl(last.answer_ttl?)?))
}

/// One line of an event, without its line break.
pub(super) fn line(event: &PathEvent) -> String {
    let destination = &event.destination;
    let place = endpoint(&destination.host, destination.port);
    format!(
        "{:<12} PATH {place} {}",
        time_of_day(&event.time),
        printable(&event.text)
    )
}

/// Memory takes every text.
fn append(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).expect("writing to memory");
}

/// How a hop is called in a sentence.
fn place(hop: u8, address: Option<std::net::IpAddr>) -> String {
    match address {
        _ if hop == 0 => "here".to_owned(),
        Some(address) => format!("hop {hop} {address}"),
        None => format!("hop {hop}"),
    }
}

fn row(hop: &HopRecord) -> [String; HEAD.len()] {
    let percent = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.1}%", ratio * 100.0));
    let times = hop
        .rtt_us
        .map(|rtt| [rtt.min, rtt.p50, rtt.p95].map(|us| time(us as f64)));
    let [min, p50, p95] = times.unwrap_or_else(|| ["-"; 3].map(str::to_owned));
    let others = match hop.addresses.len() {
        0 | 1 => String::new(),
        several => format!(" (+{})", several - 1),
    };
    [
        hop.hop.to_string(),
        hop.address
            .map_or_else(|| "?".to_owned(), |address| format!("{address}{others}")),
        percent(hop.loss),
        percent(hop.unanswered),
        hop.probes.to_string(),
        min,
        p50,
        p95,
        hop.answer_ttl.map_or_else(|| "-".to_owned(), |ttl| ttl.to_string()),
    ]
}
