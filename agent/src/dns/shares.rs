//! Places of a table, shared fairly: no cgroup may hold more of them than are free.
//!
//! One that floods gets half of the table, two get a third each, and whoever comes next always finds room: nobody is
//! pushed out, and nobody has to be. Fits what leaves by itself after a while.
use std::collections::HashMap;

/// Who holds how many places.
#[derive(Debug)]
pub(super) struct Shares {
    limit: usize,
    used: usize,
    by_cgroup: HashMap<u64, usize>,
}

impl Shares {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            used: 0,
            by_cgroup: HashMap::new(),
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Takes a place, if the cgroup may have one more.
    pub(super) fn take(&mut self, cgroup_id: u64) -> bool {
        let held = self.by_cgroup.get(&cgroup_id).copied().unwrap_or(0);
        if held >= self.limit - self.used {
            return false;
        }
        self.used += 1;
        self.by_cgroup.insert(cgroup_id, held + 1);
        true
    }

    /// Gives a place back that was taken.
    pub(super) fn give_back(&mut self, cgroup_id: u64) {
        if let Some(held) = self.by_cgroup.get_mut(&cgroup_id) {
            self.used -= 1;
            *held -= 1;
            if *held == 0 {
                self.by_cgroup.remove(&cgroup_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_next_finds_room() {
        let mut shares = Shares::new(1_200);
        let mut flood = |cgroup_id| (0..1_200).filter(|_| shares.take(cgroup_id)).count();
        assert_eq!([flood(1), flood(2), flood(3)], [600, 300, 150]);
        (0..600).for_each(|_| shares.give_back(1));
        assert_eq!(shares.by_cgroup.len(), 2);
        let mut flood = |cgroup_id| (0..1_200).filter(|_| shares.take(cgroup_id)).count();
        assert_eq!([flood(2), flood(4), flood(1)], [225, 263, 131]);
        (0..1_200).for_each(|_| shares.give_back(9));
        assert_eq!(shares.used, 525 + 150 + 263 + 131);
    }
}
