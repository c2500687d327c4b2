//! Connections that stay open: reported by a walk over them, so that one which ends at once costs one event.
//!
//! The agent starts the walk every second, over the storage itself or over the open files of all processes; the first
//! panics kernels 7.0 to 7.3 (`docs/kernels.md`), which get the second. Neither holds a socket's lock: what they send may
//! be a few instructions old in one part and newer in another, never torn within a number, and the CLOSE has all exactly.

use agent_ebpf::{
    connection::{ConnectionState, ROLE_CLIENT, ROLE_SERVER},
    event::{CONNECTION_OPEN, CONNECTION_UPDATE, ConnectionEvent, HEARTBEAT_NS, TOLD_AFTER_NS, UPDATE_INTERVAL_NS},
};

use crate::{
    kernel::{FileWalk, Sock, StorageWalk, TcpSock},
    output, samples, socket,
};

/// One socket's storage.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub extern "C" fn iter_open(walk: *const StorageWalk<ConnectionEvent>) -> i32 {
    if let Some((sk, value)) = StorageWalk::element(walk) {
        report(value, sk);
    }
    0
}

/// One open file of one process.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn iter_open_files(walk: *const FileWalk) -> i32 {
    if let Some(sk) = FileWalk::socket(walk)
        && let Some(event) = socket::find(sk)
    {
        report(event, sk);
    }
    0
}

/// Not a listener, nor a child that was not accepted yet, nor one that has ended.
#[inline(always)]
fn is_connection(value: *const ConnectionEvent) -> bool {
    // SAFETY: the storage lives as long as this program runs. Others may write to it meanwhile, so it is read as they do
    // it: number by number.
    let state = unsafe { &(*value).state };
    matches!(state.role, ROLE_CLIENT | ROLE_SERVER) && begun_ns(state) != 0 && state.closed_ns == 0
}

/// Reports a connection that is old enough.
#[inline(always)]
fn report(value: *mut ConnectionEvent, sk: *const Sock) {
    if !is_connection(value) {
        return;
    }
    let Some(tcp) = TcpSock::of(sk) else { return };
    // SAFETY: as in `is_connection`.
    let state = unsafe { &(*value).state };
    let now = socket::now();
    let first = state.reported_ns == 0;
    if first && now.saturating_sub(begun_ns(state)) < TOLD_AFTER_NS {
        return;
    }
    samples::add_late(value, tcp);
    report_progress(value, tcp, now);
    samples::tell_open(&raw const *state, tcp, now);
}

/// Sends the state of one that has moved on.
#[inline(always)]
fn report_progress(value: *mut ConnectionEvent, tcp: *const TcpSock, now: u64) {
    // SAFETY: as the caller's.
    let state = unsafe { &mut (*value).state };
    let first = state.reported_ns == 0;
    let silent_ns = now.saturating_sub(state.reported_ns);
    if state.open_request_ns() != 0 && state.timeline.first_byte_ns == 0 || state.timeline.turn_ns != 0 {
        let pauses = TcpSock::client_pauses(tcp, state.role == ROLE_CLIENT);
        state.look(&TcpSock::counters(tcp), pauses, now);
    }
    let progress = state.progress(now);
    let may_have_moved = silent_ns >= UPDATE_INTERVAL_NS;
    if !first && progress == state.reported_progress && !may_have_moved {
        return;
    }
    let counters = TcpSock::counters(tcp);
    let segments = counters.segments_sent.wrapping_add(counters.segments_received);
    let news = first
        || progress != state.reported_progress
        || silent_ns >= HEARTBEAT_NS
        || segments != state.timeline.reported_segments;
    let kind = if first { CONNECTION_OPEN } else { CONNECTION_UPDATE };
    if news && output::send_open(kind, now, value, Some(&counters)) {
        // These are this walk's alone.
        state.reported_progress = progress;
        state.timeline.reported_segments = segments;
        state.reported_ns = now;
    }
}

/// When the connection began, as far as it is known; a late one has its first report for a beginning.
#[inline(always)]
fn begun_ns(state: &ConnectionState) -> u64 {
    if state.syn_ns != 0 {
        state.syn_ns
    } else if state.established_ns != 0 {
        state.established_ns
    } else {
        state.reported_ns
    }
}
