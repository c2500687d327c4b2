//! The table of destinations: phases first, then what waits and what failed. Some 120 columns with names of usual length.
use super::{columns, endpoint, shortened, time};
use crate::{
    aggregate::{Counters, DestinationSnapshot, NameSource, Phase, Snapshot},
    connection::{Outcome, Role},
    windows::Measure,
};

/// Widest name; longer ones lose their middle.
const NAME_WIDTH: usize = 34;

const HEAD: [&str; 14] = [
    "DESTINATION",
    "DNS p95",
    "TCP p50",
    "p95",
    "TLS p50",
    "p95",
    "TTFB p50",
    "p95",
    "TURN p95",
    "RTT p50",
    "RTX",
    "OK",
    "WAITING",
    "FAILED",
];
/// Names, what waits and what failed are text.
const LEFT: [usize; 3] = [0, 12, 13];

/// The table of destinations; empty text when there are none. `<-` before the name of a server's own.
pub fn table(snapshot: &Snapshot) -> String {
    if snapshot.destinations.is_empty() {
        return String::new();
    }
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(snapshot.destinations.iter().map(row));
    columns(&rows, &LEFT)
}

fn row(destination: &DestinationSnapshot) -> [String; HEAD.len()] {
    let counters = &destination.counters;
    let labels = &destination.labels;
    let name = match (destination.source, labels.port) {
        (NameSource::Other, _) | (_, None) => "(all others)".to_owned(),
        (_, Some(port)) => endpoint(&labels.destination, port),
    };
    let name = match destination.role {
        Role::Client => name,
        Role::Server => format!("<- {name}"),
    };
    let shown = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), |seconds| time(seconds * 1e6));
    let p50 = |measure| shown(destination.quantiles(measure).map(|quantiles| quantiles.p50));
    let p95 = |measure| shown(destination.quantiles(measure).map(|quantiles| quantiles.p95));
    let ok = counters.ended_with(Outcome::Ok);
    [
        shortened(&name, NAME_WIDTH),
        p95(Measure::Dns),
        p50(Measure::Tcp),
        p95(Measure::Tcp),
        p50(Measure::Tls),
        p95(Measure::Tls),
        p50(Measure::Ttfb),
        p95(Measure::Ttfb),
        p95(Measure::Turn),
        p50(Measure::Rtt),
        counters.retransmits.iter().sum::<u64>().to_string(),
        ok.to_string(),
        waiting(destination),
        failures(counters),
    ]
}

/// What waits, by phase.
fn waiting(destination: &DestinationSnapshot) -> String {
    let counts = Phase::ALL.iter().zip(destination.waiting_by_phase);
    listed(counts.map(|(phase, count)| (count, phase.name().to_owned())))
}

/// What failed, each connection once, by reason.
fn failures(counters: &Counters) -> String {
    listed(counters.failures().map(|(name, count)| (count, name)))
}

fn listed(counts: impl Iterator<Item = (u64, String)>) -> String {
    let listed = counts.filter(|(count, _)| *count > 0);
    let listed: Vec<String> = listed.map(|(count, name)| format!("{count} {name}")).collect();
    if listed.is_empty() {
        "-".to_owned()
    } else {
        listed.join(", ")
    }
}
