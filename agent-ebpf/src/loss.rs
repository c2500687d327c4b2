//! How the kernel side counts what it did and what it had to drop.

/// Counters of one kind of event; one entry per CPU and kind.
///
/// `attempts` is raised before the ring is asked for room, so once the rings are drained
/// `attempts = received + ring_full + throttled`, exactly.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// Events that the programs wanted to send.
    pub attempts: u64,
    /// Events refused because the ring had no room.
    pub ring_full: u64,
    /// Events refused because their cgroup had used up its share of a ring that was more than half full.
    pub throttled: u64,
}

/// Index into the table of failures that are not events.
pub const STORAGE_FAILED: u32 = 0;
/// The table of connects in flight was full (kernels without fexit): a failure before the SYN may go unseen.
pub const INTENTS_FULL: u32 = 1;
/// The table of RTT histograms was full: of this connection only sums of its samples are known.
pub const RTT_HISTOGRAMS_FULL: u32 = 2;
/// A TLS library said something while its thread had read from no handshake: nobody knows of which connection.
pub const TLS_UNJOINED: u32 = 3;
/// The agent's kernel memory was used up: a new socket is not watched.
pub const SOCKET_REFUSED: u32 = 4;
/// Number of such failures.
pub const FAILURES: u32 = 5;

/// Name of such a failure in `hopline_events_lost_total{kind}`; [`TLS_UNJOINED`] has a counter of its own.
pub const fn failure_name(index: u32) -> Option<&'static str> {
    Some(match index {
        STORAGE_FAILED => "storage_failed",
        INTENTS_FULL => "intents_full",
        RTT_HISTOGRAMS_FULL => "rtt_histograms_full",
        TLS_UNJOINED => "tls_unjoined",
        SOCKET_REFUSED => "socket_refused",
        _ => return None,
    })
}

/// Key of the fair-share table: one token bucket per cgroup and ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShareKey {
    /// The cgroup that makes the events.
    pub cgroup_id: u64,
    /// The kind of event.
    pub kind: u32,
    /// Unused, zero.
    pub reserved: u32,
}

/// Token bucket of one cgroup and kind.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Events that may still be sent.
    pub tokens: u64,
    /// When tokens were last added.
    pub refilled_ns: u64,
    /// Events refused since the start.
    pub throttled: u64,
}
