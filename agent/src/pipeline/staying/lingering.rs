//! Connections that this side has closed: what the kernel keeps of them for a while has their cookie and nothing of their
//! owner, so it is remembered here what they belonged to.
use std::collections::{HashMap, HashSet};

use agent_ebpf::connection::ConnectionState;

use crate::{
    aggregate::DestinationId,
    capacity::{Share, TableUse},
};

/// Most closed connections that are remembered; more than a kernel keeps unless it is told to.
const MOST: usize = 131_072;
/// The kernel keeps `TIME_WAIT` for 60 s, and an end without owner in `FIN_WAIT2` for as long before it.
const KEEP_NS: u64 = 130_000_000_000;

/// What is remembered of one.
#[derive(Clone, Copy, Debug)]
struct One {
    destination: DestinationId,
    netns: u32,
    closed_ns: u64,
}

/// Closed connections by cookie.
#[derive(Debug)]
pub(super) struct Closed {
    limit: usize,
    by_cookie: HashMap<u64, One>,
    refused: u64,
}

impl Closed {
    pub(super) fn new(share: Share) -> Self {
        Self {
            limit: share.of(MOST),
            by_cookie: HashMap::new(),
            refused: 0,
        }
    }

    pub(super) fn usage(&self) -> TableUse {
        TableUse::new("closed_connections", self.by_cookie.len(), self.limit)
    }

    /// This side has closed a connection.
    pub(super) fn add(&mut self, state: &ConnectionState, destination: DestinationId) {
        if self.by_cookie.len() >= self.limit {
            self.refused += 1;
            return;
        }
        let one = One {
            destination,
            netns: state.netns,
            closed_ns: state.closed_ns,
        };
        self.by_cookie.insert(state.cookie, one);
    }

    /// What a closed connection belonged to.
    pub(super) fn find(&self, cookie: u64) -> Option<DestinationId> {
        self.by_cookie.get(&cookie).map(|one| one.destination)
    }

    /// Namespaces in which something may linger.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = u32> + '_ {
        self.by_cookie.values().map(|one| one.netns)
    }

    /// A sweep of these namespaces, begun then, has found no more than these.
    pub(super) fn swept(&mut self, namespaces: &HashSet<u32>, started_ns: u64, found: &HashSet<u64>) {
        self.by_cookie.retain(|cookie, one| {
            !namespaces.contains(&one.netns) || one.closed_ns >= started_ns || found.contains(cookie)
        });
    }

    /// Lets go of what cannot be there any more.
    pub(super) fn expire(&mut self, now_ns: u64) {
        self.by_cookie
            .retain(|_, one| now_ns.saturating_sub(one.closed_ns) < KEEP_NS);
    }

    /// How many found no room.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }
}
