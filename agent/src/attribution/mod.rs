//! Who made a connection: process, ancestors, cgroup, container, pod.
//!
//! Fed by process and cgroup events; asks `/proc` and the cgroup tree only for what no event told, and only when
//! reading is allowed (live, never on replay). Knows sockets by their snapshots, never the connection table.
mod cgroup;
mod environment;
mod intern;
mod listeners;
mod process;
mod procfs;
mod resolver_configs;
mod sockets;

use std::{path::PathBuf, sync::Arc};

use agent_ebpf::{
    connection::{ConnectionState, ROLE_LISTENER, ROLE_SERVER},
    process::{CgroupEvent, ExecEvent, ExitEvent, ForkEvent},
};

use crate::{capacity::TableUse, dns::SearchList};

pub use cgroup::Cgroup;
pub use environment::{Environment, allowed};
pub use process::Process;

use cgroup::Cgroups;
use intern::Interner;
use listeners::Listeners;
use process::Processes;
use procfs::Procfs;
use resolver_configs::{Kin, ResolverConfigs};
use sockets::SocketOwners;

/// Processes for which one cgroup is remembered: by default that makes 16 384; a node has some hundreds.
const PROCESSES_PER_CGROUP: usize = 2;
/// The node's first process.
const FIRST_PID: u32 = 1;
/// Processes for which one listener is remembered: 16 384 by default, as many as are shown.
const PROCESSES_PER_LISTENER: usize = 2;

/// All that is known of processes, cgroups and listeners.
#[derive(Debug)]
pub struct Attribution {
    strings: Interner,
    processes: Processes,
    cgroups: Cgroups,
    listeners: Listeners,
    sockets: SocketOwners,
    resolvers: ResolverConfigs,
    host_netns: Option<u32>,
    procfs: Option<Procfs>,
}

impl Attribution {
    /// Remembers at most `max_processes` processes; reads `/proc` and `cgroup_root` only when `read_proc`, and of environments
    /// these variables alone.
    pub fn new(max_processes: usize, read_proc: bool, cgroup_root: Option<PathBuf>, environment: &[Arc<str>]) -> Self {
        let procfs = read_proc.then(|| Procfs::open(environment)).flatten();
        Self {
            strings: Interner::default(),
            processes: Processes::new(max_processes),
            cgroups: Cgroups::new(
                max_processes.div_ceil(PROCESSES_PER_CGROUP),
                cgroup_root.filter(|_| read_proc),
            ),
            listeners: Listeners::new(max_processes.div_ceil(PROCESSES_PER_LISTENER)),
            sockets: SocketOwners::default(),
            resolvers: ResolverConfigs::default(),
            host_netns: procfs.as_ref().and_then(Procfs::host_netns),
            procfs,
        }
    }

    /// Reads what is there already.
    pub fn seed(&mut self) {
        if let Some(procfs) = &self.procfs {
            self.processes.seed(procfs, &mut self.strings);
        }
        self.cgroups.walk();
    }

    /// A process was forked.
    pub fn fork(&mut self, event: &ForkEvent) {
        self.processes.fork(event, self.procfs.as_ref(), &mut self.strings);
    }

    /// A process executed a program.
    pub fn exec(&mut self, event: &ExecEvent) {
        self.processes.exec(event, self.procfs.as_ref(), &mut self.strings);
    }

    /// A process ended.
    pub fn exit(&mut self, event: &ExitEvent) {
        self.processes.exit(event.pid, event.header.time_ns);
    }

    /// A cgroup was made.
    pub fn cgroup_made(&mut self, event: &CgroupEvent) {
        self.cgroups.made(event.cgroup_id, &intern::text(&event.path));
    }

    /// A listener appeared.
    pub fn listener_opened(&mut self, state: &ConnectionState) {
        let owner = self.find_owner(state);
        self.listeners
            .opened(state.cookie, state.inode, owner, state.reported_ns);
    }

    /// A listener is gone; its children may still ask for it.
    pub fn listener_closed(&mut self, cookie: u64) {
        self.listeners.closed(cookie);
    }

    /// The process that called `connect` or `listen`, as it was then.
    ///
    /// A child has its listener's owner, or when that has ended whoever holds the listener. A late socket has no owner in the kernel's record: whoever holds its inode now.
    /// What is not found has the name of the thread that called and nothing else.
    pub fn owner(&mut self, state: &ConnectionState) -> Arc<Process> {
        let listener = match state.role {
            ROLE_SERVER => state.listener_cookie,
            ROLE_LISTENER => state.cookie,
            _ => 0,
        };
        if state.role == ROLE_SERVER {
            self.look_for_heir(listener, state.reported_ns);
        }
        self.listeners.owner(listener).unwrap_or_else(|| self.find_owner(state))
    }

    /// Finds who has the listener of a process that does not run any more: whoever started it before it was forked, or what it
    /// executed.
    fn look_for_heir(&mut self, listener: u64, now_ns: u64) {
        let Some(procfs) = &self.procfs else { return };
        let processes = &self.processes;
        let orphan = self
            .listeners
            .is_orphan(listener, now_ns, |pid, since_ns| processes.runs_since(pid, since_ns));
        if let Some(inode) = orphan
            && let Some(pid) = self.sockets.holder_since(inode, now_ns, now_ns, procfs)
            && let Some(heir) = self.processes.at(pid, now_ns, Some(procfs), &mut self.strings)
        {
            self.listeners.inherited(listener, heir, now_ns);
        }
    }

    /// The cgroup of a socket; `pid` is somebody who is likely to be in it.
    pub fn cgroup(&mut self, id: u64, pid: u32, now_ns: u64) -> Option<Arc<Cgroup>> {
        self.cgroups.find(id, now_ns, || self.procfs.as_ref()?.cgroup(pid))
    }

    /// A process by its pid at that time; one that is not known has its pid and nothing else.
    pub fn process(&mut self, pid: u32, at_ns: u64) -> Arc<Process> {
        self.processes
            .at(pid, at_ns, self.procfs.as_ref(), &mut self.strings)
            .unwrap_or_else(|| Arc::new(Process::unknown(pid, self.strings.intern(&[]))))
    }

    /// A process was met under this name, NUL-padded.
    pub fn seen(&mut self, pid: u32, at_ns: u64, comm: &[u8]) {
        let comm = self.strings.intern(comm);
        self.processes.rename(pid, at_ns, &comm);
    }

    /// The search list of a process's resolver; `None` when it cannot be read.
    pub fn search_list(&mut self, pid: u32, cgroup_id: u64, now_ns: u64) -> Option<Arc<SearchList>> {
        let procfs = self.procfs.as_ref()?;
        let (processes, strings) = (&mut self.processes, &mut self.strings);
        let kin = || {
            let process = processes.at(pid, now_ns, Some(procfs), strings)?;
            // The node's own processes all see the same, and so does hopline outside of a container.
            let others = [FIRST_PID, std::process::id()];
            (process.mount_namespace != 0).then(|| Kin {
                mount_namespace: process.mount_namespace,
                pids: processes
                    .ancestors(&process, now_ns)
                    .into_iter()
                    .chain(others)
                    .collect(),
            })
        };
        self.resolvers.search_list(procfs, pid, cgroup_id, now_ns, kin)
    }

    /// Whether the process that has this pid at a time is the one that had it at an earlier one, with the same program.
    pub fn is_same_process(&mut self, pid: u32, at_ns: u64, earlier_ns: u64) -> bool {
        self.processes.ran_at(pid, at_ns, earlier_ns, self.procfs.as_ref())
    }

    /// Whether a network namespace is the node's own, which unrelated workloads share.
    pub fn is_host_network(&self, netns: u32) -> bool {
        self.host_netns == Some(netns)
    }

    /// Lets go of what is only kept for a while.
    pub fn tick(&mut self, now_ns: u64) {
        self.processes.expire(now_ns);
        self.sockets.expire(now_ns);
    }

    /// Processes in the cache, and how many it forgot before their time.
    pub fn process_counts(&self) -> (u64, u64) {
        (self.processes.len() as u64, self.processes.evicted())
    }

    /// How full each table is.
    pub fn uses(&self) -> [TableUse; 4] {
        [
            TableUse::new("processes", self.processes.len(), self.processes.limit()),
            TableUse::new("cgroups", self.cgroups.len(), self.cgroups.limit()),
            self.listeners.usage(),
            self.resolvers.usage(),
        ]
    }

    /// How many cgroups the cache forgot.
    pub fn cgroups_evicted(&self) -> u64 {
        self.cgroups.evicted()
    }

    fn find_owner(&mut self, state: &ConnectionState) -> Arc<Process> {
        let times = [state.intent_ns, state.syn_ns, state.established_ns];
        let (pid, at_ns) = match state.pid {
            0 => (self.holder(state).unwrap_or(0), state.reported_ns),
            pid => (
                pid,
                times.into_iter().find(|at_ns| *at_ns != 0).unwrap_or(state.reported_ns),
            ),
        };
        let comm = self.strings.intern(&state.comm);
        self.processes.rename(pid, at_ns, &comm);
        self.processes
            .at(pid, at_ns, self.procfs.as_ref(), &mut self.strings)
            .unwrap_or_else(|| Arc::new(Process::unknown(pid, comm)))
    }

    fn holder(&mut self, state: &ConnectionState) -> Option<u32> {
        self.sockets
            .holder(state.inode, state.reported_ns, self.procfs.as_ref()?)
    }
}
