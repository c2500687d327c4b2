//! OpenMetrics text of a snapshot and of the agent's own numbers, by prometheus-client's `Collector`.
//!
//! Sees the snapshot and [`SelfMetrics`] alone, and keeps nothing. Families without data are left out.
mod own;

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use crate::{
    aggregate::{
        BOUNDS_NS, Child, ClosedBy, DestinationSnapshot, Ended, Family, Histogram, Outcome, Retransmit, Snapshot,
        TcpState,
    },
    selfmetrics::SelfMetrics,
};

/// `Content-Type` of what [`encode`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// `Content-Type` of what [`classic`] gives.
pub const CLASSIC_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The whole scrape and its `Content-Type`, in the format that the reader's `Accept` header asks for.
pub fn scrape(snapshot: &Snapshot, own: &SelfMetrics, accept: &str) -> (&'static str, String) {
    let text = encode(snapshot, own);
    if accept.contains("application/openmetrics-text") {
        (CONTENT_TYPE, text)
    } else {
        (CLASSIC_CONTENT_TYPE, classic(&text))
    }
}

/// The whole scrape as OpenMetrics.
pub fn encode(snapshot: &Snapshot, own: &SelfMetrics) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape {
        snapshot: snapshot.clone(),
        own: own.clone(),
    }));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("writing into a String does not fail");
    text
}

/// The same in Prometheus' older text format, for readers that do not ask for OpenMetrics (curl, `promtool check
/// metrics`): there a counter's family is named with its suffix, and nothing marks the end.
pub fn classic(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    // A family's help comes before its type, which tells whether it is a counter.
    let mut help = None;
    for line in openmetrics.lines().filter(|line| *line != "# EOF") {
        if let Some(named) = line.strip_prefix("# HELP ") {
            help = named.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((name, help)) = help.take() {
                text.extend(["# HELP ", name, suffix, " ", help, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else {
            text.extend([line, "\n"]);
        }
    }
    text
}

/// What one scrape shows.
#[derive(Debug)]
struct Scrape {
    snapshot: Snapshot,
    own: SelfMetrics,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in Family::ALL {
            if self.snapshot.families[family as usize].series > 0 {
                encode_family(&mut encoder, family, &self.snapshot.destinations)?;
            }
        }
        own::encode(&mut encoder, &self.snapshot, &self.own)
    }
}

/// One label.
type Label<'a> = (&'static str, &'a str);

/// Every series of one family.
fn encode_family(encoder: &mut DescriptorEncoder<'_>, family: Family, all: &[DestinationSnapshot]) -> fmt::Result {
    let (kind, help) = describe(family);
    // The encoder adds the suffix of a counter itself.
    let name = family.name().trim_end_matches("_total");
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for destination in all {
        encode_destination(&mut metric, family, destination)?;
    }
    Ok(())
}

/// The series that one destination has in one family.
fn encode_destination(
    metric: &mut MetricEncoder<'_>,
    family: Family,
    destination: &DestinationSnapshot,
) -> fmt::Result {
    let port = destination.labels.port.map(|port| port.to_string()).unwrap_or_default();
    let mut to = Sink {
        metric,
        of: destination,
        port: &port,
    };
    let role = ("role", destination.role.name());
    let counters = &destination.counters;
    match family {
        Family::Handshake => to.histogram(Child::Handshake, role, &counters.handshake),
        Family::Rtt => to.histogram(Child::Rtt, role, &counters.rtt),
        Family::RttMin => match destination.rtt_min_us {
            Some(min_us) => to.gauge(Child::RttMin, &[role], f64::from(min_us) / 1e6),
            None => Ok(()),
        },
        Family::Waiting => to.gauge(Child::Waiting, &[("phase", "tcp")], destination.waiting as f64),
        Family::Connections => Outcome::ALL.into_iter().try_for_each(|outcome| {
            let labels = [role, ("error", outcome.error())];
            to.counter(
                Child::Connections(outcome),
                &labels,
                counters.connections[outcome as usize],
            )
        }),
        Family::Active => TcpState::ALL.into_iter().try_for_each(|state| {
            let labels = [role, ("state", state.name())];
            to.gauge(Child::Active(state), &labels, destination.active[state as usize] as f64)
        }),
        Family::Ended => Ended::ALL.into_iter().try_for_each(|ended| {
            ClosedBy::or_nobody().try_for_each(|by| {
                let labels = [
                    role,
                    ("phase", ended.name()),
                    ("closed_by", by.map_or("", ClosedBy::name)),
                ];
                to.counter(Child::Ended(ended, by), &labels, counters.ended_by(ended, by))
            })
        }),
        Family::Retransmits => Retransmit::ALL.into_iter().try_for_each(|kind| {
            let labels = [role, ("type", kind.name())];
            to.counter(Child::Retransmits(kind), &labels, counters.retransmits[kind as usize])
        }),
        Family::Bytes => to.directions(Child::Bytes, role, counters.bytes_sent, counters.bytes_received),
        Family::Segments => to.directions(
            Child::Segments,
            role,
            counters.segments_sent,
            counters.segments_received,
        ),
    }
}

/// Writes series of one destination, those that the budget admitted.
struct Sink<'a, 'b> {
    metric: &'a mut MetricEncoder<'b>,
    of: &'a DestinationSnapshot,
    port: &'a str,
}

impl<'a> Sink<'a, '_> {
    fn counter(&mut self, child: Child, labels: &[Label<'_>], value: u64) -> fmt::Result {
        if !self.of.has(child) {
            return Ok(());
        }
        let labels = (self.labels(), (self.source(), labels));
        self.metric
            .encode_family(&labels)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn gauge(&mut self, child: Child, labels: &[Label<'_>], value: f64) -> fmt::Result {
        if !self.of.has(child) {
            return Ok(());
        }
        let labels = (self.labels(), (self.source(), labels));
        self.metric.encode_family(&labels)?.encode_gauge(&value)
    }

    /// Histograms do not tell the source: that would multiply their buckets.
    fn histogram(&mut self, child: Child, role: Label<'_>, histogram: &Histogram) -> fmt::Result {
        if !self.of.has(child) {
            return Ok(());
        }
        let bounds = BOUNDS_NS
            .into_iter()
            .map(|bound_ns| bound_ns as f64 / 1e9)
            .chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(histogram.buckets).collect();
        let labels = (self.labels(), [role]);
        let sum = histogram.sum_ns as f64 / 1e9;
        self.metric
            .encode_family(&labels)?
            .encode_histogram::<NoLabelSet>(sum, histogram.count, &buckets, None)
    }

    fn directions(&mut self, child: Child, role: Label<'_>, sent: u64, received: u64) -> fmt::Result {
        self.counter(child, &[role, ("direction", "sent")], sent)?;
        self.counter(child, &[role, ("direction", "received")], received)
    }

    fn labels(&self) -> [Label<'a>; 3] {
        let labels = &self.of.labels;
        [
            ("destination", &labels.destination),
            ("destination_port", self.port),
            ("group", &labels.group),
        ]
    }

    fn source(&self) -> [Label<'a>; 2] {
        let labels = &self.of.labels;
        [
            ("source_namespace", &labels.source_namespace),
            ("source_workload", &labels.source_workload),
        ]
    }
}

fn describe(family: Family) -> (MetricType, &'static str) {
    match family {
        Family::Handshake => (MetricType::Histogram, "Time from the SYN to ESTABLISHED."),
        Family::Connections => (MetricType::Counter, "Connects that succeeded (empty error) or failed."),
        Family::Active => (MetricType::Gauge, "Open connections by RFC 9293 state."),
        Family::Waiting => (
            MetricType::Gauge,
            "Connections that have waited in a phase for more than a second, now.",
        ),
        Family::Ended => (
            MetricType::Counter,
            "Ended connections by the phase reached and who closed first.",
        ),
        Family::Rtt => (
            MetricType::Histogram,
            "Round-trip times: the mean of each connection's samples between two of its reports.",
        ),
        Family::RttMin => (MetricType::Gauge, "Smallest round-trip time of the last window."),
        Family::Retransmits => (MetricType::Counter, "Segments sent again, by reason."),
        Family::Bytes => (MetricType::Counter, "Payload bytes, each counted once."),
        Family::Segments => (
            MetricType::Counter,
            "TCP segments, those without payload and those sent again included.",
        ),
    }
}
