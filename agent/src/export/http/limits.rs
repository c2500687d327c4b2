//! Limits of the HTTP server: time, bytes, connections, descriptors. Numbers with their reasons, and pure functions.
//!
//! *Measured*: half a request takes 14 KiB of the agent's memory, one with the longest head 25 KiB. [`MAX_CONNECTIONS`] of
//! them take 3.2 MiB, bodies that are not taken yet [`BODY_BYTES`] and one more.
use std::time::Duration;

/// Longest that a request head may take, from its first byte or from the connect.
const HEADER: Duration = Duration::from_secs(10);
/// Longest pause between two requests of a connection: twice the usual interval of scrapes.
const IDLE: Duration = Duration::from_mins(2);
/// Longest that a request may take until its whole response is handed to the kernel; streams have no such limit.
const REQUEST: Duration = Duration::from_secs(30);
/// Longest that the peer may take nothing of what is sent.
const WRITE: Duration = Duration::from_secs(10);

/// Largest request head, in bytes: a bearer token fits. A longer one is answered with 431.
pub(super) const HEAD_BYTES: usize = 16 << 10;
/// Kernel memory for what a connection has received and for what it has yet to send. The kernel doubles both; without
/// them a reader that takes nothing holds megabytes which are charged to the agent's cgroup.
pub(super) const RECEIVE_BUFFER: u32 = 16 << 10;
pub(super) const SEND_BUFFER: u32 = 64 << 10;
/// Connections that wait to be accepted.
pub(super) const BACKLOG: u32 = 1024;

/// Connections at once: scrapers, probes and people need a dozen.
const MAX_CONNECTIONS: usize = 128;
/// Fewer are no service.
const MIN_CONNECTIONS: usize = 8;
/// Connections of one peer at once, where the total allows so many.
const MAX_PER_PEER: usize = 16;
/// Readers of event streams at once, in all and of one peer.
pub(super) const STREAMS: usize = 16;
pub(super) const STREAMS_PER_PEER: usize = 4;

/// Bytes of response bodies that their readers have not taken yet; one more may be made beyond it.
pub(super) const BODY_BYTES: usize = 8 << 20;
/// Age up to which a body is shared with new readers while there is no room for another.
pub(super) const BODY_AGE: Duration = Duration::from_secs(1);
/// Longest that a request waits for others' bodies to be made; then it is answered with 503.
pub(super) const BUSY: Duration = Duration::from_secs(5);
/// Making bodies rests so many times as long as it worked, at most [`MAX_REST`]: whoever asks all the time gets a
/// quarter of a processor.
pub(super) const REST: u32 = 3;
pub(super) const MAX_REST: Duration = Duration::from_millis(250);

/// Descriptors that are kept for everything else: walks, sweeps, `/proc`, recordings, files to probe.
const SPARE_DESCRIPTORS: usize = 24;
/// Descriptors of an agent with every feature but TLS probes, *measured* on 6.18 when it is ready.
const AGENT_DESCRIPTORS: usize = 88;
/// Descriptors without which the agent does not start.
pub const NEEDED_DESCRIPTORS: usize = AGENT_DESCRIPTORS + SPARE_DESCRIPTORS + MIN_CONNECTIONS;

/// How long each phase of a connection may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeouts {
    pub(super) header: Duration,
    pub(super) idle: Duration,
    pub(super) request: Duration,
    pub(super) write: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header: HEADER,
            idle: IDLE,
            request: REQUEST,
            write: WRITE,
        }
    }
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// In all.
    pub(super) connections: usize,
    /// Of one peer; loopback has no such bound, as everything on this machine is one peer there.
    pub(super) per_peer: usize,
}

impl Bounds {
    pub(super) fn new(connections: usize) -> Self {
        Self {
            connections,
            per_peer: (connections / 4).clamp(2, MAX_PER_PEER),
        }
    }

    /// Bounds with which a process that may have `limit` descriptors, and has `others` open that are no connections of
    /// this server, keeps some in reserve.
    pub(super) fn for_descriptors(limit: usize, others: usize) -> Self {
        let free = limit.saturating_sub(others).saturating_sub(SPARE_DESCRIPTORS);
        Self::new(free.clamp(MIN_CONNECTIONS, MAX_CONNECTIONS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        for (limit, others, connections, per_peer) in [
            (20_000, 76, 128, 16),
            (1_024, 800, 128, 16),
            (1_024, 900, 100, 16),
            (128, 70, 34, 8),
            (128, 76, 28, 7),
            (114, 82, 8, 2),
            (108, 76, 8, 2),
            // Below what it needs nothing better is known than the least.
            (64, 76, 8, 2),
            (0, 0, 8, 2),
        ] {
            let bounds = Bounds::for_descriptors(limit, others);
            assert_eq!(
                (bounds.connections, bounds.per_peer),
                (connections, per_peer),
                "{limit} {others}"
            );
        }
    }

    #[test]
    fn the_least_fits() {
        let least = Bounds::for_descriptors(NEEDED_DESCRIPTORS, AGENT_DESCRIPTORS);
        assert_eq!(least.connections, MIN_CONNECTIONS);
    }
}
