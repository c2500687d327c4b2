//! The way out: events into the rings, every attempt and every loss counted.

use core::{ffi::c_void, mem::size_of};

use agent_ebpf::{
    connection::TcpCounters,
    event::{ConnectionEvent, DNS_MESSAGE, EventHeader, HELLO_BYTES, RTT_WINDOW, TLS_CERTIFICATE, TURNS, TurnsEvent},
    loss::{EventCounts, Share, ShareKey},
    rtt::RttEvent,
};
use aya_ebpf::{
    bindings::{BPF_ANY, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    btf_maps::RingBuf,
    helpers::generated::{
        bpf_ktime_get_ns, bpf_ringbuf_discard, bpf_ringbuf_output, bpf_ringbuf_query, bpf_ringbuf_reserve,
        bpf_ringbuf_submit,
    },
};

use crate::{
    maps::{CONNECTIONS, COUNTS, DNS, FAILURES, HELLOS, LATE_OPEN, PROCESSES, SHARES},
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
    let Some(flags) = admit(ring, ring_bytes, kind, cgroup_id, size_of::<T>() as u64, counts) else {
        return;
    };
    // SAFETY: `event` is a whole `T`; the verifier checks it.
    let result = unsafe { bpf_ringbuf_output(ring, event.cast_mut().cast(), size_of::<T>() as u64, flags) };
    if result != 0 {
        // SAFETY: the entry lives as long as the map.
        unsafe { add(&raw mut (*counts).ring_full, 1) };
    }
}

/// Counts an attempt and asks whether the cgroup may make it: the flags to send with, which wake the reader or not.
#[inline(always)]
fn admit(
    ring: *mut c_void,
    ring_bytes: u64,
    kind: u32,
    cgroup_id: u64,
    bytes: u64,
    counts: *mut EventCounts,
) -> Option<u64> {
    // A program in softirq may interrupt this one on the same CPU: even per-CPU counters need the atomic.
    // SAFETY: the entry lives as long as the map.
    unsafe { add(&raw mut (*counts).attempts, 1) };
    // SAFETY: a ring's address is its map.
    let pending = unsafe { bpf_ringbuf_query(ring, u64::from(BPF_RB_AVAIL_DATA)) };
    if pending > ring_bytes / 2 && !has_share(cgroup_id, kind, ring_bytes / 2 / bytes / BURSTS) {
        // SAFETY: as above.
        unsafe { add(&raw mut (*counts).throttled, 1) };
        return None;
    }
    let threshold = ring_bytes / WAKE_FRACTION;
    let wake = pending >= threshold && pending < threshold + WAKE_WINDOW;
    let flags = if wake { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    Some(u64::from(flags))
}

/// Sends a copy of an open connection's state, unless it has closed meanwhile; `true` when it is on its way.
///
/// For callers that hold no lock. Its place in the ring is taken first and the state looked at then, so whatever it
/// says of an open connection stands before that connection's CLOSE.
#[inline(always)]
pub fn send_open(kind: u32, time_ns: u64, event: *const ConnectionEvent, counters: Option<&TcpCounters>) -> bool {
    const SIZE: u64 = size_of::<ConnectionEvent>() as u64;
    let Some(counts) = COUNTS.get_ptr_mut(kind) else {
        return false;
    };
    let ring = ring(&CONNECTIONS);
    // SAFETY: the storage lives as long as this program runs.
    let cgroup_id = unsafe { (*event).state.cgroup_id };
    let ring_bytes = settings::connection_ring_bytes();
    let Some(flags) = admit(ring, ring_bytes, kind, cgroup_id, SIZE, counts) else {
        return false;
    };
    // SAFETY: a ring's address is its map.
    let room = unsafe { bpf_ringbuf_reserve(ring, SIZE, 0) }.cast::<ConnectionEvent>();
    if room.is_null() {
        // SAFETY: the entry lives as long as the map.
        unsafe { add(&raw mut (*counts).ring_full, 1) };
        return false;
    }
    // SAFETY: the reserved room is an event's; it is submitted or discarded once.
    unsafe {
        copy(room, event);
        if (*room).state.closed_ns != 0 {
            bpf_ringbuf_discard(room.cast(), u64::from(BPF_RB_NO_WAKEUP));
            add(&raw mut (*counts).attempts, u64::MAX);
            return false;
        }
        (*room).header = EventHeader::of::<ConnectionEvent>(kind, time_ns);
        // What an earlier report left there is not of this time.
        (*room).state.counters = counters.copied().unwrap_or_default();
        (*room).state.reported_ns = time_ns;
        bpf_ringbuf_submit(room.cast(), flags);
    }
    true
}

/// Copies an event word by word: the compiler's own copy is a call that goes byte by byte.
///
/// # Safety
/// Both are whole events, and `to` is nobody else's.
#[inline(always)]
unsafe fn copy(to: *mut ConnectionEvent, from: *const ConnectionEvent) {
    const WORDS: usize = size_of::<ConnectionEvent>() / size_of::<u64>();
    const _: () = assert!(WORDS * size_of::<u64>() == size_of::<ConnectionEvent>());
    for word in 0..WORDS {
        // SAFETY: within both; events are aligned to words. Volatile, or it would be made a call again.
        unsafe {
            let value = from.cast::<u64>().add(word).read_volatile();
            to.cast::<u64>().add(word).write_volatile(value);
        }
    }
}

/// Sends what `fill` puts into the room of one hello chunk; nothing when it says `false`.
#[inline(always)]
pub fn fill_hello<T>(cgroup_id: u64, fill: impl FnOnce(*mut T) -> bool) {
    self::fill(
        ring(&HELLOS),
        settings::hello_ring_bytes(),
        HELLO_BYTES,
        cgroup_id,
        fill,
    );
}

/// The ring of hello bytes, for what a TLS library said of a handshake: `kind` is `TLS_FACT` or `TLS_PROTOCOL`.
#[inline(always)]
pub fn send_tls<T>(kind: u32, cgroup_id: u64, event: *const T) {
    send(ring(&HELLOS), settings::hello_ring_bytes(), kind, cgroup_id, event);
}

/// Sends what `fill` puts into the room of one certificate; nothing when it says `false`.
#[inline(always)]
pub fn fill_tls_certificate<T>(cgroup_id: u64, fill: impl FnOnce(*mut T) -> bool) {
    self::fill(
        ring(&HELLOS),
        settings::hello_ring_bytes(),
        TLS_CERTIFICATE,
        cgroup_id,
        fill,
    );
}

/// Sends what `fill` puts into the room of one DNS message; nothing when it says `false`.
#[inline(always)]
pub fn fill_dns<T>(cgroup_id: u64, fill: impl FnOnce(*mut T) -> bool) {
    self::fill(ring(&DNS), settings::dns_ring_bytes(), DNS_MESSAGE, cgroup_id, fill);
}

/// Sends what `fill` puts into the room of a connection's RTT samples; nothing when it says `false`.
#[inline(always)]
pub fn fill_rtt(cgroup_id: u64, fill: impl FnOnce(*mut RttEvent) -> bool) {
    self::fill(
        ring(&CONNECTIONS),
        settings::connection_ring_bytes(),
        RTT_WINDOW,
        cgroup_id,
        fill,
    );
}

/// Sends what `fill` puts into the room of a connection's turns; nothing when it says `false`.
#[inline(always)]
pub fn fill_turns(cgroup_id: u64, fill: impl FnOnce(*mut TurnsEvent) -> bool) {
    self::fill(
        ring(&CONNECTIONS),
        settings::connection_ring_bytes(),
        TURNS,
        cgroup_id,
        fill,
    );
}

#[inline(always)]
fn fill<T>(ring: *mut c_void, ring_bytes: u64, kind: u32, cgroup_id: u64, fill: impl FnOnce(*mut T) -> bool) {
    let Some(counts) = COUNTS.get_ptr_mut(kind) else {
        return;
    };
    let bytes = size_of::<T>() as u64;
    let Some(flags) = admit(ring, ring_bytes, kind, cgroup_id, bytes, counts) else {
        return;
    };
    // SAFETY: a ring's address is its map; what is reserved is submitted or discarded once.
    unsafe {
        let room = bpf_ringbuf_reserve(ring, bytes, 0).cast::<T>();
        if room.is_null() {
            add(&raw mut (*counts).ring_full, 1);
        } else if fill(room) {
            bpf_ringbuf_submit(room.cast(), flags);
        } else {
            bpf_ringbuf_discard(room.cast(), u64::from(BPF_RB_NO_WAKEUP));
            add(&raw mut (*counts).attempts, u64::MAX);
        }
    }
}

/// Counts a failure that is no event.
#[inline(always)]
pub fn count_failure(index: u32) {
    if let Some(count) = FAILURES.get_ptr_mut(index) {
        // SAFETY: the entry lives as long as the map.
        unsafe { add(count, 1) };
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
        unsafe { add(&raw mut share.throttled, 1) };
        return false;
    }
    share.tokens -= 1;
    true
}

/// One more (or fewer, with -1) of the sockets opened before hopline.
#[inline(always)]
pub fn count_late(change: i64) {
    if let Some(count) = LATE_OPEN.get_ptr_mut(0) {
        // SAFETY: the entry lives as long as the map.
        unsafe { add(count, change as u64) };
    }
}

/// `*counter += amount`, atomically and wrapping.
///
/// # Safety
/// `counter` points to an aligned counter in a map.
#[inline(always)]
unsafe fn add(counter: *mut u64, amount: u64) {
    use core::intrinsics::{AtomicOrdering, atomic_xadd};
    // SAFETY: as the caller says.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, amount) };
}
