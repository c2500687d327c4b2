//! What single connections tell over time: quantiles of the last seconds, who got slower, lines on what hangs and who goes
//! elsewhere. Fed with the agent's stream of records; pure, time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::table::{Both, PHASES, Row, endpoint, time};

/// Quantiles are those of this last stretch.
const WINDOW: Duration = Duration::from_secs(10);
/// Connections that say how fast a destination is by nature.
const USUAL: usize = 8;
/// Slower is what takes three times as long, and this much longer.
const SLOWER_US: f64 = 50_000.0;
/// Lines that are kept.
const LINES: usize = 6;
/// Ancestors that are named, the nearest last.
const ANCESTORS: usize = 2;

/// One finished connection.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    seen: Instant,
    pub(super) local_port: u64,
    /// Microseconds, of each of [`PHASES`].
    pub(super) phases: [Option<f64>; 4],
}

/// All that was heard.
#[derive(Debug, Default)]
pub(super) struct History {
    /// By name and port.
    destinations: BTreeMap<String, Destination>,
    /// The latest on what hangs and who went elsewhere.
    pub(super) lines: Vec<String>,
    /// Lines so far, those that were not kept among them.
    pub(super) lines_seen: usize,
}

#[derive(Debug, Default)]
pub(super) struct Destination {
    pub(super) connections: Vec<Connection>,
    ok: u64,
    failed: BTreeMap<String, u64>,
}

impl History {
    /// One event of the stream.
    pub(super) fn add(&mut self, event: &Value, now: Instant) {
        match event["event"].as_str() {
            Some("finished") if event["role"] == "client" => self.finished(event, now),
            Some("stuck") => {
                let us = event["waiting_us"].as_f64();
                let line = format!(
                    "STUCK {} {} for {}, {}",
                    event["waiting"].as_str().unwrap_or("?"),
                    // A lookup has one of its own.
                    event["name"].as_str().map_or_else(|| name(event), str::to_owned),
                    time(us),
                    descent(&event["process"])
                );
                let at = if event["start"].is_null() {
                    &event["time"]
                } else {
                    &event["start"]
                };
                self.tell(at, &line);
            }
            Some("fallback") => {
                let text = |key: &str| event[key].as_str().unwrap_or("?").replace('_', " ");
                let line = format!(
                    "FALLBACK {} {} -> {} after {}, {}",
                    text("group"),
                    text("from"),
                    text("to"),
                    text("reason"),
                    descent(&event["process"])
                );
                self.tell(&event["time"], &line);
            }
            Some("path_slower" | "path_changed") => {
                let line = format!("PATH {} {}", name(event), event["text"].as_str().unwrap_or("?"));
                self.tell(&event["time"], &line);
            }
            _ => {}
        }
    }

    fn finished(&mut self, event: &Value, now: Instant) {
        let destination = self.destinations.entry(name(event)).or_default();
        destination.connections.push(Connection {
            seen: now,
            local_port: event["local"]["port"].as_u64().unwrap_or_default(),
            phases: PHASES.map(|phase| event["phases_us"][phase].as_f64()),
        });
        match event["outcome"].as_str() {
            Some("ok") => destination.ok += 1,
            Some("tls") => {
                let reason = event["tls"]["outcome"].as_str().unwrap_or("tls");
                *destination.failed.entry(reason.to_owned()).or_default() += 1;
            }
            outcome => *destination.failed.entry(outcome.unwrap_or("?").to_owned()).or_default() += 1,
        }
    }

    fn tell(&mut self, at: &Value, line: &str) {
        // RFC 3339: the time of day.
        let at = at.as_str().and_then(|at| at.get(11..19)).unwrap_or("?");
        self.lines.push(format!("{at} {line}"));
        self.lines_seen += 1;
        if self.lines.len() > LINES {
            self.lines.remove(0);
        }
    }

    /// By name and port.
    pub(super) fn destinations(&self) -> impl Iterator<Item = (&str, &Destination)> {
        self.destinations
            .iter()
            .map(|(name, destination)| (name.as_str(), destination))
    }

    /// Rows for `names`, which need not have been heard of, with what waits from `agent`'s own table.
    pub(super) fn rows(&self, names: &[String], agent: &[Row], now: Instant) -> Vec<Row> {
        let nothing = Destination::default();
        let row = |name: &String| {
            let destination = self.destinations.get(name).unwrap_or(&nothing);
            let waiting = agent
                .iter()
                .find(|row| row.name == *name)
                .map(|row| row.waiting.clone());
            Row {
                name: name.clone(),
                phases: std::array::from_fn(|phase| destination.latest(phase, now)),
                ok: destination.ok,
                waiting: waiting.unwrap_or_default(),
                failed: destination.failed.clone(),
                is_slower: (0..PHASES.len()).any(|phase| destination.is_slower(phase, now)),
            }
        };
        names.iter().map(row).collect()
    }
}

impl Destination {
    fn latest(&self, phase: usize, now: Instant) -> Option<Both> {
        let window = self
            .connections
            .iter()
            .filter(|connection| now.duration_since(connection.seen) <= WINDOW);
        let mut times: Vec<f64> = window.filter_map(|connection| connection.phases[phase]).collect();
        Some((percentile(&mut times, 50)?, percentile(&mut times, 95)?))
    }

    fn is_slower(&self, phase: usize, now: Instant) -> bool {
        let times = self
            .connections
            .iter()
            .filter_map(|connection| connection.phases[phase]);
        let mut first: Vec<f64> = times.clone().take(USUAL).collect();
        let mut last: Vec<f64> = times.rev().take(USUAL / 2).collect();
        let is_known = first.len() == USUAL && self.latest(phase, now).is_some();
        match (percentile(&mut first, 50), percentile(&mut last, 50)) {
            (Some(usual), Some(latest)) => is_known && latest > usual * 3.0 && latest > usual + SLOWER_US,
            _ => false,
        }
    }
}

/// Nearest rank.
pub(super) fn percentile(times: &mut [f64], percent: usize) -> Option<f64> {
    times.sort_by(f64::total_cmp);
    let rank = (times.len() * percent).div_ceil(100);
    Some(times[rank.checked_sub(1)?])
}

fn name(event: &Value) -> String {
    let destination = &event["destination"];
    endpoint(destination["host"].as_str().unwrap_or("?"), &destination["port"])
}

/// `ci-runner -> sh -> fetch[77]`.
fn descent(process: &Value) -> String {
    let ancestry = process["ancestry"].as_array().map_or(&[][..], Vec::as_slice);
    let mut names: Vec<&str> = ancestry
        .iter()
        .take(ANCESTORS)
        .rev()
        .filter_map(Value::as_str)
        .collect();
    names.push(process["comm"].as_str().unwrap_or("?"));
    let pid = process["pid"]
        .as_u64()
        .map_or_else(String::new, |pid| format!("[{pid}]"));
    names.join(" -> ") + &pid
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn finished(port: u64, tcp_us: u64) -> Value {
        json!({"event": "finished", "role": "client", "local": {"port": port}, "outcome": "ok",
            "destination": {"host": "a.test", "port": 443}, "phases_us": {"dns": null, "tcp": tcp_us, "tls": 5, "ttfb": 6}})
    }

    #[test]
    fn who_gets_slower_is_marked_and_the_others_are_not() {
        let (mut history, begin) = (History::default(), Instant::now());
        let names = ["a.test:443".to_owned(), "b.test:443".to_owned()];
        for number in 0..10 {
            history.add(&finished(number, 10_000), begin);
        }
        let rows = history.rows(&names, &[], begin);
        assert_eq!(rows[0].phases[1], Some((10_000.0, 10_000.0)));
        assert!(!rows[0].is_slower);
        for number in 0..4 {
            history.add(&finished(number, 210_000), begin + WINDOW * 2);
        }
        let rows = history.rows(&names, &[], begin + WINDOW * 2);
        assert_eq!((rows[0].phases[1], rows[0].ok), (Some((210_000.0, 210_000.0)), 14));
        assert_eq!(
            (rows[0].is_slower, rows[1].is_slower, rows[1].phases),
            (true, false, [None; 4])
        );
    }

    #[test]
    fn failures_have_their_reason_and_what_hangs_its_line() {
        let mut history = History::default();
        let mut event = finished(1, 1);
        event["outcome"] = json!("tls");
        event["tls"] = json!({"outcome": "cert_unknown_authority"});
        history.add(&event, Instant::now());
        assert_eq!(history.destinations["a.test:443"].failed["cert_unknown_authority"], 1);
        event["event"] = json!("stuck");
        event["waiting"] = json!("tls");
        event["waiting_us"] = json!(5_250_000);
        event["start"] = json!("2026-11-21T01:33:20.123Z");
        event["process"] = json!({"pid": 7, "comm": "fetch", "ancestry": ["sh", "ci-runner", "lab"]});
        history.add(&event, Instant::now());
        assert_eq!(
            history.lines,
            ["01:33:20 STUCK tls a.test:443 for 5.25s, ci-runner -> sh -> fetch[7]"]
        );
    }
}
