//! Processes that open connection after connection to one destination for one exchange each.
//!
//! A connection counts when an earlier one of the same process had ended before it was opened, not long ago: kept open,
//! that one could have carried its exchange. The first of such a run is counted with the second.
use std::{collections::HashMap, sync::Arc};

use crate::{
    aggregate::{DestinationId, Place, UnreusedDetail},
    attribution::Process,
    connection::record::ProcessRecord,
};

/// A longer pause ends a run: servers close idle connections about then.
const PAUSE_NS: u64 = 60_000_000_000;
/// Runs that are followed.
const MOST: usize = 8_192;
/// Runs that are told.
const MOST_TOLD: usize = 64;

/// A connection of one exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct One {
    pub(super) opened_ns: u64,
    pub(super) ended_ns: u64,
    pub(super) cgroup_id: u64,
}

#[derive(Debug)]
struct Run {
    owner: Arc<Process>,
    place: Place,
    cgroup_id: u64,
    began_ns: u64,
    /// When the first of it ended, and the last.
    first_ended_ns: u64,
    last_ended_ns: u64,
    connections: u64,
}

/// Runs by process and destination.
#[derive(Debug, Default)]
pub(super) struct Unreused {
    runs: HashMap<(u32, DestinationId), Run>,
    refused: u64,
    told: Arc<[UnreusedDetail]>,
}

impl Unreused {
    /// A connection of one exchange has ended; gives how many are to be counted now, and where.
    pub(super) fn ended(
        &mut self,
        owner: &Arc<Process>,
        destination: DestinationId,
        one: One,
        place: impl FnOnce() -> Place,
    ) -> Option<(Place, u64)> {
        let key = (owner.pid, destination);
        if let Some(run) = self.runs.get_mut(&key)
            && one.opened_ns.saturating_sub(run.last_ended_ns) < PAUSE_NS
            && run.owner.comm == owner.comm
        {
            run.last_ended_ns = run.last_ended_ns.max(one.ended_ns);
            if one.opened_ns < run.first_ended_ns {
                return None;
            }
            run.connections += 1;
            return Some((run.place.clone(), if run.connections == 2 { 2 } else { 1 }));
        }
        if self.runs.len() >= MOST && !self.runs.contains_key(&key) {
            self.refused += 1;
            return None;
        }
        let run = Run {
            owner: Arc::clone(owner),
            place: place(),
            cgroup_id: one.cgroup_id,
            began_ns: one.opened_ns,
            first_ended_ns: one.ended_ns,
            last_ended_ns: one.ended_ns,
            connections: 1,
        };
        self.runs.insert(key, run);
        None
    }

    /// Lets go of runs that have ended.
    pub(super) fn expire(&mut self, now_ns: u64) {
        self.runs
            .retain(|_, run| now_ns.saturating_sub(run.last_ended_ns) < PAUSE_NS);
    }

    /// The longest runs, without their process's record.
    pub(super) fn worst(&self, now_ns: u64) -> Vec<(UnreusedDetail, Arc<Process>, u64)> {
        let mut runs: Vec<&Run> = self.runs.values().filter(|run| run.connections > 1).collect();
        runs.sort_by(|a, b| b.connections.cmp(&a.connections).then_with(|| a.place.cmp(&b.place)));
        runs.truncate(MOST_TOLD);
        let told = runs.into_iter().map(|run| {
            let detail = UnreusedDetail {
                place: run.place.clone(),
                connections: run.connections,
                within_us: run.last_ended_ns.min(now_ns).saturating_sub(run.began_ns) / 1_000,
                process: ProcessRecord::default(),
            };
            (detail, Arc::clone(&run.owner), run.cgroup_id)
        });
        told.collect()
    }

    pub(super) fn tell(&mut self, told: Vec<UnreusedDetail>) {
        self.told = told.into();
    }

    pub(super) fn told(&self) -> Arc<[UnreusedDetail]> {
        Arc::clone(&self.told)
    }

    /// Connections that found no room.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }
}
