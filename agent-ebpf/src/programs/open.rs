//! Connections that stay open: told of by a walk over their storage, so that one which ends at once costs one event.
//!
//! The agent starts the walk every second. It holds no socket's lock: what it sends may be a few instructions old in one
//! part and newer in another, never torn within a number, and the CLOSE tells all exactly.

use core::ffi::c_void;

use agent_ebpf::{
    connection::{ConnectionState, ROLE_CLIENT, ROLE_SERVER},
    event::{CONNECTION_OPEN, CONNECTION_UPDATE, ConnectionEvent, HEARTBEAT_NS, TOLD_AFTER_NS, UPDATE_INTERVAL_NS},
};

use crate::{
    kernel::{Sock, TcpSock},
    output, samples, socket,
};

/// Kernel's `struct bpf_iter__bpf_sk_storage_map`, which is part of the BPF ABI.
#[repr(C)]
pub struct IterStorageContext {
    meta: *const c_void,
    map: *const c_void,
    sk: *const Sock,
    value: *mut ConnectionEvent,
}

/// One socket's storage.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub extern "C" fn iter_open(ctx: *const IterStorageContext) -> i32 {
    // SAFETY: the context is valid for the program's run.
    let (sk, value) = unsafe { ((*ctx).sk, (*ctx).value) };
    if sk.is_null() || value.is_null() {
        return 0;
    }
    // SAFETY: the storage lives as long as this program runs. Others write to it meanwhile, so it is read as they do it:
    // number by number.
    let state = unsafe { &mut (*value).state };
    let connects = matches!(state.role, ROLE_CLIENT | ROLE_SERVER) && begun_ns(state) != 0;
    if !connects || state.closed_ns != 0 {
        return 0;
    }
    let Some(tcp) = TcpSock::of(sk) else { return 0 };
    let now = socket::now();
    let first = state.reported_ns == 0;
    if first && now.saturating_sub(begun_ns(state)) < TOLD_AFTER_NS {
        return 0;
    }
    tell_progress(value, tcp, now);
    samples::tell_open(&raw const *state, tcp, now);
    0
}

/// Sends the state of one that has moved on.
#[inline(always)]
fn tell_progress(value: *mut ConnectionEvent, tcp: *const TcpSock, now: u64) {
    // SAFETY: as the caller's.
    let state = unsafe { &mut (*value).state };
    let first = state.reported_ns == 0;
    let silent_ns = now.saturating_sub(state.reported_ns);
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
