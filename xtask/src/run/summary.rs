//! What hopline measured beside what the packet capture says, for the end of the demo. Pure.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::history::{History, percentile};
use super::table::{PHASES, time};

/// The lab's lines: `lookup NAME US` and `phase HOST:PORT LOCAL_PORT PHASE US`.
#[derive(Debug, Default)]
pub(super) struct Truth {
    lookups: HashMap<String, Vec<f64>>,
    /// By destination, local port and phase.
    phases: HashMap<(String, u64, String), f64>,
}

impl Truth {
    /// Reads one line; what is none of these is left out.
    pub(super) fn add(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["lookup", name, us] => {
                if let Ok(us) = us.parse() {
                    self.lookups.entry(name.to_owned()).or_default().push(us);
                }
            }
            ["phase", destination, port, phase, us] => {
                if let (Ok(port), Ok(us)) = (port.parse(), us.parse()) {
                    self.phases.insert((destination.to_owned(), port, phase.to_owned()), us);
                }
            }
            _ => {}
        }
    }
}

/// A line for each destination and phase that both saw: medians of the same connections, of look-ups those of all.
pub(super) fn compare(history: &History, truth: &Truth) -> String {
    let mut text = format!(
        "{:<32} {:<5} {:>6} {:>9} {:>9} {:>10}\n",
        "p50 OF THE SAME CONNECTIONS", "PHASE", "COUNT", "HOPLINE", "CAPTURE", "DEVIATION"
    );
    for (name, destination) in history.destinations() {
        for (number, phase) in PHASES.into_iter().enumerate() {
            let timed = destination
                .connections
                .iter()
                .filter_map(|connection| Some((connection.local_port, connection.phases[number]?)));
            let (mut measured, mut captured): (Vec<f64>, Vec<f64>) = if phase == "dns" {
                let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
                let lookups = truth.lookups.get(host).cloned().unwrap_or_default();
                (timed.map(|(_, us)| us).collect(), lookups)
            } else {
                let both = timed.filter_map(|(port, us)| {
                    let key = (name.to_owned(), port, phase.to_owned());
                    Some((us, *truth.phases.get(&key)?))
                });
                both.unzip()
            };
            let count = measured.len();
            if let (Some(measured), Some(captured)) = (percentile(&mut measured, 50), percentile(&mut captured, 50)) {
                let deviation = measured - captured;
                // Writing to a String cannot fail.
                let _ = writeln!(
                    text,
                    "{name:<32} {phase:<5} {count:>6} {:>9} {:>9} {:>10}",
                    time(Some(measured)),
                    time(Some(captured)),
                    format!("{:+.2} ms", deviation / 1e3)
                );
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;

    #[test]
    fn only_connections_that_both_saw_are_compared() {
        let mut history = History::default();
        for (port, tcp_us) in [(1_000, 10_100), (1_001, 20_100), (1_002, 90_000)] {
            let event = json!({"event": "finished", "role": "client", "outcome": "ok", "local": {"port": port},
                "destination": {"host": "a.test", "port": 443}, "phases_us": {"tcp": tcp_us}});
            history.add(&event, Instant::now());
        }
        let mut truth = Truth::default();
        for line in [
            "phase a.test:443 1000 tcp 10000",
            "phase a.test:443 1001 tcp 20000.5",
            "lookup a.test 5",
            "else",
        ] {
            truth.add(line);
        }
        let text = compare(&history, &truth);
        let words: Vec<Vec<&str>> = text
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(words, [["a.test:443", "tcp", "2", "10.1ms", "10.0ms", "+0.10", "ms"]]);
    }
}
