//! The record of an RTT spike, when it begins and when it is over. Plain data; times are RFC 3339, durations microseconds.
use serde::Serialize;

use super::SpikePath;
use crate::connection::{
    Role,
    record::{AddressRecord, ProcessRecord},
};

/// An RTT spike at one destination.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SpikeRecord {
    /// Version of the record's shape.
    pub schema: u32,
    /// `rtt_spike` or `rtt_spike_over`.
    pub r#type: &'static str,
    /// The same for the beginning and the end of one spike.
    pub id: String,
    /// Name of the node.
    pub node: String,
    /// When it was found to begin, or to be over.
    pub time: String,
    /// What was judged: `connection`, or `destination` over all of its connections.
    pub scope: &'static str,
    /// Which side was observed.
    pub role: Role,
    /// Where.
    pub destination: SpikeDestination,
    /// The window that was judged; of `rtt_spike_over` the last one, null when there were no samples any more.
    pub window: Option<SpikeWindow>,
    /// How long it has lasted; null at its beginning.
    pub duration_us: Option<u64>,
    /// Why it is over: `calm`, `silent` (no samples any more), `closed` (no connection any more); null at its beginning.
    pub over: Option<&'static str>,
    /// The highest median of a window so far.
    pub peak_us: u64,
    /// Connections of the destination whose RTT is above the threshold.
    pub connections_affected: u64,
    /// The five that are furthest above what is usual. At the end this and what follows are as of a window after the
    /// beginning: then all that is affected shows.
    pub connections: Vec<SpikeConnection>,
    /// The processes of all that were affected, at most five.
    pub processes: Vec<SpikeProcess>,
    /// The network path, once it was traced.
    pub path: Option<Box<SpikePath>>,
}

/// What a destination is called.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SpikeDestination {
    /// Its name, else its address; of a server the listening process.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its group, empty for none.
    pub group: String,
}

/// A window beside its baseline.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SpikeWindow {
    /// Its beginning.
    pub from: String,
    /// Its end.
    pub to: String,
    /// Median of the raw samples.
    pub p50_us: u64,
    /// What was usual before.
    pub baseline_us: u64,
    /// The difference.
    pub rtt_delta_us: u64,
    /// Raw samples.
    pub samples: u64,
    /// Segments sent again.
    pub retransmits: u64,
}

/// One of the worst connections.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SpikeConnection {
    /// Id of the connection's own record.
    pub id: String,
    /// This side.
    pub local: AddressRecord,
    /// The other side.
    pub remote: AddressRecord,
    /// Median of the window.
    pub p50_us: u64,
    /// What was usual before.
    pub baseline_us: u64,
    /// Raw samples.
    pub samples: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Whose it is.
    pub process: ProcessRecord,
}

/// A process with connections that are affected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SpikeProcess {
    /// Its id.
    pub pid: Option<u32>,
    /// Its name.
    pub comm: Option<String>,
    /// Its ancestors, the nearest first.
    pub ancestry: Vec<String>,
    /// How many of its connections.
    pub connections: u64,
}
