//! A trace as it is shown: `hopline path --json`, `/api/v1/paths`, and what a spike's event gets attached. Plain data.
use std::{borrow::Cow, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{
    hop::{latency_ns, loss},
    probe::Kind,
    trace::{End, Trace},
};

/// Version of the shape.
const SCHEMA: u32 = 1;

/// The path to a destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathRecord {
    /// Version of the record's shape.
    pub schema: u32,
    /// Always `path`.
    pub r#type: Cow<'static, str>,
    /// What was asked for.
    pub host: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port; null for echo requests.
    pub port: Option<u16>,
    /// Own address.
    pub source: IpAddr,
    /// Own port: with the addresses it decides over which of several equal paths the probes go.
    pub source_port: u16,
    /// `tcp` or `icmp`.
    pub protocol: Cow<'static, str>,
    /// Whether the destination answered.
    pub reached: bool,
    /// What its answer, or that of a router before it, was: `syn_ack`, `reset`, `echo` or why it cannot be reached.
    pub end: Option<Cow<'static, str>>,
    /// Who said that it cannot be reached.
    pub end_by: Option<IpAddr>,
    /// The first one first.
    pub hops: Vec<HopRecord>,
    /// Where most of the latency comes from.
    pub step: Option<StepRecord>,
    /// Packets that came in and were no answer: about something else, or too late.
    pub ignored: u64,
}

/// The path to a destination as of its last trace, and how often it changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PathSnapshot {
    /// The destination's name.
    pub destination: String,
    /// Its port.
    pub port: u16,
    /// Its group, empty for none.
    pub group: String,
    /// Inode number of the network namespace that it was traced from; 0: the node's.
    pub netns: u32,
    /// Changes of the route since the first trace.
    pub changes: u64,
    /// Routers on the way back, by the TTL of what its connections got: shown with what else those measured.
    #[serde(skip)]
    pub arriving_hops: Option<u8>,
    /// When it was traced, nanoseconds of the monotonic clock.
    pub traced_ns: u64,
    /// The trace.
    pub path: PathRecord,
}

/// One hop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HopRecord {
    /// TTL of its probes.
    pub hop: u8,
    /// Who answered most often; null: nobody did.
    pub address: Option<IpAddr>,
    /// Everybody who answered, where that is more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Round trips, when there are any.
    pub rtt_us: Option<RttRecord>,
    /// Probes whose time is over.
    pub probes: u64,
    /// Answers.
    pub answers: u64,
    /// Part of the probes without an answer.
    pub unanswered: Option<f64>,
    /// Part of the probes that the path lost up to here: less than `unanswered` where the router answers less than it passes
    /// on. Null when neither it nor a later hop answered.
    pub loss: Option<f64>,
    /// TTL of its answers as they arrive.
    pub answer_ttl: Option<u8>,
}

/// Round trips, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RttRecord {
    /// The least.
    pub min: u64,
    /// Median.
    pub p50: u64,
    /// 95th percentile.
    pub p95: u64,
}

/// Latency that comes up between two hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The nearer one; 0 is this node.
    pub from_hop: u8,
    /// Its address.
    pub from: Option<IpAddr>,
    /// The farther one.
    pub to_hop: u8,
    /// Its address.
    pub to: Option<IpAddr>,
    /// The difference of their medians, microseconds.
    pub added_us: u64,
}

impl PathRecord {
    /// The trace as it is now.
    pub fn of(trace: &Trace, host: &str) -> Self {
        let flow = trace.flow();
        let (end, end_by) = match trace.end() {
            None => (None, None),
            Some(End::SynAck) => (Some("syn_ack"), None),
            Some(End::Reset) => (Some("reset"), None),
            Some(End::Echo) => (Some("echo"), None),
            Some(End::Unreachable(reason, by)) => (Some(reason.name()), Some(by)),
        };
        let counts = trace.counts();
        Self {
            schema: SCHEMA,
            r#type: "path".into(),
            host: host.to_owned(),
            address: flow.destination,
            port: (flow.kind == Kind::Tcp).then_some(flow.destination_port),
            source: flow.source,
            source_port: flow.source_port,
            protocol: match flow.kind {
                Kind::Tcp => "tcp".into(),
                Kind::Echo => "icmp".into(),
            },
            reached: trace.is_reached(),
            end: end.map(Cow::Borrowed),
            end_by,
            hops: hops(trace),
            step: step(trace),
            ignored: counts.unrelated + counts.late,
        }
    }
}

fn hops(trace: &Trace) -> Vec<HopRecord> {
    let hops = trace.hops();
    let lost = loss(hops);
    (1..)
        .zip(hops)
        .zip(lost)
        .map(|((number, hop), loss)| {
            let addresses = hop.addresses();
            HopRecord {
                hop: number,
                address: hop.address(),
                addresses: if addresses.len() > 1 { addresses } else { Vec::new() },
                rtt_us: hop.quantiles_ns([0, 50, 95]).map(|quantiles| {
                    let [min, p50, p95] = quantiles.map(in_us);
                    RttRecord { min, p50, p95 }
                }),
                probes: hop.settled(),
                answers: hop.answered(),
                unanswered: hop.unanswered_ratio(),
                loss,
                answer_ttl: hop.answer_ttl(),
            }
        })
        .collect()
}

/// The largest difference between hops that answer, one behind the other.
fn step(trace: &Trace) -> Option<StepRecord> {
    let hops = trace.hops();
    let latency_ns = latency_ns(hops);
    let (mut from, mut before_ns) = (0, 0.0);
    let mut largest: Option<StepRecord> = None;
    for (at, hop) in hops.iter().enumerate().filter(|(_, hop)| hop.answered() > 0) {
        let now_ns = latency_ns[at].unwrap_or(before_ns);
        let added_us = in_us((now_ns - before_ns).max(0.0) as u64);
        if largest.is_none_or(|largest| added_us > largest.added_us) {
            largest = Some(StepRecord {
                from_hop: from,
                from: trace.router(from),
                to_hop: at as u8 + 1,
                to: hop.address(),
                added_us,
            });
        }
        (from, before_ns) = (at as u8 + 1, now_ns);
    }
    largest
}

fn in_us(ns: u64) -> u64 {
    (ns + 500) / 1_000
}
