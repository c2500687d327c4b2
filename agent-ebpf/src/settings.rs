//! What the agent decides before the load. Immutable for the verifier, so a branch that is off costs nothing.

use aya_ebpf::Global;

/// 1: no `--cgroup` was given, everything on the node is inside the scope.
#[unsafe(no_mangle)]
static WHOLE_NODE: Global<u32> = Global::new(0);

/// 1: no fexit on this kernel, so connects that fail before a SYN are matched by thread at the end of the system call.
#[unsafe(no_mangle)]
static MATCH_INTENTS: Global<u32> = Global::new(0);

/// 1: the `syn` mark comes from a kprobe, by the address of the socket.
#[unsafe(no_mangle)]
static SYN_BY_KPROBE: Global<u32> = Global::new(0);

/// 1: `sock_ops` is not there, so the tracing program follows the states of every socket that has storage.
#[unsafe(no_mangle)]
static STATE_BY_TRACING: Global<u32> = Global::new(0);

/// 1: `tcp_retransmit_skb` passes the result of the transmission as its third argument (6.18 and later).
#[unsafe(no_mangle)]
static RETRANSMIT_RESULT: Global<u32> = Global::new(0);

/// 1: connects of client sockets are left to `sock_ops`.
#[unsafe(no_mangle)]
static CONNECT_OFF: Global<u32> = Global::new(0);

/// 1: open connections are found among open files, which those that wait to be accepted have none of.
#[unsafe(no_mangle)]
static TELL_CHILDREN: Global<u32> = Global::new(0);

/// 1: nobody asks for connects that fail before a SYN.
#[unsafe(no_mangle)]
static FAILURE_BEFORE_SYN_OFF: Global<u32> = Global::new(0);

/// 1: no RTT samples are taken or asked for.
#[unsafe(no_mangle)]
static RTT_OFF: Global<u32> = Global::new(0);

/// 1: payload of connections passes without being looked at.
#[unsafe(no_mangle)]
static PAYLOAD_OFF: Global<u32> = Global::new(0);

/// 1: who sends DNS messages is not noted.
#[unsafe(no_mangle)]
static DNS_OWNER_OFF: Global<u32> = Global::new(0);

/// Bytes of the ring of connection events; a power of two.
#[unsafe(no_mangle)]
static CONNECTION_RING_BYTES: Global<u32> = Global::new(0);

/// Bytes of the ring of process events; a power of two.
#[unsafe(no_mangle)]
static PROCESS_RING_BYTES: Global<u32> = Global::new(0);

/// Bytes of the ring of hello bytes; a power of two.
#[unsafe(no_mangle)]
static HELLO_RING_BYTES: Global<u32> = Global::new(0);

/// Bytes of the ring of DNS messages; a power of two.
#[unsafe(no_mangle)]
static DNS_RING_BYTES: Global<u32> = Global::new(0);

/// Two ports of DNS in host byte order, 0 for none.
#[unsafe(no_mangle)]
static DNS_PORTS_A: Global<u32> = Global::new(0);

/// Two more.
#[unsafe(no_mangle)]
static DNS_PORTS_B: Global<u32> = Global::new(0);

/// Events per second that one cgroup may make of one kind while a ring is more than half full.
#[unsafe(no_mangle)]
static SHARE_PER_SECOND: Global<u32> = Global::new(0);

#[inline(always)]
pub fn whole_node() -> bool {
    WHOLE_NODE.load() != 0
}

#[inline(always)]
pub fn match_intents() -> bool {
    MATCH_INTENTS.load() != 0
}

#[inline(always)]
pub fn syn_by_kprobe() -> bool {
    SYN_BY_KPROBE.load() != 0
}

#[inline(always)]
pub fn state_by_tracing() -> bool {
    STATE_BY_TRACING.load() != 0
}

#[inline(always)]
pub fn retransmit_has_result() -> bool {
    RETRANSMIT_RESULT.load() != 0
}

#[inline(always)]
pub fn takes_connects() -> bool {
    CONNECT_OFF.load() == 0
}

#[inline(always)]
pub fn tells_of_children() -> bool {
    TELL_CHILDREN.load() != 0
}

#[inline(always)]
pub fn tells_failures_before_syn() -> bool {
    FAILURE_BEFORE_SYN_OFF.load() == 0
}

#[inline(always)]
pub fn takes_rtt() -> bool {
    RTT_OFF.load() == 0
}

#[inline(always)]
pub fn looks_at_payload() -> bool {
    PAYLOAD_OFF.load() == 0
}

#[inline(always)]
pub fn notes_dns_owners() -> bool {
    DNS_OWNER_OFF.load() == 0
}

#[inline(always)]
pub fn connection_ring_bytes() -> u64 {
    u64::from(CONNECTION_RING_BYTES.load())
}

#[inline(always)]
pub fn process_ring_bytes() -> u64 {
    u64::from(PROCESS_RING_BYTES.load())
}

#[inline(always)]
pub fn hello_ring_bytes() -> u64 {
    u64::from(HELLO_RING_BYTES.load())
}

#[inline(always)]
pub fn dns_ring_bytes() -> u64 {
    u64::from(DNS_RING_BYTES.load())
}

/// Whether a port, in host byte order, is one of DNS.
#[inline(always)]
pub fn is_dns_port(port: u16) -> bool {
    let (a, b) = (DNS_PORTS_A.load(), DNS_PORTS_B.load());
    let port = u32::from(port);
    port != 0 && (port == a & 0xffff || port == a >> 16 || port == b & 0xffff || port == b >> 16)
}

#[inline(always)]
pub fn share_per_second() -> u64 {
    u64::from(SHARE_PER_SECOND.load())
}
