//! What exporters see: an immutable picture of every destination, the totals, and the pipeline's own counts.
//!
//! Cheap to clone: the destinations are shared.
use std::sync::Arc;

use agent_ebpf::event::KINDS;
use serde::Serialize;

use super::child::{Child, Family};
use super::counters::Counters;
use super::sketch::Quantiles;
use crate::connection::{Role, TcpState};

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Named destinations, most connects first; the ones folded together are last, under `other`.
    pub destinations: Arc<[DestinationSnapshot]>,
    /// Sums by role, in the order of [`Role::ALL`].
    pub totals: [Totals; Role::ALL.len()],
    /// Time series and folded observations by family, in the order of [`Family::ALL`].
    pub families: [FamilyCounts; Family::ALL.len()],
    /// What the pipeline did and could not do.
    pub counts: PipelineCounts,
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The name of the listening process (server role).
    Process,
    /// Folded together.
    Other,
}

impl NameSource {
    /// The value in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Process => "process",
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
    /// Bits of the children that the budget admitted.
    pub(super) children: u64,
    /// Sums since it appeared.
    pub counters: Counters,
    /// Connections open now, by [`TcpState`] `as usize`.
    pub active: [u64; TcpState::ALL.len()],
    /// Connects that have waited for longer than the limit, now.
    pub waiting: u64,
    /// The longest of these, nanoseconds.
    pub longest_wait_ns: u64,
    /// Handshakes, ≤ 1 % error.
    pub handshake: Option<Quantiles>,
    /// RTT window means, ≤ 1 % error.
    pub rtt: Option<Quantiles>,
    /// Smallest RTT in the last window with samples, microseconds.
    pub rtt_min_us: Option<u32>,
}

impl DestinationSnapshot {
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
        self.children & child.bit() != 0
    }
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
    /// Silent connections that a full table gave up.
    pub evicted: u64,
    /// Processes that the full cache forgot before their time.
    pub processes_evicted: u64,
    /// Cgroups that the full cache forgot.
    pub cgroups_evicted: u64,
    /// Records that nobody fetched in time.
    pub outputs_dropped: u64,
    /// Connections in the table now.
    pub connections: u64,
    /// Processes in the cache now, the ended ones in their grace included.
    pub processes: u64,
}
