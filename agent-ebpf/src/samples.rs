//! RTT samples of a socket: each into its sums, one in 20 ms into the histogram of a connection that has lived for a while.
//!
//! Under the socket's lock, but for `tell_open`, the walk's. The histograms are in a table of the agent's memory: the
//! socket's own storage is charged to the application.

use agent_ebpf::{
    connection::{ConnectionState, FLAG_CALLBACKS, FLAG_LATE, FLAG_RTT_KEPT, FLAG_RTT_REFUSED},
    event::{ConnectionEvent, EventHeader, RTT_INTERVAL_NS, RTT_WINDOW, TOLD_AFTER_NS},
    loss::RTT_HISTOGRAMS_FULL,
    rtt::{BUCKETS, Clocks, GATE, RttCounts, RttEvent, RttHistogram, Sample, bucket},
};
use aya_ebpf::bindings::BPF_NOEXIST;

use crate::{
    kernel::{TcpSock, index},
    maps::{EMPTY, RTTS},
    output, settings, socket,
};

/// One raw sample that the last acknowledgement gave.
#[inline(always)]
pub fn add(state: &mut ConnectionState, tcp: *const TcpSock, sample_us: u32) {
    socket::add_rtt_sample(&mut state.rtt, sample_us);
    // The kernel has looked at the clock when the segment came.
    let now_us = TcpSock::received_us(tcp);
    let now = (now_us >> 10) as u32;
    let since = now.wrapping_sub(state.rtt.gate);
    if since < GATE || !has_histogram(state, now_us) {
        return;
    }
    state.rtt.gate = now;
    let Some(histogram) = RTTS.get_ptr_mut(state.cookie) else {
        return;
    };
    // SAFETY: the entry is this socket's until its CLOSE, and the socket's lock makes this the only one who writes.
    let histogram = unsafe { &mut *histogram };
    let sample = Sample {
        us: sample_us,
        min_us: state.rtt.min_us,
        since,
        clocks: Clocks {
            own_ms: (now_us / 1_000) as u32,
            peer_ms: TcpSock::peer_clock(tcp),
        },
    };
    if histogram.is_delayed_ack(&sample) {
        histogram.counts.delayed_acks += 1;
    } else {
        histogram.counts.samples += 1;
        count(&mut histogram.counts, bucket(sample_us));
    }
}

/// The last sample of a connection that was there before hopline, which nothing calls back for; unless it was taken already.
///
/// For the walk, which holds no lock: where the connection closes meanwhile, what that made is taken back.
#[inline(always)]
pub fn add_late(event: *mut ConnectionEvent, tcp: *const TcpSock) {
    // SAFETY: the storage lives as long as this program runs; of a late connection nobody else adds samples.
    let state = unsafe { &mut (*event).state };
    if !settings::takes_rtt() || state.flags & FLAG_LATE == 0 || state.flags & FLAG_CALLBACKS != 0 {
        return;
    }
    let received = (TcpSock::received_us(tcp) >> 10) as u32;
    let sample = TcpSock::last_rtt_us(tcp);
    if sample == 0 || received.wrapping_sub(state.rtt.gate) < GATE {
        return;
    }
    add(state, tcp, sample);
    // SAFETY: as above; volatile, as the close comes from elsewhere.
    if unsafe { (&raw const (*event).state.closed_ns).read_volatile() } != 0 {
        let _the_close_may_have = RTTS.remove(state.cookie);
    }
}

/// Two steps, each below a power of two: the verifier follows masks.
#[inline(always)]
fn count(counts: &mut RttCounts, bucket: u32) {
    const LOWER: usize = 128;
    const UPPER: usize = BUCKETS - LOWER;
    let buckets = counts.buckets.as_mut_ptr();
    let at = if bucket < LOWER as u32 {
        index::<{ LOWER as u32 }>(bucket)
    } else {
        LOWER + index::<{ UPPER as u32 }>(bucket - LOWER as u32)
    };
    // SAFETY: within the buckets, by the masks.
    unsafe {
        let place = buckets.add(at);
        *place = (*place).wrapping_add(1);
    }
}

/// Whether a histogram is kept; begins one when the connection has lived for long enough.
#[inline(always)]
fn has_histogram(state: &mut ConnectionState, now_us: u64) -> bool {
    if state.flags & (FLAG_RTT_KEPT | FLAG_RTT_REFUSED) != 0 {
        return state.flags & FLAG_RTT_KEPT != 0;
    }
    if state.flags & FLAG_LATE == 0 {
        let lived_ns = (now_us * 1_000).wrapping_sub(state.established_ns);
        if state.established_ns == 0 || !(TOLD_AFTER_NS..=u64::MAX / 2).contains(&lived_ns) {
            return false;
        }
    }
    const {
        assert!(
            size_of::<RttHistogram>() <= size_of::<ConnectionEvent>(),
            "enough zeros"
        );
    };
    let Some(empty) = EMPTY.get_ptr(0) else { return false };
    // SAFETY: nothing but zeros, which are a histogram, in a map that nobody writes to.
    let empty = unsafe { &*empty.cast::<RttHistogram>() };
    if RTTS.insert(state.cookie, empty, u64::from(BPF_NOEXIST)).is_err() {
        state.flags |= FLAG_RTT_REFUSED;
        output::count_failure(RTT_HISTOGRAMS_FULL);
        return false;
    }
    if let Some(histogram) = RTTS.get_ptr_mut(state.cookie) {
        // SAFETY: as above; just made.
        unsafe { (*histogram).cookie = state.cookie };
    }
    state.flags |= FLAG_RTT_KEPT;
    true
}

/// The socket closes: sends what is known and gives the histogram up. Before the CLOSE event.
#[inline(always)]
pub fn finish(state: &mut ConnectionState, tcp: *const TcpSock) {
    if state.flags & FLAG_RTT_KEPT == 0 {
        return;
    }
    state.flags &= !FLAG_RTT_KEPT;
    if let Some(histogram) = RTTS.get_ptr(state.cookie) {
        let time_ns = socket::now();
        output::fill_rtt(state.cgroup_id, |room| {
            // SAFETY: the room is an event's and nobody else's; the entry is this socket's.
            unsafe { fill(room, state, histogram, tcp, time_ns) };
            true
        });
    }
    let _nobody_else_removes_it = RTTS.remove(state.cookie);
}

/// The walk has come to an open connection: tells of its samples, if there are new ones and it is time.
#[inline(always)]
pub fn tell_open(state: *const ConnectionState, tcp: *const TcpSock, now_ns: u64) {
    // SAFETY: the storage lives as long as this program runs, and so does a place in the table.
    unsafe {
        if (*state).flags & FLAG_RTT_KEPT == 0 {
            return;
        }
        let cookie = (*state).cookie;
        let Some(histogram) = RTTS.get_ptr_mut(cookie) else {
            return;
        };
        let count = (*histogram)
            .counts
            .samples
            .wrapping_add((*histogram).counts.delayed_acks);
        if count == (*histogram).told || now_ns.wrapping_sub((*histogram).told_ns) < RTT_INTERVAL_NS {
            return;
        }
        // Its place in the ring is taken first and the state looked at then: what it says stands before the CLOSE, and
        // before that the entry cannot have become another's.
        output::fill_rtt((*state).cgroup_id, |room| {
            fill(room, state, histogram, tcp, now_ns);
            if (*histogram).cookie != cookie || (&raw const (*state).closed_ns).read_volatile() != 0 {
                return false;
            }
            // These are the walk's alone.
            (*histogram).told = count;
            (*histogram).told_ns = now_ns;
            true
        });
    }
}

/// # Safety
/// `room` is an event's and nobody else's, the others live as long as this program runs.
#[inline(always)]
unsafe fn fill(
    room: *mut RttEvent,
    state: *const ConnectionState,
    histogram: *const RttHistogram,
    tcp: *const TcpSock,
    time_ns: u64,
) {
    const WORDS: usize = size_of::<RttCounts>() / size_of::<u64>();
    const _: () = assert!(WORDS * size_of::<u64>() == size_of::<RttCounts>());
    // SAFETY: as the caller says.
    unsafe {
        (*room).header = EventHeader::of::<RttEvent>(RTT_WINDOW, time_ns);
        (*room).cookie = (*state).cookie;
        (*room).rtt = (*state).rtt;
        (*room).srtt_us = TcpSock::srtt_us(tcp);
        (*room).rttvar_us = TcpSock::rttvar_us(tcp);
        let from = (&raw const (*histogram).counts).cast::<u64>();
        let to = (&raw mut (*room).counts).cast::<u64>();
        for word in 0..WORDS {
            // Volatile, or it would be made a call that goes byte by byte.
            to.add(word).write_volatile(from.add(word).read_volatile());
        }
    }
}
