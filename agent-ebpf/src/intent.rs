//! Connects that have not sent a SYN yet, by thread: for the ends of connect calls that cannot find the socket.

use core::ptr;

use agent_ebpf::{
    connection::{ConnectionState, FLAG_MPTCP},
    event::ConnectionEvent,
    loss::INTENTS_FULL,
};
use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_map_update_elem},
};

use crate::{kernel::Task, maps::INTENTS, output, settings};

/// The end of the call will look by thread: there is no fexit, or the call is on an MPTCP parent and the intent is its
/// subflow's.
#[inline(always)]
fn is_matched_by_thread(state: &ConnectionState) -> bool {
    settings::tells_failures_before_syn() && (settings::match_intents() || state.flags & FLAG_MPTCP != 0)
}

/// This thread is about to connect.
#[inline(always)]
pub fn remember(event: &ConnectionEvent) {
    if !is_matched_by_thread(&event.state) {
        return;
    }
    let thread = thread();
    // By pointer: a copy of the event has no room on the stack.
    // SAFETY: key and value are what the map holds.
    let result = unsafe {
        bpf_map_update_elem(
            ptr::from_ref(&INTENTS).cast_mut().cast(),
            (&raw const thread).cast_mut().cast(),
            ptr::from_ref(event).cast_mut().cast(),
            u64::from(BPF_ANY),
        )
    };
    if result != 0 {
        output::count_failure(INTENTS_FULL);
    }
}

/// The SYN is about to leave, or the failure was told. Also for hooks that may not ask for the thread's id (6.1).
#[inline(always)]
pub fn forget(state: &ConnectionState) {
    if is_matched_by_thread(state) {
        let task = Task::current();
        let thread = u64::from(Task::tgid(task)) << 32 | u64::from(Task::tid(task));
        let _absent_without_intent = INTENTS.remove(thread);
    }
}

/// Takes out what this thread intended, for `tell`.
#[inline(always)]
pub fn take(tell: impl FnOnce(&mut ConnectionEvent)) {
    let thread = thread();
    if let Some(event) = INTENTS.get_ptr_mut(thread) {
        // SAFETY: the entry is this thread's own.
        tell(unsafe { &mut *event });
        let _just_found = INTENTS.remove(thread);
    }
}

#[inline(always)]
fn thread() -> u64 {
    // SAFETY: no preconditions.
    unsafe { bpf_get_current_pid_tgid() }
}
