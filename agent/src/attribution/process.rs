//! The bounded cache of processes, right by time: a pid names one program in each interval.
//!
//! A program begins with a fork or an exec and ends with the next exec or the exit. Ended ones stay for a grace, since
//! events of their connections may come later; ancestors are fixed at the fork, since they may be gone first.
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use agent_ebpf::process::{ExecEvent, ForkEvent};

use super::{
    environment::Environment,
    intern::{Interner, text},
    procfs::{Procfs, Stat},
};

/// Most ancestors that are kept.
const MAX_ANCESTRY: usize = 8;
/// An ended program is kept for this long while there are few: a lookup may be told of half a minute after the last query,
/// when the other address family's answer never came.
const GRACE_NS: u64 = 35_000_000_000;
/// All ended programs are kept for this long.
const SURE_NS: u64 = 5_000_000_000;
/// So many ended programs are few.
const FEW: usize = 4_096;
/// `/proc` rounds starts down, and its clock may differ: only a start this much later means another process.
const START_TOLERANCE_NS: u64 = 1_000_000_000;

/// One program that a process ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id in the init namespace; 0 when unknown.
    pub pid: u32,
    /// Its parent, at the fork; 0 when unknown.
    pub parent_pid: u32,
    /// Its name since the fork or exec.
    pub comm: Arc<str>,
    /// Path as given to `execve`, or as `/proc` has it for relative ones and for what ran before hopline; a forked
    /// process has its parent's.
    pub exe: Option<Arc<str>>,
    /// Names of its ancestors, the nearest parent first.
    pub ancestry: Arc<[Arc<str>]>,
    /// Allowed variables of its environment, as they were when it began.
    pub environment: Environment,
    /// Inode number of its mount namespace when it began; 0 when unknown.
    pub mount_namespace: u32,
}

impl Process {
    /// Its name as a destination: a listener whose process is not known has one too.
    pub fn name(&self) -> Arc<str> {
        if self.comm.is_empty() {
            "unknown".into()
        } else {
            Arc::clone(&self.comm)
        }
    }

    /// Neither events nor `/proc` told of it.
    pub(crate) fn unknown(pid: u32, comm: Arc<str>) -> Self {
        Self {
            pid,
            parent_pid: 0,
            comm,
            exe: None,
            ancestry: Arc::default(),
            environment: Arc::default(),
            mount_namespace: 0,
        }
    }
}

/// A program and the time in which it ran under its pid.
#[derive(Debug)]
struct Image {
    process: Arc<Process>,
    start_ns: u64,
    /// `u64::MAX` while it runs.
    end_ns: u64,
    /// Ancestry of its children: made once, shared by all of them.
    below: Option<Arc<[Arc<str>]>>,
}

/// The cache.
#[derive(Debug)]
pub(super) struct Processes {
    /// Images of each pid by start.
    by_pid: HashMap<u32, Vec<Image>>,
    /// Ends of images, oldest first: when, and whose.
    ended: VecDeque<(u64, u32)>,
    len: usize,
    limit: usize,
    evicted: u64,
}

impl Processes {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            by_pid: HashMap::new(),
            ended: VecDeque::new(),
            len: 0,
            limit,
            evicted: 0,
        }
    }

    /// Images in the cache.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The most that there may be.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Images that had to go before their time, or never came in.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Every process that runs. They count as running since ever: what is older than hopline has no other owner.
    pub(super) fn seed(&mut self, procfs: &Procfs, strings: &mut Interner) {
        for pid in procfs.pids() {
            self.load(pid, u64::MAX, procfs, strings);
        }
        self.by_pid.values_mut().flatten().for_each(|image| image.start_ns = 0);
    }

    pub(super) fn fork(&mut self, event: &ForkEvent, procfs: Option<&Procfs>, strings: &mut Interner) {
        let at_ns = event.header.time_ns;
        let comm = strings.intern(&event.comm);
        let parent_comm = strings.intern(&event.parent_comm);
        self.rename(event.parent_pid, at_ns, &parent_comm);
        let parent = self.at(event.parent_pid, at_ns, procfs, strings);
        let (exe, environment, mount_namespace) = parent.map_or_else(Default::default, |parent| {
            (
                parent.exe.clone(),
                Arc::clone(&parent.environment),
                parent.mount_namespace,
            )
        });
        let ancestry = self.ancestry_below(event.parent_pid, at_ns);
        self.begin(
            Process {
                pid: event.pid,
                parent_pid: event.parent_pid,
                comm,
                exe,
                ancestry,
                environment,
                mount_namespace,
            },
            at_ns,
        );
    }

    pub(super) fn exec(&mut self, event: &ExecEvent, procfs: Option<&Procfs>, strings: &mut Interner) {
        let (pid, at_ns) = (event.pid, event.header.time_ns);
        let (ancestry, inherited) = if let Some(before) = self.running(pid) {
            let before = &before.process;
            (Arc::clone(&before.ancestry), Arc::clone(&before.environment))
        } else {
            let parent = self.at(event.parent_pid, at_ns, procfs, strings);
            let inherited = parent.map_or_else(Default::default, |parent| Arc::clone(&parent.environment));
            (self.ancestry_below(event.parent_pid, at_ns), inherited)
        };
        // One that has gone already had what it inherited, unless it was started with something else.
        let environment = procfs.and_then(|procfs| procfs.environment(pid)).unwrap_or(inherited);
        let path = text(&event.path);
        // Relative paths and open files (fexecve) name nothing by themselves.
        let named = path.starts_with('/') && !path.starts_with("/dev/fd/");
        let resolved = if named {
            None
        } else {
            procfs.and_then(|procfs| procfs.exe(pid))
        };
        let exe = resolved.as_deref().unwrap_or(&path);
        let exe = (!exe.is_empty()).then(|| strings.intern_str(exe));
        self.begin(
            Process {
                pid,
                parent_pid: event.parent_pid,
                comm: strings.intern(&event.comm),
                exe,
                ancestry,
                environment,
                mount_namespace: event.mount_namespace,
            },
            at_ns,
        );
    }

    /// The process calls itself so by now (`prctl`).
    pub(super) fn rename(&mut self, pid: u32, at_ns: u64, comm: &Arc<str>) {
        if let Some(image) = self.image(pid, at_ns)
            && image.process.comm != *comm
            && !comm.is_empty()
        {
            let process = Process {
                comm: Arc::clone(comm),
                ..(*image.process).clone()
            };
            image.process = Arc::new(process);
            image.below = None;
        }
    }

    pub(super) fn exit(&mut self, pid: u32, at_ns: u64) {
        self.end(pid, at_ns);
        self.expire(at_ns);
    }

    /// The program that ran under `pid` at a time, from `/proc` when no event told of it.
    pub(super) fn at(
        &mut self,
        pid: u32,
        at_ns: u64,
        procfs: Option<&Procfs>,
        strings: &mut Interner,
    ) -> Option<Arc<Process>> {
        if pid == 0 {
            return None;
        }
        if let Some(image) = self.image(pid, at_ns) {
            return Some(Arc::clone(&image.process));
        }
        self.load(pid, at_ns, procfs?, strings)
    }

    /// Whether the program that runs under `pid` at a time ran there at an earlier one already.
    pub(super) fn ran_at(&mut self, pid: u32, at_ns: u64, earlier_ns: u64, procfs: Option<&Procfs>) -> bool {
        let Some(image) = self.image(pid, at_ns).filter(|image| image.start_ns <= earlier_ns) else {
            return false;
        };
        // Events may have been lost: another process has the pid by now. Of one that has ended its exit told.
        image.end_ns != u64::MAX
            || procfs.is_none_or(|procfs| {
                let is_older = |stat: Stat| stat.start_ns <= earlier_ns.saturating_add(START_TOLERANCE_NS);
                procfs.stat(pid).is_none_or(is_older)
            })
    }

    /// Whether a process has run its program since that time, as far as events told; `/proc` tells nothing of when.
    pub(super) fn runs_since(&self, pid: u32, since_ns: u64) -> bool {
        self.running(pid).is_some_and(|image| image.start_ns <= since_ns)
    }

    /// The processes above one at a time, the nearest first; they may have ended since.
    pub(super) fn ancestors(&mut self, process: &Process, at_ns: u64) -> Vec<u32> {
        let mut ancestors = Vec::new();
        let mut next = process.parent_pid;
        while next != 0 && ancestors.len() < MAX_ANCESTRY {
            ancestors.push(next);
            next = self.image(next, at_ns).map_or(0, |image| image.process.parent_pid);
        }
        ancestors
    }

    /// Forgets what ended more than the grace ago.
    pub(super) fn expire(&mut self, now_ns: u64) {
        while let Some((end_ns, pid)) = self.ended.front().copied()
            && now_ns.saturating_sub(end_ns) >= if self.ended.len() > FEW { SURE_NS } else { GRACE_NS }
        {
            self.ended.pop_front();
            self.forget(pid);
        }
    }

    fn image(&mut self, pid: u32, at_ns: u64) -> Option<&mut Image> {
        let images = self.by_pid.get_mut(&pid)?;
        images
            .iter_mut()
            .rev()
            .find(|image| image.start_ns <= at_ns && at_ns <= image.end_ns)
    }

    fn running(&self, pid: u32) -> Option<&Image> {
        self.by_pid.get(&pid)?.last().filter(|image| image.end_ns == u64::MAX)
    }

    /// Ancestry of a process that `parent_pid` forks.
    fn ancestry_below(&mut self, parent_pid: u32, at_ns: u64) -> Arc<[Arc<str>]> {
        let Some(parent) = self.image(parent_pid, at_ns) else {
            return Arc::default();
        };
        let Image { process, below, .. } = parent;
        Arc::clone(below.get_or_insert_with(|| {
            let older = process.ancestry.iter().take(MAX_ANCESTRY - 1);
            [&process.comm].into_iter().chain(older).cloned().collect()
        }))
    }

    /// A program begins; the one before it under this pid has ended, told or not.
    fn begin(&mut self, process: Process, start_ns: u64) {
        self.end(process.pid, start_ns);
        if self.len >= self.limit {
            let Some((end_ns, pid)) = self.ended.pop_front() else {
                // Every process runs: the newcomer stays unknown.
                self.evicted += 1;
                return;
            };
            self.evicted += u64::from(start_ns.saturating_sub(end_ns) < SURE_NS);
            self.forget(pid);
        }
        self.len += 1;
        let image = Image {
            process: Arc::new(process),
            start_ns,
            end_ns: u64::MAX,
            below: None,
        };
        self.by_pid.entry(image.process.pid).or_default().push(image);
    }

    fn end(&mut self, pid: u32, at_ns: u64) {
        if let Some(image) = self.by_pid.get_mut(&pid).and_then(|images| images.last_mut())
            && image.end_ns == u64::MAX
        {
            image.end_ns = at_ns.max(image.start_ns);
            self.ended.push_back((image.end_ns, pid));
        }
    }

    /// Drops the oldest ended image of a pid.
    fn forget(&mut self, pid: u32) {
        if let Some(images) = self.by_pid.get_mut(&pid)
            && images.first().is_some_and(|image| image.end_ns != u64::MAX)
        {
            images.remove(0);
            self.len -= 1;
            if images.is_empty() {
                self.by_pid.remove(&pid);
            }
        }
    }

    /// Takes a running process from `/proc`, unless it started after `at_ns`: then it only has the pid of the one
    /// that was asked for.
    fn load(&mut self, pid: u32, at_ns: u64, procfs: &Procfs, strings: &mut Interner) -> Option<Arc<Process>> {
        if self.running(pid).is_some() {
            return None; // It runs something that began later; what ran before is not known.
        }
        let stat = procfs
            .stat(pid)
            .filter(|stat| stat.start_ns <= at_ns.saturating_add(START_TOLERANCE_NS))?;
        let exe = procfs.exe(pid).map(|exe| strings.intern_str(&exe));
        let mut ancestry = Vec::new();
        let mut next = stat.parent_pid;
        while next != 0 && ancestry.len() < MAX_ANCESTRY {
            if let Some(parent) = self.running(next) {
                ancestry.push(Arc::clone(&parent.process.comm));
                ancestry.extend(parent.process.ancestry.iter().cloned());
                ancestry.truncate(MAX_ANCESTRY);
                break;
            }
            let Some(parent) = procfs.stat(next) else { break };
            ancestry.push(strings.intern_str(&parent.comm));
            next = parent.parent_pid;
        }
        let comm = strings.intern_str(&stat.comm);
        self.begin(
            Process {
                pid,
                parent_pid: stat.parent_pid,
                comm,
                exe,
                ancestry: ancestry.into(),
                environment: procfs.environment(pid).unwrap_or_default(),
                mount_namespace: procfs.mount_namespace(pid).unwrap_or(0),
            },
            stat.start_ns.min(at_ns),
        );
        self.running(pid).map(|image| Arc::clone(&image.process))
    }
}
