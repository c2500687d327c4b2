//! Lengths of session tickets, learned per destination from conversations in which they could not be anything else.
//!
//! Bounded: the destination that was used longest ago leaves first. Used by `first_byte`; the pipeline owns one.

use std::collections::{BTreeMap, HashMap};

/// Lengths that are kept for one destination: a server's tickets have one or two, behind a balancer a few more.
const LENGTHS: usize = 4;

/// What is remembered; the caller says what a destination is, a hash of name and port for example.
#[derive(Debug)]
pub struct TicketLengths {
    capacity: usize,
    uses: u64,
    destinations: HashMap<u64, Learned>,
    by_use: BTreeMap<u64, u64>,
    forgotten: u64,
}

#[derive(Debug, Default)]
struct Learned {
    used: u64,
    /// Latest first.
    lengths: Vec<u16>,
}

impl TicketLengths {
    /// A memory of so many destinations.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            uses: 0,
            destinations: HashMap::new(),
            by_use: BTreeMap::new(),
            forgotten: 0,
        }
    }

    /// This destination's tickets have records of this length.
    pub fn learn(&mut self, destination: u64, length: u16) {
        if self.capacity == 0 {
            return;
        }
        self.uses += 1;
        let learned = self.destinations.entry(destination).or_default();
        self.by_use.remove(&learned.used);
        learned.used = self.uses;
        learned.lengths.retain(|known| *known != length);
        learned.lengths.insert(0, length);
        learned.lengths.truncate(LENGTHS);
        self.by_use.insert(self.uses, destination);
        if self.destinations.len() > self.capacity
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.destinations.remove(&oldest);
            self.forgotten += 1;
        }
    }

    /// True when tickets of this destination have had this length.
    pub fn contains(&self, destination: u64, length: u16) -> bool {
        self.destinations
            .get(&destination)
            .is_some_and(|learned| learned.lengths.contains(&length))
    }

    /// Destinations that are remembered.
    pub fn len(&self) -> usize {
        self.destinations.len()
    }

    /// True when nothing was learned.
    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty()
    }

    /// Destinations that left to make room.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destination_used_longest_ago_leaves() {
        let mut lengths = TicketLengths::new(2);
        lengths.learn(1, 250);
        lengths.learn(2, 284);
        lengths.learn(1, 266);
        lengths.learn(3, 1106);
        assert!(lengths.contains(1, 250) && lengths.contains(1, 266) && lengths.contains(3, 1106));
        assert!(!lengths.contains(2, 284));
        assert_eq!((lengths.len(), lengths.forgotten()), (2, 1));
        (0..10).for_each(|length| lengths.learn(1, length));
        assert!(!lengths.contains(1, 250) && lengths.contains(1, 9));
        TicketLengths::new(0).learn(1, 1);
    }
}
