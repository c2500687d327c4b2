//! Subflows that were added to an MPTCP connection: they belong to the destination of the first one, which alone said a name.
//!
//! Fed by `follow`, which asks for the name when it first hears of a subflow and until it has one.
use std::collections::{HashMap, VecDeque};

use agent_ebpf::connection::{ConnectionState, FLAG_MPTCP, ROLE_CLIENT};

use super::{Attached, talk::Claim};
use crate::{
    capacity::{Share, TableUse},
    connection::Table,
};

/// Ended first subflows whose names are kept: all subflows of a connection end at about the same time, in any order.
const KEPT: usize = 1_024;

/// What a connection has its name from.
#[derive(Debug)]
pub(super) enum Parent {
    /// Itself: it is no joined subflow.
    Itself,
    /// The first subflow, which has no name yet, or was never heard of.
    Unnamed,
    /// The first subflow, which has this name, or none and goes by its address.
    Named(Option<Claim>),
}

/// Names of first subflows that have ended; those of open ones are in the table of connections.
#[derive(Debug)]
pub(super) struct Subflows {
    limit: usize,
    claims: HashMap<u64, Option<Claim>>,
    /// The oldest first.
    order: VecDeque<u64>,
}

impl Subflows {
    pub(super) fn new(share: Share) -> Self {
        Self {
            limit: share.of(KEPT),
            claims: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    pub(super) fn parent(&self, state: &ConnectionState, connections: &Table<Attached>) -> Parent {
        if !is_joined(state) {
            return Parent::Itself;
        }
        let first = state.listener_cookie;
        if let Some(entry) = connections.get(first) {
            let attached = &entry.attached;
            return if attached.named {
                Parent::Named(attached.claim.clone())
            } else {
                Parent::Unnamed
            };
        }
        self.claims
            .get(&first)
            .map_or(Parent::Unnamed, |claim| Parent::Named(claim.clone()))
    }

    /// A connection has ended under this name: its other subflows may be heard of later.
    pub(super) fn ended(&mut self, state: &ConnectionState, claim: Option<&Claim>) {
        if !is_client(state) || is_joined(state) {
            return;
        }
        if self.claims.insert(state.cookie, claim.cloned()).is_none() {
            self.order.push_back(state.cookie);
        }
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.claims.remove(&oldest);
        }
    }

    pub(super) fn usage(&self) -> TableUse {
        TableUse::new("mptcp_connections", self.claims.len(), self.limit)
    }
}

/// Whether it was added to an MPTCP connection of this side's.
pub(super) fn is_joined(state: &ConnectionState) -> bool {
    is_client(state) && state.listener_cookie != 0
}

fn is_client(state: &ConnectionState) -> bool {
    state.role == ROLE_CLIENT && state.flags & FLAG_MPTCP != 0
}
