//! Durations of one connection's turns: quantiles within 1 %, in as little memory as 100 000 open connections need.
//!
//! A turn is counted in its *step*: whole microseconds that one value stands for with an error of at most 1 %. Only steps
//! that had a turn are kept, four bytes each: so few turns cost what a list of them would, and many turns of one server,
//! which lie close together, cost no more than the steps between its fastest and its slowest.
//!
//! The bound: 24 bytes without turns; up to 1000 turns from 1 to 3 ms, 256 bytes more; 4 KiB more for turns in every
//! step from 1 µs to 71 minutes, which no server has.

/// The longest turn in each step; a step begins after the one before. Below 99 µs each microsecond is one.
const LONGEST_US: [u32; STEPS] = {
    let mut longest_us = [0; STEPS];
    let mut step = 1;
    while step < STEPS {
        longest_us[step] = longest_after(longest_us[step - 1]);
        step += 1;
    }
    longest_us
};

/// Steps from zero to the longest turn that there can be.
const STEPS: usize = {
    let (mut steps, mut longest_us) = (1, 0);
    while longest_us < u32::MAX {
        longest_us = longest_after(longest_us);
        steps += 1;
    }
    steps
};

/// Bits of a word that count, below those that tell the step.
const COUNT_BITS: u32 = (STEPS - 1).leading_zeros() - (usize::BITS - u32::BITS);
const MOST: u32 = (1 << COUNT_BITS) - 1;
const _: () = assert!(STEPS <= 1 << (u32::BITS - COUNT_BITS) && MOST > 1_000_000);

/// Words that are added at a time: no more than there are, so that few turns cost little, and no more than this.
const GROWTH: usize = 16;

/// What stands for a step that begins there: at most 1 % more than its shortest turn.
const fn middle(shortest_us: u32) -> u64 {
    shortest_us as u64 * 101 / 100
}

/// The longest turn of the step after one that ends there: at most 1 % is missing from it to the middle.
const fn longest_after(longest_us: u32) -> u32 {
    let longest_us = middle(longest_us + 1) * 100 / 99;
    if longest_us > u32::MAX as u64 {
        u32::MAX
    } else {
        longest_us as u32
    }
}

/// How many turns there were in each step: a word for each step that had one, in their order.
#[derive(Default)]
pub struct Turns(Vec<u32>);

impl Turns {
    /// One more turn.
    pub fn add(&mut self, turn_us: u32) {
        let step = LONGEST_US.partition_point(|longest_us| *longest_us < turn_us);
        let at = self.0.partition_point(|word| step_of(*word) < step);
        match self.0.get_mut(at) {
            Some(word) if step_of(*word) == step => {
                *word += 1;
                if count_of(*word) == MOST {
                    self.halve();
                }
            }
            _ => {
                if self.0.len() == self.0.capacity() {
                    self.0.reserve_exact(self.0.len().clamp(4, GROWTH));
                }
                self.0.insert(at, (step as u32) << COUNT_BITS | 1);
            }
        }
    }

    /// The quantile `q`, from 0 to 1, in microseconds: the smallest turn that no more than the rest exceeds (nearest
    /// rank), so that the upper quantiles of a few turns are the longest.
    pub fn quantile_us(&self, q: f64) -> Option<u64> {
        let count: u64 = self.0.iter().map(|word| u64::from(count_of(*word))).sum();
        let rank = (q * count as f64).ceil() as u64;
        let mut below = 0;
        let word = self.0.iter().find(|word| {
            below += u64::from(count_of(**word));
            below >= rank
        });
        let before = step_of(*word?).checked_sub(1);
        Some(before.map_or(0, |before| middle(LONGEST_US[before] + 1)))
    }

    /// Makes room to count on after millions of turns: what each step's share is stays what it was, but for one in
    /// thousands.
    #[cold]
    fn halve(&mut self) {
        for word in &mut self.0 {
            *word = (step_of(*word) as u32) << COUNT_BITS | count_of(*word).div_ceil(2);
        }
    }
}

fn step_of(word: u32) -> usize {
    (word >> COUNT_BITS) as usize
}

fn count_of(word: u32) -> u32 {
    word & MOST
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Turns").field(&self.quantile_us(0.5)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(all_us: impl IntoIterator<Item = u32>) -> Turns {
        let mut turns = Turns::default();
        all_us.into_iter().for_each(|turn_us| turns.add(turn_us));
        turns
    }

    #[test]
    fn few_turns() {
        let turns = turns([10_000, 50_000]);
        let near = |q, exact: f64| (turns.quantile_us(q).expect("there are turns") as f64 / exact - 1.0).abs() <= 0.011;
        assert!(near(0.5, 10_000.0) && near(0.95, 50_000.0) && near(1.0, 50_000.0) && near(0.0, 10_000.0));
    }

    #[test]
    fn quantiles_within_one_percent() {
        assert_eq!(Turns::default().quantile_us(0.5), None);
        let turns = turns((1..=1_000).map(|turn| turn * 100));
        for (q, exact) in [(0.5, 50_000.0), (0.95, 95_000.0)] {
            let measured = turns.quantile_us(q).expect("there are turns") as f64;
            assert!((measured / exact - 1.0).abs() <= 0.01, "{q}: {measured}");
        }
    }

    #[test]
    fn each_length_is_told_within_one_percent() {
        let edges = LONGEST_US.into_iter().flat_map(|edge| [edge, edge.saturating_add(1)]);
        for turn_us in (0..10_000).chain(edges) {
            let told = turns([turn_us]).quantile_us(0.5).expect("a turn");
            assert!(
                told.abs_diff(turn_us.into()) * 100 <= turn_us.into(),
                "{turn_us}: {told}"
            );
        }
    }

    /// Against all turns in order, with lengths that are spread, doubled and drifting.
    #[test]
    fn quantiles_are_those_of_all_turns() {
        let mut seed = 1_u32;
        let mut random = move || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 8
        };
        for length in [
            (|_, random| random % 1_000) as fn(u32, u32) -> u32,
            |_, random| 1 << (random % 31),
            |turn, random| turn * turn + random % 50,
            |turn, random| if turn % 20 == 0 { random } else { 700 },
        ] {
            for count in [1, 2, 3, 10, 33, 1_000, 20_000] {
                let mut all: Vec<u32> = (0..count).map(|turn| length(turn, random())).collect();
                let turns = turns(all.iter().copied());
                all.sort_unstable();
                for q in [0.5, 0.95] {
                    let exact = u64::from(all[(q * f64::from(count)).ceil() as usize - 1]);
                    let told = turns.quantile_us(q).expect("there are turns");
                    assert!(
                        told.abs_diff(exact) * 100 <= exact,
                        "{q} of {count}: {told} for {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn millions_of_turns_keep_their_shares() {
        let mut turns = turns([5; 6]);
        for turn in 0..10 * (MOST / 8) {
            turns.add(if turn % 10 == 0 { 90 } else { 50 });
        }
        let quantiles = [0.5, 0.89, 0.91].map(|q| turns.quantile_us(q));
        assert_eq!(quantiles, [Some(50), Some(50), Some(90)]);
    }

    #[test]
    fn memory_is_bounded() {
        let bytes = |turns: &Turns| size_of::<Turns>() + turns.0.capacity() * size_of::<u32>();
        let check = |turns: &Turns, most: usize| assert!(bytes(turns) <= most, "{} bytes", bytes(turns));
        check(&turns([]), 24);
        check(&turns([7]), 24 + 16);
        check(&turns((0..32).map(|turn| turn << 25)), 24 + 32 * 4);
        check(&turns((0..1_000).map(|turn| 1_000 + 2 * turn)), 24 + 256);
        check(&turns((0..100_000).map(|turn| turn * 42_949)), 24 + 4_096);
        check(&turns(LONGEST_US), 24 + 4_096);
    }
}
