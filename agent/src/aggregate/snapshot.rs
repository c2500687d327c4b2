//! What exporters see: an immutable picture of every destination, the totals, and the pipeline's own counts.
//!
//! Cheap to clone: the destinations are shared.
use std::{collections::HashMap, sync::Arc};

use agent_ebpf::event::KINDS;
use serde::Serialize;

use super::{
    child::{Child, Family},
    children::Children,
    counters::{Counters, GaveUp, HttpStatus},
    histogram::Histogram,
    legs::LegsSnapshot,
    resolvers::ResolversSnapshot,
    staying::StayingSnapshot,
    tally::{FallbackLabels, UndeclaredLabels},
};
use crate::{
    capacity::TableUse,
    connection::{Phase, Role, TcpState},
    path::PathSnapshot,
    windows::{Measure, Quantiles, WindowSnapshot},
    workloads,
};

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Named destinations, most connects first; the ones folded together are last, under `other`.
    pub destinations: Arc<[DestinationSnapshot]>,
    /// Sums by role, in the order of [`Role::ALL`].
    pub totals: [Totals; Role::ALL.len()],
    /// Time series and folded observations by family, in the order of [`Family::ALL`].
    pub families: [FamilyCounts; Family::ALL.len()],
    /// Processes that went on to another host of a group.
    pub fallbacks: Arc<[(FallbackLabels, u64)]>,
    /// Client connections that did not keep to a declaration.
    pub undeclared: Arc<[(UndeclaredLabels, u64)]>,
    /// Windows of the groups of clients' destinations, by name; sums since the beginning beside them.
    pub groups: Arc<[GroupSnapshot]>,
    /// Rules that are active: the built-in detector's.
    pub active_rules: Vec<ActiveRule>,
    /// Queries and lookups of DNS.
    pub resolvers: ResolversSnapshot,
    /// Sockets that stay.
    pub staying: StayingSnapshot,
    /// Network paths.
    pub paths: PathsSnapshot,
    /// Call chains through local proxies.
    pub legs: LegsSnapshot,
    /// What the pipeline did and could not do.
    pub counts: PipelineCounts,
}

/// What traces of network paths told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PathsSnapshot {
    /// As of the last trace of each.
    pub paths: Arc<[PathSnapshot]>,
    /// Probes that left.
    pub probes: u64,
    /// Traces that could not begin.
    pub failed: u64,
    /// Connections whose target was not counted for want of room.
    pub refused: u64,
}

/// One group of clients' destinations, whether they have names or not.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSnapshot {
    /// Its name.
    pub group: Arc<str>,
    /// Quantiles since it appeared by [`Measure`] `as usize`.
    pub quantiles: [Option<Quantiles>; Measure::ALL.len()],
    /// The last window.
    pub window: WindowSnapshot,
}

/// A rule that is active at a destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ActiveRule {
    /// Name of the rule.
    pub rule: &'static str,
    /// The destination's name.
    pub destination: String,
    /// Its port.
    pub port: u16,
    /// Its group, empty for none.
    pub group: String,
}

/// Sums of one family over both roles. `live` + `expired` = `truth`, exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FamilyTotals {
    /// Of series that are there, `other` included.
    pub live: u64,
    /// Of series that have left.
    pub expired: u64,
    /// Counted once per observation.
    pub truth: u64,
}

impl Snapshot {
    /// The sums of a family, of a histogram its observations; `None` for a gauge.
    pub fn family_totals(&self, family: Family) -> Option<FamilyTotals> {
        let mut sums = FamilyTotals::default();
        for totals in &self.totals {
            sums.live += totals.series.count(family)?;
            sums.expired += totals.expired.count(family)?;
            sums.truth += totals.truth.count(family)?;
        }
        Some(sums)
    }
}

/// Sums over all destinations of one role. `series` + `expired` = `truth`, exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Counted once per observation, whatever became of its destination.
    pub truth: Counters,
    /// Of destinations that have left.
    pub expired: Counters,
    /// Of destinations that are there, `other` included.
    pub series: Counters,
}

/// Bookkeeping of one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FamilyCounts {
    /// Time series now.
    pub series: u64,
    /// Observations that went to `other` for want of room.
    pub folded: u64,
}

/// Labels of a destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Labels {
    /// Its name, or `other`.
    pub destination: Arc<str>,
    /// Its port; `None` for `other`.
    pub port: Option<u16>,
    /// Configured group, empty for none.
    pub group: Arc<str>,
    /// Kubernetes namespace of this side, empty outside.
    pub source_namespace: Arc<str>,
    /// Workload of this side, empty outside.
    pub source_workload: Arc<str>,
}

/// Where a destination's name is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NameSource {
    /// The address itself.
    Ip,
    /// What the client asked for: SNI or Host.
    Host,
    /// The name of the listening process (server role).
    Process,
    /// The workload of the listening process (server role).
    Kubernetes,
    /// Folded together.
    Other,
}

impl NameSource {
    /// The value in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Host => "host",
            Self::Process => "process",
            Self::Kubernetes => "kubernetes",
            Self::Other => "other",
        }
    }
}

/// One destination.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationSnapshot {
    /// Which side was observed.
    pub role: Role,
    /// Its labels.
    pub labels: Labels,
    /// Where the name is from.
    pub source: NameSource,
    /// The children that the budget admitted.
    pub(super) children: Children,
    /// Sums since it appeared.
    pub counters: Counters,
    /// Connections open now, by [`TcpState`] `as usize`.
    pub active: [u64; TcpState::ALL.len()],
    /// Connections that have waited in one phase for longer than the limit, now.
    pub waiting: u64,
    /// The same by [`Phase`] `as usize`.
    pub waiting_by_phase: [u64; Phase::ALL.len()],
    /// The longest of these, nanoseconds.
    pub longest_wait_ns: u64,
    /// Quantiles since it appeared by [`Measure`] `as usize`, ≤ 1 % error; those of RTT beyond that of the kernel's buckets.
    pub(super) quantiles: [Option<Quantiles>; Measure::ALL.len()],
    /// The last window.
    pub window: WindowSnapshot,
    /// Smoothed RTT (RFC 6298) that a connection told last, microseconds.
    pub srtt_us: Option<u32>,
    /// RTTVAR of RFC 6298 in the last window with samples, the mean of its reports, microseconds.
    pub rtt_jitter_us: Option<u64>,
}

impl DestinationSnapshot {
    /// Quantiles since it appeared, ≤ 1 % error.
    pub fn quantiles(&self, measure: Measure) -> Option<Quantiles> {
        self.quantiles[measure as usize]
    }

    /// Connections that are open now, in whatever state; listeners are none.
    pub fn open(&self) -> u64 {
        let states = TcpState::ALL.iter().zip(self.active);
        states
            .filter(|(state, _)| **state != TcpState::Listen)
            .map(|(_, count)| count)
            .sum()
    }

    /// Whether the budget admitted this time series: others have no data here.
    pub fn has(&self, child: Child) -> bool {
        self.children.contains(child)
    }
}

/// The families without the label `role`, for all destinations that are called the same.
#[derive(Clone, Debug)]
pub struct RoleLess<'a> {
    /// What they are called.
    pub labels: &'a Labels,
    /// The children that one of them has, in these families alone.
    children: Children,
    /// Connections waiting now.
    pub waiting_by_phase: [u64; Phase::ALL.len()],
    /// How long who gave up had waited for an answer, by [`GaveUp`] `as usize`.
    pub unanswered: [Histogram; GaveUp::ALL.len()],
    /// Final responses in cleartext HTTP/1 by [`HttpStatus::index`].
    pub http_responses: [u64; HttpStatus::ALL.len()],
}

impl RoleLess<'_> {
    /// Whether one of them has this time series.
    pub fn has(&self, child: Child) -> bool {
        self.children.contains(child)
    }

    /// Time series in one family.
    pub fn series(&self, family: Family) -> u64 {
        let children = self.children.iter().filter(|child| child.family() == family);
        children.map(|child| child.series() as u64).sum()
    }
}

/// Adds up what the families without the label `role` show: else two destinations, a client's and a server's, could
/// appear as one time series twice.
pub fn without_role(destinations: &[DestinationSnapshot]) -> Vec<RoleLess<'_>> {
    let role_less: Children = Child::all().filter(|child| !child.family().has_role()).collect();
    let mut places: HashMap<&Labels, usize> = HashMap::new();
    let mut all: Vec<RoleLess<'_>> = Vec::new();
    for destination in destinations
        .iter()
        .filter(|destination| !destination.children.intersection(role_less).is_empty())
    {
        let place = *places.entry(&destination.labels).or_insert_with(|| {
            all.push(RoleLess {
                labels: &destination.labels,
                children: Children::default(),
                waiting_by_phase: Default::default(),
                unanswered: Default::default(),
                http_responses: Default::default(),
            });
            all.len() - 1
        });
        let one = &mut all[place];
        one.children = one.children.union(destination.children.intersection(role_less));
        let waiting = one.waiting_by_phase.iter_mut().zip(destination.waiting_by_phase);
        waiting.for_each(|(sum, count)| *sum += count);
        for (sum, one) in one.unanswered.iter_mut().zip(&destination.counters.unanswered) {
            sum.add(one.as_deref().unwrap_or(&Histogram::default()));
        }
        let responses = one.http_responses.iter_mut().zip(destination.counters.http_responses);
        responses.for_each(|(sum, count)| *sum += count);
    }
    all
}

/// What the pipeline did and could not do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PipelineCounts {
    /// Events applied, by kind.
    pub events: [u64; KINDS],
    /// Samples that were no event: cut, of a wrong size.
    pub malformed: u64,
    /// Samples of a kind that this version does not know.
    pub unknown_kind: u64,
    /// Connection events of an attempt that was over already.
    pub stale: u64,
    /// Connections whose CLOSE never came: the socket went on to another attempt.
    pub superseded: u64,
    /// Events of connections that the full table had refused; their CLOSE still counts whole.
    pub untracked: u64,
    /// RTT samples whose connection did not come for them.
    pub rtt_unplaced: u64,
    /// Silent connections that a full table gave up.
    pub evicted: u64,
    /// Processes that the full cache forgot before their time.
    pub processes_evicted: u64,
    /// Cgroups that the full cache forgot.
    pub cgroups_evicted: u64,
    /// Processes that were forgotten while they might still fall back to another host.
    pub fallbacks_evicted: u64,
    /// DNS messages that could not be read: every kind of it, with its count.
    pub dns_malformed: Vec<(&'static str, u64)>,
    /// DNS messages that had no part in anything, by reason.
    pub dns_ignored: Vec<(&'static str, u64)>,
    /// Hellos that were forgotten while their connection was open.
    pub hello_facts_unkept: u64,
    /// How full each table is.
    pub tables: Vec<TableUse>,
    /// Names of addresses that were forgotten before their time.
    pub dns_names_evicted: u64,
    /// Lookups that found no room.
    pub dns_lookups_refused: u64,
    /// Connections to DNS servers that were not read for want of room.
    pub dns_streams_refused: u64,
    /// Events that were not kept for `/api/v1/events`: too many in one second.
    pub events_dropped: u64,
    /// RTT spikes that found no room.
    pub spikes_refused: u64,
    /// Groups of destinations that found no room for windows of their own.
    pub groups_refused: u64,
    /// Records that nobody fetched in time.
    pub outputs_dropped: u64,
    /// What hellos and HTTP heads held that could not be read: every kind of it, with its count.
    pub hellos_malformed: Vec<(&'static str, u64)>,
    /// Conversations whose hellos were forgotten before their connection ended, to make room for others.
    pub hellos_evicted: u64,
    /// The same, because nothing more came of them for long.
    pub hellos_expired: u64,
    /// Servers whose lengths of session tickets the full memory forgot.
    pub tickets_forgotten: u64,
    /// Connections of which a TLS library spoke, and that were never told of.
    pub tls_facts_evicted: u64,
    /// Connections in the table now.
    pub connections: u64,
    /// Processes in the cache now, the ended ones in their grace included.
    pub processes: u64,
    /// Pods, and how their source does.
    pub pods: workloads::Counts,
    /// Events that waited for the name of their pod.
    pub held: HeldCounts,
}

/// Events that waited for the name of their pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldCounts {
    /// They wait now.
    pub now: u64,
    /// The name came.
    pub named: u64,
    /// It did not come in time.
    pub expired: u64,
    /// There was no room to wait.
    pub refused: u64,
}
