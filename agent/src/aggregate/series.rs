//! Destinations and their numbers under a hard budget of time series.
//!
//! A destination gets a name while there is room for a usual one; each of its time series is admitted when it first has
//! data. What finds no room is counted under `other`, whose own room is set aside from the start. Names are given first
//! come, first served, and come free again when a destination leaves after two idle hours.
use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::{
    child::{Child, Family, closed_by_index},
    counters::{Counters, Ended, Retransmit},
    sketch::Sketch,
    snapshot::{DestinationSnapshot, FamilyCounts, Labels, NameSource, Snapshot, Totals},
};
use crate::connection::{ClosedBy, Outcome, Role, RttWindow, TcpState};

/// A destination leaves when nothing was counted for this long and nothing is open.
const IDLE_NS: u64 = 2 * 3_600 * 1_000_000_000;
/// Length of the window of `hopline_tcp_rtt_min_seconds`.
const RTT_WINDOW_NS: u64 = 5_000_000_000;
/// Time series of a usual destination: both histograms and one or two of each other family.
const USUAL_SERIES: usize = 2 * Family::Rtt.series() + 10;
/// Time series set aside for `other`.
const OTHER_SERIES: usize = Role::ALL.len() * Child::ALL_SERIES;

/// A destination's place in [`Series`]. Valid while somebody holds it: see [`Series::hold`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DestinationId(u32);

/// What a destination is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// By its address.
    Address(IpAddr),
    /// By the process that listens.
    Process(Arc<str>),
}

/// What tells destinations apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DestinationKey {
    /// Which side was observed.
    pub role: Role,
    /// The name.
    pub name: Name,
    /// The remote port; for a server the listening port.
    pub port: u16,
}

/// One destination.
#[derive(Debug)]
struct Destination {
    /// `None` for `other`.
    key: Option<DestinationKey>,
    role: Role,
    /// Bits of the admitted children.
    children: u64,
    counters: Counters,
    active: [u64; TcpState::ALL.len()],
    /// Open connections that refer to it.
    held: u32,
    last_used_ns: u64,
    handshake: Sketch,
    rtt: Sketch,
    rtt_min: RttMin,
}

/// Smallest RTT of the running window and of the last one with samples, microseconds.
#[derive(Clone, Copy, Debug, Default)]
struct RttMin {
    window: u64,
    running_us: Option<u32>,
    last_us: Option<u32>,
}

/// All destinations.
#[derive(Debug)]
pub struct Series {
    /// Freed places are empty; the first ones are `other`, by role.
    slots: Vec<Option<Destination>>,
    free: Vec<u32>,
    by_key: HashMap<DestinationKey, DestinationId>,
    /// Time series that may be had, and that are had, without those of `other`.
    budget: usize,
    used: usize,
    families: [FamilyCounts; Family::ALL.len()],
    truth: [Counters; Role::ALL.len()],
    expired: [Counters; Role::ALL.len()],
}

impl Series {
    /// At most `max_series` time series, `other` included.
    pub fn new(max_series: usize) -> Self {
        Self {
            slots: Role::ALL.map(|role| Some(Destination::new(None, role, 0))).into(),
            free: Vec::new(),
            by_key: HashMap::new(),
            budget: max_series.saturating_sub(OTHER_SERIES),
            used: 0,
            families: Default::default(),
            truth: Default::default(),
            expired: Default::default(),
        }
    }

    /// Finds a destination, or gives it a name while there is room.
    pub fn destination(&mut self, key: DestinationKey, now_ns: u64) -> DestinationId {
        if let Some(id) = self.by_key.get(&key) {
            return *id;
        }
        if self.used + USUAL_SERIES > self.budget {
            return other(key.role);
        }
        let destination = Some(Destination::new(Some(key.clone()), key.role, now_ns));
        let id = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = destination;
            DestinationId(slot)
        } else {
            self.slots.push(destination);
            DestinationId((self.slots.len() - 1) as u32)
        };
        self.by_key.insert(key, id);
        id
    }

    /// A connection refers to it from now on: it stays until [`Self::release`].
    pub fn hold(&mut self, id: DestinationId) {
        self.get_mut(id).held += 1;
    }

    /// A connection no longer refers to it.
    pub fn release(&mut self, id: DestinationId) {
        let held = &mut self.get_mut(id).held;
        *held = held.saturating_sub(1);
    }

    /// A connect has succeeded or failed.
    pub fn connected(&mut self, id: DestinationId, outcome: Outcome, now_ns: u64) {
        self.count(id, Child::Connections(outcome), now_ns, |counters| {
            counters.connections[outcome as usize] += 1;
        });
    }

    /// The handshake of a connection took this long.
    pub fn handshake(&mut self, id: DestinationId, duration_ns: u64, now_ns: u64) {
        let id = self.count(id, Child::Handshake, now_ns, |counters| {
            counters.handshake.observe(duration_ns);
        });
        self.get_mut(id).handshake.observe(duration_ns);
    }

    /// RTT samples came.
    pub fn rtt(&mut self, id: DestinationId, window: RttWindow, now_ns: u64) {
        let histogram = self.count(id, Child::Rtt, now_ns, |counters| counters.rtt.observe(window.mean_ns));
        self.get_mut(histogram).rtt.observe(window.mean_ns);
        let gauge = self.child(id, Child::RttMin);
        self.get_mut(gauge).rtt_min.sample(window.min_us, now_ns);
    }

    /// Segments were sent again.
    pub fn retransmitted(&mut self, id: DestinationId, kind: Retransmit, segments: u64, now_ns: u64) {
        if segments > 0 {
            let add = |counters: &mut Counters| counters.retransmits[kind as usize] += segments;
            self.count(id, Child::Retransmits(kind), now_ns, add);
        }
    }

    /// Payload passed.
    pub fn bytes(&mut self, id: DestinationId, sent: u64, received: u64, now_ns: u64) {
        if sent > 0 || received > 0 {
            self.count(id, Child::Bytes, now_ns, |counters| {
                counters.bytes_sent = counters.bytes_sent.saturating_add(sent);
                counters.bytes_received = counters.bytes_received.saturating_add(received);
            });
        }
    }

    /// Segments passed.
    pub fn segments(&mut self, id: DestinationId, sent: u64, received: u64, now_ns: u64) {
        if sent > 0 || received > 0 {
            self.count(id, Child::Segments, now_ns, |counters| {
                counters.segments_sent += sent;
                counters.segments_received += received;
            });
        }
    }

    /// A connection ended.
    pub fn ended(&mut self, id: DestinationId, ended: Ended, by: Option<ClosedBy>, now_ns: u64) {
        self.count(id, Child::Ended(ended, by), now_ns, |counters| {
            counters.ended[ended as usize][closed_by_index(by)] += 1;
        });
    }

    /// A connection is in this state from now on. Returns where the gauge was raised, for [`Self::leave`].
    pub fn enter(&mut self, id: DestinationId, state: TcpState) -> DestinationId {
        let id = self.child(id, Child::Active(state));
        let destination = self.get_mut(id);
        destination.active[state as usize] += 1;
        destination.held += 1;
        id
    }

    /// A connection has left the state that it entered there.
    pub fn leave(&mut self, id: DestinationId, state: TcpState) {
        let destination = self.get_mut(id);
        destination.active[state as usize] = destination.active[state as usize].saturating_sub(1);
        self.release(id);
    }

    /// Connections of this destination wait: its gauge needs room.
    pub fn waits(&mut self, id: DestinationId) {
        self.child(id, Child::Waiting);
    }

    /// Lets idle destinations go; their sums stay in the totals.
    pub fn expire(&mut self, now_ns: u64) {
        for slot in Role::ALL.len()..self.slots.len() {
            let idle = self.slots[slot].as_ref().is_some_and(|destination| {
                destination.held == 0 && now_ns.saturating_sub(destination.last_used_ns) >= IDLE_NS
            });
            if idle && let Some(destination) = self.slots[slot].take() {
                self.expired[destination.role as usize].add(&destination.counters);
                for child in Child::all().filter(|child| destination.children & child.bit() != 0) {
                    self.families[child.family() as usize].series -= child.series() as u64;
                    self.used -= child.series();
                }
                if let Some(key) = &destination.key {
                    self.by_key.remove(key);
                }
                self.free.push(slot as u32);
            }
        }
    }

    /// A picture of everything. `waiting` tells each destination with waiting connects and since when each waits.
    pub fn snapshot(&self, waiting: &[(DestinationId, u64)], now_ns: u64) -> Snapshot {
        let mut totals: [Totals; Role::ALL.len()] = Default::default();
        for role in Role::ALL {
            let totals = &mut totals[role as usize];
            totals.truth = self.truth[role as usize].clone();
            totals.expired = self.expired[role as usize].clone();
            self.slots
                .iter()
                .flatten()
                .filter(|slot| slot.role == role)
                .for_each(|slot| totals.series.add(&slot.counters));
        }
        let mut waits: HashMap<DestinationId, (u64, u64)> = HashMap::new();
        for (id, since_ns) in waiting {
            let id = if self.get(*id).children & Child::Waiting.bit() != 0 {
                *id
            } else {
                other(self.get(*id).role)
            };
            let (count, longest_ns) = waits.entry(id).or_default();
            *count += 1;
            *longest_ns = (*longest_ns).max(now_ns.saturating_sub(*since_ns));
        }
        let mut destinations: Vec<DestinationSnapshot> = Vec::with_capacity(self.slots.len());
        for (slot, destination) in self.slots.iter().enumerate() {
            if let Some(destination) = destination.as_ref().filter(|destination| destination.children != 0) {
                let waits = waits.get(&DestinationId(slot as u32)).copied().unwrap_or_default();
                destinations.push(destination.snapshot(waits));
            }
        }
        destinations.sort_by(|a, b| {
            let order = |destination: &DestinationSnapshot| {
                (
                    destination.source == NameSource::Other,
                    std::cmp::Reverse(destination.counters.connects()),
                )
            };
            order(a)
                .cmp(&order(b))
                .then_with(|| a.labels.destination.cmp(&b.labels.destination))
        });
        Snapshot {
            destinations: destinations.into(),
            totals,
            families: self.families,
            ..Snapshot::default()
        }
    }

    /// Counts in the truth and at the destination, or at `other` when there is no room; returns where.
    fn count(&mut self, id: DestinationId, child: Child, now_ns: u64, add: impl Fn(&mut Counters)) -> DestinationId {
        let id = self.child(id, child);
        let destination = self.get_mut(id);
        let (role, folded) = (destination.role, destination.key.is_none());
        destination.last_used_ns = now_ns;
        add(&mut destination.counters);
        add(&mut self.truth[role as usize]);
        self.families[child.family() as usize].folded += u64::from(folded);
        id
    }

    /// Where this child's data goes: to the destination while it has room, else to `other`.
    fn child(&mut self, id: DestinationId, child: Child) -> DestinationId {
        let destination = self.get(id);
        if destination.children & child.bit() != 0 {
            return id;
        }
        // The room of `other` is set aside.
        if destination.key.is_some() {
            if self.used + child.series() > self.budget {
                return self.child(other(destination.role), child);
            }
            self.used += child.series();
        }
        self.families[child.family() as usize].series += child.series() as u64;
        self.get_mut(id).children |= child.bit();
        id
    }

    fn get(&self, id: DestinationId) -> &Destination {
        self.slots[id.0 as usize].as_ref().expect("a held destination stays")
    }

    fn get_mut(&mut self, id: DestinationId) -> &mut Destination {
        self.slots[id.0 as usize].as_mut().expect("a held destination stays")
    }
}

/// Where what finds no room is counted.
fn other(role: Role) -> DestinationId {
    DestinationId(role as u32)
}

impl Destination {
    fn new(key: Option<DestinationKey>, role: Role, now_ns: u64) -> Self {
        Self {
            key,
            role,
            children: 0,
            counters: Counters::default(),
            active: [0; TcpState::ALL.len()],
            held: 0,
            last_used_ns: now_ns,
            handshake: Sketch::default(),
            rtt: Sketch::default(),
            rtt_min: RttMin::default(),
        }
    }

    fn snapshot(&self, (waiting, longest_wait_ns): (u64, u64)) -> DestinationSnapshot {
        let (destination, port, source) = match &self.key {
            None => ("other".into(), None, NameSource::Other),
            Some(DestinationKey {
                name: Name::Address(address),
                port,
                ..
            }) => (address.to_string().into(), Some(*port), NameSource::Ip),
            Some(DestinationKey {
                name: Name::Process(comm),
                port,
                ..
            }) => (Arc::clone(comm), Some(*port), NameSource::Process),
        };
        let none: Arc<str> = Arc::default();
        let labels = Labels {
            destination,
            port,
            group: Arc::clone(&none),
            source_namespace: Arc::clone(&none),
            source_workload: none,
        };
        DestinationSnapshot {
            role: self.role,
            labels,
            source,
            children: self.children,
            counters: self.counters.clone(),
            active: self.active,
            waiting,
            longest_wait_ns,
            handshake: self.handshake.quantiles(),
            rtt: self.rtt.quantiles(),
            rtt_min_us: self.rtt_min.last_us.or(self.rtt_min.running_us),
        }
    }
}

impl RttMin {
    fn sample(&mut self, min_us: u32, now_ns: u64) {
        let window = now_ns / RTT_WINDOW_NS;
        if window != self.window {
            self.last_us = self.running_us.take().or(self.last_us);
            self.window = window;
        }
        self.running_us = Some(self.running_us.map_or(min_us, |running_us| running_us.min(min_us)));
    }
}
