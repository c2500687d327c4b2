//! What travels through the ring buffers: a header with the kind, then the body of that kind.

use crate::{connection::ConnectionState, timeline::RECENT_TURNS};

/// The first report of a connection that is still open: found by the walk, or opened before hopline.
pub const CONNECTION_OPEN: u32 = 1;
/// An open connection has moved on.
pub const CONNECTION_UPDATE: u32 = 3;
/// The socket reached CLOSE, or a connect failed before a SYN left. The last event of this attempt, with everything known.
pub const CONNECTION_CLOSE: u32 = 4;
/// A SYN-ACK was sent again for a request that has no socket of its own yet; the state is the listener's.
pub const SYNACK_RETRANSMIT: u32 = 5;
/// A listening socket appeared (`state.tcp_state == LISTEN`) or was found by the iterator.
pub const LISTENER_OPEN: u32 = 6;
/// First bytes of a conversation: [`crate::hello::HelloHeader`] and the bytes.
pub const HELLO_BYTES: u32 = 7;
/// A DNS message or a piece of a stream of them: [`crate::dns::DnsHeader`] and the bytes.
pub const DNS_MESSAGE: u32 = 8;
/// RTT samples of a connection that has lived for a while: [`crate::rtt::RttEvent`].
pub const RTT_WINDOW: u32 = 9;
/// All the turns that are kept of a connection are new: [`TurnsEvent`].
pub const TURNS: u32 = 10;
/// What a TLS library said of a handshake: [`crate::tls_fact::TlsFact`].
pub const TLS_FACT: u32 = 11;
/// The certificate that a TLS library looked at: [`crate::tls_fact::TlsCertificate`] and its bytes.
pub const TLS_CERTIFICATE: u32 = 12;
/// The protocol that a handshake agreed on: [`crate::tls_fact::TlsProtocol`].
pub const TLS_PROTOCOL: u32 = 13;
/// A process was forked: [`crate::process::ForkEvent`].
pub const PROCESS_FORK: u32 = 16;
/// A process executed a program: [`crate::process::ExecEvent`].
pub const PROCESS_EXEC: u32 = 17;
/// The last thread of a process ended: [`crate::process::ExitEvent`].
pub const PROCESS_EXIT: u32 = 18;
/// A cgroup was made: [`crate::process::CgroupEvent`].
pub const CGROUP_MKDIR: u32 = 19;

/// One more than the largest kind: the size of tables indexed by kind.
pub const KINDS: usize = 20;

/// A connection that moves bytes, but no further in its phases, is reported at most this often.
pub const UPDATE_INTERVAL_NS: u64 = 5_000_000_000;
/// An open connection is reported at least this often, moving or not: one that is not heard of for longer has lost its
/// CLOSE.
pub const HEARTBEAT_NS: u64 = 60_000_000_000;
/// RTT samples of an open connection are told of at most this often. A walk a second makes it four: what changes is in
/// `/metrics` within five.
pub const RTT_INTERVAL_NS: u64 = 3_500_000_000;
/// Connections younger than this are not told of while they are open: most end before. Nor is a histogram kept of their
/// RTT samples.
pub const TOLD_AFTER_NS: u64 = 250_000_000;

/// The name under which a kind is counted in `hopline_events_total{kind}`; `None` for a number that is no kind.
pub const fn kind_name(kind: u32) -> Option<&'static str> {
    Some(match kind {
        CONNECTION_OPEN => "connection_open",
        CONNECTION_UPDATE => "connection_update",
        CONNECTION_CLOSE => "connection_close",
        SYNACK_RETRANSMIT => "synack_retransmit",
        LISTENER_OPEN => "listener_open",
        HELLO_BYTES => "hello_bytes",
        DNS_MESSAGE => "dns_message",
        RTT_WINDOW => "rtt_window",
        TURNS => "turns",
        TLS_FACT => "tls_fact",
        TLS_CERTIFICATE => "tls_certificate",
        TLS_PROTOCOL => "tls_protocol",
        PROCESS_FORK => "process_fork",
        PROCESS_EXEC => "process_exec",
        PROCESS_EXIT => "process_exit",
        CGROUP_MKDIR => "cgroup_mkdir",
        _ => return None,
    })
}

/// Starts every event.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventHeader {
    /// One of the kinds above.
    pub kind: u32,
    /// Bytes of the whole event, this header included.
    pub size: u32,
    /// `bpf_ktime_get_ns` when the event was made (`CLOCK_MONOTONIC`).
    pub time_ns: u64,
}

impl EventHeader {
    /// Of an event that is a `T`, all of it.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "kernel programs have no calls")]
    pub const fn of<T>(kind: u32, time_ns: u64) -> Self {
        Self {
            kind,
            size: size_of::<T>() as u32,
            time_ns,
        }
    }
}

/// All `CONNECTION_*`, `SYNACK_RETRANSMIT` and `LISTENER_OPEN` events: a copy of the socket's storage.
///
/// Each event stands alone: a lost one costs the progress it told, never the facts of the next.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionEvent {
    /// Kind, size and time.
    pub header: EventHeader,
    /// The socket's state at that time.
    pub state: ConnectionState,
}

/// Turns of a connection that was told of before, each time as many are new as are kept: small, as a busy connection sends
/// thousands a second.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnsEvent {
    /// Kind, size and time.
    pub header: EventHeader,
    /// The socket's.
    pub cookie: u64,
    /// [`ConnectionState::attempt`].
    pub attempt: u32,
    /// [`crate::timeline::Timeline::turns`].
    pub turns: u32,
    /// [`crate::timeline::Timeline::turns_overlapping`].
    pub turns_overlapping: u32,
    /// Unused, zero.
    pub reserved: u32,
    /// [`crate::timeline::Timeline::recent_turns_us`].
    pub recent_turns_us: [u32; RECENT_TURNS],
    /// [`crate::timeline::Timeline::recent_turns_begun`].
    pub recent_turns_begun: [u32; RECENT_TURNS],
    /// [`crate::timeline::Timeline::recent_turns_status`].
    pub recent_turns_status: [u16; RECENT_TURNS],
}

const _: () = assert!(size_of::<TurnsEvent>() == 40 + 10 * RECENT_TURNS);
const _: () = assert!(size_of::<EventHeader>() == 16);
const _: () = assert!(size_of::<ConnectionEvent>() == 16 + size_of::<ConnectionState>());
