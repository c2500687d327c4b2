//! A few durations of one connection, each with the time that it is from: what a median over the last so many slots needs.
//!
//! A word is a step of the sketch, a slot and a count, four bytes; they are in this order. When there is no more room, a
//! duration counts in the nearest step: medians of a connection whose durations are of more kinds than `MOST` may be off by
//! more than 1 %, and its memory is bounded.
use super::sketch::{STEP_BITS, middle_ns, step_of};

/// Bits of the slot, which is kept modulo their number of values.
const SLOT_BITS: u32 = 4;
/// Slots that can be told apart.
pub(super) const SLOTS: u64 = 1 << SLOT_BITS;
const COUNT_BITS: u32 = u32::BITS - STEP_BITS - SLOT_BITS;
/// A word that is full stays so: a connection has no more samples in one slot and step.
const FULL: u32 = (1 << COUNT_BITS) - 1;

/// Words that are added at a time.
const GROWTH: usize = 4;

/// Durations by step, then by slot; at most so many words.
#[derive(Default)]
pub(super) struct Words<const MOST: usize>(Vec<u32>);

/// What one word says.
pub(super) struct Counted {
    pub(super) duration_ns: u64,
    pub(super) count: u32,
    /// How long ago, in slots, counted from the latest.
    pub(super) age: u64,
}

impl<const MOST: usize> Words<MOST> {
    /// So many durations of this length, in this slot.
    pub(super) fn add(&mut self, duration_ns: u64, count: u32, slot: u64) {
        let place = (step_of(duration_ns) as u32) << SLOT_BITS | (slot % SLOTS) as u32;
        let count = count.min(FULL);
        let at = self.0.partition_point(|word| word >> COUNT_BITS < place);
        let is_here = |word: &u32| word >> COUNT_BITS == place;
        let at = match self.0.get(at) {
            Some(word) if is_here(word) => at,
            _ if self.0.len() < MOST => {
                if self.0.len() == self.0.capacity() {
                    self.0.reserve_exact(GROWTH);
                }
                self.0.insert(at, place << COUNT_BITS);
                at
            }
            _ => self.nearest(at, place),
        };
        let word = &mut self.0[at];
        *word = *word & !FULL | (*word & FULL).saturating_add(count).min(FULL);
    }

    /// Of the words before and at this index the one that is nearer to the place.
    fn nearest(&self, at: usize, place: u32) -> usize {
        let distance = |at: usize| (self.0[at] >> COUNT_BITS).abs_diff(place);
        let last = self.0.len() - 1;
        let (before, after) = (at.saturating_sub(1), at.min(last));
        if distance(before) < distance(after) {
            before
        } else {
            after
        }
    }

    /// Removes what is `most_age` slots old or older as of `now`, and hands it out. `latest`: the slot of the newest word.
    pub(super) fn expire(&mut self, latest: u64, now: u64, most_age: u64, mut leaves: impl FnMut(Counted)) {
        let passed = now.saturating_sub(latest);
        self.0.retain(|word| {
            let counted = counted(*word, latest);
            let age = counted.age + passed;
            let stays = age < most_age;
            if !stays {
                leaves(Counted { age, ..counted });
            }
            stays
        });
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }

    /// Durations in all slots.
    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word & FULL)).sum()
    }

    /// Their median.
    pub(super) fn p50_ns(&self) -> Option<u64> {
        let rank = self.count().div_ceil(2);
        let mut below = 0;
        let word = self.0.iter().find(|word| {
            below += u64::from(*word & FULL);
            below >= rank
        });
        word.map(|word| counted(*word, 0).duration_ns)
    }
}

fn counted(word: u32, latest: u64) -> Counted {
    let slot = u64::from(word >> COUNT_BITS) % SLOTS;
    Counted {
        duration_ns: middle_ns(u64::from(word >> COUNT_BITS >> SLOT_BITS)),
        count: word & FULL,
        age: (latest.wrapping_sub(slot)) % SLOTS,
    }
}

impl<const MOST: usize> std::fmt::Debug for Words<MOST> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Words").field(&self.p50_ns()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_over_all_slots() {
        let mut words = Words::<64>::default();
        assert_eq!((words.p50_ns(), words.count()), (None, 0));
        words.add(40, 3, 100);
        words.add(60, 2, 101);
        words.add(50, 1, 101);
        assert_eq!((words.p50_ns(), words.count()), (Some(40), 6));
        words.add(60, 2, 102);
        assert_eq!(words.p50_ns(), Some(50));
    }

    #[test]
    fn what_is_old_leaves_with_its_age() {
        let mut words = Words::<64>::default();
        for slot in 28..=33 {
            words.add(slot, 2, slot);
        }
        let mut left = Vec::new();
        words.expire(33, 34, 5, |counted| {
            left.push((counted.duration_ns, counted.count, counted.age));
        });
        assert_eq!(left, [(28, 2, 6), (29, 2, 5)]);
        assert_eq!(words.count(), 8);
        // A long pause: all of it is old.
        words.expire(33, 1_000, 5, |_| {});
        assert_eq!((words.count(), words.0.capacity()), (0, 0));
    }

    #[test]
    fn room_is_bounded_and_nothing_is_lost() {
        let mut words = Words::<64>::default();
        for number in 0..1_000_u64 {
            words.add(1_000 << (number % 50), 1, 7);
            words.add(1_000_000 + number * 20_000, 1, 7);
        }
        assert_eq!((words.0.len(), words.0.capacity(), words.count()), (64, 64, 2_000));
        words.add(5, u32::MAX, 7);
        words.add(5, u32::MAX, 7);
        assert!(words.0.is_sorted_by_key(|word| word >> COUNT_BITS));
    }
}
