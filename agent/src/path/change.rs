//! Notices that the way to a destination, or the latency on it, has changed. Pure: fed with one trace after the other.
//!
//! A change is believed when a second trace in a row shows it. Silent hops fit to everything.
use std::{collections::VecDeque, net::IpAddr};

use super::record::{PathRecord, StepRecord};

/// Traces of a hop that are remembered for what is usual, and how many are needed at least.
const USUAL_TRACES: usize = 20;
const FEWEST_TRACES: usize = 3;
/// A destination that changes more often within ten minutes is flapping: changes are counted and no longer told.
const MOST_TOLD: usize = 3;
const FLAPPING_NS: u64 = 600_000_000_000;
/// Latency that stays for so long is usual.
const SETTLED_NS: u64 = 600_000_000_000;

/// Addresses of the hops, the first one first; `None`: silent.
pub type Route = Vec<Option<IpAddr>>;

/// What has changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The way is another.
    Route {
        /// As it was.
        before: Route,
        /// As it is.
        after: Route,
    },
    /// Latency has come up.
    Slower {
        /// Where it begins, and how much.
        step: StepRecord,
        /// When it was first seen, nanoseconds.
        since_ns: u64,
    },
    /// That latency has gone.
    Calm,
}

/// What is known of the way to one destination.
#[derive(Debug, Default)]
pub struct Watch {
    route: Option<(Route, bool)>,
    /// A different one that the last trace showed.
    seen_once: Option<Route>,
    /// Median round trips of each hop in the last calm traces, microseconds.
    usual_us: Vec<VecDeque<u64>>,
    /// Since when latency is above what is usual, and whether that was told.
    slow: Option<(u64, bool)>,
    /// When changes were told or would have been.
    changed_ns: VecDeque<u64>,
    changes: u64,
}

impl Watch {
    /// One more trace. `None`: nothing new, or too much of it.
    pub fn trace(&mut self, record: &PathRecord, delta_above_us: u64, now_ns: u64) -> Option<Change> {
        let route: Route = record.hops.iter().map(|hop| hop.address).collect();
        let change = match self.route_changed(route, record.reached) {
            Seen::Same => self.latency_changed(record, delta_above_us, now_ns),
            Seen::Once => None,
            Seen::Changed(change) => {
                self.usual_us.clear();
                self.slow = None;
                self.learn(record);
                Some(change)
            }
        }?;
        if matches!(change, Change::Route { .. }) {
            self.changes += 1;
            self.changed_ns.retain(|at_ns| at_ns + FLAPPING_NS > now_ns);
            self.changed_ns.push_back(now_ns);
            // It goes on flapping as long as it changes; one entry more than are told is enough to know.
            while self.changed_ns.len() > MOST_TOLD + 1 {
                self.changed_ns.pop_front();
            }
            if self.changed_ns.len() > MOST_TOLD {
                return None;
            }
        }
        Some(change)
    }

    /// Changes of the way so far, told or not.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Where the latency of this trace begins beside what is usual, and how much it is.
    pub fn added(&self, record: &PathRecord) -> Option<StepRecord> {
        let latency_us = latency_us(record);
        let deltas: Vec<Option<i64>> = latency_us
            .iter()
            .zip(&self.usual_us)
            .map(|(now, usual)| delta(*now, usual))
            .collect();
        let last = deltas.iter().rposition(Option::is_some)?;
        let total = deltas[last]?;
        // The first hop from which on at least half of it shows everywhere.
        let first = (0..=last)
            .rev()
            .take_while(|at| deltas[*at].is_none_or(|delta| delta * 2 >= total))
            .filter(|at| deltas[*at].is_some())
            .last()?;
        let before = (0..first).rev().find(|at| deltas[*at].is_some());
        let address = |at: usize| record.hops.get(at).and_then(|hop| hop.address);
        let already = before.and_then(|at| deltas[at]).unwrap_or_default();
        Some(StepRecord {
            from_hop: before.map_or(0, |at| at as u8 + 1),
            from: before.and_then(address),
            to_hop: first as u8 + 1,
            to: address(first),
            added_us: u64::try_from(deltas[first]? - already).unwrap_or_default(),
        })
    }

    fn route_changed(&mut self, route: Route, is_reached: bool) -> Seen {
        let Some((known, was_reached)) = &mut self.route else {
            self.route = Some((route, is_reached));
            return Seen::Same;
        };
        if fits(known, *was_reached, &route, is_reached) {
            self.seen_once = None;
            merge(known, &route);
            *was_reached |= is_reached;
            return Seen::Same;
        }
        let again = self
            .seen_once
            .as_ref()
            .is_some_and(|seen| fits(seen, is_reached, &route, is_reached));
        if !again {
            self.seen_once = Some(route);
            return Seen::Once;
        }
        self.seen_once = None;
        let before = std::mem::replace(known, route.clone());
        *was_reached = is_reached;
        Seen::Changed(Change::Route { before, after: route })
    }

    fn latency_changed(&mut self, record: &PathRecord, delta_above_us: u64, now_ns: u64) -> Option<Change> {
        let enough = self.usual_us.iter().any(|usual| usual.len() >= FEWEST_TRACES);
        let total = enough.then(|| self.total_delta(record)).flatten();
        let Some(total) = total else {
            self.learn(record);
            return None;
        };
        match self.slow {
            None if total > delta_above_us.cast_signed() => {
                self.slow = Some((now_ns, false));
                None
            }
            None => {
                self.learn(record);
                None
            }
            Some((since_ns, false)) if total > delta_above_us.cast_signed() => {
                self.slow = Some((since_ns, true));
                self.added(record).map(|step| Change::Slower { step, since_ns })
            }
            Some((_, false)) => {
                self.slow = None;
                None
            }
            Some((_, true)) if total <= delta_above_us.cast_signed() / 2 => {
                self.slow = None;
                Some(Change::Calm)
            }
            Some((since_ns, true)) => {
                if now_ns.saturating_sub(since_ns) > SETTLED_NS {
                    self.slow = None;
                    self.usual_us.clear();
                }
                None
            }
        }
    }

    /// How much the farthest hop is above what is usual.
    fn total_delta(&self, record: &PathRecord) -> Option<i64> {
        let latency_us = latency_us(record);
        let deltas = latency_us
            .iter()
            .zip(&self.usual_us)
            .map(|(now, usual)| delta(*now, usual));
        deltas.flatten().last()
    }

    fn learn(&mut self, record: &PathRecord) {
        let latency_us = latency_us(record);
        self.usual_us
            .resize_with(self.usual_us.len().max(latency_us.len()), VecDeque::new);
        for (usual, now) in self.usual_us.iter_mut().zip(latency_us) {
            let Some(now) = now else { continue };
            if usual.len() == USUAL_TRACES {
                usual.pop_front();
            }
            usual.push_back(now);
        }
    }
}

/// How a trace's way is beside the known one.
enum Seen {
    Same,
    /// Another for the first time.
    Once,
    Changed(Change),
}

/// Median round trips, each no longer than those of later hops; `None` where there is none.
fn latency_us(record: &PathRecord) -> Vec<Option<u64>> {
    let mut least = u64::MAX;
    let mut latency_us: Vec<_> = record
        .hops
        .iter()
        .rev()
        .map(|hop| {
            let p50 = hop.rtt_us?.p50;
            least = least.min(p50);
            Some(least)
        })
        .collect();
    latency_us.reverse();
    latency_us
}

fn delta(now_us: Option<u64>, usual_us: &VecDeque<u64>) -> Option<i64> {
    if usual_us.len() < FEWEST_TRACES {
        return None;
    }
    let mut sorted: Vec<u64> = usual_us.iter().copied().collect();
    sorted.sort_unstable();
    Some(now_us?.cast_signed() - sorted[sorted.len() / 2].cast_signed())
}

/// Whether two traces can be of one way: no hop that both know differs, and the destination is where it was.
fn fits(one: &[Option<IpAddr>], one_reached: bool, other: &[Option<IpAddr>], other_reached: bool) -> bool {
    let differs = |(one, other): (&Option<IpAddr>, &Option<IpAddr>)| one.is_some() && other.is_some() && one != other;
    let is_elsewhere = one_reached && other_reached && one.len() != other.len();
    !is_elsewhere && !one.iter().zip(other).any(differs)
}

fn merge(known: &mut Route, route: &[Option<IpAddr>]) {
    for (at, address) in route.iter().enumerate() {
        match known.get_mut(at) {
            Some(known) => *known = known.or(*address),
            None => known.push(*address),
        }
    }
}

#[cfg(test)]
mod tests;
