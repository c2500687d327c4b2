//! RTT samples that come apart from their connection's snapshots.
use std::collections::HashMap;

use agent_ebpf::rtt::RttEvent;

use super::{Pipeline, progress};
use crate::capacity::TableUse;

/// Connections whose samples wait for them.
const MOST: usize = 4_096;
/// A CLOSE follows its samples at once.
const KEPT_NS: u64 = 10_000_000_000;

/// The latest samples of connections that have no name yet, or no place in the table: counts are sums since the begin,
/// so that the latest tells all.
#[derive(Debug, Default)]
pub(super) struct Unplaced {
    by_cookie: HashMap<u64, Box<RttEvent>>,
    dropped: u64,
}

impl Unplaced {
    fn keep(&mut self, event: &RttEvent) {
        if let Some(known) = self.by_cookie.get_mut(&event.cookie) {
            **known = *event;
        } else if self.by_cookie.len() < MOST {
            self.by_cookie.insert(event.cookie, Box::new(*event));
        } else {
            self.dropped += 1;
        }
    }

    /// The samples of a connection that has its place now.
    pub(super) fn take(&mut self, cookie: u64) -> Option<Box<RttEvent>> {
        // Asked for every snapshot of every connection.
        if self.by_cookie.is_empty() {
            return None;
        }
        self.by_cookie.remove(&cookie)
    }

    /// Forgets what nobody came for; connections that are followed will, once they are told of again.
    pub(super) fn expire(&mut self, now_ns: u64, is_followed: impl Fn(u64) -> bool) {
        let before = self.by_cookie.len();
        self.by_cookie
            .retain(|cookie, event| now_ns.saturating_sub(event.header.time_ns) < KEPT_NS || is_followed(*cookie));
        self.dropped += (before - self.by_cookie.len()) as u64;
    }

    pub(super) fn usage(&self) -> TableUse {
        TableUse::new("rtt_unplaced", self.by_cookie.len(), MOST)
    }

    /// Reports that came to nothing.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Pipeline {
    /// The samples of a connection that has lived for a while.
    pub(super) fn rtt(&mut self, event: &RttEvent) {
        match self.connections.get_mut(event.cookie) {
            Some(entry) if entry.attached.named => {
                progress::count_rtt(&mut self.series, &mut entry.attached, &entry.state.state(), event);
                if entry.attached.is_newly_watched() {
                    self.watch.touched.push(event.cookie);
                }
            }
            _ => self.unplaced_rtt.keep(event),
        }
    }
}
