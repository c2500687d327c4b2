//! The last events, in the order in which they came about: as many as there is room for, no more in a second than a few.
use std::{collections::VecDeque, sync::Arc};

use crate::capacity::{Share, TableUse};

/// Events that are kept.
const MOST: usize = 1_000;
/// Events that are taken in one second: what floods must not push out all else.
const MOST_A_SECOND: u32 = 50;

/// How many events there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecentCounts {
    /// Taken in, whether they are still here or not.
    pub kept: u64,
    /// Refused: too many in one second.
    pub dropped: u64,
}

/// The last events.
#[derive(Debug)]
pub struct Recent<T> {
    limit: usize,
    events: VecDeque<Arc<T>>,
    counts: RecentCounts,
    second: u64,
    taken: u32,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self::new(Share::WHOLE)
    }
}

impl<T> Recent<T> {
    /// None yet; this share of the usual number is kept.
    pub fn new(share: Share) -> Self {
        Self {
            limit: share.of(MOST),
            events: VecDeque::new(),
            counts: RecentCounts::default(),
            second: 0,
            taken: 0,
        }
    }

    /// How full it is.
    pub fn usage(&self) -> TableUse {
        TableUse::new("events", self.events.len(), self.limit)
    }

    /// Whether one more is taken at this time; one that is not is counted. Ask before making it.
    pub fn admits(&mut self, now_ns: u64) -> bool {
        let second = now_ns / 1_000_000_000;
        if second != self.second {
            (self.second, self.taken) = (second, 0);
        }
        let admitted = self.taken < MOST_A_SECOND;
        self.taken += u32::from(admitted);
        self.counts.dropped += u64::from(!admitted);
        admitted
    }

    /// One more; the oldest makes room.
    pub fn push(&mut self, event: T) {
        if self.events.len() == self.limit {
            self.events.pop_front();
        }
        self.events.push_back(Arc::new(event));
        self.counts.kept += 1;
    }

    /// Completes the last event that `change` says it has changed.
    pub fn amend(&mut self, mut change: impl FnMut(&mut T) -> bool)
    where
        T: Clone,
    {
        for event in self.events.iter_mut().rev() {
            // Only who shows it now keeps the old one.
            let mut changed = (**event).clone();
            if change(&mut changed) {
                *event = Arc::new(changed);
                return;
            }
        }
    }

    /// All of them, the oldest first.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.events.iter().cloned().collect()
    }

    /// How many there were.
    pub fn counts(&self) -> RecentCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_in_number_and_in_a_second() {
        let mut recent = Recent::default();
        for number in 0..2_000_u64 {
            let now_ns = number * 10_000_000;
            if recent.admits(now_ns) {
                recent.push(number);
            }
        }
        let counts = recent.counts();
        assert_eq!((counts.kept, counts.dropped), (1_000, 1_000));
        (0..5).for_each(|number| recent.push(5_000 + number));
        let all = recent.all();
        assert_eq!(
            (all.len(), **all.first().expect("full"), **all.last().expect("full")),
            (MOST, 5, 5_004)
        );
    }
}
