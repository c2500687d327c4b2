//! Every map, with its size, who writes it and who reads it.

use agent_ebpf::{
    event::{ConnectionEvent, KINDS},
    loss::{EventCounts, FAILURES as FAILURE_KINDS, Share, ShareKey},
    rtt::RttHistogram,
    scope::{MAX_SCOPES, ScopeEntry},
};
use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};

use crate::{
    datagram::DnsOwner,
    early::EarlyKey,
    owner::Owner,
    tls::{Asked, GoHandshake, GoRoutine, LastRead, Session},
};

/// Placeholder: the agent sets the size of each ring at load.
const RING_BYTES: usize = 4096;

/// Per-socket state. A listener's is copied to its children, so they know its owner without a look-up.
///
/// Written by the programs under the socket's lock; freed with the socket.
#[btf_map]
pub static SOCKETS: SocketStorage<ConnectionEvent, { NO_PREALLOC | CLONE }> = SocketStorage::new();

/// 1 while no more sockets may get storage: what they have is the agent's memory. The agent writes it.
#[btf_map]
pub static SOCKETS_FULL: Array<u32, 1> = Array::new();

/// Connection events to the agent's reader.
#[btf_map]
pub static CONNECTIONS: RingBuf<(), RING_BYTES> = RingBuf::new();

/// First bytes of conversations to the agent's reader.
#[btf_map]
pub static HELLOS: RingBuf<(), RING_BYTES> = RingBuf::new();

/// DNS messages to the agent's reader.
#[btf_map]
pub static DNS: RingBuf<(), RING_BYTES> = RingBuf::new();

/// Who sends DNS messages from a datagram socket; written in process context, freed with the socket.
#[btf_map]
pub static DNS_OWNERS: SocketStorage<DnsOwner, NO_PREALLOC> = SocketStorage::new();

/// Process and cgroup events to the agent's reader.
#[btf_map]
pub static PROCESSES: RingBuf<(), RING_BYTES> = RingBuf::new();

/// Attempts and losses by kind of event; the agent reads it for `hopline_events_*`.
#[btf_map]
pub static COUNTS: PerCpuArray<EventCounts, KINDS> = PerCpuArray::new();

/// Failures that are no events, by `agent_ebpf::loss` index.
#[btf_map]
pub static FAILURES: PerCpuArray<u64, { FAILURE_KINDS as usize }> = PerCpuArray::new();

/// Token buckets of the cgroups that make events while a ring is more than half full.
#[btf_map]
pub static SHARES: LruHashMap<ShareKey, Share, 4096> = LruHashMap::new();

/// Watched cgroups; the agent fills it before the programs are attached.
#[btf_map]
pub static SCOPE: Array<ScopeEntry, MAX_SCOPES> = Array::new();

/// Connects that have not sent a SYN yet, by thread; only where fexit is missing.
#[btf_map]
pub static INTENTS: HashMap<u64, ConnectionEvent, 4096> = HashMap::new();

/// `tcp_connect` entered: socket address to time; only where the kprobe serves the `syn` mark.
#[btf_map]
pub static CONNECT_STARTED: LruHashMap<u64, u64, 4096> = LruHashMap::new();

/// Owner of each MPTCP connection by the address of its parent socket; written by the first subflow's connect.
#[btf_map]
pub static MPTCP_OWNERS: LruHashMap<u64, Owner, 4096> = LruHashMap::new();

/// First SYN-ACK of requests that needed another one: cookie to time. Others need no entry: see `socket::accepted`.
#[btf_map]
pub static SYNACKS: LruHashMap<u64, u64, 16384> = LruHashMap::new();

/// RTT samples of connections that have lived for a while, by cookie. Written under the socket's lock, read by the walk,
/// removed at CLOSE; in memory of the agent, as socket storage is charged to the application.
#[btf_map]
pub static RTTS: HashMap<u64, RttHistogram, 131_072, NO_PREALLOC> = HashMap::new();

/// Connections whose payload came before their socket, by listener and peer.
#[btf_map]
pub static EARLY: LruHashMap<EarlyKey, ConnectionEvent, 1024> = LruHashMap::new();

/// 1 once `EARLY` has held anything: most nodes never look there.
#[btf_map]
pub static EARLY_SEEN: Array<u32, 1> = Array::new();

/// Nothing but zeros: what a new entry of `EARLY` and of `RTTS` starts from, too large for the stack.
#[btf_map]
pub static EMPTY: Array<ConnectionEvent, 1> = Array::new();

/// Sockets opened before hopline that have not closed: raised by the walk that finds them, lowered by their CLOSE. The agent
/// stops tracing changes of state when there are none.
#[btf_map]
pub static LATE_OPEN: Array<u64, 1> = Array::new();

/// Listening ports met by the walk over open files, (netns << 16 | port): tells the role of sockets opened before start.
#[btf_map]
pub static LISTENING: LruHashMap<u64, u32, 16384> = LruHashMap::new();

/// The handshake that a thread has last read bytes of, by thread.
#[btf_map]
pub static LAST_READ: LruHashMap<u32, LastRead, 8192> = LruHashMap::new();

/// The socket of a session of OpenSSL or GnuTLS, until its protocol was told of.
#[btf_map]
pub static SESSIONS: LruHashMap<Session, u64, 16384> = LruHashMap::new();

/// Where GnuTLS will put the answer that a thread is asking for, by thread.
#[btf_map]
pub static ASKED: LruHashMap<u32, Asked, 1024> = LruHashMap::new();

/// The handshake that a goroutine of Go is at, by process and goroutine.
#[btf_map]
pub static GO_HANDSHAKES: LruHashMap<GoRoutine, GoHandshake, 16384> = LruHashMap::new();

/// What Go's `crypto/x509` refused, by process and goroutine, until that goroutine sends its alert.
#[btf_map]
pub static GO_REFUSED: LruHashMap<GoRoutine, u64, 4096> = LruHashMap::new();

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;
const CLONE: usize = BPF_F_CLONE as usize;

/// `BPF_MAP_TYPE_SK_STORAGE`: aya-ebpf's own type cannot ask for `BPF_F_CLONE`, and knows one kind of context.
#[repr(C)]
pub struct SocketStorage<T, const FLAGS: usize> {
    r#type: *const [i32; aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the fields are placeholders for the loader's BTF and are never dereferenced.
unsafe impl<T, const FLAGS: usize> Sync for SocketStorage<T, FLAGS> {}

impl<T, const FLAGS: usize> SocketStorage<T, FLAGS> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }

    /// The map as helpers take it.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut core::ffi::c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }
}
