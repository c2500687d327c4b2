//! How often each duration occurred: quantiles within 1 %, mergeable, in as little memory as there are different ones.
//!
//! A duration is counted in its *step*: below 64 ns each nanosecond is one, above that a 64th of a power of two, which its
//! middle stands for with an error of less than 0.8 %. Only steps that had a duration are kept, four bytes each: few
//! durations cost what a list of them would, and many of one server, which lie close together, cost no more than the steps
//! between its fastest and its slowest. Whole numbers throughout: a replay gives what live gave.
//!
//! The bound: 40 bytes when empty; up to 1000 durations from 1 to 3 ms, about 400 bytes more; never more than 8 KiB. Where there
//! would be more steps, the two neighbours with the fewest durations become one: that of most of them.

/// Steps of a power of two, as a power of two.
const FINE_BITS: u32 = 6;
/// Steps from zero to the longest duration.
const STEPS: u64 = step_of(u64::MAX) + 1;
/// Bits of a word that count, below those that tell the step.
const COUNT_BITS: u32 = u32::BITS - STEP_BITS;
/// Bits that tell a step.
pub(super) const STEP_BITS: u32 = 12;
/// What a word can count.
const MOST: u32 = (1 << COUNT_BITS) - 1;
const _: () = assert!(STEPS <= 1 << STEP_BITS && MOST > 1_000_000);

/// Steps that are kept at most: from a microsecond to half an hour without a gap.
const MOST_WORDS: usize = 2_048;
/// Words that are added at a time: no more than there are, so that few durations cost little, and no more than this.
const GROWTH: usize = 16;

/// Quantiles, seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// How many durations there were in each step.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Sketch {
    /// A word for each step that had one, in their order.
    words: Vec<u32>,
    /// A word counts in units of two to this power: 0 until one has counted a million.
    unit_bits: u32,
    /// Durations that make no whole unit yet: the one that completes it has it counted in its step.
    rest: u64,
}

impl Sketch {
    /// So many durations of this length.
    pub fn add(&mut self, duration_ns: u64, count: u32) {
        self.add_step(step_of(duration_ns) as u32, count.into());
    }

    /// The same where there are very many sketches: no more than `most` steps are kept.
    pub fn add_within(&mut self, duration_ns: u64, count: u32, most: usize) {
        self.add(duration_ns, count);
        self.keep(most);
    }

    /// All that the other one holds.
    pub fn merge(&mut self, other: &Self) {
        for word in &other.words {
            self.add_step(word >> COUNT_BITS, u64::from(word & MOST) << other.unit_bits);
        }
    }

    fn add_step(&mut self, step: u32, count: u64) {
        let total = self.rest.saturating_add(count);
        let mut units = total >> self.unit_bits;
        if units == 0 {
            self.rest = total;
            return;
        }
        self.rest = total - (units << self.unit_bits);
        let at = self.words.partition_point(|word| word >> COUNT_BITS < step);
        if self.words.get(at).is_none_or(|word| word >> COUNT_BITS != step) {
            if self.words.len() == self.words.capacity() {
                self.words.reserve_exact(self.words.len().clamp(4, GROWTH));
            }
            self.words.insert(at, step << COUNT_BITS);
        }
        while units > u64::from(MOST - (self.words[at] & MOST)) {
            self.halve();
            units /= 2;
        }
        self.words[at] += units as u32;
        self.keep(MOST_WORDS);
    }

    /// Joins neighbours until there are no more than `most` steps.
    fn keep(&mut self, most: usize) {
        while self.words.len() > most {
            let together = |pair: &[u32]| (pair[0] & MOST) + (pair[1] & MOST);
            let pairs = (0..).zip(self.words.windows(2));
            let Some((at, pair)) = pairs.min_by_key(|(_, pair)| together(pair)) else {
                return;
            };
            let (units, larger) = (
                together(pair),
                if pair[0] & MOST > pair[1] & MOST {
                    pair[0]
                } else {
                    pair[1]
                },
            );
            if units > MOST {
                self.halve();
                continue;
            }
            self.words[at] = larger & !MOST | units;
            self.words.remove(at + 1);
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    fn units(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word & MOST)).sum()
    }

    /// Durations in it; of millions about so many.
    pub fn count(&self) -> u64 {
        self.units().saturating_mul(1 << self.unit_bits)
    }

    /// The quantile `q`, from 0 to 1: the smallest duration that no more than the rest exceeds (nearest rank), so that the
    /// upper quantiles of a few are the longest. `None` when there is nothing.
    pub fn quantile_ns(&self, q: f64) -> Option<u64> {
        let rank = (q * self.units() as f64).ceil() as u64;
        let mut below = 0;
        let word = self.words.iter().find(|word| {
            below += u64::from(*word & MOST);
            below >= rank
        });
        Some(middle_ns(u64::from(*word? >> COUNT_BITS)))
    }

    /// The usual ones.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let seconds = |q| Some(self.quantile_ns(q)? as f64 / 1e9);
        Some(Quantiles {
            p50: seconds(0.5)?,
            p95: seconds(0.95)?,
            p99: seconds(0.99)?,
        })
    }

    /// How far the durations are from this one, on the average.
    pub fn mean_deviation_ns(&self, from_ns: u64) -> Option<u64> {
        let of = |word: &u32| (middle_ns(u64::from(word >> COUNT_BITS)), u128::from(word & MOST));
        let sum: u128 = self
            .words
            .iter()
            .map(of)
            .map(|(ns, n)| u128::from(ns.abs_diff(from_ns)) * n)
            .sum();
        sum.checked_div(u128::from(self.units())).map(|mean| mean as u64)
    }

    /// Makes room to count on after a million durations in one step: what each step's share is stays what it was, but for
    /// one in thousands.
    #[cold]
    fn halve(&mut self) {
        self.unit_bits += 1;
        for word in &mut self.words {
            *word = *word & !MOST | (*word & MOST).div_ceil(2);
        }
    }
}

/// The step of a duration.
pub(super) const fn step_of(duration_ns: u64) -> u64 {
    let Some(power) = duration_ns.checked_ilog2() else {
        return 0;
    };
    let Some(shift) = power.checked_sub(FINE_BITS) else {
        return duration_ns;
    };
    ((shift as u64) << FINE_BITS) + (duration_ns >> shift)
}

/// What stands for a step.
pub(super) const fn middle_ns(step: u64) -> u64 {
    let power = step >> FINE_BITS;
    if power <= 1 {
        return step;
    }
    let shift = power - 1;
    let shortest_ns = (step - (shift << FINE_BITS)) << shift;
    shortest_ns + (((1_u64 << shift) - 1) >> 1)
}

impl std::fmt::Debug for Sketch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Sketch").field(&self.quantiles()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sketch(all_ns: impl IntoIterator<Item = u64>) -> Sketch {
        let mut sketch = Sketch::default();
        all_ns.into_iter().for_each(|ns| sketch.add(ns, 1));
        sketch
    }

    fn is_near(told_ns: u64, exact_ns: u64) -> bool {
        u128::from(told_ns.abs_diff(exact_ns)) * 100 <= u128::from(exact_ns)
    }

    #[test]
    fn each_duration_is_told_within_one_percent() {
        let edges = (0..64).flat_map(|power| [(1_u64 << power) - 1, 1 << power, (1 << power) + 1]);
        let mut last = 0;
        for ns in (0..100_000)
            .chain(edges.filter(|edge| *edge > 100_000))
            .chain([u64::MAX])
        {
            let step = step_of(ns);
            assert!(step >= last, "{ns}");
            last = step;
            assert!(is_near(middle_ns(step), ns), "{ns}: {}", middle_ns(step));
            assert_eq!(step_of(middle_ns(step)), step, "{ns}");
        }
        assert_eq!(last + 1, STEPS);
    }

    #[test]
    fn few_and_none() {
        assert_eq!(Sketch::default().quantiles(), None);
        assert_eq!(Sketch::default().mean_deviation_ns(5), None);
        let two = sketch([10_000, 50_000]);
        let near = |q, exact| is_near(two.quantile_ns(q).expect("two"), exact);
        assert!(near(0.5, 10_000) && near(0.95, 50_000) && near(1.0, 50_000) && near(0.0, 10_000));
        let around = sketch([40, 50, 60]);
        assert_eq!(around.mean_deviation_ns(50), Some(6));
    }

    /// Against all durations in order, with lengths that are spread, doubled and drifting.
    #[test]
    fn quantiles_are_those_of_all() {
        let mut seed = 1_u32;
        let mut random = move || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            u64::from(seed >> 8)
        };
        for length in [
            (|_, random| random % 1_000) as fn(u64, u64) -> u64,
            |_, random| 1 << (random % 63),
            |number, random| number * number * 1_000 + random % 50,
            |number, random| if number % 20 == 0 { random } else { 700_000 },
        ] {
            for count in [1, 2, 3, 10, 33, 1_000, 20_000] {
                let mut all: Vec<u64> = (0..count).map(|number| length(number, random())).collect();
                let sketch = sketch(all.iter().copied());
                all.sort_unstable();
                for q in [0.5, 0.95, 0.99] {
                    let exact = all[(q * count as f64).ceil() as usize - 1];
                    let told = sketch.quantile_ns(q).expect("not empty");
                    assert!(is_near(told, exact), "{q} of {count}: {told} for {exact}");
                }
            }
        }
    }

    #[test]
    fn millions_keep_their_shares() {
        let mut first = sketch([5; 6]);
        for _ in 0..100 {
            first.add(50, 90_000);
            first.add(60, 10_000);
        }
        // What comes later counts no more than what came before, one by one or many at a time.
        for _ in 0..1_000_000 {
            first.add(70, 1);
        }
        first.add(80, 9_000_000);
        let check = |sketch: &Sketch, millions: u64| {
            let shares = [0.449, 0.451, 0.499, 0.501, 0.549, 0.551].map(|q| sketch.quantile_ns(q));
            assert_eq!(shares, [50, 60, 60, 70, 70, 80].map(Some));
            assert!(
                sketch.count().abs_diff(millions * 1_000_000) < 1_000,
                "{}",
                sketch.count()
            );
        };
        check(&first, 20);
        let mut both = first.clone();
        both.merge(&first);
        check(&both, 40);
        let mut most = sketch([7]);
        (0..3).for_each(|_| most.add_step(1, u64::MAX));
        assert_eq!(most.quantile_ns(0.9), Some(1));
    }

    #[test]
    fn memory_is_bounded() {
        let bytes = |sketch: &Sketch| size_of::<Sketch>() + sketch.words.capacity() * size_of::<u32>();
        let check = |sketch: &Sketch, most: usize| assert!(bytes(sketch) <= most, "{} bytes", bytes(sketch));
        check(&sketch([]), 40);
        check(&sketch([7]), 40 + 16);
        check(&sketch((0..1_000).map(|number| 1_000_000 + 2_000 * number)), 40 + 448);
        check(&sketch((0..STEPS).map(middle_ns)), 40 + 8_192 + 64);
    }

    #[test]
    fn few_steps_tell_the_quantiles_nearly() {
        let mut sparing = Sketch::default();
        let mut random = 1_u64;
        let mut all: Vec<u64> = (0..20_000)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // From 1 ms to 1 s, each power of two as often as any other.
                (1_000_000 << ((random >> 32) % 10)) + (random >> 40) % 1_000_000
            })
            .collect();
        for ns in &all {
            sparing.add_within(*ns, 1, 96);
        }
        assert_eq!((sparing.words.len(), sparing.count()), (96, 20_000));
        all.sort_unstable();
        for q in [0.5, 0.95] {
            let (told, exact) = (
                sparing.quantile_ns(q).expect("not empty"),
                all[(q * 20_000.0) as usize - 1],
            );
            assert!(told.abs_diff(exact) * 20 <= exact, "{q}: {told} for {exact}");
        }
    }

    proptest! {
        #[test]
        fn merging_is_adding_all(a in prop::collection::vec(any::<u64>(), 0..80), b in prop::collection::vec(any::<u64>(), 0..80)) {
            let mut merged = sketch(a.iter().copied());
            merged.merge(&sketch(b.iter().copied()));
            prop_assert_eq!(merged.count(), (a.len() + b.len()) as u64);
            prop_assert_eq!(merged, sketch(a.into_iter().chain(b)));
        }
    }
}
