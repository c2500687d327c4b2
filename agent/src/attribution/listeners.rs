//! Who owns each listening socket: its children are owned by the same process.
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::process::Process;
use crate::capacity::TableUse;

/// Closed listeners that are kept for the children that they left.
const CLOSED_KEPT: usize = 4_096;

/// Listeners by socket cookie.
#[derive(Debug)]
pub(super) struct Listeners {
    limit: usize,
    owners: HashMap<u64, Arc<Process>>,
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

    pub(super) fn opened(&mut self, cookie: u64, owner: Arc<Process>) {
        if self.owners.len() < self.limit || self.owners.contains_key(&cookie) {
            self.owners.insert(cookie, owner);
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
        self.owners.get(&cookie).cloned()
    }
}
