//! Per-socket state: kept in the socket's storage by the kernel programs, copied whole into each connection event.

use core::mem::offset_of;

use crate::timeline::Timeline;

/// [`ConnectionState::role`]: this side called `connect`.
pub const ROLE_CLIENT: u8 = 1;
/// [`ConnectionState::role`]: the socket came out of a listener.
pub const ROLE_SERVER: u8 = 2;
/// [`ConnectionState::role`]: the socket listens.
pub const ROLE_LISTENER: u8 = 3;

/// [`ConnectionState::flags`]: opened before hopline started, found by the iterator; its phases are unknown.
pub const FLAG_LATE: u8 = 1;
/// [`ConnectionState::flags`]: the kernel calls back for this socket's changes of state and RTT samples (`sock_ops`).
pub const FLAG_CALLBACKS: u8 = 1 << 1;
/// [`ConnectionState::flags`]: an MPTCP subflow.
pub const FLAG_MPTCP: u8 = 1 << 2;
/// [`ConnectionState::flags`]: the owner was taken by the listener, not by the process that accepted.
pub const FLAG_LISTENER_OWNER: u8 = 1 << 3;
/// [`ConnectionState::flags`]: the peer's FIN was received (it counts as one byte in `tcp_sock.bytes_received`).
pub const FLAG_FIN_RECEIVED: u8 = 1 << 4;
/// [`ConnectionState::flags`]: a histogram of its RTT samples is kept, and told of in events of its own.
pub const FLAG_RTT_KEPT: u8 = 1 << 5;
/// [`ConnectionState::flags`]: there was no room for one.
pub const FLAG_RTT_REFUSED: u8 = 1 << 6;
/// [`ConnectionState::flags`]: with [`FLAG_LATE`], its connect had not ended when it was found: how that ends is seen.
pub const FLAG_FOUND_CONNECTING: u8 = 1 << 7;
/// [`ConnectionState::closed_by`]: not closed yet, or nobody closed what never opened.
pub const CLOSED_BY_NOBODY: u8 = 0;
/// [`ConnectionState::closed_by`]: this side's FIN (or the abort of an unanswered connect) came first.
pub const CLOSED_BY_LOCAL: u8 = 1;
/// [`ConnectionState::closed_by`]: the peer's FIN came first.
pub const CLOSED_BY_REMOTE: u8 = 2;
/// [`ConnectionState::closed_by`]: this side sent a RST.
pub const CLOSED_BY_RESET_LOCAL: u8 = 3;
/// [`ConnectionState::closed_by`]: the peer sent a RST.
pub const CLOSED_BY_RESET_REMOTE: u8 = 4;
/// [`ConnectionState::closed_by`]: retransmissions or keep-alives were given up.
pub const CLOSED_BY_TIMEOUT: u8 = 5;

/// RFC 9293 states in the kernel's numbering (`include/net/tcp_states.h`).
pub mod tcp_state {
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const SYN_RECV: u8 = 3;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
    pub const TIME_WAIT: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const LISTEN: u8 = 10;
    pub const CLOSING: u8 = 11;
}

/// A sender that goes on sending although nothing comes back is called so for this long after a walk has seen it: more than two
/// walks, so that one that is late changes nothing.
pub const SENDS_ON_FOR_NS: u64 = 2_500_000_000;
/// So many times it must have gone on after a pause: it waits for nothing, even when it pauses again.
pub const PAUSES_OF_ONE_WAY: u8 = 2;

/// A turn that is open for longer than this is reported while it waits.
pub const LONG_TURN_NS: u64 = 500_000_000;

/// Smallest, sum and number of raw RTT samples, in microseconds, and how far they are apart.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RttSamples {
    /// Sum of all samples, for the mean.
    pub sum_us: u64,
    /// Number of samples.
    pub count: u32,
    /// Smallest sample; 0 while there is none.
    pub min_us: u32,
    /// Mean deviation (RTTVAR of RFC 6298), filled when an event is made that looks at the socket; 0 while there was no sample.
    pub var_us: u32,
    /// Machine's own: when a sample last passed the gate, in units of 1 024 µs ([`crate::rtt::GATE`]).
    pub gate: u32,
}

/// Retransmitted segments by the reason the kernel had (a super-packet counts as its segments).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retransmits {
    /// SYNs of a client.
    pub syn: u32,
    /// SYN-ACKs that a server's child needed before it was established.
    pub synack: u32,
    /// After a retransmission time-out (RFC 6298).
    pub rto: u32,
    /// Fast recovery (RFC 5681, RACK).
    pub fast: u32,
    /// Tail loss probes (RFC 8985).
    pub tlp: u32,
    /// Any other.
    pub other: u32,
}

/// `tcp_sock` counters at the time of the event.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpCounters {
    /// Payload bytes sent, retransmitted ones included (`bytes_sent`).
    pub bytes_sent: u64,
    /// Payload bytes sent again (`bytes_retrans`).
    pub bytes_retransmitted: u64,
    /// Payload bytes received in order, plus one for a FIN ([`FLAG_FIN_RECEIVED`]).
    pub bytes_received: u64,
    /// Segments sent (`segs_out`).
    pub segments_sent: u32,
    /// Segments received (`segs_in`).
    pub segments_received: u32,
}

/// All that the kernel side knows of one socket. Addresses and ports are in network byte order.
///
/// What every packet needs stands first: see [`Timeline`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionState {
    /// Positive errno that ended the connection or the attempt; 0 for none. While a connect goes on, what was last reported
    /// of it; `EACCES` for ICMP's "administratively prohibited".
    pub error: u16,
    /// [`ConnectionState::progress`] when the walk over open connections last reported this one.
    pub reported_progress: u16,
    /// One of the `ROLE_*`.
    pub role: u8,
    /// Bits `FLAG_*`.
    pub flags: u8,
    /// One of the `CLOSED_BY_*`.
    pub closed_by: u8,
    /// RFC 9293 state, one of [`tcp_state`].
    pub tcp_state: u8,
    /// TLS, request, answer and turns, as they passed on the wire.
    pub timeline: Timeline,
    /// Socket cookie, unique for the life of the kernel.
    pub cookie: u64,
    /// Id of the cgroup that the socket belongs to (its creator's; a child has its listener's).
    pub cgroup_id: u64,
    /// Cookie of the listener that a server's child came from; of an MPTCP client's joined subflow that of the first one; else
    /// 0.
    pub listener_cookie: u64,
    /// `connect` was called (client) or `listen` was (listener); 0 when not seen.
    pub intent_ns: u64,
    /// `syn` mark: `tcp_connect` entered; for a server's child the first SYN-ACK left. 0 when not known.
    pub syn_ns: u64,
    /// `established` mark; 0 before and for late sockets.
    pub established_ns: u64,
    /// The socket reached CLOSE; 0 before.
    pub closed_ns: u64,
    /// When this socket last reported; 0 before.
    pub reported_ns: u64,
    /// RTT samples.
    pub rtt: RttSamples,
    /// Retransmitted segments.
    pub retransmits: Retransmits,
    /// `tcp_sock` counters, filled when an event is made.
    pub counters: TcpCounters,
    /// Local address; IPv4 in the first four bytes.
    pub local_address: [u8; 16],
    /// Remote address as on the wire; IPv4 in the first four bytes.
    pub remote_address: [u8; 16],
    /// Address that the process asked for, before any translation by other programs; IPv4 in the first four bytes.
    pub asked_address: [u8; 16],
    /// Local port.
    pub local_port: [u8; 2],
    /// Remote port.
    pub remote_port: [u8; 2],
    /// Port that the process asked for.
    pub asked_port: [u8; 2],
    /// `AF_INET` (2) or `AF_INET6` (10) of the socket; v4-mapped addresses come as `AF_INET6`.
    pub family: u16,
    /// Process (tgid, init pid namespace) that called `connect` or `listen`; 0 when unknown.
    pub pid: u32,
    /// Inode number of the network namespace, as `lsns` and `/proc/PID/ns/net` show it.
    pub netns: u32,
    /// Inode number of the socket, as in `/proc/PID/fd`: set for late sockets and for listeners, to find who has them.
    pub inode: u32,
    /// Number of the connect attempt on this socket, from 1 (a socket may try again after a failure).
    pub attempt: u32,
    /// Name of the process that called `connect` or `listen` (its main thread's), NUL-padded.
    pub comm: [u8; 16],
    /// The first FIN or RST passed, or the kernel gave up; 0 before.
    pub ending_ns: u64,
    /// When the walk over open connections last saw that the client had sent more since its open request, and had got nothing; 0
    /// when it has not.
    pub sent_on_ns: u64,
    /// The walk's own: which request is open.
    pub walk_request: u32,
    /// The walk's own: payload bytes of the client when it last looked, as far as they fit.
    pub walk_forward: u32,
    /// The walk's own: the same of the server.
    pub walk_backward: u32,
    /// Ticks of the kernel's clock from the client's last payload to [`Self::ending_ns`]; under TLS, where a client says goodbye,
    /// from the last acknowledgement that it got, if that was earlier.
    pub quiet_ticks: u32,
    /// How often the client went on sending after a pause, while it got nothing.
    pub pauses: u8,
    /// 1: the client paused when the walk last looked, or had sent nothing more since the walk before.
    pub is_quiet: u8,
    /// Unused, zero.
    pub reserved: [u8; 6],
    /// Number of the network namespace that no other one has until the next boot; 0 when the kernel does not say. The inode's is
    /// given to another one as soon as its own has ended.
    pub netns_cookie: u64,
}

/// Words of a [`ConnectionState`].
pub const WORDS: usize = size_of::<ConnectionState>() / size_of::<u64>();

impl ConnectionState {
    /// The same, word by word.
    pub fn to_words(&self) -> [u64; WORDS] {
        // SAFETY: integers and arrays of them only, nested structs included, and no byte between them is unused: each
        // member's size is asserted, and so is the sum.
        unsafe { core::mem::transmute::<Self, [u64; WORDS]>(*self) }
    }

    /// What [`Self::to_words`] gave.
    pub fn from_words(words: [u64; WORDS]) -> Self {
        // SAFETY: every bit pattern is a valid value of integers and arrays of them.
        unsafe { core::mem::transmute::<[u64; WORDS], Self>(words) }
    }

    /// How far the connection has come, as one number: the walk over open connections reports one that has moved on.
    ///
    /// A turn counts only when it has been open for [`LONG_TURN_NS`]: most are over before anybody looks.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "kernel programs have no calls")]
    pub fn progress(&self, now_ns: u64) -> u16 {
        let timeline = &self.timeline;
        // No branch for each mark: every one would double what the verifier has to look at. Marks are set once, so that
        // their sum changes with each; two sums are alike in one of 65 536 cases, and the heartbeat tells that one.
        let marks = self.established_ns
            + timeline.client_hello_ns.wrapping_mul(3)
            + timeline.server_hello_ns.wrapping_mul(5)
            + timeline.tls_done_ns.wrapping_mul(7)
            + timeline.request_ns.wrapping_mul(11)
            + timeline.first_byte_ns.wrapping_mul(13)
            + u64::from(self.tcp_state)
            + (u64::from(timeline.answer_count) << 4);
        let folded = marks ^ marks >> 32;
        let folded = (folded ^ folded >> 16) as u16;
        let waits = timeline.turn_ns != 0 && now_ns.saturating_sub(timeline.turn_ns) > LONG_TURN_NS;
        let folded = if waits { folded ^ 1 } else { folded };
        let folded = if self.sends_on(now_ns) { folded ^ 2 } else { folded };
        let folded = if self.is_one_way() { folded ^ 4 } else { folded };
        // Who reads that a connect hangs wants to know how many SYNs have left.
        folded ^ (self.retransmits.syn as u16) << 8
    }

    /// When the request began that has no answer yet, as far as the kernel can tell; 0 when none is open.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "kernel programs have no calls")]
    pub fn open_request_ns(&self) -> u64 {
        if self.timeline.turn_ns == 0 {
            self.timeline.request_ns
        } else {
            self.timeline.turn_ns
        }
    }

    /// Which request that is, as the walk remembers it: never 0.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "kernel programs have no calls")]
    pub fn request_key(&self) -> u32 {
        (self.open_request_ns() >> 10) as u32 | 1
    }

    /// Whether the client goes on sending while nothing comes back: it has not done asking, if it asks at all.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "kernel programs have no calls")]
    pub fn sends_on(&self, now_ns: u64) -> bool {
        self.sent_on_ns != 0 && now_ns.saturating_sub(self.sent_on_ns) < SENDS_ON_FOR_NS
    }

    /// Whether the client has gone on sending so often while nothing came back that it waits for nothing.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "kernel programs have no calls")]
    pub fn is_one_way(&self) -> bool {
        self.sent_on_ns != 0 && self.pauses >= PAUSES_OF_ONE_WAY
    }

    /// The walk has looked at the socket: whether its client has sent more. `pauses`: it has nothing to send right now.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "kernel programs have no calls")]
    pub fn look(&mut self, counters: &TcpCounters, pauses: bool, now_ns: u64) {
        let sent = counters.bytes_sent.wrapping_sub(counters.bytes_retransmitted) as u32;
        let received = counters.bytes_received as u32;
        let (forward, backward) = if self.role == ROLE_CLIENT {
            (sent, received)
        } else {
            (received, sent)
        };
        let request = self.request_key();
        if request != self.walk_request || backward != self.walk_backward {
            // The first look at it.
            self.walk_request = request;
            self.walk_backward = backward;
            self.walk_forward = forward;
            self.sent_on_ns = 0;
            self.pauses = 0;
            self.is_quiet = u8::from(pauses);
        } else if forward == self.walk_forward {
            self.is_quiet = 1;
        } else {
            self.walk_forward = forward;
            self.sent_on_ns = now_ns;
            if self.is_quiet != 0 && self.pauses < u8::MAX {
                self.pauses += 1;
            }
            self.is_quiet = u8::from(pauses);
        }
    }
}

/// Storage is charged to the application's socket memory: the contract allows 1 KiB.
const _: () = assert!(size_of::<ConnectionState>() <= 1024);
const _: () = assert!(size_of::<ConnectionState>() == 584);
const _: () = assert!(offset_of!(ConnectionState, timeline) == 8);
