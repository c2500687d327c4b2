//! The families about sockets that stay. They have bounds of their own.
use std::{collections::BTreeMap, fmt};

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};

use super::{
    own::{counters, gauges},
    source,
};
use crate::aggregate::{At, Place, Snapshot, StayingSnapshot};

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let staying = &snapshot.staying;
    idle(encoder, staying)?;
    queues(encoder, staying)?;
    let help = "SYNs and final ACKs that found a listener's queue full.";
    by_place(encoder, "hopline_listen_queue_overflows", help, &staying.overflows)?;
    ports(encoder, staying)?;
    unreused(encoder, staying)?;
    let help = "Connections to which this side wrote after the peer had closed: the write was answered by a RST.";
    by_place(
        encoder,
        "hopline_tcp_writes_after_close",
        help,
        &staying.writes_after_close,
    )?;
    sweeps(encoder, staying)
}

/// Labels of a place; those of the workload are empty outside Kubernetes.
struct Labels<'a> {
    place: &'a Place,
    port: String,
}

impl<'a> Labels<'a> {
    fn of(place: &'a Place) -> Self {
        let port = place.port.map(|port| port.to_string()).unwrap_or_default();
        Self { place, port }
    }

    fn all(&self) -> [(&'static str, &str); 6] {
        let [namespace, workload] = source(self.place.source.as_deref());
        [
            ("destination", &self.place.destination),
            ("destination_port", &self.port),
            ("group", &self.place.group),
            ("role", self.place.role.name()),
            namespace,
            workload,
        ]
    }

    fn and<'b>(&'b self, name: &'static str, value: &'b str) -> [(&'static str, &'b str); 7] {
        let [destination, port, group, role, namespace, workload] = self.all();
        [destination, port, group, role, (name, value), namespace, workload]
    }
}

fn by_place(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, counts: &[(Place, u64)]) -> fmt::Result {
    let labels: Vec<Labels<'_>> = counts.iter().map(|(place, _)| Labels::of(place)).collect();
    let samples = labels
        .iter()
        .zip(counts)
        .map(|(labels, (_, count))| (labels.all(), *count));
    counters(encoder, name, help, samples)
}

fn idle(encoder: &mut DescriptorEncoder<'_>, staying: &StayingSnapshot) -> fmt::Result {
    let labels: Vec<Labels<'_>> = staying.idle.iter().map(|(at, _)| Labels::of(&at.place)).collect();
    let samples = labels
        .iter()
        .zip(staying.idle.iter())
        .map(|(labels, (At { what, .. }, count))| {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            (labels.and("kind", what.name()), count)
        });
    gauges(
        encoder,
        "hopline_tcp_connections_idle",
        "Connections of a server that clients hold: silent since they opened, or dripping bytes that ask for nothing.",
        samples,
    )
}

/// Several listeners may have one place: their queues add up.
fn queues(encoder: &mut DescriptorEncoder<'_>, staying: &StayingSnapshot) -> fmt::Result {
    let mut queues: BTreeMap<&Place, [i64; 2]> = BTreeMap::new();
    for listener in staying.listeners.iter() {
        let [depth, limit] = queues.entry(&listener.place).or_default();
        *depth += i64::from(listener.queue_depth);
        *limit += i64::from(listener.queue_limit);
    }
    let queues: Vec<(Labels<'_>, [i64; 2])> = queues
        .into_iter()
        .map(|(place, sizes)| (Labels::of(place), sizes))
        .collect();
    let samples = |which: usize| queues.iter().map(move |(labels, sizes)| (labels.all(), sizes[which]));
    let help = "Connections that wait to be accepted.";
    gauges(encoder, "hopline_listen_queue_depth", help, samples(0))?;
    let help = "Connections that may wait to be accepted before more are refused.";
    gauges(encoder, "hopline_listen_queue_limit", help, samples(1))
}

/// One destination may be the worst of several namespaces: the worst of these.
fn ports(encoder: &mut DescriptorEncoder<'_>, staying: &StayingSnapshot) -> fmt::Result {
    let mut ratios: BTreeMap<&Place, f64> = BTreeMap::new();
    for ports in staying.ports.iter().filter(|ports| ports.usable > 0) {
        let ratio = ratios.entry(&ports.place).or_default();
        *ratio = ratio.max(f64::from(ports.used) / f64::from(ports.usable));
    }
    let ratios: Vec<(Labels<'_>, f64)> = ratios
        .into_iter()
        .map(|(place, ratio)| (Labels::of(place), ratio))
        .collect();
    gauges(
        encoder,
        "hopline_ephemeral_ports_used_ratio",
        "Share of the local ports that connects to the destination cannot have; the worst destination of each namespace.",
        ratios.iter().map(|(labels, ratio)| (labels.all(), *ratio)),
    )
}

fn unreused(encoder: &mut DescriptorEncoder<'_>, staying: &StayingSnapshot) -> fmt::Result {
    let labels: Vec<Labels<'_>> = staying.unreused.iter().map(|(at, _)| Labels::of(&at.place)).collect();
    let samples = labels.iter().zip(staying.unreused.iter());
    counters(
        encoder,
        "hopline_tcp_connections_unreused",
        "Connections of one exchange, of a process that had another one to the same destination shortly before.",
        samples.map(|(labels, (at, count))| (labels.and("process", &at.what), *count)),
    )
}

fn sweeps(encoder: &mut DescriptorEncoder<'_>, staying: &StayingSnapshot) -> fmt::Result {
    let sweeps = &staying.sweeps;
    let results = [
        ("done", sweeps.done),
        ("skipped", sweeps.skipped),
        ("namespace_partial", sweeps.partial),
        ("namespace_vanished", sweeps.vanished),
    ];
    counters(
        encoder,
        "hopline_socket_sweeps",
        "Sweeps over the kernel's lists of sockets, and namespaces that could not be read whole or at all.",
        results.map(|(result, count)| ([("result", result)], count)),
    )?;
    encoder
        .encode_descriptor(
            "hopline_socket_sweep_seconds",
            "How long the last sweep took.",
            None,
            MetricType::Gauge,
        )?
        .encode_gauge(&sweeps.took.as_secs_f64())?;
    let unattributed = sweeps.unattributed.iter();
    gauges(
        encoder,
        "hopline_sockets_unattributed",
        "Sockets of the scope's namespaces that no connection or listener of the scope is known to have left, by state.",
        unattributed.map(|(state, count)| ([("state", state.name())], i64::try_from(*count).unwrap_or(i64::MAX))),
    )
}
