//! A socket's state: created at the hooks that a cgroup limits, advanced by all others, sent by `report` when it closes.
//!
//! Every function here runs under the socket's lock, so plain writes are exact. Sockets that stay open are told of by
//! the walk in `programs/open.rs`, which has no lock.

use core::ptr;

use agent_ebpf::{
    connection::{
        CLOSED_BY_LOCAL, CLOSED_BY_NOBODY, CLOSED_BY_REMOTE, CLOSED_BY_RESET_LOCAL, CLOSED_BY_RESET_REMOTE,
        CLOSED_BY_TIMEOUT, ConnectionState, FLAG_FIN_RECEIVED, FLAG_LISTENER_OWNER, FLAG_MPTCP, ROLE_CLIENT,
        ROLE_LISTENER, ROLE_SERVER, RttSamples, tcp_state,
    },
    event::{CONNECTION_CLOSE, ConnectionEvent},
    loss::{SOCKET_REFUSED, STORAGE_FAILED},
    timeline::PROTOCOL_TLS,
};
use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    helpers::generated::{bpf_ktime_get_ns, bpf_sk_storage_delete, bpf_sk_storage_get},
};

use crate::{
    kernel::{Sock, TcpSock},
    maps::{SOCKETS, SOCKETS_FULL, SYNACKS},
    output, phases, samples, settings,
};

const AF_INET: u16 = 2;
const EACCES: u16 = 13;
const EPIPE: u16 = 32;
const ECONNRESET: u16 = 104;
const ETIMEDOUT: u16 = 110;
const ECONNREFUSED: u16 = 111;
const EHOSTUNREACH: u16 = 113;
const ENETUNREACH: u16 = 101;

/// Nanoseconds of the monotonic clock.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// The socket's storage, when it is watched. `sk` is whatever socket pointer the hook has.
#[inline(always)]
pub fn find<'a, S>(sk: *const S) -> Option<&'a mut ConnectionEvent> {
    get(sk, 0)
}

/// The socket's storage, made when it has none; `None`, counted, when there is no memory for it.
#[inline(always)]
pub fn find_or_create<'a, S>(sk: *const S) -> Option<&'a mut ConnectionEvent> {
    create(|flags| get(sk, flags))
}

/// Looks with `get` for a socket's storage of any kind, which gets the flags to make it with while there is room; counts why there
/// is none.
#[inline(always)]
pub fn create<T>(get: impl FnOnce(u64) -> Option<T>) -> Option<T> {
    let (flags, failure) = if is_full() {
        (0, SOCKET_REFUSED)
    } else {
        (u64::from(BPF_SK_STORAGE_GET_F_CREATE), STORAGE_FAILED)
    };
    let found = get(flags);
    if found.is_none() {
        output::count_failure(failure);
    }
    found
}

/// The same for the child of a listener, whose copy of the listener's storage goes when there is no room.
#[inline(always)]
pub fn of_child<'a, S>(sk: *const S) -> Option<&'a mut ConnectionEvent> {
    if is_full() {
        // SAFETY: as in `get`.
        let _some_have_none = unsafe { bpf_sk_storage_delete(SOCKETS.as_ptr(), sk.cast_mut().cast()) };
        output::count_failure(SOCKET_REFUSED);
        return None;
    }
    find_or_create(sk)
}

/// Whether the agent lets no more sockets be watched.
#[inline(always)]
pub fn is_full() -> bool {
    // SAFETY: the entry lives as long as the map.
    SOCKETS_FULL.get_ptr(0).is_some_and(|full| unsafe { *full } != 0)
}

#[inline(always)]
fn get<'a, S>(sk: *const S, flags: u64) -> Option<&'a mut ConnectionEvent> {
    // SAFETY: the verifier checks that `sk` is a socket that this hook may pass; the storage outlives the program run,
    // and the socket's lock makes this the only reference.
    unsafe {
        bpf_sk_storage_get(SOCKETS.as_ptr(), sk.cast_mut().cast(), ptr::null_mut(), flags)
            .cast::<ConnectionEvent>()
            .as_mut()
    }
}

/// Starts over for a new attempt on this socket: all zero but the cookie and the number of the attempt.
#[inline(always)]
pub fn restart(state: &mut ConnectionState, cookie: u64, role: u8) {
    let attempt = if state.cookie == cookie { state.attempt + 1 } else { 1 };
    // What has no cookie is new, and all zero already.
    if state.cookie != 0 {
        clear(state);
    }
    state.cookie = cookie;
    state.attempt = attempt;
    state.role = role;
}

/// Word by word: the compiler's own way is a call that goes byte by byte.
#[inline(always)]
fn clear(state: &mut ConnectionState) {
    const WORDS: usize = size_of::<ConnectionState>() / size_of::<u64>();
    const _: () = assert!(WORDS * size_of::<u64>() == size_of::<ConnectionState>());
    let words = ptr::from_mut(state).cast::<u64>();
    for word in 0..WORDS {
        // SAFETY: within the state, which is aligned to words; all-zero is a valid one. Volatile, or it would be made that
        // call again.
        unsafe { words.add(word).write_volatile(0) };
    }
}

/// Fills in who and where: addresses, ports, network namespace, cgroup.
#[inline(always)]
pub fn identify(state: &mut ConnectionState, tcp: *const TcpSock) {
    let sk: *const Sock = tcp.cast();
    state.family = Sock::family(sk);
    if state.family == AF_INET {
        state.local_address[..4].copy_from_slice(&Sock::local_ipv4(sk));
        state.remote_address[..4].copy_from_slice(&Sock::remote_ipv4(sk));
    } else {
        state.local_address = Sock::local_ipv6(sk);
        state.remote_address = Sock::remote_ipv6(sk);
    }
    state.local_port = Sock::local_port(sk);
    state.remote_port = Sock::remote_port(sk);
    state.netns = Sock::netns(sk);
    state.netns_cookie = Sock::netns_cookie(sk);
    state.cgroup_id = Sock::cgroup_id(sk);
    if TcpSock::is_mptcp(tcp) {
        state.flags |= FLAG_MPTCP;
    }
}

/// Fills in the peer of a request, which begins as every socket does.
#[inline(always)]
pub fn identify_remote(state: &mut ConnectionState, request: *const Sock) {
    if state.family == AF_INET {
        state.remote_address[..4].copy_from_slice(&Sock::remote_ipv4(request));
    } else {
        state.remote_address = Sock::remote_ipv6(request);
    }
    state.remote_port = Sock::remote_port(request);
}

/// A listener's child is about to be established; its storage is a copy of the listener's, or new and empty.
#[inline(always)]
pub fn accepted(state: &mut ConnectionState, tcp: *const TcpSock, cookie: u64) {
    let (listens, listener_cookie, pid, comm) = (state.role == ROLE_LISTENER, state.cookie, state.pid, state.comm);
    restart(state, cookie, ROLE_SERVER);
    state.attempt = 1;
    if listens {
        state.listener_cookie = listener_cookie;
        state.pid = pid;
        state.comm = comm;
        state.flags = FLAG_LISTENER_OWNER;
    }
    identify(state, tcp);
    if state.flags & FLAG_MPTCP != 0 && TcpSock::mptcp_parent(tcp).is_some_and(|parent| TcpSock::is_joined(tcp, parent))
    {
        // It begins in the middle of what both ends say.
        phases::begin_unseen(&mut state.timeline);
    }
    let retransmits = TcpSock::total_retransmits(tcp);
    state.retransmits.synack = retransmits;
    if retransmits == 0 {
        // The first sample of the smoothed RTT is the time from SYN-ACK to ACK, so no table of handshakes is needed.
        let handshake_us = TcpSock::handshake_us(tcp);
        if handshake_us != 0 {
            state.syn_ns = now() - u64::from(handshake_us) * 1000;
            if settings::takes_rtt() {
                add_rtt_sample(&mut state.rtt, handshake_us);
            }
        }
    } else if let Some(first) = SYNACKS.get_ptr(cookie) {
        // SAFETY: the entry lives as long as this program runs.
        state.syn_ns = unsafe { *first };
        let _absent_is_fine = SYNACKS.remove(cookie);
    }
}

/// One raw RTT sample.
#[inline(always)]
pub fn add_rtt_sample(rtt: &mut RttSamples, sample_us: u32) {
    rtt.sum_us += u64::from(sample_us);
    rtt.count += 1;
    if rtt.min_us == 0 || sample_us < rtt.min_us {
        rtt.min_us = sample_us;
    }
}

/// The socket enters a state; the first FIN tells who closes.
#[inline(always)]
pub fn enter(state: &mut ConnectionState, tcp: *const TcpSock, new: u8) {
    state.tcp_state = new;
    if new == tcp_state::ESTABLISHED && state.established_ns == 0 {
        state.established_ns = now();
        // What was reported of the connect did not end it.
        state.error = 0;
    }
    if state.closed_by == CLOSED_BY_NOBODY && matches!(new, tcp_state::FIN_WAIT1 | tcp_state::CLOSE_WAIT) {
        state.closed_by = if new == tcp_state::FIN_WAIT1 {
            CLOSED_BY_LOCAL
        } else {
            CLOSED_BY_REMOTE
        };
        begin_end(state, tcp);
    }
}

/// The connection begins to end: for how long its client has been quiet.
#[inline(always)]
fn begin_end(state: &mut ConnectionState, tcp: *const TcpSock) {
    state.ending_ns = now();
    state.quiet_ticks = if state.role == ROLE_CLIENT {
        let ticks = TcpSock::ticks_since_sent(tcp);
        // Its goodbye is payload too, and is acknowledged later.
        let acknowledged = if state.timeline.protocol == PROTOCOL_TLS {
            TcpSock::ticks_since_acknowledged(tcp)
        } else {
            0
        };
        if acknowledged > ticks { acknowledged } else { ticks }
    } else {
        TcpSock::ticks_since_received(tcp)
    };
}

/// The socket reaches CLOSE from state `old` (0: unknown): finds who closed, sends the last report.
#[inline(always)]
pub fn close(event: &mut ConnectionEvent, tcp: *const TcpSock, old: u8) {
    let state = &mut event.state;
    let sk: *const Sock = tcp.cast();
    enter(state, tcp, tcp_state::CLOSE);
    state.closed_ns = now();
    state.error = if old == tcp_state::SYN_SENT {
        connect_error(state.error, sk)
    } else {
        Sock::error(sk)
    };
    if Sock::fin_received(sk) {
        state.flags |= FLAG_FIN_RECEIVED;
    }
    if state.closed_by == CLOSED_BY_NOBODY {
        state.closed_by = closed_by(old, state.error, TcpSock::has_received(tcp));
        begin_end(state, tcp);
    }
    samples::finish(&mut event.state, tcp);
    report(event, tcp, CONNECTION_CLOSE);
}

/// errno of a connect that has failed: the program may have fetched it before it closed, and then it is gone. What the kernel has
/// noted without telling is the reason that it would give for a time-out, too.
#[inline(always)]
fn connect_error(reported: u16, sk: *const Sock) -> u16 {
    match Sock::error(sk) {
        0 if reported != 0 => reported,
        0 => Sock::soft_error(sk),
        // The errno of a prohibition in IPv4; its code was seen when it was reported.
        EHOSTUNREACH | ENETUNREACH if reported == EACCES => EACCES,
        error => error,
    }
}

/// Who closed a connection that no FIN closed, from the state it was in, the error that the application gets, and whether
/// the peer has sent a segment.
#[inline(always)]
fn closed_by(old: u8, error: u16, has_received: bool) -> u8 {
    // The change before was missed.
    match old {
        tcp_state::FIN_WAIT1 | tcp_state::FIN_WAIT2 | tcp_state::CLOSING => return CLOSED_BY_LOCAL,
        tcp_state::CLOSE_WAIT | tcp_state::LAST_ACK => return CLOSED_BY_REMOTE,
        _ => {}
    }
    let connecting = old == tcp_state::SYN_SENT;
    match error {
        // Said by ICMP.
        ECONNREFUSED if connecting && !has_received => CLOSED_BY_NOBODY,
        ECONNREFUSED | ECONNRESET | EPIPE => CLOSED_BY_RESET_REMOTE,
        // An ICMP error ends a connect at once; later it only names the reason of the time-out.
        EHOSTUNREACH | ENETUNREACH if connecting => CLOSED_BY_NOBODY,
        ETIMEDOUT | EHOSTUNREACH | ENETUNREACH => CLOSED_BY_TIMEOUT,
        0 if connecting || old == tcp_state::LISTEN => CLOSED_BY_LOCAL,
        _ if connecting || old == 0 => CLOSED_BY_NOBODY,
        _ => CLOSED_BY_RESET_LOCAL,
    }
}

/// Sends the state as it is now.
#[inline(always)]
pub fn report(event: &mut ConnectionEvent, tcp: *const TcpSock, kind: u32) {
    event.state.counters = TcpSock::counters(tcp);
    if settings::takes_rtt() {
        event.state.rtt.var_us = TcpSock::rttvar_us(tcp);
    }
    send(event, kind);
}

/// Sends the state without looking at the socket, which may not have got far enough to have counters.
#[inline(always)]
pub fn send(event: &mut ConnectionEvent, kind: u32) {
    let time_ns = now();
    event.header.kind = kind;
    event.header.size = size_of::<ConnectionEvent>() as u32;
    event.header.time_ns = time_ns;
    event.state.reported_ns = time_ns;
    output::send_connection(kind, event.state.cgroup_id, event);
}
