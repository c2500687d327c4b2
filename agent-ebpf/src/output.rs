//! The way out: events into the rings, every attempt and every loss counted.

use core::{ffi::c_void, mem::size_of};

use agent_ebpf::loss::{Share, ShareKey};
use aya_ebpf::{
    bindings::{BPF_ANY, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    btf_maps::RingBuf,
    helpers::generated::{bpf_ktime_get_ns, bpf_ringbuf_output, bpf_ringbuf_query},
};

use crate::{
    maps::{CONNECTIONS, COUNTS, FAILURES, PROCESSES, SHARES},
    settings,
};

/// The reader is woken when this fraction of a ring has filled; it also looks by itself every few milliseconds.
const WAKE_FRACTION: u64 = 8;
/// Crossing the threshold wakes once: later events find more than this beyond it. Larger than any event.
const WAKE_WINDOW: u64 = 4096;
/// A full bucket is this part of a ring's other half: larger ones would let one cgroup fill it at once.
const BURSTS: u64 = 8;
const SECOND_NS: u64 = 1_000_000_000;

/// The ring of connection events.
#[inline(always)]
pub fn send_connection<T>(kind: u32, cgroup_id: u64, event: *const T) {
    send(
        ring(&CONNECTIONS),
        settings::connection_ring_bytes(),
        kind,
        cgroup_id,
        event,
    );
}

/// The ring of process and cgroup events.
#[inline(always)]
pub fn send_process<T>(kind: u32, cgroup_id: u64, event: *const T) {
    send(ring(&PROCESSES), settings::process_ring_bytes(), kind, cgroup_id, event);
}

/// A map as the helpers take it.
#[inline(always)]
fn ring<T, const N: usize, const F: usize>(ring: &RingBuf<T, N, F>) -> *mut c_void {
    core::ptr::from_ref(ring).cast_mut().cast()
}

/// Sends `event`, of `kind`, on behalf of a cgroup; counts what becomes of it.
#[inline(always)]
fn send<T>(ring: *mut c_void, ring_bytes: u64, kind: u32, cgroup_id: u64, event: *const T) {
    let Some(counts) = COUNTS.get_ptr_mut(kind) else { return };
    // A program in softirq may interrupt this one on the same CPU: even per-CPU counters need the atomic.
    // SAFETY: the entry lives as long as the map.
    unsafe { add(&raw mut (*counts).attempts) };
    // SAFETY: a ring's address is its map.
    let pending = unsafe { bpf_ringbuf_query(ring, u64::from(BPF_RB_AVAIL_DATA)) };
    let burst = ring_bytes / 2 / size_of::<T>() as u64 / BURSTS;
    if pending > ring_bytes / 2 && !has_share(cgroup_id, kind, burst) {
        // SAFETY: as above.
        unsafe { add(&raw mut (*counts).throttled) };
        return;
    }
    let threshold = ring_bytes / WAKE_FRACTION;
    let wake = pending >= threshold && pending < threshold + WAKE_WINDOW;
    let flags = if wake { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    // SAFETY: `event` is a whole `T`; the verifier checks it.
    let result = unsafe { bpf_ringbuf_output(ring, event.cast_mut().cast(), size_of::<T>() as u64, u64::from(flags)) };
    if result != 0 {
        // SAFETY: as above.
        unsafe { add(&raw mut (*counts).ring_full) };
    }
}

/// Counts a failure that is no event.
#[inline(always)]
pub fn count_failure(index: u32) {
    if let Some(count) = FAILURES.get_ptr_mut(index) {
        // SAFETY: the entry lives as long as the map.
        unsafe { add(count) };
    }
}

/// Takes a token of the cgroup's bucket for this kind: what keeps one cgroup from filling the ring alone.
///
/// Two CPUs may take the same token; the bucket bounds a flood, it does not meter it.
#[inline(always)]
fn has_share(cgroup_id: u64, kind: u32, burst: u64) -> bool {
    let rate = settings::share_per_second();
    let key = ShareKey {
        cgroup_id,
        kind,
        reserved: 0,
    };
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(share) = SHARES.get_ptr_mut(key) else {
        let full = Share {
            tokens: burst,
            refilled_ns: now,
            throttled: 0,
        };
        return SHARES.insert(key, full, u64::from(BPF_ANY)).is_ok();
    };
    // SAFETY: the entry lives as long as this program runs.
    let share = unsafe { &mut *share };
    let earned = (now.saturating_sub(share.refilled_ns)).min(SECOND_NS) * rate / SECOND_NS;
    if earned > 0 {
        share.tokens = (share.tokens + earned).min(burst);
        share.refilled_ns = now;
    }
    if share.tokens == 0 {
        // SAFETY: as above.
        unsafe { add(&raw mut share.throttled) };
        return false;
    }
    share.tokens -= 1;
    true
}

/// `*counter += 1`, atomically.
///
/// # Safety
/// `counter` points to an aligned counter in a map.
#[inline(always)]
unsafe fn add(counter: *mut u64) {
    use core::intrinsics::{AtomicOrdering, atomic_xadd};
    // SAFETY: as the caller says.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, 1) };
}
