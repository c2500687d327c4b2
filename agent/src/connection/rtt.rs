//! Round-trip times of one connection: what is new in each of its reports, and quantiles over all. Pure.
//!
//! Two sources. A connection that has lived for a while has a histogram of raw samples in the kernel, whose counts only
//! grow: what is new is the difference to the report before. All others have sums, which give their smallest sample and
//! the mean of the rest.
use agent_ebpf::{
    connection::{ConnectionState, FLAG_RTT_KEPT, RttSamples},
    rtt::{BUCKETS, RttEvent, bucket, middle_us},
};

/// Samples that sums stand for at most: a histogram takes no more in the time before there is one.
const MOST_OF_SUMS: u32 = 12;

/// What was measured between two reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RttWindow {
    /// Mean of all raw samples, nanoseconds; those that were not counted in a bucket are among them.
    pub mean_ns: u64,
    /// Smallest sample, microseconds; within its bucket when it is not the smallest of the connection.
    pub min_us: u32,
    /// Smoothed RTT of RFC 6298 at the end of the window, microseconds; `None` where only sums are known.
    pub srtt_us: Option<u32>,
    /// RTTVAR of RFC 6298 (smoothed mean deviation) at the end of the window, microseconds.
    pub rttvar_us: u32,
    /// Acknowledgements that the peer held back: no samples of the path, in no bucket.
    pub delayed_acks: u32,
    /// Smallest sample of the connection, microseconds.
    least_us: u32,
    exact: [(u32, u32); 2],
    /// Those with samples, in their order, and how many: few of all that there are.
    buckets: Vec<(u8, u16)>,
}

const _: () = assert!(BUCKETS <= 1 << u8::BITS);

impl RttWindow {
    /// Values with their counts: nanoseconds, a bucket's middle for all that are in it (3 % from any of them above 1 ms,
    /// 12 % or 0.1 ms below). At most 50 a second of one connection.
    pub fn samples(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let value = |(bucket, count): &(u8, u16)| (middle_us((*bucket).into()).max(self.least_us), u32::from(*count));
        let of_buckets = self.buckets.iter().map(value);
        let exact = self.exact.into_iter().filter(|(_, count)| *count > 0);
        exact
            .chain(of_buckets)
            .map(|(us, count)| (u64::from(us) * 1_000, count))
    }

    /// One value, as often as that.
    #[cfg(test)]
    pub(crate) fn of(us: u32, count: u32) -> Self {
        Self {
            mean_ns: u64::from(us) * 1_000,
            min_us: us,
            srtt_us: Some(us),
            rttvar_us: us / 2,
            delayed_acks: 0,
            least_us: us,
            exact: [(us, count), (0, 0)],
            buckets: Vec::new(),
        }
    }
}

/// Bits of a word that count.
const COUNT_BITS: u32 = 24;
const COUNT: u32 = (1 << COUNT_BITS) - 1;

/// What a later report is compared with.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    sum_us: u64,
    count: u32,
    min_us: u32,
}

impl From<RttSamples> for Sums {
    fn from(samples: RttSamples) -> Self {
        Self {
            sum_us: samples.sum_us,
            count: samples.count,
            min_us: samples.min_us,
        }
    }
}

/// The round-trip times of one connection so far.
#[derive(Debug, Default)]
pub struct Rtt {
    /// Sums that a window was made of: samples, their sum and the smallest.
    told: Sums,
    /// Smallest sample and the mean of the others, with counts: of the time without a histogram.
    exact: [(u32, u32); 2],
    /// A word for each bucket that had a sample, in their order: the bucket above its count.
    buckets: Vec<u32>,
    delayed_acks: u32,
    rttvar_us: u32,
    /// There was a histogram.
    kept: bool,
}

impl Rtt {
    /// Of a connection that was there before hopline: what it did until then is not counted.
    pub fn before(samples: RttSamples) -> Self {
        Self {
            told: samples.into(),
            ..Self::default()
        }
    }

    /// What is new in the sums of a snapshot; `None` when a histogram tells it, or there is nothing.
    pub fn of_sums(&mut self, state: &ConnectionState) -> Option<RttWindow> {
        let now = &state.rtt;
        if state.rtt.var_us != 0 {
            self.rttvar_us = state.rtt.var_us;
        }
        if self.kept || state.flags & FLAG_RTT_KEPT != 0 {
            return None;
        }
        let first = self.told.count == 0;
        let count = now.count.checked_sub(self.told.count).filter(|count| *count > 0)?;
        let sum_us = now.sum_us.checked_sub(self.told.sum_us)?;
        let mean_us = |sum_us: u64, count: u32| u32::try_from(sum_us / u64::from(count)).unwrap_or(u32::MAX);
        let exact = if first && count > 1 {
            let others = mean_us(sum_us.saturating_sub(now.min_us.into()), count - 1);
            [(now.min_us, 1), (others, (count - 1).min(MOST_OF_SUMS))]
        } else {
            [(mean_us(sum_us, count), count.min(MOST_OF_SUMS)), (0, 0)]
        };
        self.told = (*now).into();
        self.keep(exact);
        Some(RttWindow {
            mean_ns: sum_us.saturating_mul(1_000) / u64::from(count),
            min_us: exact[0].0,
            srtt_us: None,
            rttvar_us: self.rttvar_us,
            delayed_acks: 0,
            least_us: now.min_us,
            exact,
            buckets: Vec::new(),
        })
    }

    /// What is new in a histogram; `None` when nothing is.
    pub fn of_histogram(&mut self, event: &RttEvent) -> Option<RttWindow> {
        let mut window = RttWindow {
            mean_ns: 0,
            min_us: 0,
            srtt_us: Some(event.srtt_us),
            rttvar_us: event.rttvar_us,
            delayed_acks: event.counts.delayed_acks.wrapping_sub(self.delayed_acks),
            least_us: event.rtt.min_us,
            exact: [(0, 0); 2],
            buckets: self.add(&event.counts.buckets),
        };
        self.kept = true;
        self.delayed_acks = event.counts.delayed_acks;
        self.rttvar_us = event.rttvar_us;
        let lowest = window.buckets.first().map(|(bucket, _)| usize::from(*bucket));
        if lowest.is_none() && window.delayed_acks == 0 {
            return None;
        }
        let new = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        let count = new(event.rtt.count.into(), self.told.count.into());
        let sum_us = new(event.rtt.sum_us, self.told.sum_us);
        self.told = event.rtt.into();
        window.min_us = match lowest {
            Some(lowest) if lowest == bucket(event.rtt.min_us) as usize => event.rtt.min_us,
            Some(lowest) => middle_us(lowest),
            None => event.srtt_us,
        };
        let mean_ns = sum_us.saturating_mul(1_000).checked_div(count);
        window.mean_ns = mean_ns.unwrap_or(u64::from(event.srtt_us) * 1_000);
        Some(window)
    }

    /// Takes the counts as the kernel has them, 16 bits that wrap; gives those that are new.
    fn add(&mut self, counts: &[u16; BUCKETS]) -> Vec<(u8, u16)> {
        /// Most buckets are empty, and never had a sample: so many are looked at in one step.
        const STRIDE: usize = 16;
        const { assert!(BUCKETS.is_multiple_of(STRIDE)) };
        let mut new = Vec::new();
        let mut at = 0;
        for (stride, counts) in counts.chunks_exact(STRIDE).enumerate() {
            let first = (stride * STRIDE) as u32;
            let known = self.buckets.get(at).map(|known| known >> COUNT_BITS);
            if known.is_none_or(|known| known >= first + STRIDE as u32) && counts.iter().all(|count| *count == 0) {
                continue;
            }
            for (bucket, count) in (first..).zip(counts) {
                let added = self.add_bucket(&mut at, bucket, *count);
                if added > 0 {
                    new.push((bucket as u8, added));
                }
            }
        }
        new
    }

    /// What is new in one bucket. `at`: where its word is, if there is one; afterwards the place of the next.
    fn add_bucket(&mut self, at: &mut usize, bucket: u32, count: u16) -> u16 {
        let added = match self.buckets.get_mut(*at) {
            Some(known) if *known >> COUNT_BITS == bucket => {
                let added = count.wrapping_sub(*known as u16);
                // After days of one length the eldest half is forgotten; the kernel's 16 bits stay what they are.
                if (*known & COUNT) + u32::from(added) > COUNT {
                    *known -= 1 << (COUNT_BITS - 1);
                }
                *known += u32::from(added);
                added
            }
            _ if count == 0 => return 0,
            _ => {
                if self.buckets.len() == self.buckets.capacity() {
                    self.buckets.reserve_exact(4);
                }
                self.buckets.insert(*at, bucket << COUNT_BITS | u32::from(count));
                count
            }
        };
        *at += 1;
        added
    }

    /// Adds values of the time without a histogram; what comes later becomes one mean.
    fn keep(&mut self, exact: [(u32, u32); 2]) {
        if self.exact[0].1 == 0 {
            self.exact = exact;
            return;
        }
        let [_, (mean_us, count)] = self.exact;
        let (new_us, new) = exact[0];
        let all = u64::from(count) + u64::from(new);
        let sum_us = u64::from(mean_us) * u64::from(count) + u64::from(new_us) * u64::from(new);
        self.exact[1] = ((sum_us / all) as u32, all.min(u32::MAX.into()) as u32);
    }

    /// The quantile `q`, from 0 to 1, in microseconds (nearest rank); `None` without a sample.
    pub fn quantile_us(&self, q: f64) -> Option<u64> {
        let least_us = self.told.min_us;
        let of_buckets = self.buckets.iter().map(|word| {
            let bucket = (word >> COUNT_BITS) as usize;
            (middle_us(bucket).max(least_us), word & COUNT)
        });
        let mut all: Vec<(u32, u32)> = of_buckets.chain(self.exact).filter(|(_, count)| *count > 0).collect();
        all.sort_unstable();
        let count: u64 = all.iter().map(|(_, count)| u64::from(*count)).sum();
        let rank = ((q * count as f64).ceil() as u64).max(1);
        let mut below = 0;
        let found = all.iter().find(|(_, count)| {
            below += u64::from(*count);
            below >= rank
        });
        found.map(|(us, _)| u64::from(*us))
    }

    /// RTTVAR of RFC 6298, microseconds; `None` before the first sample.
    pub fn rttvar_us(&self) -> Option<u32> {
        (self.rttvar_us != 0).then_some(self.rttvar_us)
    }
}

#[cfg(test)]
mod tests {
    use agent_ebpf::{
        event::{EventHeader, RTT_WINDOW},
        rtt::RttCounts,
    };

    use super::*;

    fn sums(count: u32, sum_us: u64, min_us: u32) -> ConnectionState {
        ConnectionState {
            rtt: RttSamples {
                sum_us,
                count,
                min_us,
                var_us: 7,
                ..RttSamples::default()
            },
            ..ConnectionState::default()
        }
    }

    fn histogram(samples_us: &[u32], delayed_acks: u32) -> RttEvent {
        let mut counts = RttCounts {
            delayed_acks,
            ..RttCounts::default()
        };
        for us in samples_us {
            let at = &mut counts.buckets[bucket(*us) as usize];
            *at = at.wrapping_add(1);
            counts.samples += 1;
        }
        let header = EventHeader {
            kind: RTT_WINDOW,
            size: size_of::<RttEvent>() as u32,
            time_ns: 0,
        };
        let rtt = RttSamples {
            sum_us: samples_us.iter().map(|us| u64::from(*us)).sum(),
            count: samples_us.len() as u32,
            min_us: samples_us.iter().copied().min().unwrap_or_default(),
            ..RttSamples::default()
        };
        RttEvent {
            header,
            cookie: 1,
            rtt,
            srtt_us: 10_000,
            rttvar_us: 500,
            counts,
        }
    }

    #[test]
    fn sums_give_the_smallest_and_the_mean_of_the_others() {
        let check = |snapshots: &[ConnectionState], expected: &[&[(u64, u32)]]| {
            let mut rtt = Rtt::default();
            for (state, expected) in snapshots.iter().zip(expected) {
                let window = rtt.of_sums(state);
                let samples: Vec<_> = window.iter().flat_map(RttWindow::samples).collect();
                assert_eq!(&samples, expected);
            }
            rtt
        };
        check(&[sums(0, 0, 0)], &[&[]]);
        check(&[sums(1, 300, 300)], &[&[(300_000, 1)]]);
        let rtt = check(&[sums(2, 700, 300)], &[&[(300_000, 1), (400_000, 1)]]);
        assert_eq!((rtt.quantile_us(0.5), rtt.quantile_us(0.99)), (Some(300), Some(400)));
        let rtt = check(
            &[
                sums(1_000, 99_900 + 100, 100),
                sums(1_000, 100_000, 100),
                sums(1_002, 100_400, 100),
            ],
            &[&[(100_000, 1), (100_000, 12)], &[], &[(200_000, 2)]],
        );
        assert_eq!((rtt.quantile_us(0.5), rtt.rttvar_us()), (Some(114), Some(7)));
        // Sums that went back belong to another life of the socket.
        check(&[sums(5, 301, 1), sums(2, 300, 1)], &[&[(1_000, 1), (75_000, 4)], &[]]);
        assert_eq!(Rtt::before(sums(5, 301, 1).rtt).of_sums(&sums(5, 301, 1)), None);
    }

    #[test]
    fn a_histogram_tells_what_is_new() {
        let mut rtt = Rtt::default();
        let mut samples = vec![10_000, 10_010, 80_000];
        let window = rtt.of_histogram(&histogram(&samples, 1)).expect("new");
        let told: Vec<_> = window.samples().collect();
        assert_eq!((told.len(), told[0].1, told[1].1, window.delayed_acks), (2, 2, 1, 1));
        assert_eq!((window.min_us, window.mean_ns), (10_000, 33_336_666));
        assert!(told[0].0.abs_diff(10_000_000) <= 320_000 && told[1].0.abs_diff(80_000_000) <= 2_560_000);
        assert_eq!(rtt.of_histogram(&histogram(&samples, 1)), None);
        assert_eq!(rtt.of_sums(&sums(100, 1_000_000, 10_000)), None, "the histogram tells");
        samples.push(20_000);
        let window = rtt.of_histogram(&histogram(&samples, 1)).expect("new");
        assert_eq!(
            (window.samples().count(), window.mean_ns, window.delayed_acks),
            (1, 20_000_000, 0)
        );
        assert!(window.min_us.abs_diff(20_000) <= 640);
        assert!(rtt.quantile_us(0.5).expect("samples").abs_diff(10_000) <= 320);
        assert!(rtt.quantile_us(0.99).expect("samples").abs_diff(80_000) <= 2_560);
    }

    /// The kernel's counts have 16 bits.
    #[test]
    fn each_bucket_is_taken_wherever_it_is() {
        let mut rtt = Rtt::default();
        let mut counts = [0_u16; BUCKETS];
        // Out of order, at both ends of a stride and of all, and again where a sample was before.
        for at in [40, 15, 16, 191, 0, 41, 40, 176, 0] {
            counts[at] += 3;
            assert_eq!(rtt.add(&counts), [(at as u8, 3)]);
            assert_eq!(rtt.add(&counts), []);
        }
        let known: Vec<_> = rtt.buckets.iter().map(|word| word >> COUNT_BITS).collect();
        assert_eq!(known, [0, 15, 16, 40, 41, 176, 191]);
        // A count that has come round to 0 is among zeros alone.
        counts[191] = 0;
        assert_eq!(rtt.add(&counts), [(191, u16::MAX - 2)]);
    }

    #[test]
    fn counts_that_wrap() {
        let mut rtt = Rtt::default();
        let (mut event, at) = (histogram(&[10_000], 0), bucket(10_000) as usize);
        let mut told = 0;
        for step in 1..=40_u32 {
            event.counts.buckets[at] = (step * 5_000) as u16;
            event.rtt.count = step * 5_000;
            event.rtt.sum_us = u64::from(step) * 50_000_000;
            let window = rtt.of_histogram(&event).expect("new");
            told += window.samples().map(|(_, count)| count).sum::<u32>();
        }
        assert_eq!((told, rtt.buckets[0] & COUNT), (200_000, 200_000));
    }

    #[test]
    fn days_of_one_length() {
        let mut rtt = Rtt::default();
        let (mut event, at) = (histogram(&[10_000], 0), bucket(10_000) as usize);
        let mut sent = 1_u64;
        for _ in 0..500 {
            sent += 50_000;
            event.counts.buckets[at] = sent as u16;
            rtt.of_histogram(&event);
            assert_eq!(rtt.buckets[0] as u16, sent as u16);
            assert_eq!(rtt.buckets[0] >> COUNT_BITS, at as u32);
        }
        assert!(rtt.buckets[0] & COUNT >= COUNT / 2);
    }

    #[test]
    fn any_counts_are_taken() {
        let mut rtt = Rtt::default();
        for byte in [0_u8, 255, 1, 128] {
            let mut event = histogram(&[1], byte.into());
            event.counts.buckets = [u16::from_be_bytes([byte, 77]); BUCKETS];
            event.rtt.count = u32::from(byte) << 24;
            event.rtt.sum_us = u64::from(byte) << 56;
            rtt.of_histogram(&event);
        }
        assert!(rtt.quantile_us(1.0).is_some() && rtt.buckets.len() == BUCKETS);
    }
}
