//! Observations, each counted once: at its destination, or under `other` when that has no name or no room for it.
//!
//! Who has a name is decided in `budget`. `truth` counts everything a second time, independently of that.
mod windows;

use std::{collections::HashMap, sync::Arc};

use super::{
    budget::Slow,
    child::{Child, Family, closed_by_index},
    counters::{Counters, Ended, GaveUp, HttpStatus, Retransmit},
    destination::{DestinationId, DestinationKey, Entry, Named, Waits},
    groups::GroupWindows,
    histogram::Histogram,
    snapshot::{DestinationSnapshot, FamilyCounts, NameSource, Snapshot, Totals, without_role},
    tls::{TlsFailure, TlsVersion},
};
use crate::{
    connection::{ClosedBy, ConnectError, Outcome, Phase, Role, RttWindow, TcpState},
    windows::Measure,
    workloads::Workload,
};

/// What an observation adds to a destination's score: a connection is 1.
mod weight {
    /// It shows that there is data, no more.
    pub(super) const NOTHING: f32 = 0.0;
    /// An exchange within a connection.
    pub(super) const EXCHANGE: f32 = 0.1;
    /// A connection.
    pub(super) const CONNECTION: f32 = 1.0;
    /// A connection waits, once a tick.
    pub(super) const WAITS: f32 = 1.0;
    /// A segment was sent again.
    pub(super) const RETRANSMIT: f32 = 2.0;
    /// A phase took longer than at nearly all others.
    pub(super) const SLOW: f32 = 2.0;
    /// A connect or a handshake failed.
    pub(super) const FAILURE: f32 = 8.0;
}

/// Segments that one report can add to a score: one bad connection is no more trouble than that.
const MOST_RETRANSMITS: u64 = 8;

/// A place for an entry.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) entry: Option<Entry>,
}

/// All destinations.
#[derive(Debug)]
pub struct Series {
    /// The first ones are `other`, by role.
    pub(super) slots: Vec<Slot>,
    pub(super) free: Vec<u32>,
    pub(super) by_key: HashMap<DestinationKey, u32>,
    /// Entries with and without a name, `other` not among them.
    pub(super) named: usize,
    pub(super) candidates: usize,
    /// Where the last candidate was given up.
    pub(super) hand: usize,
    /// Time series that may be had, and that are had, without those of `other`.
    pub(super) budget: usize,
    pub(super) used: usize,
    pub(super) used_by: HashMap<Arc<Workload>, usize>,
    pub(super) families: [FamilyCounts; Family::ALL.len()],
    pub(super) truth: [Counters; Role::ALL.len()],
    pub(super) expired: [Counters; Role::ALL.len()],
    /// From where on a phase is slow, by role.
    pub(super) slow: [Slow; Role::ALL.len()],
    pub(super) balanced_ns: u64,
    pub(super) groups: GroupWindows,
    /// The slot of the windows that counts now.
    pub(super) slot: u64,
}

impl Series {
    /// A connection refers to it from now on: it does not expire until [`Self::release`].
    pub fn hold(&mut self, id: DestinationId) {
        if let Some(entry) = self.entry_mut(id) {
            entry.held += 1;
        }
    }

    /// A connection no longer refers to it.
    pub fn release(&mut self, id: DestinationId) {
        if let Some(entry) = self.entry_mut(id) {
            entry.held = entry.held.saturating_sub(1);
        }
    }

    /// A connection that held `from` refers to `to` from now on; what was counted stays where it is.
    pub fn rename(&mut self, from: DestinationId, to: DestinationId) {
        self.hold(to);
        self.release(from);
    }

    /// A connect has succeeded or failed.
    pub fn connected(&mut self, id: DestinationId, error: Option<ConnectError>, now_ns: u64) {
        let weight = match error {
            None => weight::CONNECTION,
            Some(_) => weight::FAILURE,
        };
        self.count(id, Child::Connections(error), weight, now_ns, |counters| {
            counters.connections[ConnectError::index(error)] += 1;
        });
        if error.is_none() {
            self.count_in_window(id, |counts| counts.connects += 1);
        }
    }

    /// The TCP handshake of a connection took this long.
    pub fn handshake(&mut self, id: DestinationId, duration_ns: u64, now_ns: u64) {
        let weight = slowness(duration_ns, self.slow_of(id).handshake_ns);
        self.observe(
            id,
            Child::Handshake,
            weight,
            now_ns,
            (Measure::Tcp, duration_ns),
            |counters| {
                counters.handshake.observe(duration_ns);
            },
        );
    }

    /// The TLS handshake of a connection has ended well; `duration_ns` is known unless its start was missed.
    pub fn tls_handshake(
        &mut self,
        id: DestinationId,
        version: TlsVersion,
        resumed: bool,
        duration_ns: Option<u64>,
        now_ns: u64,
    ) {
        let child = Child::TlsHandshakes(version, resumed);
        self.count(id, child, weight::NOTHING, now_ns, |counters| {
            let handshakes = counters.tls_handshakes.get_or_insert_default();
            handshakes[version as usize][usize::from(resumed)] += 1;
        });
        if let Some(duration_ns) = duration_ns {
            let weight = slowness(duration_ns, self.slow_of(id).tls_ns);
            self.observe(
                id,
                Child::Tls,
                weight,
                now_ns,
                (Measure::Tls, duration_ns),
                |counters| {
                    observe(&mut counters.tls, duration_ns);
                },
            );
        }
    }

    /// The TLS handshake of a connection failed.
    pub fn tls_failed(&mut self, id: DestinationId, failure: TlsFailure, now_ns: u64) {
        self.count(id, Child::TlsFailures(failure), weight::FAILURE, now_ns, |counters| {
            counters.failures_mut()[failure.index()] += 1;
        });
    }

    /// A request had no answer when one side gave up, after so long.
    pub fn unanswered(&mut self, id: DestinationId, by: GaveUp, waited_ns: u64, now_ns: u64) {
        self.count(id, Child::Unanswered(by), weight::FAILURE, now_ns, |counters| {
            observe(&mut counters.unanswered[by as usize], waited_ns);
        });
    }

    /// The first answer of a connection came this long after its request.
    pub fn ttfb(&mut self, id: DestinationId, duration_ns: u64, now_ns: u64) {
        let weight = weight::EXCHANGE + slowness(duration_ns, self.slow_of(id).ttfb_ns);
        self.observe(
            id,
            Child::Ttfb,
            weight,
            now_ns,
            (Measure::Ttfb, duration_ns),
            |counters| {
                observe(&mut counters.ttfb, duration_ns);
            },
        );
    }

    /// The first answer of a connection could not be told from what is none.
    pub fn ttfb_ambiguous(&mut self, id: DestinationId, now_ns: u64) {
        self.count(id, Child::TtfbAmbiguous, weight::EXCHANGE, now_ns, |counters| {
            counters.ttfb_ambiguous += 1;
        });
    }

    /// A later answer came this long after its request.
    pub fn turn(&mut self, id: DestinationId, duration_ns: u64, now_ns: u64) {
        let weight = weight::EXCHANGE + slowness(duration_ns, self.slow_of(id).turn_ns);
        self.observe(
            id,
            Child::Turn,
            weight,
            now_ns,
            (Measure::Turn, duration_ns),
            |counters| {
                observe(&mut counters.turn, duration_ns);
            },
        );
    }

    /// Exchanges overlapped and were not timed.
    pub fn turns_overlapped(&mut self, id: DestinationId, turns: u64, now_ns: u64) {
        if turns > 0 {
            self.count(id, Child::TurnsOverlapping, weight::EXCHANGE, now_ns, |counters| {
                counters.turns_overlapping += turns;
            });
        }
    }

    /// A final response in cleartext HTTP/1.
    pub fn http_response(&mut self, id: DestinationId, status: HttpStatus, now_ns: u64) {
        self.count(id, Child::HttpResponses(status), weight::NOTHING, now_ns, |counters| {
            counters.http_responses[status.index()] += 1;
        });
    }

    /// RTT samples came.
    pub fn rtt(&mut self, id: DestinationId, window: &RttWindow, now_ns: u64) {
        let weight = slowness(window.mean_ns, self.slow_of(id).rtt_ns);
        self.count(id, Child::Rtt, weight, now_ns, |counters| {
            for (value_ns, count) in window.samples() {
                counters.rtt.observe_many(value_ns, count.into());
            }
            counters.delayed_acks += u64::from(window.delayed_acks);
        });
        for (value_ns, count) in window.samples() {
            self.rtt_samples(id, value_ns, count);
        }
        let gauge = self.admit(id, Child::RttMin);
        let (min_ns, slot) = (u64::from(window.min_us) * 1_000, self.slot);
        self.named_mut(gauge).windows.rtt_min(min_ns, slot);
        if let Some(group) = self.group_of(id) {
            self.groups.rtt_min(&group, min_ns, slot);
        }
        let gauge = self.admit(id, Child::RttJitter);
        let jitter = &mut self.named_mut(gauge).rtt_jitter;
        jitter.sample(window.rttvar_us, now_ns);
        jitter.srtt_us = window.srtt_us.or(jitter.srtt_us);
    }

    /// Segments were sent again.
    pub fn retransmitted(&mut self, id: DestinationId, kind: Retransmit, segments: u64, now_ns: u64) {
        if segments > 0 {
            let weight = weight::RETRANSMIT * segments.min(MOST_RETRANSMITS) as f32;
            self.count(id, Child::Retransmits(kind), weight, now_ns, |counters| {
                counters.retransmits[kind as usize] += segments;
            });
            self.count_in_window(id, |counts| counts.retransmits += segments);
        }
    }

    /// Payload passed.
    pub fn bytes(&mut self, id: DestinationId, sent: u64, received: u64, now_ns: u64) {
        if sent > 0 || received > 0 {
            self.count(id, Child::Bytes, weight::NOTHING, now_ns, |counters| {
                counters.bytes_sent = counters.bytes_sent.saturating_add(sent);
                counters.bytes_received = counters.bytes_received.saturating_add(received);
            });
        }
    }

    /// Segments passed.
    pub fn segments(&mut self, id: DestinationId, sent: u64, received: u64, now_ns: u64) {
        if sent > 0 || received > 0 {
            self.count(id, Child::Segments, weight::NOTHING, now_ns, |counters| {
                counters.segments_sent += sent;
                counters.segments_received += received;
            });
            self.count_in_window(id, |counts| counts.segments_sent += sent);
        }
    }

    /// A connection ended, with this outcome.
    pub fn ended(&mut self, id: DestinationId, ended: Ended, by: Option<ClosedBy>, outcome: Outcome, now_ns: u64) {
        self.count(id, Child::Ended(ended, by), weight::NOTHING, now_ns, |counters| {
            counters.ended[ended as usize][closed_by_index(by)] += 1;
            counters.outcomes[outcome as usize] += 1;
        });
        self.count_in_window(id, |counts| match outcome {
            Outcome::Ok => counts.ok += 1,
            _ => counts.failures += 1,
        });
    }

    /// A connection is in this state from now on. Returns where the gauge was raised, for [`Self::leave`].
    pub fn enter(&mut self, id: DestinationId, state: TcpState) -> DestinationId {
        self.raise(id, state, 1)
    }

    /// So many sockets are in this state. Returns where the gauge was raised, for [`Self::lower`].
    pub fn raise(&mut self, id: DestinationId, state: TcpState, sockets: u64) -> DestinationId {
        let at = self.admit(id, Child::Active(state));
        self.named_mut(at).active[state as usize] += sockets;
        let raised = self.id(at);
        self.hold(raised);
        raised
    }

    /// A connection has left the state that it entered there.
    pub fn leave(&mut self, raised: DestinationId, state: TcpState) {
        self.lower(raised, state, 1);
    }

    /// Takes back what was raised there.
    pub fn lower(&mut self, raised: DestinationId, state: TcpState, sockets: u64) {
        self.release(raised);
        // What the gauge showed has moved to `other` when the name was lost.
        let at = match self.entry_mut(raised) {
            Some(entry) if entry.named.is_some() && entry.naming == raised.naming => raised.slot,
            _ => other(raised.role),
        };
        let active = &mut self.named_mut(at).active[state as usize];
        *active = active.saturating_sub(sockets);
    }

    /// What a destination is called; `None` for `other` and when it has gone.
    pub fn called(&self, id: DestinationId) -> Option<&DestinationKey> {
        self.entry(id)?.key.as_ref()
    }

    /// An open connection has another destination from now on: lowers its gauge there, raises it here.
    pub fn move_gauge(&mut self, raised: DestinationId, to: DestinationId, state: TcpState) -> DestinationId {
        self.leave(raised, state);
        self.enter(to, state)
    }

    /// A connection of this destination waits: its gauge needs room. Told once a tick while it waits.
    pub fn waits(&mut self, id: DestinationId, phase: Phase, now_ns: u64) {
        self.advance(now_ns);
        if let Some(entry) = self.entry_mut(id) {
            entry.score += weight::WAITS;
        }
        self.admit(id, Child::Waiting(phase));
    }

    /// A picture of everything. `waiting` tells for each waiting connection its destination, the phase and since when.
    pub fn snapshot(&self, waiting: &[(DestinationId, Phase, u64)], now_ns: u64) -> Snapshot {
        let mut totals: [Totals; Role::ALL.len()] = Default::default();
        for (totals, (truth, expired)) in totals.iter_mut().zip(self.truth.iter().zip(&self.expired)) {
            (totals.truth, totals.expired) = (truth.clone(), expired.clone());
        }
        for (entry, named) in self.all_named() {
            totals[entry.role as usize].series.add(&named.counters);
        }
        let waits = self.waits_by_slot(waiting, now_ns);
        let mut destinations: Vec<DestinationSnapshot> = Vec::with_capacity(self.named + Role::ALL.len());
        for (slot, entry) in (0..).zip(self.slots.iter().map(|slot| slot.entry.as_ref())) {
            if let Some(entry) = entry
                && let Some(named) = entry.named.as_deref().filter(|named| !named.children.is_empty())
            {
                destinations.push(entry.snapshot(named, waits.get(&slot).copied().unwrap_or_default(), self.slot));
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
        let mut families = self.families;
        let role_less = without_role(&destinations);
        for family in Family::ALL.into_iter().filter(|family| !family.has_role()) {
            families[family as usize].series = role_less.iter().map(|one| one.series(family)).sum();
        }
        Snapshot {
            destinations: destinations.into(),
            totals,
            families,
            groups: self.groups.snapshot(self.slot),
            ..Snapshot::default()
        }
    }

    fn waits_by_slot(&self, waiting: &[(DestinationId, Phase, u64)], now_ns: u64) -> HashMap<u32, Waits> {
        let mut waits: HashMap<u32, Waits> = HashMap::new();
        for (id, phase, since_ns) in waiting {
            let has = |entry: &Entry| {
                let named = entry.named.as_ref();
                named.is_some_and(|named| named.children.contains(Child::Waiting(*phase)))
            };
            let at = if self.entry(*id).is_some_and(has) {
                id.slot
            } else {
                other(id.role)
            };
            let waits = waits.entry(at).or_default();
            waits.by_phase[*phase as usize] += 1;
            waits.longest_ns = waits.longest_ns.max(now_ns.saturating_sub(*since_ns));
        }
        waits
    }

    /// Counts in the truth and at the destination, or at `other`; returns the numbers of where.
    fn count(
        &mut self,
        id: DestinationId,
        child: Child,
        weight: f32,
        now_ns: u64,
        add: impl Fn(&mut Counters),
    ) -> &mut Named {
        self.advance(now_ns);
        if let Some(entry) = self.entry_mut(id) {
            entry.last_used_ns = entry.last_used_ns.max(now_ns);
            entry.score += weight;
        }
        let at = self.admit(id, child);
        let folded = is_other(at);
        self.families[child.family() as usize].folded += u64::from(folded);
        add(&mut self.truth[id.role as usize]);
        let named = self.named_mut(at);
        add(&mut named.counters);
        named
    }

    /// The slot where this child's data goes: the destination's when it has a name and room, else that of `other`.
    fn admit(&mut self, id: DestinationId, child: Child) -> u32 {
        if !is_other(id.slot)
            && let Some(entry) = self.entry_mut(id)
        {
            entry.wanted.insert(child);
            if let Some(named) = &entry.named {
                if named.children.contains(child) {
                    return id.slot;
                }
                let source = entry.source().cloned();
                if self.has_room(child.series(), source.as_ref()) {
                    self.used += child.series();
                    if let Some(source) = source {
                        *self.used_by.entry(source).or_default() += child.series();
                    }
                    self.families[child.family() as usize].series += child.series() as u64;
                    self.named_mut(id.slot).children.insert(child);
                    return id.slot;
                }
            }
        }
        let at = other(id.role);
        self.admit_to_other(at, child);
        at
    }

    /// The room of `other` is set aside.
    pub(super) fn admit_to_other(&mut self, at: u32, child: Child) {
        let named = self.named_mut(at);
        if !named.children.contains(child) {
            named.children.insert(child);
            self.families[child.family() as usize].series += child.series() as u64;
        }
    }

    /// Everything that has a name, `other` included.
    fn all_named(&self) -> impl Iterator<Item = (&Entry, &Named)> {
        let entries = self.slots.iter().filter_map(|slot| slot.entry.as_ref());
        entries.filter_map(|entry| Some((entry, entry.named.as_deref()?)))
    }

    fn slow_of(&self, id: DestinationId) -> Slow {
        self.slow[id.role as usize]
    }

    /// What the id means now, for somebody who will count there.
    pub(super) fn id(&self, slot: u32) -> DestinationId {
        let Slot { generation, entry } = &self.slots[slot as usize];
        let entry = entry.as_ref().expect("ids are made of slots in use");
        DestinationId {
            slot,
            generation: *generation,
            naming: entry.naming,
            role: entry.role,
        }
    }

    /// `None` when it has gone.
    fn entry(&self, id: DestinationId) -> Option<&Entry> {
        let slot = &self.slots[id.slot as usize];
        slot.entry.as_ref().filter(|_| slot.generation == id.generation)
    }

    fn entry_mut(&mut self, id: DestinationId) -> Option<&mut Entry> {
        let slot = &mut self.slots[id.slot as usize];
        slot.entry.as_mut().filter(|_| slot.generation == id.generation)
    }

    pub(super) fn named_mut(&mut self, slot: u32) -> &mut Named {
        let entry = self.slots[slot as usize].entry.as_mut();
        entry
            .and_then(|entry| entry.named.as_deref_mut())
            .expect("only destinations with a name are counted at")
    }
}

/// The slot of what has no name.
pub(super) fn other(role: Role) -> u32 {
    role as u32
}

pub(super) fn is_other(slot: u32) -> bool {
    (slot as usize) < Role::ALL.len()
}

fn slowness(duration_ns: u64, slow_ns: u64) -> f32 {
    if duration_ns > slow_ns {
        weight::SLOW
    } else {
        weight::NOTHING
    }
}

fn observe(histogram: &mut Option<Box<Histogram>>, duration_ns: u64) {
    histogram.get_or_insert_default().observe(duration_ns);
}

#[cfg(test)]
mod tests;
