//! The windows of groups: what all clients' destinations of a group are like together, with and without names of their own.
use std::{collections::BTreeMap, sync::Arc};

use super::snapshot::GroupSnapshot;
use crate::windows::{Destination, Measure, WindowCounts};

/// Groups with windows of their own: the built-in ones, and more than anybody configures.
const MOST: usize = 128;

/// By name.
#[derive(Debug, Default)]
pub(super) struct GroupWindows {
    by_name: BTreeMap<Arc<str>, Destination>,
    refused: u64,
}

impl GroupWindows {
    /// The windows of a group; `None` for none, or when there is no room.
    fn of(&mut self, group: &Arc<str>) -> Option<&mut Destination> {
        if group.is_empty() {
            return None;
        }
        if !self.by_name.contains_key(group) {
            if self.by_name.len() >= MOST {
                self.refused += 1;
                return None;
            }
            self.by_name.insert(Arc::clone(group), Destination::default());
        }
        self.by_name.get_mut(group)
    }

    pub(super) fn observe(&mut self, group: &Arc<str>, measure: Measure, duration_ns: u64, count: u32, slot: u64) {
        if let Some(windows) = self.of(group) {
            windows.observe(measure, duration_ns, count, slot);
        }
    }

    pub(super) fn count(&mut self, group: &Arc<str>, slot: u64, add: impl FnOnce(&mut WindowCounts)) {
        if let Some(windows) = self.of(group) {
            windows.count(slot, add);
        }
    }

    pub(super) fn rtt_min(&mut self, group: &Arc<str>, min_ns: u64, slot: u64) {
        if let Some(windows) = self.of(group) {
            windows.rtt_min(min_ns, slot);
        }
    }

    /// Observations of groups that found no room.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    pub(super) fn snapshot(&self, slot: u64) -> Arc<[GroupSnapshot]> {
        let groups = self.by_name.iter().map(|(group, windows)| GroupSnapshot {
            group: Arc::clone(group),
            quantiles: Measure::ALL.map(|measure| windows.since_start(measure)),
            window: windows.snapshot(slot),
        });
        groups.collect()
    }
}
