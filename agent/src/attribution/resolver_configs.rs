//! Search lists of processes: what turns a short name into the names that are queried.
use std::{collections::HashMap, sync::Arc};

use super::procfs::Procfs;
use crate::{
    capacity::TableUse,
    dns::{ResolvConf, SearchList},
};

/// Processes and cgroups that are remembered; one that asks DNS is rarely asked about again.
const MAX_REMEMBERED: usize = 2_048;
/// A process's file is read again after this long.
const FRESH_NS: u64 = 10_000_000_000;

/// What was read, by process, and by cgroup for processes that were gone before anybody could look.
#[derive(Debug, Default)]
pub(super) struct ResolverConfigs {
    processes: HashMap<u32, Read>,
    cgroups: HashMap<u64, Arc<SearchList>>,
    none: Arc<SearchList>,
}

#[derive(Debug)]
struct Read {
    at_ns: u64,
    search: Arc<SearchList>,
}

impl ResolverConfigs {
    pub(super) fn usage(&self) -> TableUse {
        TableUse::new(
            "search_lists",
            self.processes.len() + self.cgroups.len(),
            2 * MAX_REMEMBERED,
        )
    }

    pub(super) fn search_list(
        &mut self,
        procfs: Option<&Procfs>,
        pid: u32,
        cgroup_id: u64,
        now_ns: u64,
    ) -> Arc<SearchList> {
        let Some(procfs) = procfs else {
            return Arc::clone(&self.none);
        };
        if let Some(read) = self.processes.get(&pid)
            && now_ns.saturating_sub(read.at_ns) < FRESH_NS
        {
            return Arc::clone(&read.search);
        }
        let search = match procfs.resolv_conf(pid) {
            Some(text) => {
                let search = Arc::new(ResolvConf::parse(&text).search);
                make_room(&mut self.cgroups);
                self.cgroups.insert(cgroup_id, Arc::clone(&search));
                search
            }
            None => Arc::clone(self.cgroups.get(&cgroup_id).unwrap_or(&self.none)),
        };
        make_room(&mut self.processes);
        self.processes.insert(
            pid,
            Read {
                at_ns: now_ns,
                search: Arc::clone(&search),
            },
        );
        search
    }
}

/// Forgets all when there is no room: what is needed is read again.
fn make_room<K, V>(table: &mut HashMap<K, V>) {
    if table.len() >= MAX_REMEMBERED {
        table.clear();
    }
}
