//! The time series of one destination in one family: labels, values, kinds and help. Used by the scrape alone.
use std::fmt;

use prometheus_client::{
    encoding::{MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

use crate::aggregate::{
    BOUNDS_NS, Child, ClosedBy, ConnectError, DestinationSnapshot, Ended, Family, GaveUp, Histogram, HttpStatus,
    Labels, Phase, Retransmit, RoleLess, TcpState, TlsFailure, TlsVersion,
};

/// One label.
type Label<'a> = (&'static str, &'a str);

/// The series that one destination has in one family that tells the role.
pub(super) fn encode(metric: &mut MetricEncoder<'_>, family: Family, destination: &DestinationSnapshot) -> fmt::Result {
    let port = port(&destination.labels);
    let mut to = Sink {
        metric,
        labels: &destination.labels,
        port: &port,
        role: Some(("role", destination.role.name())),
    };
    let counters = &destination.counters;
    let has = |child| destination.has(child);
    let histogram = |histogram: &Option<Box<Histogram>>| histogram.as_deref().cloned().unwrap_or_default();
    match family {
        Family::Handshake if has(Child::Handshake) => to.histogram(&[], &counters.handshake),
        Family::Rtt if has(Child::Rtt) => to.histogram(&[], &counters.rtt),
        Family::Tls if has(Child::Tls) => to.histogram(&[], &histogram(&counters.tls)),
        Family::Ttfb if has(Child::Ttfb) => to.histogram(&[], &histogram(&counters.ttfb)),
        Family::Turn if has(Child::Turn) => to.histogram(&[], &histogram(&counters.turn)),
        Family::RttMin if has(Child::RttMin) => match destination.window.rtt_min_ns {
            Some(min_ns) => to.gauge(&[], min_ns as f64 / 1e9),
            None => Ok(()),
        },
        Family::RttJitter if has(Child::RttJitter) => match destination.rtt_jitter_us {
            Some(jitter_us) => to.gauge(&[], jitter_us as f64 / 1e6),
            None => Ok(()),
        },
        Family::TtfbAmbiguous if has(Child::TtfbAmbiguous) => to.counter(&[], counters.ttfb_ambiguous),
        Family::TurnsOverlapping if has(Child::TurnsOverlapping) => to.counter(&[], counters.turns_overlapping),
        Family::Bytes if has(Child::Bytes) => to.directions(counters.bytes_sent, counters.bytes_received),
        Family::Segments if has(Child::Segments) => to.directions(counters.segments_sent, counters.segments_received),
        Family::Connections => ConnectError::or_success()
            .filter(|error| has(Child::Connections(*error)))
            .try_for_each(|error| {
                let label = ("error", error.map_or("", ConnectError::name));
                to.counter(&[label], counters.connections[ConnectError::index(error)])
            }),
        Family::Active => TcpState::ALL
            .into_iter()
            .filter(|state| has(Child::Active(*state)))
            .try_for_each(|state| to.gauge(&[("state", state.name())], destination.active[state as usize] as f64)),
        Family::Ended => Ended::ALL.into_iter().try_for_each(|ended| {
            ClosedBy::or_nobody()
                .filter(|by| has(Child::Ended(ended, *by)))
                .try_for_each(|by| {
                    let labels = [("phase", ended.name()), ("closed_by", by.map_or("", ClosedBy::name))];
                    to.counter(&labels, counters.ended_by(ended, by))
                })
        }),
        Family::Retransmits => Retransmit::ALL
            .into_iter()
            .filter(|kind| has(Child::Retransmits(*kind)))
            .try_for_each(|kind| to.counter(&[("type", kind.name())], counters.retransmits[kind as usize])),
        Family::TlsHandshakes => TlsVersion::ALL.into_iter().try_for_each(|version| {
            let of_version = counters.tls_handshakes.as_ref().map(|all| all[version as usize]);
            [(false, "false"), (true, "true")]
                .into_iter()
                .zip(of_version.unwrap_or_default())
                .filter(|((resumed, _), _)| has(Child::TlsHandshakes(version, *resumed)))
                .try_for_each(|((_, resumed), count)| {
                    to.counter(&[("tls_version", version.name()), ("resumed", resumed)], count)
                })
        }),
        Family::TlsFailures => TlsFailure::all()
            .zip(counters.tls_failures.iter().flat_map(|all| all.iter()))
            .filter(|(failure, _)| has(Child::TlsFailures(*failure)))
            .try_for_each(|(failure, count)| to.counter(&[("reason", failure.name())], *count)),
        // No such child here.
        _ => Ok(()),
    }
}

/// The series of all destinations with these labels in a family that does not tell the role.
pub(super) fn encode_role_less(
    metric: &mut MetricEncoder<'_>,
    family: Family,
    destination: &RoleLess<'_>,
) -> fmt::Result {
    let port = port(destination.labels);
    let mut to = Sink {
        metric,
        labels: destination.labels,
        port: &port,
        role: None,
    };
    if family == Family::Waiting {
        return Phase::ALL
            .into_iter()
            .filter(|phase| destination.has(Child::Waiting(*phase)))
            .try_for_each(|phase| {
                let waiting = destination.waiting_by_phase[phase as usize];
                to.gauge(&[("phase", phase.name())], waiting as f64)
            });
    }
    if family == Family::Unanswered {
        return GaveUp::ALL
            .into_iter()
            .filter(|by| destination.has(Child::Unanswered(*by)))
            .try_for_each(|by| to.histogram(&[("closed_by", by.name())], &destination.unanswered[by as usize]));
    }
    HttpStatus::ALL
        .into_iter()
        .filter(|status| destination.has(Child::HttpResponses(*status)))
        .try_for_each(|status| {
            let responses = destination.http_responses[status.index()];
            to.counter(&[("status", status.name())], responses)
        })
}

/// Writes series of one destination.
struct Sink<'a, 'b> {
    metric: &'a mut MetricEncoder<'b>,
    labels: &'a Labels,
    port: &'a str,
    role: Option<Label<'a>>,
}

impl<'a> Sink<'a, '_> {
    fn counter(&mut self, labels: &[Label<'_>], value: u64) -> fmt::Result {
        let labels = (self.labels(), (self.source(), (self.role.as_slice(), labels)));
        self.metric
            .encode_family(&labels)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn gauge(&mut self, labels: &[Label<'_>], value: f64) -> fmt::Result {
        let labels = (self.labels(), (self.source(), (self.role.as_slice(), labels)));
        self.metric.encode_family(&labels)?.encode_gauge(&value)
    }

    /// Histograms do not tell the source: that would multiply their buckets.
    fn histogram(&mut self, labels: &[Label<'_>], histogram: &Histogram) -> fmt::Result {
        let bounds = BOUNDS_NS
            .into_iter()
            .map(|bound_ns| bound_ns as f64 / 1e9)
            .chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(histogram.buckets).collect();
        let labels = (self.labels(), (self.role.as_slice(), labels));
        let sum = histogram.sum_ns as f64 / 1e9;
        self.metric
            .encode_family(&labels)?
            .encode_histogram::<NoLabelSet>(sum, histogram.count, &buckets, None)
    }

    fn directions(&mut self, sent: u64, received: u64) -> fmt::Result {
        self.counter(&[("direction", "sent")], sent)?;
        self.counter(&[("direction", "received")], received)
    }

    fn labels(&self) -> [Label<'a>; 3] {
        [
            ("destination", &self.labels.destination),
            ("destination_port", self.port),
            ("group", &self.labels.group),
        ]
    }

    fn source(&self) -> [Label<'a>; 2] {
        [
            ("source_namespace", &self.labels.source_namespace),
            ("source_workload", &self.labels.source_workload),
        ]
    }
}

/// The port as a label; empty for `other`.
fn port(labels: &Labels) -> String {
    labels.port.map(|port| port.to_string()).unwrap_or_default()
}

/// Kind and help of a family.
pub(super) fn describe(family: Family) -> (MetricType, &'static str) {
    match family {
        Family::Handshake => (MetricType::Histogram, "Time from the SYN to ESTABLISHED."),
        Family::Connections => (
            MetricType::Counter,
            "Connects that succeeded (empty error), or failed and why.",
        ),
        Family::Active => (MetricType::Gauge, "Open connections by RFC 9293 state."),
        Family::Waiting => (
            MetricType::Gauge,
            "Connections that have waited in a phase for more than a second, now.",
        ),
        Family::Ended => (
            MetricType::Counter,
            "Ended connections by the phase reached and who closed first.",
        ),
        Family::Unanswered => (
            MetricType::Histogram,
            "How long the side that closed had waited for an answer that never came.",
        ),
        Family::Rtt => (
            MetricType::Histogram,
            "Round-trip times: raw samples, at most 50 a second of one connection, without acknowledgements held back.",
        ),
        Family::RttMin => (MetricType::Gauge, "Smallest round-trip time of the last window."),
        Family::RttJitter => (
            MetricType::Gauge,
            "RTTVAR of RFC 6298 (smoothed mean deviation), mean of the last window.",
        ),
        Family::Retransmits => (MetricType::Counter, "Segments sent again, by reason."),
        Family::Bytes => (MetricType::Counter, "Payload bytes, each counted once."),
        Family::Segments => (
            MetricType::Counter,
            "TCP segments, those without payload and those sent again included.",
        ),
        Family::Tls => (MetricType::Histogram, "Time from the ClientHello to both Finished."),
        Family::TlsHandshakes => (MetricType::Counter, "Complete TLS handshakes by version."),
        Family::TlsFailures => (MetricType::Counter, "Failed TLS handshakes by reason."),
        Family::Ttfb => (
            MetricType::Histogram,
            "Time from the first request to the first byte of its answer.",
        ),
        Family::TtfbAmbiguous => (
            MetricType::Counter,
            "First answers that could not be told from other records: not in the histogram.",
        ),
        Family::Turn => (
            MetricType::Histogram,
            "Time from each later request to the first byte of its answer.",
        ),
        Family::TurnsOverlapping => (
            MetricType::Counter,
            "Later requests that began before the last answer: not in the histogram.",
        ),
        Family::HttpResponses => (
            MetricType::Counter,
            "Final HTTP/1 responses in cleartext by status: 401, 403, 404, 407, 408, 429, 500, 502, 503 and 504 as they are, others by class.",
        ),
    }
}
