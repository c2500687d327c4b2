//! Reads the Prometheus text format, and makes of it the table of destinations that `run` prints. No I/O.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One sample: `name{label="value",…} value`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Sample {
    /// The label's value; empty when it is not there, as Prometheus sees it.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Every sample of an exposition; comments and what is no sample are left out.
pub(crate) fn parse(text: &str) -> Vec<Sample> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(sample)
        .collect()
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, quoted) = rest.split_once("=\"")?;
            let (value, after) = unquote(quoted)?;
            labels.insert(label.trim_start_matches(',').to_owned(), value);
            rest = after;
        }
        rest = &rest[1..];
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

/// What is shown of one destination as one role.
#[derive(Clone, Debug, Default, PartialEq)]
struct Row {
    ok: u64,
    /// Count by error.
    failed: BTreeMap<String, u64>,
    handshakes: f64,
    handshake_seconds: f64,
    waiting: u64,
    retransmits: u64,
    sent: u64,
    received: u64,
}

/// The table of destinations: connections, failures by error, mean handshake time, what waits, retransmissions, bytes.
pub(crate) fn destinations(samples: &[Sample]) -> String {
    let mut rows: BTreeMap<(String, String, String), Row> = BTreeMap::new();
    for sample in samples {
        let destination = sample.label("destination");
        if destination.is_empty() {
            continue;
        }
        let key = (
            destination.to_owned(),
            sample.label("destination_port").to_owned(),
            sample.label("role").to_owned(),
        );
        // What waits has no role: only clients wait for a handshake.
        let key = if key.2.is_empty() {
            (key.0, key.1, "client".to_owned())
        } else {
            key
        };
        let count = sample.value as u64;
        let row = rows.entry(key).or_default();
        match sample.name.as_str() {
            "hopline_tcp_connections_total" if sample.label("error").is_empty() => row.ok += count,
            "hopline_tcp_connections_total" => {
                *row.failed.entry(sample.label("error").to_owned()).or_default() += count;
            }
            "hopline_tcp_handshake_duration_seconds_count" => row.handshakes += sample.value,
            "hopline_tcp_handshake_duration_seconds_sum" => row.handshake_seconds += sample.value,
            "hopline_connections_waiting" => row.waiting += count,
            "hopline_tcp_retransmits_total" => row.retransmits += count,
            "hopline_tcp_bytes_total" if sample.label("direction") == "sent" => row.sent += count,
            "hopline_tcp_bytes_total" => row.received += count,
            _ => {}
        }
    }
    let mut text = format!(
        "{:<28} {:<6} {:>8} {:<20} {:>10} {:>7} {:>7} {:>11} {:>11}\n",
        "DESTINATION", "ROLE", "OK", "FAILED", "TCP MEAN", "WAITING", "RETRANS", "SENT", "RECEIVED"
    );
    for ((destination, port, role), row) in &rows {
        let failed: Vec<String> = row
            .failed
            .iter()
            .filter(|(_, n)| **n > 0)
            .map(|(error, n)| format!("{n} {error}"))
            .collect();
        let mean = if row.handshakes > 0.0 {
            format!("{:.2} ms", row.handshake_seconds / row.handshakes * 1e3)
        } else {
            "-".to_owned()
        };
        let address = if destination.contains(':') {
            format!("[{destination}]:{port}")
        } else {
            format!("{destination}:{port}")
        };
        let failed = if failed.is_empty() {
            "-".to_owned()
        } else {
            failed.join(", ")
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{address:<28} {role:<6} {:>8} {failed:<20} {mean:>10} {:>7} {:>7} {:>11} {:>11}",
            row.ok, row.waiting, row.retransmits, row.sent, row.received
        );
    }
    text
}

/// Finished and failed connections of all destinations.
pub(crate) fn connections(samples: &[Sample]) -> u64 {
    samples
        .iter()
        .filter(|sample| sample.name == "hopline_tcp_connections_total")
        .map(|sample| sample.value as u64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_quotes_and_commas_inside() {
        let samples = parse("# HELP x y\nx_total{a=\"1,2\",b=\"say \\\"hi\\\"\"} 4\nplain 0.5 123\nbroken{a=\"\n");
        assert_eq!(samples.len(), 2);
        assert_eq!(
            (samples[0].label("a"), samples[0].label("b"), samples[0].value),
            ("1,2", "say \"hi\"", 4.0)
        );
        assert_eq!(
            (samples[1].name.as_str(), samples[1].label("a"), samples[1].value),
            ("plain", "", 0.5)
        );
    }

    #[test]
    fn the_table_counts_by_destination_and_error() {
        let samples = parse(
            "hopline_tcp_connections_total{destination=\"10.0.0.2\",destination_port=\"80\",role=\"client\",error=\"\"} 7\n\
             hopline_tcp_connections_total{destination=\"10.0.0.2\",destination_port=\"80\",role=\"client\",error=\"refused\"} 2\n\
             hopline_tcp_handshake_duration_seconds_sum{destination=\"10.0.0.2\",destination_port=\"80\",role=\"client\"} 0.07\n\
             hopline_tcp_handshake_duration_seconds_count{destination=\"10.0.0.2\",destination_port=\"80\",role=\"client\"} 7\n\
             hopline_connections_waiting{destination=\"10.0.0.2\",destination_port=\"80\",phase=\"tcp\"} 1\n",
        );
        let table = destinations(&samples);
        let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(
            row,
            [
                "10.0.0.2:80",
                "client",
                "7",
                "2",
                "refused",
                "10.00",
                "ms",
                "1",
                "0",
                "0",
                "0"
            ]
        );
        assert_eq!(table.lines().count(), 2);
        assert_eq!(connections(&samples), 9);
    }
}
