//! Lengths of session tickets, learned per destination: certain from conversations in which they could not be anything
//! else, suspected from those in which a lone first record was followed by more.
//!
//! Bounded: the destination that was used longest ago leaves first. Used by `first_byte`; the pipeline owns one.

use std::collections::{BTreeMap, HashMap};

use crate::capacity::TableUse;

/// Lengths that are kept for one destination: a server's tickets have one or two, behind a balancer a few more.
const LENGTHS: usize = 4;
/// Tickets of one server differ by a few bytes: with the name, the protocol, the age of the session (JDK: 1111 to 1123).
const TOLERANCE: u16 = 12;

/// What a record of some length is, at one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    /// Never met.
    Nothing,
    /// It came first and alone, and more came after it: a ticket, or the head of an answer.
    Suspect,
    /// It was a ticket.
    Ticket,
}

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
    lengths: Vec<(u16, Known)>,
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

    /// This destination has sent a first record of this length, which was `known`.
    pub fn learn(&mut self, destination: u64, length: u16, known: Known) {
        if self.capacity == 0 {
            return;
        }
        self.uses += 1;
        let learned = self.destinations.entry(destination).or_default();
        self.by_use.remove(&learned.used);
        learned.used = self.uses;
        // What was certain once stays so.
        let same = learned.lengths.iter().find(|(kept, _)| *kept == length);
        let known = same.map_or(known, |(_, before)| known.max(*before));
        learned.lengths.retain(|(kept, _)| *kept != length);
        learned.lengths.insert(0, (length, known));
        learned.lengths.truncate(LENGTHS);
        self.by_use.insert(self.uses, destination);
        if self.destinations.len() > self.capacity
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.destinations.remove(&oldest);
            self.forgotten += 1;
        }
    }

    /// What first records of about this length have been at this destination.
    pub fn known(&self, destination: u64, length: u16) -> Known {
        let lengths = self.destinations.get(&destination).map(|learned| &learned.lengths);
        let near = lengths.into_iter().flatten();
        near.filter(|(kept, _)| kept.abs_diff(length) <= TOLERANCE)
            .map(|(_, known)| *known)
            .max()
            .unwrap_or(Known::Nothing)
    }

    /// How full it is.
    pub fn usage(&self) -> TableUse {
        TableUse::new("ticket_lengths", self.len(), self.capacity)
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
        let learn =
            |lengths: &mut TicketLengths, destination, length| lengths.learn(destination, length, Known::Ticket);
        learn(&mut lengths, 1, 250);
        learn(&mut lengths, 2, 284);
        learn(&mut lengths, 1, 266);
        learn(&mut lengths, 3, 1106);
        let is = |lengths: &TicketLengths, destination, length| lengths.known(destination, length) == Known::Ticket;
        assert!(is(&lengths, 1, 250) && is(&lengths, 1, 266) && is(&lengths, 3, 1106));
        assert!(!is(&lengths, 2, 284));
        assert_eq!((lengths.len(), lengths.forgotten()), (2, 1));
        (0..10).for_each(|length| learn(&mut lengths, 1, length));
        assert!(!is(&lengths, 1, 250) && is(&lengths, 1, 9));
        learn(&mut TicketLengths::new(0), 1, 1);
    }

    #[test]
    fn what_was_certain_stays_so() {
        let mut lengths = TicketLengths::new(1);
        lengths.learn(1, 730, Known::Suspect);
        assert_eq!(lengths.known(1, 736), Known::Suspect);
        lengths.learn(1, 730, Known::Ticket);
        lengths.learn(1, 730, Known::Suspect);
        assert_eq!(lengths.known(1, 730), Known::Ticket);
        assert_eq!(lengths.known(1, 760), Known::Nothing);
    }
}
