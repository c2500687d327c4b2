//! Who has a name: at most so many time series, for the busiest and the most troubled.
//!
//! While there is room, every destination gets a name. Later ones are candidates: a bounded set with a score that fades,
//! counted under `other`. Once a second the best candidates take the place of named ones that are much calmer. Who loses
//! its name leaves its sums in `expired`: nothing that was counted moves to another series, nothing is lost.
use std::{collections::HashMap, sync::Arc};

use super::{
    child::{Child, Family},
    children::Children,
    counters::Counters,
    destination::{DestinationId, DestinationKey, Entry},
    groups::GroupWindows,
    histogram::Histogram,
    series::{Series, Slot, other},
};
use crate::{
    capacity::TableUse,
    connection::{Role, TcpState},
    workloads::Workload,
};

/// A destination leaves when nothing was counted for this long and nothing is open.
const IDLE_NS: u64 = 2 * 3_600 * 1_000_000_000;
/// Names are given anew this often.
const BALANCE_NS: u64 = 1_000_000_000;
/// A score halves in this time.
const HALF_LIFE_NS: f32 = 300e9;
/// Time series that must be free for a newcomer to get a name at once: two histograms and one or two of each other kind.
const USUAL_SERIES: usize = 2 * Family::Rtt.series() + 10;
/// A destination with a name takes kilobytes, be it for one series: there are no more of them than one for so many series.
const SERIES_OF_NAMED: usize = 10;
/// Time series set aside for `other`.
const OTHER_SERIES: usize = Role::ALL.len() * Child::ALL_SERIES;
/// Destinations without a name that are remembered. With the usual number of named ones that is less than half of a hash
/// table of 2^14: one that forgets as many as it learns is then cleaned in place, and does not grow.
const MAX_CANDIDATES: usize = 6_144;
/// How many candidates are looked at to find one to give up.
const PROBES: usize = 16;
/// Candidates that are weighed at once, the best first.
const MAX_CLAIMS: usize = 256;
/// A candidate must be this much better than whom it replaces, or names would change for nothing: by a factor ...
const BETTER: f32 = 2.0;
/// ... and by so much.
const BETTER_BY: f32 = 2.0;
/// Observations of a phase before anything is called slow.
const ENOUGH: u64 = 100;
/// Observations above the bucket of this percentile are slow.
const SLOW_PERCENT: u64 = 95;

/// From where on a phase is slow compared with the others, nanoseconds.
#[expect(clippy::struct_field_names, reason = "all are times, and units are in names")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Slow {
    pub(super) handshake_ns: u64,
    pub(super) rtt_ns: u64,
    pub(super) tls_ns: u64,
    pub(super) ttfb_ns: u64,
    pub(super) turn_ns: u64,
}

impl Slow {
    fn of(truth: &Counters) -> Self {
        let slow = |histogram: Option<&Histogram>| {
            histogram
                .filter(|histogram| histogram.count >= ENOUGH)
                .and_then(|histogram| histogram.bound_of(SLOW_PERCENT))
                .unwrap_or(u64::MAX)
        };
        Self {
            handshake_ns: slow(Some(&truth.handshake)),
            rtt_ns: slow(Some(&truth.rtt)),
            tls_ns: slow(truth.tls.as_deref()),
            ttfb_ns: slow(truth.ttfb.as_deref()),
            turn_ns: slow(truth.turn.as_deref()),
        }
    }
}

/// A destination that wants more room than it has.
struct Claim {
    slot: u32,
    score: f32,
    /// Time series that it lacks.
    series: usize,
}

impl Series {
    /// The least sensible budget: `other` alone may need half of it.
    pub const MIN_SERIES: usize = 1_000;

    /// At most `max_series` time series, `other` included; at least [`Self::MIN_SERIES`].
    pub fn new(max_series: usize) -> Self {
        const { assert!(OTHER_SERIES * 10 <= Self::MIN_SERIES * 6) };
        let truth: [Counters; Role::ALL.len()] = Default::default();
        let slow = Role::ALL.map(|role| Slow::of(&truth[role as usize]));
        let slots = Role::ALL.map(|role| Slot {
            generation: 0,
            entry: Some(Entry::other(role)),
        });
        Self {
            slots: slots.into(),
            free: Vec::new(),
            by_key: HashMap::new(),
            named: 0,
            candidates: 0,
            hand: 0,
            budget: max_series.max(Self::MIN_SERIES) - OTHER_SERIES,
            used: 0,
            used_by: HashMap::new(),
            families: Default::default(),
            truth,
            expired: Default::default(),
            slow,
            balanced_ns: 0,
            groups: GroupWindows::default(),
            slot: 0,
        }
    }

    /// How full it is: destinations with a name, their time series, and destinations without a name.
    pub fn uses(&self) -> [TableUse; 3] {
        [
            TableUse::new("destinations", self.named, self.most_named()),
            TableUse::new("series", self.used, self.budget),
            TableUse::new("destination_candidates", self.candidates, MAX_CANDIDATES),
        ]
    }

    /// Finds a destination, or remembers it; it has a name from the start while there is room.
    pub fn destination(&mut self, key: DestinationKey, now_ns: u64) -> DestinationId {
        self.advance(now_ns);
        let key = key.normalised();
        let slot = if let Some(slot) = self.by_key.get(&key) {
            *slot
        } else {
            if self.candidates >= MAX_CANDIDATES {
                self.forget_a_candidate();
            }
            let entry = Some(Entry::new(key.clone(), now_ns));
            let slot = if let Some(slot) = self.free.pop() {
                self.slots[slot as usize].entry = entry;
                slot
            } else {
                self.slots.push(Slot { generation: 0, entry });
                (self.slots.len() - 1) as u32
            };
            self.by_key.insert(key, slot);
            self.candidates += 1;
            slot
        };
        if let Some(entry) = &self.slots[slot as usize].entry
            && entry.named.is_none()
            && self.has_room(USUAL_SERIES, entry.source())
        {
            self.give_name(slot);
        }
        self.id(slot)
    }

    /// Lets idle destinations go; their sums stay in the totals.
    pub fn expire(&mut self, now_ns: u64) {
        for slot in Role::ALL.len()..self.slots.len() {
            let idle = |entry: &Entry| entry.held == 0 && now_ns.saturating_sub(entry.last_used_ns) >= IDLE_NS;
            if self.slots[slot].entry.as_ref().is_some_and(idle) {
                self.take_name(slot as u32);
                self.forget(slot as u32);
            }
        }
    }

    /// Whether so many more series fit, for this workload too: it may have a quarter of all.
    pub(super) fn has_room(&self, series: usize, source: Option<&Arc<Workload>>) -> bool {
        let quarter = |source| self.used_by.get(source).copied().unwrap_or(0) + series <= self.budget / 4;
        self.named < self.most_named() && self.used + series <= self.budget && source.is_none_or(quarter)
    }

    /// Destinations that may have a name at once.
    fn most_named(&self) -> usize {
        self.budget / SERIES_OF_NAMED
    }

    /// Gives names anew when it is time.
    pub(super) fn advance(&mut self, now_ns: u64) {
        let passed_ns = now_ns.saturating_sub(self.balanced_ns);
        if passed_ns >= BALANCE_NS {
            self.balanced_ns = now_ns;
            self.fade(passed_ns);
            self.balance();
        }
    }

    fn fade(&mut self, passed_ns: u64) {
        let factor = (-(passed_ns as f32) / HALF_LIFE_NS).exp2();
        let entries = self.slots.iter_mut().filter_map(|slot| slot.entry.as_mut());
        entries.for_each(|entry| entry.score *= factor);
        self.slow = Role::ALL.map(|role| Slow::of(&self.truth[role as usize]));
    }

    fn balance(&mut self) {
        let claims = self.claims();
        if claims.is_empty() {
            return;
        }
        let mut calm: Vec<(u32, f32)> = (0..)
            .zip(&self.slots)
            .skip(Role::ALL.len())
            .filter_map(|(slot, place)| Some((slot, place.entry.as_ref()?)))
            .filter(|(_, entry)| entry.named.is_some())
            .map(|(slot, entry)| (slot, entry.score))
            .collect();
        calm.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        // Room that was made for those before has no series yet.
        let mut promised = 0;
        for claim in claims {
            let source = self.source_of(claim.slot);
            let Some(leaving) = self.make_room(&claim, promised, source.as_ref(), &calm) else {
                continue;
            };
            for slot in &leaving {
                self.take_name(*slot);
            }
            calm.retain(|(slot, _)| !leaving.contains(slot) && *slot != claim.slot);
            if self.slots[claim.slot as usize]
                .entry
                .as_ref()
                .is_some_and(|entry| entry.named.is_none())
            {
                self.give_name(claim.slot);
            }
            promised += claim.series;
        }
    }

    /// The best of those who want room.
    fn claims(&self) -> Vec<Claim> {
        let mut wanting: Vec<(u32, f32, Children)> = (0..)
            .zip(&self.slots)
            .skip(Role::ALL.len())
            .filter_map(|(slot, place)| {
                let entry = place.entry.as_ref()?;
                let admitted = entry.named.as_ref().map_or(Children::default(), |named| named.children);
                let missing = entry.wanted.difference(admitted);
                // Below that it can replace nobody.
                (!missing.is_empty() && entry.score > BETTER_BY).then_some((slot, entry.score, missing))
            })
            .collect();
        wanting.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        wanting.truncate(MAX_CLAIMS);
        let claim = |(slot, score, missing): (u32, f32, Children)| Claim {
            slot,
            score,
            series: missing.series(),
        };
        wanting.into_iter().map(claim).collect()
    }

    /// Whose names must be taken for this claim; `None` when nobody is calm enough for that.
    fn make_room(
        &self,
        claim: &Claim,
        promised: usize,
        source: Option<&Arc<Workload>>,
        calm: &[(u32, f32)],
    ) -> Option<Vec<u32>> {
        let used_by_source = source.map_or(0, |source| self.used_by.get(source).copied().unwrap_or(0));
        let (mut all, mut of_source) = (
            (self.used + promised + claim.series).saturating_sub(self.budget),
            source.map_or(0, |_| (used_by_source + claim.series).saturating_sub(self.budget / 4)),
        );
        let is_named = |slot: u32| {
            self.slots[slot as usize]
                .entry
                .as_ref()
                .is_some_and(|entry| entry.named.is_some())
        };
        if self.named >= self.most_named() && !is_named(claim.slot) {
            // Whoever has any series must leave, however few they are.
            all = all.max(1);
        }
        let mut leaving = Vec::new();
        let much_calmer = calm
            .iter()
            .take_while(|(_, score)| claim.score > BETTER * score + BETTER_BY)
            .filter(|(slot, _)| *slot != claim.slot);
        for (slot, _) in much_calmer {
            if all == 0 && of_source == 0 {
                break;
            }
            let same = source.is_some() && self.source_of(*slot).as_ref() == source;
            let series = self.series_of(*slot);
            if series > 0 && (all > 0 || same) {
                leaving.push(*slot);
                all = all.saturating_sub(series);
                of_source = of_source.saturating_sub(if same { series } else { 0 });
            }
        }
        (all == 0 && of_source == 0).then_some(leaving)
    }

    fn series_of(&self, slot: u32) -> usize {
        let entry = self.slots[slot as usize].entry.as_ref();
        let named = entry.and_then(|entry| entry.named.as_deref());
        named.map_or(0, |named| named.children.series())
    }

    fn source_of(&self, slot: u32) -> Option<Arc<Workload>> {
        self.slots[slot as usize].entry.as_ref()?.source().cloned()
    }

    fn give_name(&mut self, slot: u32) {
        if let Some(entry) = &mut self.slots[slot as usize].entry {
            entry.named = Some(Box::default());
            self.named += 1;
            self.candidates -= 1;
        }
    }

    /// Its sums go to the totals, its gauges to `other`; it is a candidate again.
    fn take_name(&mut self, slot: u32) {
        let Some(entry) = &mut self.slots[slot as usize].entry else {
            return;
        };
        let Some(named) = entry.named.take() else {
            return;
        };
        // A gauge that was raised here is lowered at `other` from now on.
        entry.naming = entry.naming.wrapping_add(1);
        let (role, source) = (entry.role, entry.source().cloned());
        self.named -= 1;
        self.candidates += 1;
        self.expired[role as usize].add(&named.counters);
        for child in named.children.iter() {
            self.families[child.family() as usize].series -= child.series() as u64;
            self.used -= child.series();
            // Who waits there still waits.
            if matches!(child, Child::Waiting(_)) {
                self.admit_to_other(other(role), child);
            }
        }
        if let Some(source) = source
            && let Some(used) = self.used_by.get_mut(&source)
        {
            *used -= named.children.series();
            if *used == 0 {
                self.used_by.remove(&source);
            }
        }
        for (state, active) in TcpState::ALL.into_iter().zip(named.active) {
            if active > 0 {
                self.admit_to_other(other(role), Child::Active(state));
                self.named_mut(other(role)).active[state as usize] += active;
            }
        }
        if self.candidates > MAX_CANDIDATES {
            self.forget_a_candidate();
        }
    }

    /// Gives up the candidate with the lowest score among a few.
    fn forget_a_candidate(&mut self) {
        let (mut lowest, mut seen) = (None, 0);
        for _ in 0..self.slots.len() {
            self.hand = (self.hand + 1) % self.slots.len();
            let Some(entry) = &self.slots[self.hand].entry else {
                continue;
            };
            if entry.named.is_none() {
                if lowest.is_none_or(|(_, score)| entry.score < score) {
                    lowest = Some((self.hand as u32, entry.score));
                }
                seen += 1;
                if seen == PROBES {
                    break;
                }
            }
        }
        if let Some((slot, _)) = lowest {
            self.forget(slot);
        }
    }

    /// A candidate goes: who still has its id counts under `other`.
    fn forget(&mut self, slot: u32) {
        let place = &mut self.slots[slot as usize];
        if let Some(entry) = place.entry.take() {
            place.generation = place.generation.wrapping_add(1);
            self.candidates -= 1;
            self.free.push(slot);
            if let Some(key) = &entry.key {
                self.by_key.remove(key);
            }
        }
    }
}
