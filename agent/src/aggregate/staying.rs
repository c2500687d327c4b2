//! What is told of sockets that stay: held connections, queues, ports, connections without reuse. Plain data with bounds of
//! its own, outside the series budget: all of it is rare, or there is one of it per listener.
use std::{sync::Arc, time::Duration};

use serde::{Serialize, Serializer};

use super::tally::Fold;
use crate::{
    connection::{Idle, Role, TcpState, record::ProcessRecord},
    workloads::Workload,
};

/// Where something stays: a destination, and for a server the process that listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// Which side was observed.
    pub role: Role,
    /// Its name.
    #[serde(serialize_with = "text")]
    pub destination: Arc<str>,
    /// Its port; `None` for `other`.
    pub port: Option<u16>,
    /// Its group, empty for none.
    #[serde(serialize_with = "text")]
    pub group: Arc<str>,
    /// Whose it is; `None` outside of pods. Details tell it of their process.
    #[serde(skip)]
    pub source: Option<Arc<Workload>>,
}

fn text<S: Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(text)
}

impl Fold for Place {
    fn folded(&self) -> Self {
        Self {
            role: self.role,
            destination: "other".into(),
            port: None,
            group: Arc::default(),
            source: None,
        }
    }
}

/// A place and one thing more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At<T> {
    /// Where.
    pub place: Place,
    /// What.
    pub what: T,
}

impl Fold for At<Idle> {
    fn folded(&self) -> Self {
        Self {
            place: self.place.folded(),
            what: self.what,
        }
    }
}

/// A process by its name.
impl Fold for At<Arc<str>> {
    fn folded(&self) -> Self {
        Self {
            place: self.place.folded(),
            what: "other".into(),
        }
    }
}

/// A listener's queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenerDetail {
    /// The listener.
    #[serde(flatten)]
    pub place: Place,
    /// Its address.
    pub address: String,
    /// Connections that wait for `accept`.
    pub queue_depth: u32,
    /// How many may wait.
    pub queue_limit: u32,
    /// SYNs and final ACKs that found no room, since hopline knows it.
    pub overflows: u64,
    /// Who listens.
    pub process: ProcessRecord,
}

/// Connections of one process that stay in one state, or are held by silence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StayingDetail {
    /// Their destination.
    #[serde(flatten)]
    pub place: Place,
    /// A state other than ESTABLISHED, `silent` or `dripping`.
    pub what: &'static str,
    /// How many.
    pub connections: u64,
    /// Whose they are.
    pub process: ProcessRecord,
}

/// The destination that has used most local ports of one namespace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortsDetail {
    /// Inode number of the namespace.
    pub netns: u32,
    /// The destination.
    #[serde(flatten)]
    pub place: Place,
    /// Ports that a connect to it cannot have.
    pub used: u32,
    /// Ports of the range, without what is reserved.
    pub usable: u32,
    /// Some of the processes that have them.
    pub processes: Vec<ProcessRecord>,
}

/// A process that opens connection after connection for one exchange each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnreusedDetail {
    /// The destination.
    #[serde(flatten)]
    pub place: Place,
    /// How many, without a longer pause between them.
    pub connections: u64,
    /// In what time, microseconds.
    pub within_us: u64,
    /// Which process.
    pub process: ProcessRecord,
}

/// What sweeps did and could not do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepCounts {
    /// Sweeps that ended.
    pub done: u64,
    /// Sweeps that were due while the last one was under way or rested.
    pub skipped: u64,
    /// Namespaces whose sockets were not all read, or not at all for want of time.
    pub partial: u64,
    /// Namespaces that could not be found or entered.
    pub vanished: u64,
    /// Sockets that found no room.
    pub refused: u64,
    /// How long the last one took.
    pub took: Duration,
    /// Sockets of the last one that nobody in the scope is known to have had, by state.
    pub unattributed: Vec<(TcpState, u64)>,
}

/// All of it at one moment.
#[derive(Clone, Debug, Default)]
pub struct StayingSnapshot {
    /// Connections of servers that clients hold.
    pub idle: Arc<[(At<Idle>, u64)]>,
    /// Listeners, the fullest first.
    pub listeners: Arc<[ListenerDetail]>,
    /// Overflows by listener.
    pub overflows: Arc<[(Place, u64)]>,
    /// Shares of the local ports.
    pub ports: Arc<[PortsDetail]>,
    /// Connections that carried one exchange though an earlier one could have carried it, by process.
    pub unreused: Arc<[(At<Arc<str>>, u64)]>,
    /// Writes to connections that the peer had closed.
    pub writes_after_close: Arc<[(Place, u64)]>,
    /// Whose connections stay, most first.
    pub staying: Arc<[StayingDetail]>,
    /// Who does not reuse, most first.
    pub unreusing: Arc<[UnreusedDetail]>,
    /// The sweeps.
    pub sweeps: SweepCounts,
    /// Connections that could not be followed for want of room: what lingers of them, and who does not reuse.
    pub lingering_untracked: u64,
    /// See there.
    pub unreused_untracked: u64,
}
