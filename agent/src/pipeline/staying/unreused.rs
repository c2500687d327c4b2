//! Processes that open connection after connection to one destination for one exchange each.
//!
//! A connection counts when an earlier one of the same process had ended before it was opened, not long ago: kept open,
//! that one could have carried its exchange. The first of such a run is counted with the second.
use std::{collections::HashMap, sync::Arc};

use crate::{
    aggregate::{DestinationId, Place, UnreusedDetail},
    attribution::Process,
    capacity::{Share, TableUse},
    connection::record::ProcessRecord,
};

/// A longer pause ends a run: servers close idle connections about then.
const PAUSE_NS: u64 = 60_000_000_000;
/// Runs that are followed: two connections at least.
const MOST: usize = 8_192;
/// Connections that may begin a run: as many as end in a minute of five hundred a second to hosts that are all different.
const MOST_SINGLES: usize = 28_672;
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

/// The first connection of what may be a run, or may be all there ever is: of most destinations it is.
#[derive(Debug)]
struct Single {
    comm: Arc<str>,
    began_ns: u64,
    ended_ns: u64,
}

/// Process and destination.
type Key = (u32, DestinationId);

/// Runs by process and destination.
#[derive(Debug)]
pub(super) struct Unreused {
    most: usize,
    most_singles: usize,
    runs: HashMap<Key, Run>,
    singles: HashMap<Key, Single>,
    refused: u64,
    told: Arc<[UnreusedDetail]>,
}

impl Unreused {
    pub(super) fn new(share: Share) -> Self {
        Self {
            most: share.of(MOST),
            most_singles: share.of(MOST_SINGLES),
            runs: HashMap::new(),
            singles: HashMap::new(),
            refused: 0,
            told: Arc::default(),
        }
    }

    pub(super) fn uses(&self) -> [TableUse; 2] {
        [
            TableUse::new("unreused_runs", self.runs.len(), self.most),
            TableUse::new("unreused_singles", self.singles.len(), self.most_singles),
        ]
    }

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
            return Some((run.place.clone(), 1));
        }
        if let Some(first) = self.singles.get(&key)
            && one.opened_ns.saturating_sub(first.ended_ns) < PAUSE_NS
            && first.comm == owner.comm
        {
            if one.opened_ns < first.ended_ns {
                return None;
            }
            return self.begin(key, owner, one, place());
        }
        self.runs.remove(&key);
        if self.singles.len() >= self.most_singles && !self.singles.contains_key(&key) {
            self.refused += 1;
            return None;
        }
        let single = Single {
            comm: Arc::clone(&owner.comm),
            began_ns: one.opened_ns,
            ended_ns: one.ended_ns,
        };
        self.singles.insert(key, single);
        None
    }

    /// The second connection makes a run of the first.
    fn begin(&mut self, key: Key, owner: &Arc<Process>, one: One, place: Place) -> Option<(Place, u64)> {
        if self.runs.len() >= self.most && !self.runs.contains_key(&key) {
            self.refused += 1;
            return None;
        }
        let first = self.singles.remove(&key)?;
        let run = Run {
            owner: Arc::clone(owner),
            place: place.clone(),
            cgroup_id: one.cgroup_id,
            began_ns: first.began_ns,
            first_ended_ns: first.ended_ns,
            last_ended_ns: one.ended_ns.max(first.ended_ns),
            connections: 2,
        };
        self.runs.insert(key, run);
        Some((place, 2))
    }

    /// Lets go of runs that have ended.
    pub(super) fn expire(&mut self, now_ns: u64) {
        self.runs
            .retain(|_, run| now_ns.saturating_sub(run.last_ended_ns) < PAUSE_NS);
        self.singles
            .retain(|_, single| now_ns.saturating_sub(single.ended_ns) < PAUSE_NS);
    }

    /// The longest runs, without their process's record.
    pub(super) fn worst(&self, now_ns: u64) -> Vec<(UnreusedDetail, Arc<Process>, u64)> {
        let mut runs: Vec<&Run> = self.runs.values().collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{DestinationKey, Name, Series};
    use crate::connection::Role;

    const S: u64 = 1_000_000_000;

    fn one(opened_ns: u64, ended_ns: u64) -> One {
        One {
            opened_ns,
            ended_ns,
            cgroup_id: 1,
        }
    }

    struct Table {
        series: Series,
        unreused: Unreused,
        owner: Arc<Process>,
    }

    impl Table {
        fn new() -> Self {
            Self {
                series: Series::new(20_000),
                unreused: Unreused::new(Share::WHOLE),
                owner: Arc::new(Process::unknown(7, "fetch".into())),
            }
        }

        /// How many are counted when one ends.
        fn ended(&mut self, port: u16, one: One) -> u64 {
            let key = DestinationKey {
                role: Role::Client,
                name: Name::Host("a.test".into()),
                port,
                group: Arc::default(),
                source: None,
            };
            let id = self.series.destination(key, one.ended_ns);
            let place = || Place {
                role: Role::Client,
                destination: "a.test".into(),
                port: Some(port),
                group: Arc::default(),
                source: None,
            };
            let counted = self.unreused.ended(&self.owner, id, one, place);
            counted.map_or(0, |(_, count)| count)
        }
    }

    #[test]
    fn the_first_is_counted_with_the_second() {
        let mut table = Table::new();
        assert_eq!(table.ended(1, one(S, 2 * S)), 0);
        assert_eq!(table.ended(1, one(S, 3 * S)), 0, "opened beside the first");
        assert_eq!(table.ended(1, one(4 * S, 5 * S)), 2);
        assert_eq!(table.ended(1, one(6 * S, 7 * S)), 1);
        assert_eq!(table.ended(2, one(6 * S, 7 * S)), 0, "elsewhere");
        assert_eq!(table.ended(1, one(100 * S, 101 * S)), 0, "after a long pause");
        assert_eq!(table.ended(1, one(102 * S, 103 * S)), 2);
        table.unreused.expire(400 * S);
        assert!(table.unreused.runs.is_empty() && table.unreused.singles.is_empty());
    }

    #[test]
    fn hosts_that_are_all_different_leave_room_for_runs() {
        let mut table = Table::new();
        for port in 1..=20_000 {
            assert_eq!(table.ended(port, one(S, 2 * S)), 0);
        }
        assert_eq!((table.unreused.refused(), table.unreused.runs.len()), (0, 0));
        assert_eq!(table.ended(1, one(3 * S, 4 * S)), 2);
    }
}
