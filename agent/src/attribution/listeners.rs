//! Who owns each listening socket: its children are owned by the same process.
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::process::Process;

/// Most listeners that are remembered.
const MAX_LISTENERS: usize = 65_536;
/// Closed listeners that are kept for the children that they left.
const CLOSED_KEPT: usize = 4_096;

/// Listeners by socket cookie.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    owners: HashMap<u64, Arc<Process>>,
    closed: VecDeque<u64>,
}

impl Listeners {
    pub(super) fn opened(&mut self, cookie: u64, owner: Arc<Process>) {
        if self.owners.len() < MAX_LISTENERS || self.owners.contains_key(&cookie) {
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
