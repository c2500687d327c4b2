//! Who owns each listening socket: its children are owned by the same process.
//!
//! A process may leave its listener to others and end: then whoever holds the socket is looked for, at most every ten seconds.
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::process::Process;
use crate::capacity::TableUse;

/// Closed listeners that are kept for the children that they left.
const CLOSED_KEPT: usize = 4_096;

/// An owner that is not known to run is looked for this often.
const LOOK_EVERY_NS: u64 = 10_000_000_000;

/// A listener's owner.
#[derive(Debug)]
struct Owned {
    owner: Arc<Process>,
    /// The socket's, to find who holds it; 0 when not known.
    inode: u32,
    /// Since when the owner is known to have it.
    since_ns: u64,
    /// When it was last looked for.
    looked_ns: u64,
}

/// Listeners by socket cookie.
#[derive(Debug)]
pub(super) struct Listeners {
    limit: usize,
    owners: HashMap<u64, Owned>,
    closed: VecDeque<u64>,
}

impl Listeners {
    /// At most `limit` listeners.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            owners: HashMap::new(),
            closed: VecDeque::new(),
        }
    }

    pub(super) fn usage(&self) -> TableUse {
        TableUse::new("listener_owners", self.owners.len(), self.limit)
    }

    pub(super) fn opened(&mut self, cookie: u64, inode: u32, owner: Arc<Process>, since_ns: u64) {
        if self.owners.len() < self.limit || self.owners.contains_key(&cookie) {
            let entry = Owned {
                owner,
                inode,
                since_ns,
                looked_ns: 0,
            };
            self.owners.insert(cookie, entry);
        }
    }

    /// The socket of a listener whose owner is to be looked for, as it does not run any more; `is_running` says whether a
    /// process runs since a time.
    pub(super) fn is_orphan(
        &mut self,
        cookie: u64,
        now_ns: u64,
        is_running: impl FnOnce(u32, u64) -> bool,
    ) -> Option<u32> {
        let owned = self.owners.get_mut(&cookie)?;
        if owned.inode == 0
            || owned.looked_ns != 0 && now_ns.saturating_sub(owned.looked_ns) < LOOK_EVERY_NS
            || is_running(owned.owner.pid, owned.since_ns)
        {
            return None;
        }
        owned.looked_ns = now_ns;
        Some(owned.inode)
    }

    /// Another process has the listener by now.
    pub(super) fn inherited(&mut self, cookie: u64, owner: Arc<Process>, now_ns: u64) {
        if let Some(owned) = self.owners.get_mut(&cookie) {
            owned.owner = owner;
            owned.since_ns = now_ns;
        }
    }

    pub(super) fn closed(&mut self, cookie: u64) {
        if self.owners.contains_key(&cookie) {
            self.closed.push_back(cookie);
        }
        if self.closed.len() > CLOSED_KEPT
            && let Some(cookie) = self.closed.pop_front()
        {
            self.owners.remove(&cookie);
        }
    }

    pub(super) fn owner(&self, cookie: u64) -> Option<Arc<Process>> {
        self.owners.get(&cookie).map(|owned| Arc::clone(&owned.owner))
    }
}
