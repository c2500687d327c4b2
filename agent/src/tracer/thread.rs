//! The thread that traces for the agent: one probe at a time on each path, a few paths at once, all within a budget.
//!
//! Started by `agent`, told by `owner` whom to trace; each trace goes back as an input. Decides nothing about what it finds.
use std::{
    collections::HashMap,
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sched::{CloneFlags, setns},
    sys::time::TimeSpec,
};
use tokio::sync::mpsc::WeakSender;

use super::sockets::{Sockets, TracerError, is_allowed};
use crate::{
    host, namespaces,
    owner::Input,
    path::{
        Budget, Candidate, Kind, Limits, Network, PathRecord, Plan, Settings, Step, Target, Trace, build, build_reset,
    },
    privileges::{self, Keep},
};

/// Without anything to do the thread looks this often.
const IDLE: Duration = Duration::from_millis(250);
/// Namespaces whose files are remembered.
const MOST_NAMESPACES: usize = 1_024;

/// How the thread works.
#[derive(Clone, Debug)]
pub struct TracerSettings {
    /// Most probes.
    pub limits: Limits,
    /// Most traces at a time; each has one probe on its way.
    pub in_flight: usize,
    /// From one trace of a destination to the next, nanoseconds.
    pub every_ns: u64,
    /// Probes to each hop in a trace.
    pub rounds: u32,
    /// Who is never traced.
    pub exclude: Vec<Network>,
    /// Unpredictable.
    pub seed: u64,
}

/// What came of a trace.
#[derive(Clone, Debug)]
pub struct Traced {
    /// What was traced.
    pub target: Target,
    /// When it was done, nanoseconds.
    pub at_ns: u64,
    /// The path; `Err`: why there is none.
    pub path: Result<PathRecord, String>,
    /// Probes that left.
    pub probes: u64,
}

/// A trace under way.
struct Active {
    candidate: Candidate,
    sockets: Sockets,
    trace: Trace,
    probes: u64,
}

/// Starts the thread; a list of candidates is taken only when the one before was. Fails where probes are not allowed.
pub fn start(settings: TracerSettings, inputs: WeakSender<Input>) -> Result<SyncSender<Vec<Candidate>>, TracerError> {
    if !is_allowed() {
        return Err(TracerError::NotAllowed);
    }
    let (orders, inbox) = sync_channel(1);
    thread::Builder::new()
        .name("tracer".to_owned())
        .spawn(move || Tracer::new(settings).run(&inbox, &inputs))?;
    Ok(orders)
}

/// The thread's state.
struct Tracer {
    settings: TracerSettings,
    plan: Plan,
    budget: Budget,
    active: Vec<Active>,
    /// The node's own.
    home: Option<File>,
    /// Where the namespaces were found last.
    files: HashMap<u32, PathBuf>,
    /// The first router of each namespace: every trace from there passes it.
    gateways: HashMap<(u32, bool), IpAddr>,
    seed: u64,
}

impl Tracer {
    fn new(settings: TracerSettings) -> Self {
        Self {
            plan: Plan::new(settings.every_ns, settings.exclude.clone(), settings.seed),
            budget: Budget::new(settings.limits),
            active: Vec::new(),
            home: None,
            files: HashMap::new(),
            gateways: HashMap::new(),
            seed: settings.seed,
            settings,
        }
    }

    fn run(mut self, inbox: &Receiver<Vec<Candidate>>, inputs: &WeakSender<Input>) {
        privileges::drop_capabilities(Keep {
            enters_namespaces: true,
            sends_probes: true,
            ..Keep::default()
        });
        self.home = File::open("/proc/thread-self/ns/net").ok();
        loop {
            let order = if self.active.is_empty() {
                inbox.recv_timeout(IDLE)
            } else {
                inbox.try_recv().map_err(|error| match error {
                    std::sync::mpsc::TryRecvError::Empty => RecvTimeoutError::Timeout,
                    std::sync::mpsc::TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                })
            };
            match order {
                Ok(candidates) => self.plan.update(candidates, host::monotonic_ns()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let mut ended = self.begin();
            let until_ns = self.send(&mut ended);
            for traced in ended {
                let Some(inputs) = inputs.upgrade() else { return };
                if inputs.blocking_send(Input::Traced(Box::new(traced))).is_err() {
                    return;
                }
            }
            if !self.active.is_empty() {
                self.wait(until_ns);
                self.receive();
            }
        }
    }

    /// Begins traces that are due; those that cannot be are over at once.
    fn begin(&mut self) -> Vec<Traced> {
        let mut failed = Vec::new();
        while self.active.len() < self.settings.in_flight {
            let now_ns = host::monotonic_ns();
            let Some((candidate, port)) = self.plan.next(now_ns) else {
                break;
            };
            match self.open(&candidate, port) {
                Ok(active) => self.active.push(active),
                Err(error) => {
                    self.plan.done(candidate.target, None, now_ns);
                    failed.push(Traced {
                        target: candidate.target,
                        at_ns: now_ns,
                        path: Err(error.to_string()),
                        probes: 0,
                    });
                }
            }
        }
        failed
    }

    fn open(&mut self, candidate: &Candidate, port: Option<u16>) -> Result<Active, TracerError> {
        let Target {
            address,
            port: to,
            netns,
        } = candidate.target;
        self.enter(netns)?;
        let sockets = Sockets::open(Kind::Tcp, SocketAddr::new(address, to), port);
        self.go_home();
        let sockets = sockets?;
        self.seed = self.seed.rotate_left(23).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ host::monotonic_ns();
        let settings = Settings {
            rounds: self.settings.rounds,
            parallel: false,
            seed: self.seed,
            ..Settings::default()
        };
        Ok(Active {
            trace: Trace::new(settings, *sockets.flow()),
            candidate: candidate.clone(),
            sockets,
            probes: 0,
        })
    }

    /// Enters the namespace, unless it is unknown; sockets opened there stay there.
    fn enter(&mut self, netns: u32) -> io::Result<()> {
        if netns == 0 {
            return Ok(());
        }
        let gone = || io::Error::other("its network namespace is gone");
        let known = self.files.get(&netns).cloned();
        let file = known.and_then(|path| opened(&path, netns));
        let file = if let Some(file) = file {
            file
        } else {
            let found = namespaces::files().find(|path| namespaces::inode(path) == Some(netns));
            let path = found.ok_or_else(gone)?;
            let file = opened(&path, netns).ok_or_else(gone)?;
            if self.files.len() >= MOST_NAMESPACES {
                self.files.clear();
            }
            self.files.insert(netns, path);
            file
        };
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        Ok(())
    }

    fn go_home(&self) {
        if let Some(home) = &self.home
            && let Err(error) = setns(home, CloneFlags::CLONE_NEWNET)
        {
            tracing::warn!(%error, "the tracer cannot return to the node's network namespace");
        }
    }

    /// Sends what is due and may leave; when to look again.
    fn send(&mut self, ended: &mut Vec<Traced>) -> u64 {
        let mut again_ns = host::monotonic_ns() + IDLE.as_nanos() as u64;
        let mut at = 0;
        while at < self.active.len() {
            let Active {
                candidate,
                sockets,
                trace,
                probes,
            } = &mut self.active[at];
            let now_ns = host::monotonic_ns();
            match trace.step(now_ns) {
                Step::Send { ttl, tag } => {
                    let target = candidate.target;
                    let gateway = (ttl == 1).then(|| self.gateways.get(&(target.netns, target.address.is_ipv4())));
                    let router = trace.router(ttl).or(gateway.flatten().copied());
                    let free_ns = self.budget.free_at(target.address, router, now_ns);
                    if free_ns <= now_ns {
                        let packet = build(sockets.flow(), ttl, tag);
                        let sent_ns = sockets.send(&packet);
                        trace.sent(sent_ns);
                        *probes += 1;
                        // Not `sent_ns`, which is before: a bound that holds where this thread is kept from running, too.
                        self.budget.sent(target.address, router, host::monotonic_ns());
                    } else {
                        again_ns = again_ns.min(free_ns);
                    }
                }
                Step::Reset { tag } => {
                    sockets.send(&build_reset(sockets.flow(), tag));
                    // There may be more to do.
                    continue;
                }
                Step::Wait { until_ns } => again_ns = again_ns.min(until_ns),
                Step::Done => {
                    let done = self.active.swap_remove(at);
                    ended.push(self.end(done, now_ns));
                    continue;
                }
            }
            at += 1;
        }
        again_ns
    }

    fn end(&mut self, done: Active, now_ns: u64) -> Traced {
        let Active {
            candidate,
            trace,
            probes,
            ..
        } = done;
        let target = candidate.target;
        self.plan.done(target, Some(trace.flow().source_port), now_ns);
        if let Some(gateway) = trace.router(1).filter(|_| trace.hops().len() > 1) {
            if self.gateways.len() >= MOST_NAMESPACES {
                self.gateways.clear();
            }
            self.gateways.insert((target.netns, target.address.is_ipv4()), gateway);
        }
        Traced {
            target,
            at_ns: now_ns,
            path: Ok(PathRecord::of(&trace, &candidate.host)),
            probes,
        }
    }

    fn wait(&self, until_ns: u64) {
        let limit = Duration::from_nanos(until_ns.saturating_sub(host::monotonic_ns())).min(IDLE);
        let descriptors = self.active.iter().flat_map(|active| active.sockets.descriptors());
        let mut fds: Vec<PollFd<'_>> = descriptors
            .map(|socket| PollFd::new(socket, PollFlags::POLLIN))
            .collect();
        // An interruption ends the wait early, no more.
        let _ = ppoll(&mut fds, Some(TimeSpec::from(limit)), None);
    }

    fn receive(&mut self) {
        for Active {
            sockets,
            trace,
            candidate,
            ..
        } in &mut self.active
        {
            let budget = &mut self.budget;
            sockets.receive(|arrival, at_ns| {
                let hops = trace.hops().iter().filter(|hop| hop.answered() > 0).count();
                let is_ours = trace.answer(arrival, at_ns);
                // Whose it would be was not known before.
                let is_new = trace.hops().iter().filter(|hop| hop.answered() > 0).count() > hops;
                if is_ours && is_new && arrival.from != candidate.target.address {
                    budget.answered(arrival.from, at_ns);
                }
            });
        }
    }
}

/// The file, if it still leads to this namespace.
fn opened(path: &Path, netns: u32) -> Option<File> {
    let file = File::open(path).ok()?;
    let opened = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
    (namespaces::inode(Path::new(&opened)) == Some(netns)).then_some(file)
}
