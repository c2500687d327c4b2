//! The bounded table of open connections, keyed by socket cookie.
//!
//! A full table gives up the connection that was silent for the longest among a few, if it was silent for long enough to
//! be presumed lost; else it refuses the newcomer, whose CLOSE alone will still make a whole record. Must not know what
//! the pipeline attaches to a connection.
use std::collections::HashMap;

use super::packed::Packed;
use crate::capacity::TableUse;

/// A connection that is moving is never given up for another: only one that has not reported for this long.
const SILENT_NS: u64 = 600_000_000_000;
/// How many connections are looked at to find one to give up.
const PROBES: usize = 16;

/// One open connection.
#[derive(Debug)]
pub struct Entry<T> {
    /// The latest snapshot.
    pub state: Packed,
    /// When the first event of this connection was made, nanoseconds.
    pub first_seen_ns: u64,
    /// What the pipeline attaches.
    pub attached: T,
}

/// What became of a newcomer.
#[derive(Debug)]
pub enum Admission<T> {
    /// It is in the table.
    Inserted,
    /// It is in the table; this one had to go.
    Evicted(Box<Entry<T>>),
    /// It is not in the table.
    Refused,
}

/// Open connections; a slab, so that a place to evict is found without walking a hash table.
#[derive(Debug)]
pub struct Table<T> {
    slots: Vec<Option<Entry<T>>>,
    free: Vec<u32>,
    by_cookie: HashMap<u64, u32>,
    limit: usize,
    hand: usize,
}

impl<T> Table<T> {
    /// A table of at most `limit` connections.
    pub fn new(limit: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_cookie: HashMap::new(),
            limit,
            hand: 0,
        }
    }

    /// How full it is.
    pub fn usage(&self) -> TableUse {
        TableUse::new("connections", self.len(), self.limit)
    }

    /// Number of open connections.
    pub fn len(&self) -> usize {
        self.by_cookie.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_cookie.is_empty()
    }

    /// The open connection of a socket.
    pub fn get(&self, cookie: u64) -> Option<&Entry<T>> {
        let slot = *self.by_cookie.get(&cookie)?;
        self.slots[slot as usize].as_ref()
    }

    /// The open connection of a socket.
    pub fn get_mut(&mut self, cookie: u64) -> Option<&mut Entry<T>> {
        let slot = *self.by_cookie.get(&cookie)?;
        self.slots[slot as usize].as_mut()
    }

    /// Puts a connection in. Its socket must not have one yet.
    pub fn insert(&mut self, entry: Entry<T>, now_ns: u64) -> Admission<T> {
        debug_assert!(
            !self.by_cookie.contains_key(&entry.state.cookie()),
            "a socket has one connection at a time"
        );
        let evicted = if self.len() < self.limit {
            None
        } else {
            match self.evict(now_ns) {
                None => return Admission::Refused,
                evicted => evicted,
            }
        };
        let cookie = entry.state.cookie();
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(entry);
            slot
        } else {
            self.slots.push(Some(entry));
            (self.slots.len() - 1) as u32
        };
        self.by_cookie.insert(cookie, slot);
        evicted.map_or(Admission::Inserted, |entry| Admission::Evicted(Box::new(entry)))
    }

    /// Takes the connection of a socket out.
    pub fn remove(&mut self, cookie: u64) -> Option<Entry<T>> {
        let slot = self.by_cookie.remove(&cookie)?;
        self.free.push(slot);
        self.slots[slot as usize].take()
    }

    /// Takes out those that have not reported since `before_ns`.
    pub fn take_silent(&mut self, before_ns: u64) -> Vec<Entry<T>> {
        let silent: Vec<u64> = self
            .iter()
            .filter(|entry| entry.state.reported_ns() < before_ns)
            .map(|entry| entry.state.cookie())
            .collect();
        silent.into_iter().filter_map(|cookie| self.remove(cookie)).collect()
    }

    /// Every open connection, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry<T>> {
        self.slots.iter().flatten()
    }

    fn evict(&mut self, now_ns: u64) -> Option<Entry<T>> {
        let mut oldest: Option<&Packed> = None;
        for _ in 0..PROBES.min(self.slots.len()) {
            self.hand = (self.hand + 1) % self.slots.len();
            if let Some(entry) = &self.slots[self.hand]
                && oldest.is_none_or(|oldest| entry.state.reported_ns() < oldest.reported_ns())
            {
                oldest = Some(&entry.state);
            }
        }
        let oldest = oldest.filter(|oldest| now_ns.saturating_sub(oldest.reported_ns()) >= SILENT_NS)?;
        self.remove(oldest.cookie())
    }
}

#[cfg(test)]
mod tests {
    use agent_ebpf::connection::ConnectionState;

    use super::*;

    fn entry(cookie: u64, reported_ns: u64) -> Entry<()> {
        let state = ConnectionState {
            cookie,
            reported_ns,
            ..ConnectionState::default()
        };
        Entry {
            state: Packed::from(&state),
            first_seen_ns: reported_ns,
            attached: (),
        }
    }

    #[test]
    fn a_full_table_refuses_while_all_move() {
        let mut table = Table::new(2);
        assert!(matches!(table.insert(entry(1, 10), 10), Admission::Inserted));
        assert!(matches!(table.insert(entry(2, 20), 20), Admission::Inserted));
        assert!(matches!(table.insert(entry(3, 30), 30), Admission::Refused));
        assert_eq!(table.len(), 2);
        assert!(table.get(3).is_none());
        table.remove(1).expect("it is there");
        assert!(matches!(table.insert(entry(3, 30), 30), Admission::Inserted));
        assert_eq!(table.slots.len(), 2, "the free slot is used again");
    }

    #[test]
    fn a_full_table_gives_up_the_longest_silent() {
        let mut table = Table::new(3);
        for (cookie, reported_ns) in [(1, 300), (2, 100), (3, 200)] {
            table.insert(entry(cookie, reported_ns), 300);
        }
        let Admission::Evicted(evicted) = table.insert(entry(4, SILENT_NS + 100), SILENT_NS + 100) else {
            panic!("somebody has been silent for long enough");
        };
        assert_eq!(evicted.state.cookie(), 2);
        assert_eq!(table.len(), 3);
        assert!(table.get(4).is_some() && table.get(2).is_none());
    }
}
