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
/// A process that could not be read, or another one with its pid, is tried again after this long.
const UNREAD_FRESH_NS: u64 = 1_000_000_000;

/// What was read, by process, and by cgroup for processes that were gone before anybody could look.
#[derive(Debug, Default)]
pub(super) struct ResolverConfigs {
    processes: HashMap<u32, Read>,
    cgroups: HashMap<u64, Arc<SearchList>>,
}

#[derive(Debug)]
struct Read {
    at_ns: u64,
    search: Option<Arc<SearchList>>,
}

impl Read {
    fn is_fresh(&self, now_ns: u64) -> bool {
        let fresh_ns = if self.search.is_some() {
            FRESH_NS
        } else {
            UNREAD_FRESH_NS
        };
        now_ns.saturating_sub(self.at_ns) < fresh_ns
    }
}

/// Who sees the same files as a process that may have ended: its mount namespace, and who may be in it.
pub(super) struct Kin {
    pub(super) mount_namespace: u32,
    pub(super) pids: Vec<u32>,
}

impl ResolverConfigs {
    pub(super) fn usage(&self) -> TableUse {
        TableUse::new(
            "search_lists",
            self.processes.len() + self.cgroups.len(),
            2 * MAX_REMEMBERED,
        )
    }

    /// The process's own list; when it has ended that of its kin in the same mount namespace, else that of its cgroup. `None`
    /// when nobody is left to be read.
    pub(super) fn search_list(
        &mut self,
        procfs: &Procfs,
        pid: u32,
        cgroup_id: u64,
        now_ns: u64,
        kin: impl FnOnce() -> Option<Kin>,
    ) -> Option<Arc<SearchList>> {
        if let Some(read) = self.processes.get(&pid)
            && read.is_fresh(now_ns)
        {
            return read.search.clone();
        }
        let search = match procfs.resolv_conf(pid) {
            Some(text) => {
                let search = Arc::new(ResolvConf::parse(&text).search);
                make_room(&mut self.cgroups);
                self.cgroups.insert(cgroup_id, Arc::clone(&search));
                Some(search)
            }
            None => kin()
                .and_then(|kin| of_kin(procfs, &kin))
                .or_else(|| self.cgroups.get(&cgroup_id).cloned()),
        };
        make_room(&mut self.processes);
        let read = Read {
            at_ns: now_ns,
            search: search.clone(),
        };
        self.processes.insert(pid, read);
        search
    }
}

fn of_kin(procfs: &Procfs, kin: &Kin) -> Option<Arc<SearchList>> {
    let is_near = |pid: &&u32| procfs.mount_namespace(**pid) == Some(kin.mount_namespace);
    let near = kin.pids.iter().find(is_near)?;
    let text = procfs.resolv_conf(*near)?;
    Some(Arc::new(ResolvConf::parse(&text).search))
}

/// Forgets all when there is no room: what is needed is read again.
fn make_room<K, V>(table: &mut HashMap<K, V>) {
    if table.len() >= MAX_REMEMBERED {
        table.clear();
    }
}
