//! The windows of destinations and groups: where observations go beside the counters, and what is judged.
use std::sync::Arc;

use super::{Series, other};
use crate::{
    aggregate::{
        child::Child,
        counters::Counters,
        destination::{DestinationId, DestinationKey},
    },
    connection::Role,
    windows::{Measure, Verdict, WindowCounts},
};

impl Series {
    /// So many raw samples of the RTT had this length: for the windows alone.
    pub fn rtt_samples(&mut self, id: DestinationId, sample_ns: u64, count: u32) {
        let slot = self.slot;
        let at = self.admit(id, Child::Rtt);
        self.named_mut(at).windows.observe(Measure::Rtt, sample_ns, count, slot);
        if let Some(group) = self.group_of(id) {
            self.groups.observe(&group, Measure::Rtt, sample_ns, count, slot);
        }
    }

    /// The lookup that a connection waited for took this long: for the windows alone, as resolvers have the metrics.
    pub fn lookup(&mut self, id: DestinationId, duration_ns: u64) {
        let slot = self.slot;
        let named = self.entry_mut(id).and_then(|entry| entry.named.as_deref_mut());
        let at = if named.is_some() { id.slot } else { other(id.role) };
        self.named_mut(at).windows.observe(Measure::Dns, duration_ns, 1, slot);
        if let Some(group) = self.group_of(id) {
            self.groups.observe(&group, Measure::Dns, duration_ns, 1, slot);
        }
    }

    /// What is counted in windows from now on belongs to this slot.
    pub fn set_slot(&mut self, slot: u64) {
        self.slot = slot;
    }

    /// Which slot that is.
    pub fn slot(&self) -> u64 {
        self.slot
    }

    /// Judges the RTT windows of the destinations with names that had samples of late, and of those in `also`.
    pub fn judge(&self, also: &[(u32, u32)]) -> Vec<((u32, u32), Verdict)> {
        let slots = (0..).zip(&self.slots).skip(Role::ALL.len());
        let judged = slots.filter_map(|(at, slot)| {
            let windows = &slot.entry.as_ref()?.named.as_deref()?.windows;
            let place = (at, slot.generation);
            let is_wanted = windows.has_news(self.slot) || also.contains(&place);
            Some((place, is_wanted.then(|| windows.judge(self.slot))??))
        });
        judged.collect()
    }

    /// A rule is active at a destination from now on, or no more: what is measured meanwhile is not usual.
    pub fn set_active(&mut self, (slot, generation): (u32, u32), active: bool) {
        let place = self.slots.get_mut(slot as usize);
        let entry = place
            .filter(|place| place.generation == generation)
            .and_then(|place| place.entry.as_mut());
        if let Some(named) = entry.and_then(|entry| entry.named.as_deref_mut()) {
            named.windows.set_active(active);
        }
    }

    /// What a destination is called; `None` when it has gone.
    pub fn key_of(&self, (slot, generation): (u32, u32)) -> Option<&DestinationKey> {
        let place = self.slots.get(slot as usize)?;
        place
            .entry
            .as_ref()
            .filter(|_| place.generation == generation)?
            .key
            .as_ref()
    }

    /// Observations of groups that have no windows for want of room.
    pub fn groups_refused(&self) -> u64 {
        self.groups.refused()
    }

    /// [`Self::count`], in the windows too.
    pub(super) fn observe(
        &mut self,
        id: DestinationId,
        child: Child,
        weight: f32,
        now_ns: u64,
        (measure, duration_ns): (Measure, u64),
        add: impl Fn(&mut Counters),
    ) {
        let slot = self.slot;
        self.count(id, child, weight, now_ns, add)
            .windows
            .observe(measure, duration_ns, 1, slot);
        if let Some(group) = self.group_of(id) {
            self.groups.observe(&group, measure, duration_ns, 1, slot);
        }
    }

    /// Counts in the present window of a destination, if it has a name, and of its group.
    pub(super) fn count_in_window(&mut self, id: DestinationId, add: impl Fn(&mut WindowCounts)) {
        let slot = self.slot;
        let named = self.entry_mut(id).and_then(|entry| entry.named.as_deref_mut());
        if let Some(named) = named {
            named.windows.count(slot, &add);
        }
        if let Some(group) = self.group_of(id) {
            self.groups.count(&group, slot, &add);
        }
    }

    pub(super) fn group_of(&self, id: DestinationId) -> Option<Arc<str>> {
        let key = self.entry(id)?.key.as_ref()?;
        (!key.group.is_empty()).then(|| Arc::clone(&key.group))
    }
}
