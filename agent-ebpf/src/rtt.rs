//! Raw RTT samples of one connection: the buckets in which the kernel side counts them, and which sample is none of the
//! path's. Pure, so that the same lines run in the kernel and in host tests.
//!
//! Counts only grow, and wrap: nobody resets them, so that the walk reads them without a lock, and each report tells
//! with the one before what came between.

use crate::{connection::RttSamples, event::EventHeader};

/// Buckets of a histogram: 64 µs to 1 ms in four steps an octave, to 0.5 s in sixteen (at most 3.2 % from a bucket's
/// middle), to 34 s in four.
pub const BUCKETS: usize = 192;

/// Buckets that begin at a power of two and have `1 << steps` steps an octave up to the next row.
const ROWS: [(u32, u32); 3] = [(6, 2), (10, 4), (19, 2)];
/// Samples from here on share a bucket: 2^25 µs, 34 s.
const END: u32 = 25;

/// The bucket of a sample. Always below [`BUCKETS`].
#[inline(always)]
#[expect(clippy::inline_always, reason = "kernel programs have no calls")]
pub fn bucket(sample_us: u32) -> u32 {
    if sample_us < 1 << ROWS[0].0 {
        return 0;
    }
    let octave = highest_bit(sample_us);
    let mut before = 1;
    if octave < ROWS[1].0 {
        return before + place(sample_us, octave, ROWS[0]);
    }
    before += (ROWS[1].0 - ROWS[0].0) << ROWS[0].1;
    if octave < ROWS[2].0 {
        return before + place(sample_us, octave, ROWS[1]);
    }
    before += (ROWS[2].0 - ROWS[1].0) << ROWS[1].1;
    if octave < END {
        return before + place(sample_us, octave, ROWS[2]);
    }
    before + ((END - ROWS[2].0) << ROWS[2].1)
}

/// Steps from the begin of a row.
#[inline(always)]
#[expect(clippy::inline_always, reason = "kernel programs have no calls")]
fn place(sample_us: u32, octave: u32, (first, steps): (u32, u32)) -> u32 {
    let within = (sample_us >> (octave - steps)) & ((1 << steps) - 1);
    ((octave - first) << steps) + within
}

/// Number of the highest bit that is set; BPF has no instruction for it.
#[inline(always)]
#[expect(clippy::inline_always, reason = "kernel programs have no calls")]
fn highest_bit(value: u32) -> u32 {
    let mut rest = value;
    let mut bit = 0;
    if rest >= 1 << 16 {
        rest >>= 16;
        bit += 16;
    }
    if rest >= 1 << 8 {
        rest >>= 8;
        bit += 8;
    }
    if rest >= 1 << 4 {
        rest >>= 4;
        bit += 4;
    }
    if rest >= 1 << 2 {
        rest >>= 2;
        bit += 2;
    }
    bit + (rest >> 1)
}

/// Smallest sample of a bucket, microseconds.
pub const fn lowest_us(bucket: usize) -> u32 {
    if bucket == 0 {
        return 0;
    }
    let mut rest = bucket as u32 - 1;
    let mut row = 0;
    while row < ROWS.len() {
        let (first, steps) = ROWS[row];
        let end = if row + 1 < ROWS.len() { ROWS[row + 1].0 } else { END };
        let places = (end - first) << steps;
        if rest < places {
            let octave = first + (rest >> steps);
            let within = rest & ((1 << steps) - 1);
            return (1 << octave) + (within << (octave - steps));
        }
        rest -= places;
        row += 1;
    }
    1 << END
}

/// What stands for all samples of a bucket, microseconds: its middle.
pub const fn middle_us(bucket: usize) -> u32 {
    let lowest = lowest_us(bucket);
    let next = lowest_us(bucket + 1);
    lowest + (next - lowest) / 2
}

/// Samples of a socket that are closer together than this, in units of 1 024 µs, count in its sums alone. At most 50 a
/// second therefore: a busy connection pays for a look at the clock and no more.
pub const GATE: u32 = 20;

/// Samples of one connection that has lived for a while. Kept beside the socket's storage, in a table of the agent's
/// memory, as it would be charged to the application there.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RttHistogram {
    /// Whose it is: a place in the table may be another's from one moment to the next.
    pub cookie: u64,
    /// When the walk last told of it.
    pub told_ns: u64,
    /// Samples and delayed acknowledgements when the walk last told of it.
    pub told: u32,
    /// What [`Self::is_delayed_ack`] compares with: own and the peer's clock at the latest sample that the path did not slow down.
    pub reference: Clocks,
    /// Samples in a row that are longer than the path usually is.
    pub raised: u32,
    /// What is reported.
    pub counts: RttCounts,
}

/// Counts of raw samples; copied in words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RttCounts {
    /// Samples in all buckets.
    pub samples: u32,
    /// Samples in none, as the peer held its acknowledgement back.
    pub delayed_acks: u32,
    /// Samples by [`bucket`].
    pub buckets: [u16; BUCKETS],
}

impl Default for RttCounts {
    fn default() -> Self {
        Self {
            samples: 0,
            delayed_acks: 0,
            buckets: [0; BUCKETS],
        }
    }
}

/// `RTT_WINDOW`: what was measured of a connection so far. Before its CLOSE, and every few seconds while it is open.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RttEvent {
    /// Kind, size and time.
    pub header: EventHeader,
    /// The socket's.
    pub cookie: u64,
    /// All samples of the connection.
    pub rtt: RttSamples,
    /// Smoothed RTT of RFC 6298, microseconds.
    pub srtt_us: u32,
    /// Its mean deviation (RTTVAR), microseconds.
    pub rttvar_us: u32,
    /// Samples since [`GATE`] let the first pass.
    pub counts: RttCounts,
}

/// Two clocks at one moment, milliseconds, both wrapping; 0 and 0 before there was one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    /// This host's.
    pub own_ms: u32,
    /// What the peer wrote into its segment (RFC 7323 `TSval`); Linux, BSD and macOS count milliseconds.
    pub peer_ms: u32,
}

/// A sample that passed the gate.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The raw sample.
    pub us: u32,
    /// Smallest of the connection so far, this one included.
    pub min_us: u32,
    /// Since the last sample that passed, in units of 1 024 µs.
    pub since: u32,
    /// When the acknowledgement came, and when it was sent.
    pub clocks: Clocks,
}

/// Receivers hold the acknowledgement of a lone segment back for 40 ms (Linux; a timer of 250 Hz may fire 4 ms early) to
/// 200 ms (RFC 1122 section 4.2.3.2 allows 500).
const HELD_BACK_US: core::ops::RangeInclusive<u32> = 36_000..=220_000;
/// Linux's, on paths shorter than that.
const LINUX_US: u32 = 46_000;
/// Nothing was in flight for at least this long, less what the gate hides; units of 1 024 µs.
const IDLE: u32 = 40;

impl RttHistogram {
    /// Whether a sample tells of the peer's timer, not of the path.
    ///
    /// It may when the segment was alone after a pause and took longer than the path by what such timers take. The
    /// peer's clock then decides: a path that is slower both ways delays the acknowledgement itself, a timer does not.
    /// Without that, one sample among faster ones is a timer's, and so is any that took as long as Linux's.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "kernel programs have no calls")]
    pub fn is_delayed_ack(&mut self, sample: &Sample) -> bool {
        let excess_us = sample.us.wrapping_sub(sample.min_us);
        if excess_us < *HELD_BACK_US.start() {
            self.raised = 0;
            self.reference = sample.clocks;
            return false;
        }
        let lone = self.raised == 0;
        self.raised += 1;
        let idle = sample.since.wrapping_sub(sample.us >> 10);
        // Wrapped: the segment had left before the last sample came.
        if excess_us > *HELD_BACK_US.end() || !(IDLE..=u32::MAX / 2).contains(&idle) {
            return false;
        }
        let own_ms = sample.clocks.own_ms.wrapping_sub(self.reference.own_ms);
        let later_ms = own_ms.wrapping_sub(sample.clocks.peer_ms.wrapping_sub(self.reference.peer_ms));
        let longer_ms = excess_us / 1_000;
        // A quarter or more of it was on the way back. What is beyond all of it is no clock of milliseconds.
        if self.reference.peer_ms != 0 && later_ms >= longer_ms / 4 && later_ms <= longer_ms + 8 {
            return false;
        }
        let delayed = lone || excess_us <= LINUX_US;
        if delayed {
            // Clocks drift apart: compare with the latest that is known to have come in time.
            self.reference = sample.clocks;
        }
        delayed
    }
}

const _: () = assert!(size_of::<RttHistogram>() == 32 + size_of::<RttCounts>());
const _: () = assert!(size_of::<RttCounts>() == 392);
const _: () = assert!(size_of::<RttEvent>() == 448);

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{vec, vec::Vec};

    use super::*;

    #[test]
    fn every_sample_is_in_its_bucket() {
        let mut before = 0;
        let near = (0..31).flat_map(|bit| [(1_u32 << bit) - 1, 1 << bit, (1 << bit) + (1 << bit >> 3)]);
        let mut samples: Vec<u32> = near.chain((0..200_000).step_by(7)).chain([u32::MAX]).collect();
        samples.sort_unstable();
        for sample in samples {
            let bucket = bucket(sample) as usize;
            assert!(bucket < BUCKETS && bucket >= before, "{sample} us");
            before = bucket;
            assert!(lowest_us(bucket) <= sample, "{sample} us");
            assert!(sample >= 1 << END || sample < lowest_us(bucket + 1), "{sample} us");
        }
    }

    #[test]
    fn middles_are_near() {
        for sample in (1_024..524_288_u32).step_by(13) {
            let middle = middle_us(bucket(sample) as usize);
            assert!(
                f64::from(middle.abs_diff(sample)) <= f64::from(sample) * 0.032,
                "{sample} us"
            );
        }
    }

    fn histogram() -> RttHistogram {
        RttHistogram {
            cookie: 1,
            told_ns: 0,
            told: 0,
            reference: Clocks::default(),
            raised: 0,
            counts: RttCounts::default(),
        }
    }

    /// Samples in order: pause before the segment (ms), sample (ms), of it on the way back (ms); expected verdicts.
    fn check(peer_hz: u32, samples: &[(u32, u32, u32)], expected: &[bool]) {
        let mut histogram = histogram();
        let (mut now_ms, mut min_us) = (5_000, u32::MAX);
        let verdicts: Vec<bool> = samples
            .iter()
            .map(|(pause_ms, sample_ms, back_ms)| {
                now_ms += pause_ms + sample_ms;
                let us = sample_ms * 1_000;
                min_us = min_us.min(us);
                histogram.is_delayed_ack(&Sample {
                    us,
                    min_us,
                    since: (pause_ms + sample_ms) * 1_000 >> 10,
                    clocks: Clocks {
                        own_ms: now_ms,
                        peer_ms: if peer_hz == 0 {
                            0
                        } else {
                            77 + (now_ms - back_ms) * peer_hz / 1_000
                        },
                    },
                })
            })
            .collect();
        assert_eq!(verdicts, expected, "{samples:?} at {peer_hz} Hz");
    }

    #[test]
    fn held_back_after_a_pause() {
        for hz in [0, 100, 1_000] {
            check(
                hz,
                &[(100, 2, 1), (300, 42, 1), (300, 42, 1), (300, 2, 1)],
                &[false, true, true, false],
            );
            check(hz, &[(100, 2, 1), (300, 202, 1), (300, 2, 1)], &[false, true, false]);
            // Nobody waits that long, and nobody acknowledges that late within a pause of nothing.
            check(hz, &[(100, 2, 1), (300, 300, 1)], &[false, false]);
            check(hz, &[(100, 2, 1), (0, 42, 1)], &[false, false]);
            // A long path is no timer.
            check(hz, &[(100, 60, 30), (300, 61, 30)], &[false, false]);
        }
    }

    #[test]
    fn a_path_that_becomes_longer() {
        // Both ways: its peer's clock tells at once, also where it takes as long as Linux's timer.
        check(1_000, &[(100, 10, 5), (300, 160, 80), (300, 160, 80)], &[false; 3]);
        check(1_000, &[(100, 10, 5), (300, 50, 25), (300, 50, 25)], &[false; 3]);
        // Without that clock, or on the way there alone, the second sample tells.
        for hz in [0, 1_000] {
            let samples = [(100, 10, 5), (300, 110, 5), (300, 110, 5), (300, 110, 5), (300, 10, 5)];
            check(hz, &samples, &[false, true, false, false, false]);
        }
        // Then a receiver that holds back as well is taken for the path: nothing tells them apart.
        check(0, &[(100, 10, 5), (0, 160, 80), (300, 160, 80)], &[false; 3]);
    }

    #[test]
    fn clocks_that_drift_apart() {
        let mut samples = vec![(100, 2, 1)];
        samples.extend([(300, 42, 1); 50]);
        let mut expected = vec![false];
        expected.extend([true; 50]);
        // Half a percent: a reference of long ago would be 80 ms off.
        check(995, &samples, &expected);
        check(1_005, &samples, &expected);
    }
}
