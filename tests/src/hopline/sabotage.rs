//! Falsifies what hopline said, on purpose: a scenario that still passes compares nothing.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use clap::ValueEnum;

use super::compare::Row;
use super::lookup::Lookup;
use super::metrics::{Metrics, Sample};
use super::record::Record;

/// How hopline's output is falsified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sabotage {
    /// Every time × 1.2 + 2 ms.
    Shift,
    /// Every 50th record, and of every counter every 50th unit, is gone; the first of each for a start.
    Drop,
    /// Owners and names of neighbouring records are exchanged.
    Swap,
}

/// What hopline says of itself is no observation that could get lost.
const KEPT: &[&str] = &[
    "hopline_events_attempted_total",
    "hopline_events_lost_total",
    "hopline_feature_enabled",
    "hopline_safe_mode",
];

pub(super) fn shift(time_us: u64) -> u64 {
    time_us * 6 / 5 + 2_000
}

fn reduce(count: f64) -> f64 {
    (count - (count / 50.0).ceil()).max(0.0)
}

/// Falsifies records in the order in which hopline gave them.
pub(crate) fn falsify_records(sabotage: Option<Sabotage>, mut records: Vec<Record>) -> Vec<Record> {
    match sabotage {
        None => {}
        Some(Sabotage::Shift) => {
            for record in &mut records {
                let phases = &mut record.phases_us;
                let turns = &mut record.turns;
                let times = [&mut phases.dns, &mut phases.tcp, &mut phases.tls, &mut phases.ttfb];
                let rtt = &mut record.tcp.rtt_us;
                let rtts = [&mut rtt.min, &mut rtt.mean, &mut rtt.p50, &mut rtt.p99, &mut rtt.var];
                let turns = [&mut turns.p50_us, &mut turns.p95_us];
                for time in times.into_iter().chain(turns).chain(rtts) {
                    *time = time.map(shift);
                }
                record.duration_us = shift(record.duration_us);
                record.waiting_us = record.waiting_us.map(shift);
                if let Some(chain) = &mut record.chain {
                    for time in [
                        &mut chain.client_proxy_us,
                        &mut chain.proxy_us,
                        &mut chain.proxy_upstream_us,
                    ] {
                        *time = shift(*time);
                    }
                }
            }
        }
        Some(Sabotage::Drop) => drop_some(&mut records),
        Some(Sabotage::Swap) => {
            for pair in records.chunks_exact_mut(2) {
                let [first, second] = pair else { continue };
                std::mem::swap(&mut first.process, &mut second.process);
                std::mem::swap(&mut first.destination, &mut second.destination);
            }
            // Neighbours may be the two ends of one connection, which have the same names.
            for four in records.chunks_exact_mut(4) {
                let (former, latter) = four.split_at_mut(2);
                for (first, second) in former.iter_mut().zip(latter) {
                    swap_names(first, second);
                    std::mem::swap(&mut first.chain, &mut second.chain);
                }
            }
        }
    }
    records
}

/// Falsifies lines for people: only [`Sabotage::Drop`] has a meaning there.
pub(crate) fn falsify_lines(sabotage: Option<Sabotage>, text: &str) -> Vec<String> {
    let mut lines = text.lines().map(str::to_owned).collect();
    if sabotage == Some(Sabotage::Drop) {
        drop_some(&mut lines);
    }
    lines
}

/// Falsifies lookups in the order in which hopline gave them.
pub(super) fn falsify_lookups(sabotage: Option<Sabotage>, mut lookups: Vec<Lookup>) -> Vec<Lookup> {
    match sabotage {
        None => {}
        Some(Sabotage::Shift) => {
            for lookup in &mut lookups {
                lookup.duration_us = lookup.duration_us.map(shift);
            }
        }
        Some(Sabotage::Drop) => drop_some(&mut lookups),
        // Neighbours may be of one program: A and AAAA.
        Some(Sabotage::Swap) => {
            for four in lookups.chunks_exact_mut(4) {
                let (former, latter) = four.split_at_mut(2);
                for (first, second) in former.iter_mut().zip(latter) {
                    std::mem::swap(&mut first.process, &mut second.process);
                    std::mem::swap(&mut first.name, &mut second.name);
                }
            }
        }
    }
    lookups
}

/// Every 50th, and the first for a start.
pub(super) fn drop_some<T>(all: &mut Vec<T>) {
    let mut number = 0;
    all.retain(|_| {
        number += 1;
        number % 50 != 1
    });
}

/// Exchanges the names that the clients gave.
fn swap_names(first: &mut Record, second: &mut Record) {
    if let (Some(first), Some(second)) = (&mut first.tls, &mut second.tls) {
        std::mem::swap(&mut first.sni, &mut second.sni);
    }
    if let (Some(first), Some(second)) = (&mut first.http, &mut second.http) {
        std::mem::swap(&mut first.host, &mut second.host);
    }
}

/// Falsifies a scrape.
pub(super) fn falsify_metrics(sabotage: Option<Sabotage>, metrics: &mut Metrics) {
    if sabotage == Some(Sabotage::Drop) {
        for sample in &mut metrics.samples {
            let counts = !KEPT.contains(&sample.name.as_str());
            if counts && sample.value.is_finite() {
                sample.value = reduce(sample.value);
            }
        }
    }
}

/// Falsifies an exposition on its way to Prometheus: of times the sums (the bounds of buckets are a factor of two apart), of
/// names the label `destination`.
pub(crate) fn falsify_exposition(sabotage: Sabotage, text: &str) -> Result<String> {
    let mut metrics = Metrics::parse(text)?;
    falsify_metrics(Some(sabotage), &mut metrics);
    match sabotage {
        Sabotage::Drop => {}
        Sabotage::Shift => {
            let of_sum =
                |sample: &Sample| Some(sample.name.strip_suffix("_seconds_count")?.to_owned() + "_seconds_sum");
            let counts = metrics.samples.iter().filter_map(|sample| {
                let key = (of_sum(sample)?, sample.labels.clone());
                Some((key, sample.value))
            });
            let counts: BTreeMap<_, f64> = counts.collect();
            for sample in &mut metrics.samples {
                if let Some(count) = counts.get(&(sample.name.clone(), sample.labels.clone())) {
                    sample.value = sample.value * 1.2 + count * 0.002;
                }
            }
        }
        Sabotage::Swap => {
            let names: BTreeSet<String> = metrics
                .samples
                .iter()
                .filter_map(|sample| sample.label("destination").map(str::to_owned))
                .collect();
            let names: Vec<String> = names.into_iter().collect();
            let labels = metrics.samples.iter_mut().flat_map(|sample| &mut sample.labels);
            for (_, value) in labels.filter(|(key, _)| key == "destination") {
                if let Some(at) = names.iter().position(|name| name == value)
                    && let Some(other) = names.get(at ^ 1)
                {
                    value.clone_from(other);
                }
            }
        }
    }
    Ok(metrics.to_text())
}

/// Falsifies rows of a comparison, whose order is kept.
pub(super) fn falsify_rows(sabotage: Option<Sabotage>, rows: &mut [Row]) {
    match sabotage {
        None => {}
        Some(Sabotage::Shift) => {
            let phases = rows.iter_mut().flat_map(|row| &mut row.phases_us);
            for quantiles in phases.filter_map(|(_, quantiles)| quantiles.as_mut()) {
                quantiles.p50 = shift(quantiles.p50);
                quantiles.p95 = shift(quantiles.p95);
            }
        }
        Some(Sabotage::Drop) => {
            for count in rows.iter_mut().flat_map(|row| [&mut row.requests, &mut row.measured]) {
                *count = reduce(*count as f64) as u64;
            }
        }
        Some(Sabotage::Swap) => {
            for pair in rows.chunks_exact_mut(2) {
                let [first, second] = pair else { continue };
                std::mem::swap(&mut first.url, &mut second.url);
            }
        }
    }
}

/// Falsifies `/api/v1/sockets`: of the connections that stay some are gone, or have their neighbour's process.
pub(super) fn falsify_sockets(sabotage: Option<Sabotage>, sockets: &mut serde_json::Value) {
    let Some(staying) = sockets["staying"].as_array_mut() else {
        return;
    };
    match sabotage {
        None | Some(Sabotage::Shift) => {}
        Some(Sabotage::Drop) => {
            for entry in staying {
                entry["connections"] = (reduce(entry["connections"].as_f64().unwrap_or_default()) as u64).into();
            }
        }
        Some(Sabotage::Swap) => {
            for pair in staying.chunks_exact_mut(2) {
                let [first, second] = pair else { continue };
                std::mem::swap(&mut first["process"], &mut second["process"]);
            }
        }
    }
}

/// Falsifies counts that hopline gave as JSON.
pub(super) fn falsify_counts<'a>(sabotage: Option<Sabotage>, counts: impl Iterator<Item = &'a mut u64>) {
    if sabotage == Some(Sabotage::Drop) {
        for count in counts {
            *count = reduce(*count as f64) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hopline::lookup::tests::lookup;
    use crate::hopline::record::tests::record;

    #[test]
    fn an_exposition_is_falsified() {
        let text = "# HELP x y\nx_seconds_sum{destination=\"a\"} 10\nx_seconds_count{destination=\"a\"} 100\n\
                    y_total{destination=\"b\\\"\"} 1\n";
        let falsify = |sabotage| falsify_exposition(sabotage, text).expect("an exposition");
        assert_eq!(
            falsify(Sabotage::Shift),
            "x_seconds_sum{destination=\"a\"} 12.2\nx_seconds_count{destination=\"a\"} 100\n\
             y_total{destination=\"b\\\"\"} 1\n"
        );
        assert!(falsify(Sabotage::Drop).ends_with(" 98\ny_total{destination=\"b\\\"\"} 0\n"));
        let swapped = falsify(Sabotage::Swap);
        assert!(
            swapped.starts_with("x_seconds_sum{destination=\"b\\\"\"} 10\n"),
            "{swapped}"
        );
    }

    #[test]
    fn a_single_unit_is_lost_too() {
        assert_eq!(
            [0.0, 1.0, 50.0, 51.0, 100.0].map(|count| reduce(count) as u64),
            [0, 0, 49, 49, 98]
        );
    }

    #[test]
    fn every_time_is_shifted() {
        let shifted = falsify_records(Some(Sabotage::Shift), vec![record("client", "a")]);
        let phases = &shifted[0].phases_us;
        let turns = &shifted[0].turns;
        let times = [phases.tcp, phases.tls, phases.ttfb, turns.p50_us, turns.p95_us];
        assert_eq!(times, [Some(3_200); 5]);
    }

    #[test]
    fn lookups_are_falsified_too() {
        let lookups = || ["a", "a", "b", "b"].map(lookup).to_vec();
        let shifted = falsify_lookups(Some(Sabotage::Shift), lookups());
        assert_eq!(shifted[0].duration_us, Some(3_200));
        assert_eq!(falsify_lookups(Some(Sabotage::Drop), lookups()).len(), 3);
        let swapped = falsify_lookups(Some(Sabotage::Swap), lookups());
        assert!(
            swapped[..2]
                .iter()
                .all(|lookup| lookup.name == "b" && lookup.asked == "a")
        );
    }

    #[test]
    fn names_change_places_with_those_of_another_connection() {
        let records = ["a", "a", "b", "b"].map(|name| record("client", name));
        let swapped = falsify_records(Some(Sabotage::Swap), records.to_vec());
        let names: Vec<_> = swapped
            .iter()
            .map(|record| {
                let tls = record.tls.as_ref().and_then(|tls| tls.sni.as_deref());
                (tls, record.http.as_ref().and_then(|http| http.host.as_deref()))
            })
            .collect();
        let both = |name| (Some(name), Some(name));
        assert_eq!(names, ["b", "b", "a", "a"].map(both));
    }

    #[test]
    fn shift_is_a_fifth_and_two_milliseconds() {
        assert_eq!(shift(1_000), 3_200);
    }
}
