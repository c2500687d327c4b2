//! The table of open connections: who may come in, who has to go for it, and who has taken too long.
//!
//! Every decision is a pure function of what the connections do and of the time; `connection` says what they do.
use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    counts::{Counts, End},
    limits::{Bounds, STREAMS, STREAMS_PER_PEER, Timeouts},
    peer::Peer,
};
use crate::selfmetrics::HttpNumbers;

/// Time in which a request head should come, and in which a response is worth more than a newcomer.
const GRACE: Duration = Duration::from_secs(1);
/// What a connect adds to a peer's weight, which an eighth leaves at every sweep, and an open connection while it is open.
const CONNECT: u64 = 16;
/// Peers whose connects are remembered.
const PEERS: usize = 4096;
/// Whoever weighs more than so many times as much as a peer takes nothing of it that is worth something.
const RATIO: u64 = 4;
/// Weight of a scraper that connects three times a second: lighter peers lose no answer to anybody.
const LIGHT: u64 = 16 * CONNECT;
/// Time in which the end of a response reaches its reader.
const DELIVERY: Duration = Duration::from_millis(200);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A request head is due, or part of it has come.
    Reading,
    /// A response is being made or sent.
    Answering,
    /// Events are sent as they come.
    Streaming,
    /// A response is sent, and nothing of a further request has come.
    Idle,
}

/// Phase of a connection with its times.
#[derive(Clone, Copy, Debug)]
struct Activity {
    phase: Phase,
    /// Begin of the phase.
    since: Instant,
    /// Since when the peer has taken nothing, while there is something to send.
    blocked: Option<Instant>,
    /// Part of a request head came, and not all of it: most clients send it at once.
    is_partial: bool,
    /// The whole response has been made; it may not have been sent.
    is_answered: bool,
    /// Number of the document that is being sent.
    document: Option<u64>,
}

impl Activity {
    fn new(phase: Phase, since: Instant) -> Self {
        Self {
            phase,
            since,
            blocked: None,
            is_partial: false,
            is_answered: false,
            document: None,
        }
    }

    /// Why the connection has to end by now, if it has.
    fn overdue(&self, now: Instant, timeouts: &Timeouts) -> Option<End> {
        let longer = |since: Instant, limit| now.saturating_duration_since(since) > limit;
        if self.blocked.is_some_and(|since| longer(since, timeouts.write)) {
            return Some(End::WriteTimeout);
        }
        let (limit, end) = match self.phase {
            Phase::Reading => (timeouts.header, End::HeaderTimeout),
            Phase::Idle => (timeouts.idle, End::IdleTimeout),
            Phase::Answering => (timeouts.request, End::RequestTimeout),
            Phase::Streaming => return None,
        };
        longer(self.since, limit).then_some(end)
    }

    /// What it costs its peer to lose it: 0 nothing but a reconnect, 1 half a request, 2 one that is due or an answer that it
    /// is slow to take, 3 more.
    fn worth(&self, now: Instant) -> u8 {
        let long = |since: Instant| now.saturating_duration_since(since) >= GRACE;
        match self.phase {
            Phase::Idle if now.saturating_duration_since(self.since) >= DELIVERY => 0,
            Phase::Reading if long(self.since) => 0,
            Phase::Reading if self.is_partial => 1,
            Phase::Reading => 2,
            _ if self.blocked.is_some_and(long) => 2,
            // That an answer takes long to make is no fault of its reader's; the end of one may still be on its way.
            Phase::Answering | Phase::Streaming | Phase::Idle => 3,
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Entry {
    peer: Peer,
    activity: Mutex<Activity>,
    end: OnceLock<End>,
    kill: Notify,
}

impl Entry {
    fn activity(&self) -> MutexGuard<'_, Activity> {
        // Nothing that holds it can panic.
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase, now: Instant) {
        let mut activity = self.activity();
        // Further requests do not make a peer take what was sent before.
        let blocked = activity.blocked;
        *activity = Activity {
            blocked,
            ..Activity::new(phase, now)
        };
    }

    /// Bytes came.
    pub(super) fn received(&self, now: Instant) {
        if self.activity().phase == Phase::Idle {
            self.enter(Phase::Reading, now);
        }
        // If it was all of it, the next word is that.
        self.activity().is_partial = true;
    }

    /// A whole request head came.
    pub(super) fn requested(&self, now: Instant) {
        self.enter(Phase::Answering, now);
    }

    /// The response is this document.
    pub(super) fn sends(&self, document: u64) {
        self.activity().document = Some(document);
    }

    /// The whole response was made.
    pub(super) fn answered(&self) {
        self.activity().is_answered = true;
    }

    /// All that was made so far was sent.
    pub(super) fn flushed(&self, now: Instant) {
        let is_answered = self.activity().is_answered;
        if is_answered {
            self.enter(Phase::Idle, now);
        }
    }

    /// The peer took something, or did not.
    pub(super) fn wrote(&self, took: bool, now: Instant) {
        let mut activity = self.activity();
        if took {
            activity.blocked = None;
        } else if activity.blocked.is_none() {
            activity.blocked = Some(now);
        }
    }

    /// Ends the connection, with a reset; the first reason counts.
    fn kill(&self, end: End) {
        if self.end.set(end).is_ok() {
            self.kill.notify_one();
        }
    }

    /// Pending until the connection has to end.
    pub(super) async fn killed(&self) {
        self.kill.notified().await;
    }

    /// Whether the server ended it.
    pub(super) fn is_killed(&self) -> bool {
        self.end.get().is_some()
    }

    /// How it ended by itself.
    pub(super) fn ended(&self, end: End) {
        // What the server decided before counts.
        self.end.set(end).ok();
    }
}

/// All connections.
#[derive(Debug)]
pub(super) struct Table {
    state: Mutex<State>,
    timeouts: Timeouts,
    closed: Notify,
    pub(super) counts: Counts,
}

#[derive(Debug)]
struct State {
    bounds: Bounds,
    entries: Vec<Arc<Entry>>,
    per_peer: HashMap<Peer, usize>,
    /// Connects of each peer, the late ones more than the early ones.
    recent: HashMap<Peer, u64>,
}

impl Table {
    pub(super) fn new(bounds: Bounds, timeouts: Timeouts) -> Self {
        Self {
            state: Mutex::new(State {
                bounds,
                entries: Vec::new(),
                per_peer: HashMap::new(),
                recent: HashMap::new(),
            }),
            timeouts,
            closed: Notify::new(),
            counts: Counts::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a connection in, at the cost of another where there is no room; `None` when it has to be closed.
    pub(super) fn admit(self: &Arc<Self>, peer: Peer, now: Instant) -> Option<Ticket> {
        let mut state = self.state();
        let admission = state.admission(peer, now);
        state.remember(peer);
        match admission {
            Admission::Free => {}
            Admission::Instead(victim) => victim.kill(End::Evicted),
            Admission::Refused(end) => {
                self.counts.ended(end);
                return None;
            }
        }
        let entry = Arc::new(Entry {
            peer,
            activity: Mutex::new(Activity::new(Phase::Reading, now)),
            end: OnceLock::new(),
            kill: Notify::new(),
        });
        state.entries.push(Arc::clone(&entry));
        *state.per_peer.entry(peer).or_default() += 1;
        Some(Ticket {
            table: Arc::clone(self),
            entry,
        })
    }

    /// Pending while more connections are open than there may be: those that have to go need a moment.
    pub(super) async fn room(&self) {
        loop {
            let closed = self.closed.notified();
            {
                let state = self.state();
                if state.entries.len() <= state.bounds.connections {
                    return;
                }
            }
            closed.await;
        }
    }

    /// Connections that are open.
    pub(super) fn open(&self) -> usize {
        self.state().entries.len()
    }

    /// Makes room when a descriptor was refused.
    pub(super) fn evict_one(&self, now: Instant) {
        let state = self.state();
        if let Some(victim) = state.victim(Peer::Loopback, now) {
            victim.kill(End::Evicted);
        }
    }

    /// Ends what has taken too long, and what is beyond `bounds` from now on.
    pub(super) fn sweep(&self, bounds: Bounds, now: Instant) {
        let mut state = self.state();
        state.bounds = bounds;
        state.recent.retain(|_, recent| {
            *recent = *recent * 7 / 8;
            *recent > 0
        });
        for entry in &state.entries {
            let overdue = entry.activity().overdue(now, &self.timeouts);
            if let Some(end) = overdue {
                entry.kill(end);
            }
        }
        let live = state.live().count();
        for _ in bounds.connections..live {
            if let Some(victim) = state.victim(Peer::Loopback, now) {
                victim.kill(End::Evicted);
            }
        }
    }

    /// Ends the connections that have not taken this document yet.
    pub(super) fn revoke(&self, document: u64) {
        for entry in &self.state().entries {
            let is_sent = entry.activity().document == Some(document);
            if is_sent {
                entry.kill(End::Evicted);
            }
        }
    }

    /// Makes this connection a stream; false when there are too many.
    pub(super) fn stream(&self, entry: &Entry, now: Instant) -> bool {
        let state = self.state();
        let streams = || state.live().filter(|other| other.activity().phase == Phase::Streaming);
        let of_peer = streams().filter(|other| other.peer == entry.peer).count();
        let too_many_of_peer = entry.peer != Peer::Loopback && of_peer >= STREAMS_PER_PEER;
        if streams().count() >= STREAMS || too_many_of_peer {
            return false;
        }
        entry.enter(Phase::Streaming, now);
        true
    }

    /// Connections that the server ended or refused, since the start.
    pub(super) fn forced(&self) -> u64 {
        self.counts.forced()
    }

    /// What a scrape shows.
    pub(super) fn numbers(&self) -> HttpNumbers {
        let state = self.state();
        self.counts.numbers(state.entries.len(), state.bounds.connections)
    }

    fn remove(&self, entry: &Arc<Entry>) {
        let mut state = self.state();
        state.entries.retain(|other| !Arc::ptr_eq(other, entry));
        if let Some(count) = state.per_peer.get_mut(&entry.peer) {
            *count -= 1;
            if *count == 0 {
                state.per_peer.remove(&entry.peer);
            }
        }
        drop(state);
        self.counts.ended(entry.end.get().copied().unwrap_or(End::Aborted));
        self.closed.notify_one();
    }
}

/// What becomes of a newcomer.
#[derive(Debug)]
enum Admission {
    Free,
    Instead(Arc<Entry>),
    Refused(End),
}

impl State {
    /// Connections that are not about to go.
    fn live(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.iter().filter(|entry| !entry.is_killed())
    }

    fn admission(&self, peer: Peer, now: Instant) -> Admission {
        let own = || self.live().filter(|entry| entry.peer == peer);
        if peer != Peer::Loopback && own().count() >= self.bounds.per_peer {
            // The newest is the likeliest to be of use: the others may have lost their way back.
            let candidates = own().filter_map(|entry| {
                let activity = *entry.activity();
                let worth = activity.worth(now);
                (worth < 3).then_some(((worth, activity.since), entry))
            });
            let oldest = candidates.min_by_key(|(order, _)| *order);
            return oldest.map_or(Admission::Refused(End::PeerLimit), |(_, entry)| {
                Admission::Instead(Arc::clone(entry))
            });
        }
        if self.live().count() < self.bounds.connections {
            return Admission::Free;
        }
        match self.victim(peer, now) {
            Some(victim) => Admission::Instead(Arc::clone(victim)),
            None => Admission::Refused(End::Full),
        }
    }

    fn remember(&mut self, peer: Peer) {
        if self.recent.len() < PEERS || self.recent.contains_key(&peer) {
            *self.recent.entry(peer).or_default() += CONNECT;
        }
    }

    /// Who has many connections, or makes many, gives first. This machine comes before others in half of the table.
    fn weight(&self, peer: Peer) -> u64 {
        let open = self.open_of(peer);
        match peer {
            Peer::Loopback if open > self.bounds.connections / 2 => u64::MAX >> 8,
            Peer::Loopback => 0,
            _ => self.recent.get(&peer).copied().unwrap_or_default() + open as u64 * CONNECT,
        }
    }

    /// The connection that goes when one of `newcomer` comes: first what is worth nothing, then whatever peers have that weigh
    /// much more than the newcomer, then half a request or one that is due, of the peer with most, the oldest.
    fn victim(&self, newcomer: Peer, now: Instant) -> Option<&Arc<Entry>> {
        let claim = self.weight(newcomer);
        let candidates = self.live().filter_map(|entry| {
            let activity = *entry.activity();
            let (weight, worth) = (self.weight(entry.peer), activity.worth(now));
            let is_heavy = weight > claim * RATIO + LIGHT;
            let may_go = match worth {
                0 => weight > 0 || entry.peer == newcomer,
                1 | 2 => weight > 0 && weight * RATIO >= claim || entry.peer == newcomer,
                _ => is_heavy,
            };
            let (rank, load) = match worth {
                0 => (0, 0),
                _ if is_heavy => (1, weight),
                worth if weight == 0 => (1 + worth, 0),
                worth => (1 + worth, self.open_of(entry.peer) as u64),
            };
            may_go.then_some(((rank, Reverse(load), worth, activity.since), entry))
        });
        candidates.min_by_key(|(order, _)| *order).map(|(_, entry)| entry)
    }

    fn open_of(&self, peer: Peer) -> usize {
        self.per_peer.get(&peer).copied().unwrap_or_default()
    }
}

/// A place in the table, given back when dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    table: Arc<Table>,
    pub(super) entry: Arc<Entry>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.table.remove(&self.entry);
    }
}

#[cfg(test)]
mod tests;
