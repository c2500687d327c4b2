//! Connections and their pods. One whose pod is not known yet is held, briefly, with all its cgroup's events in their
//! order: what is counted under one name cannot move to another.
//!
//! By its cgroup a connection belongs to one pod for ever, so a late name is never a wrong one. What was held in vain is
//! counted without a name; open connections get theirs when it comes.
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use agent_ebpf::event::{ConnectionEvent, LISTENER_OPEN, TurnsEvent};

use super::{
    Pipeline,
    destination::{key, server_key, source},
    follow,
};
use crate::{
    aggregate::HeldCounts,
    capacity::{Share, TableUse},
    connection::{Role, TcpState},
    groups::Group,
    workloads::{Change, Pod, Source, Workload},
};

/// A name that does not come within this time is done without: less than it takes to be told as STUCK.
const HOLD_NS: u64 = 3_000_000_000;
/// Most events that are held, half a kilobyte each.
const MAX_HELD: usize = 8_192;
/// Cgroups that were held in vain and are not held again, and pods whose open connections still want a name.
const MAX_VAIN: usize = 4_096;

/// Where a connection is from.
enum Placement {
    /// In no pod.
    Elsewhere,
    /// In this one.
    In(Arc<Pod>),
    /// In this one, in a container that will be known at once: the runtime told of the pod before it made that.
    Partly(Arc<Pod>, Option<Box<str>>),
    /// In a pod, by its uid, that is not known; without uid: in a cgroup that is not known.
    Unknown(Option<Box<str>>),
}

#[derive(Debug)]
enum HeldEvent {
    Socket(Box<ConnectionEvent>),
    Turns(Box<TurnsEvent>),
}

/// Events of one cgroup.
#[derive(Debug)]
struct Waiting {
    since_ns: u64,
    /// Somebody in it.
    pid: u32,
    uid: Option<Box<str>>,
    events: Vec<HeldEvent>,
}

/// What is held.
#[derive(Debug)]
pub(super) struct Held {
    limit: usize,
    by_cgroup: HashMap<u64, Waiting>,
    /// Sockets of these events.
    cookies: HashSet<u64>,
    len: usize,
    vain: HashSet<u64>,
    /// Pods some of whose connections have no name.
    nameless: HashSet<Box<str>>,
    counts: HeldCounts,
}

impl Held {
    pub(super) fn new(share: Share) -> Self {
        Self {
            limit: share.of(MAX_HELD),
            by_cgroup: HashMap::new(),
            cookies: HashSet::new(),
            len: 0,
            vain: HashSet::new(),
            nameless: HashSet::new(),
            counts: HeldCounts::default(),
        }
    }

    pub(super) fn usage(&self) -> TableUse {
        TableUse::new("held_events", self.len, self.limit)
    }

    pub(super) fn counts(&self) -> HeldCounts {
        HeldCounts {
            now: self.len as u64,
            ..self.counts
        }
    }

    /// Whether events of this socket are held.
    pub(super) fn has(&self, cookie: u64) -> bool {
        self.cookies.contains(&cookie)
    }

    fn take(&mut self, cgroup_id: u64) -> Vec<HeldEvent> {
        let Some(waiting) = self.by_cgroup.remove(&cgroup_id) else {
            return Vec::new();
        };
        self.len -= waiting.events.len();
        for event in &waiting.events {
            if let HeldEvent::Socket(event) = event {
                self.cookies.remove(&event.state.cookie);
            }
        }
        waiting.events
    }

    fn lacks_name(&mut self, uid: Option<Box<str>>) {
        if let Some(uid) = uid
            && self.nameless.len() < MAX_VAIN
        {
            self.nameless.insert(uid);
        }
    }
}

impl Pipeline {
    /// A source of pods told something.
    pub fn pods(&mut self, change: Change, now_ns: u64) {
        let new = self.workloads.apply(change, now_ns, self.clock_offset_ns);
        for pod in new {
            let uids = [Some(&pod.uid), pod.cgroup_uid.as_ref()];
            let is_of = |waiting: &Waiting| waiting.uid.is_some() && uids.contains(&waiting.uid.as_ref());
            let waiting = self.held.by_cgroup.iter().filter(|(_, waiting)| is_of(waiting));
            let cgroups: Vec<(u64, u32)> = waiting.map(|(cgroup_id, waiting)| (*cgroup_id, waiting.pid)).collect();
            for (cgroup_id, pid) in cgroups {
                if let Placement::In(_) = self.placement(cgroup_id, pid, now_ns) {
                    self.let_on(cgroup_id, true);
                }
            }
            let lacked: Vec<bool> = uids
                .into_iter()
                .flatten()
                .map(|uid| self.held.nameless.remove(uid))
                .collect();
            if lacked.contains(&true) {
                self.name_open();
            }
        }
    }

    /// Somebody waits for a pod that is not known.
    pub fn waits_for_pods(&self) -> bool {
        !self.held.by_cgroup.is_empty()
    }

    /// Keeps an event whose pod is not known yet; `false` when it is to be applied.
    pub(super) fn hold_socket(&mut self, event: &ConnectionEvent) -> bool {
        let (cgroup_id, now_ns) = (event.state.cgroup_id, event.header.time_ns);
        if !self.workloads.is_wanted() || cgroup_id == 0 {
            return false;
        }
        if !self.held.by_cgroup.contains_key(&cgroup_id) {
            if self.held.vain.contains(&cgroup_id) {
                return false;
            }
            let uid = match self.placement(cgroup_id, event.state.pid, now_ns) {
                Placement::Unknown(uid) if !self.workloads.is_expected() => {
                    self.held.lacks_name(uid);
                    return false;
                }
                Placement::Unknown(uid) => uid,
                Placement::Partly(_, uid) if self.workloads.is_expected() => uid,
                Placement::Partly(..) | Placement::In(_) | Placement::Elsewhere => return false,
            };
            let waiting = Waiting {
                since_ns: now_ns,
                pid: event.state.pid,
                uid,
                events: Vec::new(),
            };
            self.held.by_cgroup.insert(cgroup_id, waiting);
        }
        if event.header.kind == LISTENER_OPEN {
            // Its process may be gone when the event is applied.
            self.attribution.listener_opened(&event.state);
        }
        self.hold(cgroup_id, HeldEvent::Socket(Box::new(*event)))
    }

    /// The same for turns of a connection that is held.
    pub(super) fn hold_turns(&mut self, event: &TurnsEvent) -> bool {
        if !self.held.has(event.cookie) {
            return false;
        }
        let is_its = |waiting: &Waiting| {
            waiting.events.iter().any(|held| match held {
                HeldEvent::Socket(held) => held.state.cookie == event.cookie,
                HeldEvent::Turns(_) => false,
            })
        };
        let found = self.held.by_cgroup.iter().find(|(_, waiting)| is_its(waiting));
        let Some(cgroup_id) = found.map(|(cgroup_id, _)| *cgroup_id) else {
            return false;
        };
        self.hold(cgroup_id, HeldEvent::Turns(Box::new(*event)))
    }

    /// Lets on what was held for too long, or whose cgroup is known by now.
    pub(super) fn look_at_held(&mut self, now_ns: u64) {
        self.workloads.tick(now_ns);
        let waiting: Vec<(u64, u32, u64, bool)> = self
            .held
            .by_cgroup
            .iter()
            .map(|(cgroup_id, waiting)| (*cgroup_id, waiting.pid, waiting.since_ns, waiting.uid.is_none()))
            .collect();
        for (cgroup_id, pid, since_ns, looks_again) in waiting {
            if looks_again {
                match self.placement(cgroup_id, pid, now_ns) {
                    Placement::Unknown(None) => {}
                    Placement::Unknown(uid) | Placement::Partly(_, uid) => {
                        if let Some(waiting) = self.held.by_cgroup.get_mut(&cgroup_id) {
                            waiting.uid = uid;
                        }
                    }
                    Placement::In(_) | Placement::Elsewhere => {
                        self.let_on(cgroup_id, true);
                        continue;
                    }
                }
            }
            if now_ns.saturating_sub(since_ns) >= HOLD_NS || !self.workloads.is_expected() {
                self.let_on(cgroup_id, false);
            }
        }
    }

    /// Lets on everything: no more will come.
    pub(super) fn let_all_on(&mut self) {
        let cgroups: Vec<u64> = self.held.by_cgroup.keys().copied().collect();
        for cgroup_id in cgroups {
            self.let_on(cgroup_id, false);
        }
    }

    /// The pod of a socket's cgroup; `pid` is somebody who is likely to be in it.
    pub(super) fn pod_of(&mut self, cgroup_id: u64, pid: u32, now_ns: u64) -> Option<Arc<Pod>> {
        if !self.workloads.is_wanted() {
            return None;
        }
        match self.placement(cgroup_id, pid, now_ns) {
            Placement::In(pod) | Placement::Partly(pod, _) => Some(pod),
            Placement::Elsewhere | Placement::Unknown(_) => None,
        }
    }

    /// Whose something is that was done in this cgroup. What a pod does before it is known has no name here: nothing of it waits.
    pub(super) fn workload_of(&mut self, cgroup_id: u64, pid: u32) -> Option<Arc<Workload>> {
        source(self.pod_of(cgroup_id, pid, self.now_ns).as_deref())
    }

    fn placement(&mut self, cgroup_id: u64, pid: u32, now_ns: u64) -> Placement {
        let Some(cgroup) = self.attribution.cgroup(cgroup_id, pid, now_ns) else {
            return Placement::Unknown(None);
        };
        let found = self.workloads.pod(cgroup.pod.as_deref(), cgroup.container.as_deref());
        let lacks_container = |pod: &Pod| {
            let container = cgroup.container.as_deref();
            pod.source == Source::Cri && container.is_some_and(|id| pod.container(id).is_none())
        };
        match (found, &cgroup.pod) {
            (Some(pod), uid) if lacks_container(pod) => Placement::Partly(Arc::clone(pod), uid.clone()),
            (Some(pod), _) => Placement::In(Arc::clone(pod)),
            (None, Some(uid)) => Placement::Unknown(Some(uid.clone())),
            (None, None) => Placement::Elsewhere,
        }
    }

    /// `false` when there is no room: what is held of this cgroup goes on first, as events keep their order.
    fn hold(&mut self, cgroup_id: u64, event: HeldEvent) -> bool {
        if self.held.len >= self.held.limit {
            self.held.counts.refused += 1;
            self.let_on(cgroup_id, false);
            return false;
        }
        let Some(waiting) = self.held.by_cgroup.get_mut(&cgroup_id) else {
            return false;
        };
        if let HeldEvent::Socket(event) = &event {
            self.held.cookies.insert(event.state.cookie);
        }
        waiting.events.push(event);
        self.held.len += 1;
        true
    }

    fn let_on(&mut self, cgroup_id: u64, is_known: bool) {
        let uid = self
            .held
            .by_cgroup
            .get(&cgroup_id)
            .and_then(|waiting| waiting.uid.clone());
        let events = self.held.take(cgroup_id);
        if is_known {
            self.held.counts.named += events.len() as u64;
        } else {
            self.held.counts.expired += events.len() as u64;
            self.held.lacks_name(uid);
            if self.held.vain.len() >= MAX_VAIN {
                self.held.vain.clear();
            }
            self.held.vain.insert(cgroup_id);
        }
        for event in events {
            match event {
                HeldEvent::Socket(event) => self.socket(&event),
                HeldEvent::Turns(event) => self.turns(&event),
            }
        }
    }

    /// Open connections and listeners whose pod has become known go on under its name.
    fn name_open(&mut self) {
        let now_ns = self.now_ns;
        let nameless: Vec<(u64, u64, u32)> = self
            .connections
            .iter()
            .filter(|entry| entry.attached.pod.is_none())
            .map(|entry| {
                let state = entry.state.state();
                (state.cookie, state.cgroup_id, entry.attached.owner.pid)
            })
            .collect();
        for (cookie, cgroup_id, pid) in nameless {
            let Some(pod) = self.pod_of(cgroup_id, pid, now_ns) else {
                continue;
            };
            let Some(entry) = self.connections.get_mut(cookie) else {
                continue;
            };
            let state = entry.state.state();
            let Some(role) = Role::of(&state) else { continue };
            let attached = &mut entry.attached;
            let host = attached.claim.as_ref().map(|claim| &claim.host);
            let key = key(role, &attached.owner, &state, host, &attached.group, Some(&pod));
            let destination = self.series.destination(key, now_ns);
            attached.pod = Some(pod);
            follow::move_to(&mut self.series, attached, destination);
        }
        let listeners: Vec<(u64, u64, u32)> = self
            .listeners
            .iter()
            .filter(|(_, listener)| listener.pod.is_none())
            .map(|(cookie, listener)| (*cookie, listener.cgroup_id, listener.owner.pid))
            .collect();
        for (cookie, cgroup_id, pid) in listeners {
            let Some(pod) = self.pod_of(cgroup_id, pid, now_ns) else {
                continue;
            };
            let Some(listener) = self.listeners.get_mut(&cookie) else {
                continue;
            };
            let key = server_key(&listener.owner, listener.local.port, &Group::default(), Some(&pod));
            let destination = self.series.destination(key, now_ns);
            listener.pod = Some(pod);
            listener.shown = self.series.move_gauge(listener.shown, destination, TcpState::Listen);
        }
    }
}
