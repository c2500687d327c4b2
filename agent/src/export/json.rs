//! JSON of records, destinations and totals: what `--json` and `/api/v1` give. Pure.
use std::{collections::HashMap, sync::Arc};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    aggregate::{
        ConnectError, Counters, DestinationSnapshot, Ended, Family, GaveUp, GroupSnapshot, Histogram, HttpStatus,
        Phase, Retransmit, Snapshot, TlsFailure, TlsVersion,
    },
    connection::{ClosedBy, Outcome, Role, TcpState},
    path::PathSnapshot,
    pipeline::Output,
    windows::{Measure, Quantiles, WINDOW_SLOTS, WindowSnapshot},
};

/// Appends one record with its line break: the contract's keys behind a first key `event`, `finished`, `stuck`,
/// `fallback`, `undeclared`, `lookup`, or the record's own type (`rtt_spike`, `path_changed`, …).
pub fn record_line(output: &Output, line: &mut Vec<u8>) {
    match output {
        Output::Finished(record) => event_line("finished", record, line),
        Output::Stuck(record) => event_line("stuck", record, line),
        Output::Fallback(record) => event_line("fallback", record, line),
        Output::Undeclared(record) => event_line("undeclared", record, line),
        Output::Lookup(record) => event_line("lookup", record, line),
        Output::StuckLookup(record) => event_line("stuck", record, line),
        Output::Spike(record) => event_line(record.r#type, record, line),
        Output::Path(record) => event_line(record.r#type, record, line),
    }
}

/// `/api/v1/paths`: every path as of its last trace, and beside it what the kernel measured on real connections.
pub fn paths(snapshot: &Snapshot) -> Value {
    let path = |path: &PathSnapshot| {
        let mut value = json!(path);
        value["connections"] = connections(snapshot, path);
        value
    };
    json!({
        "schema": 1,
        "paths": snapshot.paths.paths.iter().map(path).collect::<Vec<_>>(),
        "probes": snapshot.paths.probes,
        "failed": snapshot.paths.failed,
        // Connections to more different targets than are counted for the choice.
        "refused": snapshot.paths.refused,
    })
}

/// Round trips of the connections to a path's destination in the last window, and routers on the way back by the TTL of what
/// they got; null when there were none.
fn connections(snapshot: &Snapshot, path: &PathSnapshot) -> Value {
    let is_meant = |one: &&DestinationSnapshot| {
        let labels = &one.labels;
        let place = (&*labels.destination, labels.port, &*labels.group);
        one.role == Role::Client && place == (path.destination.as_str(), Some(path.port), path.group.as_str())
    };
    let measured = snapshot.destinations.iter().filter(is_meant).filter_map(|one| {
        let (samples, rtt) = one.window.measures[Measure::Rtt as usize]?;
        Some((samples, rtt, one.window.rtt_min_ns))
    });
    // Several workloads of this node may talk to it.
    let us = |seconds: f64| (seconds * 1e6).round();
    let measured = measured.max_by_key(|(samples, ..)| *samples);
    if measured.is_none() && path.arriving_hops.is_none() {
        return Value::Null;
    }
    json!({
        "samples": measured.as_ref().map_or(0, |(samples, ..)| *samples),
        "rtt_us": measured.map(|(_, rtt, min_ns)| json!({
            "min": min_ns.map(|ns| ns / 1_000), "p50": us(rtt.p50), "p95": us(rtt.p95),
        })),
        "hops": path.arriving_hops,
    })
}

/// `/api/v1/events`: the last events, the oldest first, each as its line.
pub fn events(events: &[Arc<Output>]) -> Vec<u8> {
    let mut text = b"[".to_vec();
    for event in events {
        if text.len() > 1 {
            text.push(b',');
        }
        record_line(event, &mut text);
    }
    text.extend_from_slice(b"]\n");
    text
}

fn event_line(event: &str, record: &impl Serialize, line: &mut Vec<u8>) {
    line.extend_from_slice(format!("{{\"event\":\"{event}\",").as_bytes());
    let brace = line.len();
    serde_json::to_writer(&mut *line, record).expect("a record has string keys and goes to memory");
    line.remove(brace);
    line.push(b'\n');
}

/// `/api/v1/destinations`: the busiest first.
pub fn destinations(snapshot: &Snapshot) -> Value {
    let rules: HashMap<(&str, u16, &str), Vec<&str>> =
        snapshot.active_rules.iter().fold(HashMap::new(), |mut rules, active| {
            let place = (active.destination.as_str(), active.port, active.group.as_str());
            rules.entry(place).or_insert_with(Vec::new).push(active.rule);
            rules
        });
    let destinations = snapshot.destinations.iter().map(|one| {
        let labels = &one.labels;
        let place = (&*labels.destination, labels.port.unwrap_or_default(), &*labels.group);
        destination(one, rules.get(&place).map_or(&[], Vec::as_slice))
    });
    destinations.collect()
}

fn destination(destination: &DestinationSnapshot, active_rules: &[&str]) -> Value {
    let labels = &destination.labels;
    let since_start = |measure| destination.quantiles(measure).map(quantiles);
    let sent_again: u64 = destination.counters.retransmits.iter().sum();
    json!({
        "role": destination.role,
        "destination": &*labels.destination,
        "port": labels.port,
        "group": &*labels.group,
        "source": destination.source,
        "source_namespace": &*labels.source_namespace,
        "source_workload": &*labels.source_workload,
        "active": by_name(TcpState::ALL.map(TcpState::name), &destination.active),
        "waiting": destination.waiting,
        "waiting_by_phase": by_name(Phase::ALL.map(Phase::name), &destination.waiting_by_phase),
        "longest_wait_us": destination.longest_wait_ns / 1000,
        "dns_us": since_start(Measure::Dns),
        "tcp_us": since_start(Measure::Tcp),
        "tls_us": since_start(Measure::Tls),
        "ttfb_us": since_start(Measure::Ttfb),
        "turn_us": since_start(Measure::Turn),
        "rtt_us": since_start(Measure::Rtt),
        "rtt_min_us": destination.window.rtt_min_ns.map(us),
        "rtt_jitter_us": destination.rtt_jitter_us,
        "srtt_us": destination.srtt_us,
        "errors": errors(&destination.counters),
        "retransmits": sent_again,
        "retransmit_ratio": ratio(sent_again, destination.counters.segments_sent),
        "active_rules": active_rules,
        "window": window(&destination.window),
        "counters": counters(&destination.counters),
    })
}

/// `/api/v1/destinations?by=group`: the groups of clients' destinations, in their order.
pub fn groups(snapshot: &Snapshot) -> Value {
    let group = |group: &GroupSnapshot| {
        let measures = Measure::ALL.iter().zip(group.quantiles);
        let mut all: Map<String, Value> = measures
            .map(|(measure, seconds)| (format!("{}_us", measure.name()), json!(seconds.map(quantiles))))
            .collect();
        all.insert("group".to_owned(), json!(&*group.group));
        all.insert("window".to_owned(), window(&group.window));
        Value::Object(all)
    };
    snapshot.groups.iter().map(group).collect()
}

/// The last window: five whole seconds.
fn window(window: &WindowSnapshot) -> Value {
    let measures = Measure::ALL.iter().zip(window.measures);
    let mut all: Map<String, Value> = measures
        .map(|(measure, of_window)| {
            let of_window = of_window.map(|(count, seconds)| {
                let mut all = quantiles(seconds);
                all["count"] = count.into();
                all
            });
            (format!("{}_us", measure.name()), json!(of_window))
        })
        .collect();
    let counts = &window.counts;
    for (name, value) in [
        ("seconds", json!(WINDOW_SLOTS)),
        ("rtt_jitter_us", json!(window.rtt_jitter_ns.map(us))),
        ("rtt_baseline_us", json!(window.rtt_baseline_ns.map(us))),
        ("retransmits", counts.retransmits.into()),
        ("retransmit_ratio", ratio(counts.retransmits, counts.segments_sent)),
        ("connects", counts.connects.into()),
        ("ok", counts.ok.into()),
        ("errors", counts.failures.into()),
    ] {
        all.insert(name.to_owned(), value);
    }
    Value::Object(all)
}

/// Connections that ended and did not serve their purpose, each once, by reason; what did not occur is left out.
fn errors(counters: &Counters) -> Value {
    Value::Object(counters.failures().map(|(name, count)| (name, count.into())).collect())
}

/// Of segments sent; null without any.
fn ratio(part: u64, whole: u64) -> Value {
    json!((whole > 0).then(|| part as f64 / whole as f64))
}

/// Microseconds with one decimal.
fn us(ns: u64) -> f64 {
    (ns as f64 / 100.0).round() / 10.0
}

/// `/api/v1/totals`: by family, where `live` + `expired` = `truth` exactly; the same in detail by role; and what arrived
/// and was refused. All of one moment.
pub fn totals(snapshot: &Snapshot) -> Value {
    let roles = Role::ALL.iter().zip(&snapshot.totals).map(|(role, totals)| {
        let sums = json!({
            "truth": counters(&totals.truth),
            "expired": counters(&totals.expired),
            "series": counters(&totals.series),
        });
        (role.name().to_owned(), sums)
    });
    let mut all: Map<String, Value> = roles.collect();
    let families = Family::ALL.into_iter().filter_map(|family| {
        let sums = snapshot.family_totals(family)?;
        let sums = json!({ "live": sums.live, "expired": sums.expired, "truth": sums.truth });
        Some((family.name().to_owned(), sums))
    });
    all.insert("families".to_owned(), Value::Object(families.collect()));
    let counts = &snapshot.counts;
    let kinds = (0..).map_while(|kind| counts.events.get(kind as usize).map(|count| (kind, count)));
    let kinds =
        kinds.filter_map(|(kind, count)| Some((agent_ebpf::event::kind_name(kind)?.to_owned(), (*count).into())));
    all.insert("events".to_owned(), Value::Object(kinds.collect()));
    all.insert("malformed".to_owned(), counts.malformed.into());
    all.insert("unknown_kind".to_owned(), counts.unknown_kind.into());
    Value::Object(all)
}

fn counters(counters: &Counters) -> Value {
    let ended = Ended::ALL.iter().zip(&counters.ended).map(|(ended, by)| {
        let names = ClosedBy::ALL.map(ClosedBy::name).into_iter().chain(["nobody"]);
        (ended.name().to_owned(), by_name(names, by))
    });
    let none = Histogram::default();
    let unanswered = GaveUp::ALL.iter().zip(&counters.unanswered);
    let unanswered = unanswered.map(|(by, waits)| (by.name().to_owned(), histogram(waits.as_deref().unwrap_or(&none))));
    json!({
        "connections": by_name(
            ConnectError::or_success().map(|error| error.map_or("ok", ConnectError::name)),
            &counters.connections,
        ),
        "outcomes": by_name(Outcome::ALL.map(Outcome::name), &counters.outcomes),
        "ended": Value::Object(ended.collect()),
        "unanswered": Value::Object(unanswered.collect()),
        "handshake": histogram(&counters.handshake),
        "rtt": histogram(&counters.rtt),
        "delayed_acks": counters.delayed_acks,
        "retransmits": by_name(Retransmit::ALL.map(Retransmit::name), &counters.retransmits),
        "bytes_sent": counters.bytes_sent,
        "bytes_received": counters.bytes_received,
        "segments_sent": counters.segments_sent,
        "segments_received": counters.segments_received,
        "tls": histogram(counters.tls.as_deref().unwrap_or(&none)),
        "tls_handshakes": tls_handshakes(counters),
        "tls_failures": tls_failures(counters),
        "ttfb": histogram(counters.ttfb.as_deref().unwrap_or(&none)),
        "ttfb_ambiguous": counters.ttfb_ambiguous,
        "turn": histogram(counters.turn.as_deref().unwrap_or(&none)),
        "turns_overlapping": counters.turns_overlapping,
        "http_responses": by_name(HttpStatus::ALL.map(HttpStatus::name), &counters.http_responses),
    })
}

/// By version; versions that did not occur are left out.
fn tls_handshakes(counters: &Counters) -> Value {
    let by_version = TlsVersion::ALL
        .iter()
        .zip(counters.tls_handshakes.iter().flat_map(|all| all.iter()));
    let occurred = by_version.filter(|(_, counts)| counts.iter().any(|count| *count > 0));
    Value::Object(
        occurred
            .map(|(version, counts)| (version.name().to_owned(), by_name(["full", "resumed"], counts)))
            .collect(),
    )
}

/// By reason; reasons that did not occur are left out.
fn tls_failures(counters: &Counters) -> Value {
    let by_reason = TlsFailure::all().zip(counters.tls_failures.iter().flat_map(|all| all.iter()));
    let occurred = by_reason.filter(|(_, count)| **count > 0);
    Value::Object(
        occurred
            .map(|(reason, count)| (reason.name().to_owned(), (*count).into()))
            .collect(),
    )
}

fn by_name(names: impl IntoIterator<Item = &'static str>, values: &[u64]) -> Value {
    Value::Object(
        names
            .into_iter()
            .zip(values)
            .map(|(name, value)| (name.to_owned(), (*value).into()))
            .collect(),
    )
}

fn histogram(histogram: &Histogram) -> Value {
    json!({ "count": histogram.count, "sum_ns": histogram.sum_ns })
}

fn quantiles(seconds: Quantiles) -> Value {
    let us = |seconds: f64| (seconds * 1e7).round() / 10.0;
    json!({ "p50": us(seconds.p50), "p95": us(seconds.p95), "p99": us(seconds.p99) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::human::tests::record;

    #[test]
    fn a_line_is_the_record_behind_its_event() {
        let mut line = Vec::new();
        record_line(&Output::Stuck(Box::new(record())), &mut line);
        record_line(&Output::Finished(Box::new(record())), &mut line);
        let text = String::from_utf8(line).expect("utf-8");
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with(r#"{"event":"stuck","schema":2,"id":"#),
            "{}",
            lines[0]
        );
        assert!(
            lines[1].starts_with(r#"{"event":"finished","schema":2,"#),
            "{}",
            lines[1]
        );
        let value: Value = serde_json::from_str(lines[1]).expect("JSON");
        for key in
            "id node netns start duration_us role role_basis family local remote destination backend process phases_us \
                    marks_ns ttfb_basis late turns dns tls http tcp waiting outcome"
                .split_whitespace()
        {
            assert!(value.get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn totals_name_every_count() {
        let totals = totals(&Snapshot::default());
        for path in [
            "/client/truth/connections/no_port",
            "/client/truth/outcomes/unanswered",
            "/client/truth/unanswered/remote/count",
            "/server/series/ended/tcp/nobody",
            "/server/expired/turn/count",
            "/events/connection_close",
            "/families/hopline_tcp_connections_total/live",
            "/families/hopline_turn_duration_seconds/expired",
            "/families/hopline_http_responses_total/truth",
        ] {
            assert_eq!(totals.pointer(path), Some(&json!(0)), "{path}");
        }
        assert!(
            totals.pointer("/families/hopline_tcp_connections_active").is_none(),
            "a gauge has no total"
        );
        assert_eq!(destinations(&Snapshot::default()), json!([]));
    }
}
