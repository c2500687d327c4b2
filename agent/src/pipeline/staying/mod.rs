//! Sockets that stay: what lingers after its connection, queues, held connections, ports, connections without reuse, writes
//! after the peer's end.
//!
//! Two sources, which never tell of the same socket: events tell of connections until they reach CLOSE; the sweeps of
//! `sweeper` add what is none by then, or none yet (`TIME_WAIT`, `FIN_WAIT2` without an owner, `SYN_RECV`).
mod lingering;
mod overflows;
mod swept;
mod unreused;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use agent_ebpf::connection::ConnectionState;

use super::{Attached, Pipeline, destination};
use crate::{
    aggregate::{
        At, DestinationId, ListenerDetail, Name, Place, PortsDetail, Series, StayingDetail, StayingSnapshot,
        SweepCounts, Tally, TcpState,
    },
    attribution::Process,
    capacity::{Share, TableUse},
    connection::{ClosedBy, Endpoint, Endpoints, Idle, Role},
    workloads::Pod,
};
use lingering::Closed;
use unreused::{One, Unreused};

/// Held connections are looked for, and sweeps are due, this often.
const LOOK_EVERY_NS: u64 = 5_000_000_000;
/// Places of each family here.
const MAX_PLACES: usize = 200;
/// Processes, destinations and states whose connections are told.
const MAX_STAYING: usize = 256;

/// A socket that listens.
#[derive(Debug)]
pub(super) struct Listener {
    /// Where its gauge was raised.
    pub(super) shown: DestinationId,
    pub(super) owner: Arc<Process>,
    /// The pod that it belongs to.
    pub(super) pod: Option<Arc<Pod>>,
    pub(super) cgroup_id: u64,
    pub(super) netns: u32,
    pub(super) local: Endpoint,
    /// It was there before hopline.
    pub(super) late: bool,
    /// What its full queue has refused since hopline knows it.
    pub(super) overflows: u64,
}

/// What the kernel had counted at the last sweep.
#[derive(Debug, Default)]
struct Queues {
    /// Drops of each listener, by cookie.
    drops: HashMap<u64, u32>,
    /// Overflows of each namespace.
    overflows: HashMap<u32, u64>,
}

/// All that is known of sockets that stay.
#[derive(Debug)]
pub(super) struct Staying {
    closed: Closed,
    unreused: Unreused,
    writes_after_close: Tally<Place>,
    unreused_counts: Tally<At<Arc<str>>>,
    overflows: Tally<Place>,
    queues: Queues,
    idle: Tally<At<Idle>>,
    told: Arc<[StayingDetail]>,
    listeners: Arc<[ListenerDetail]>,
    ports: Arc<[PortsDetail]>,
    /// What the last sweep raised.
    raised: Vec<(DestinationId, TcpState, u64)>,
    sweeps: SweepCounts,
    looked_ns: u64,
    /// Namespaces of the scope, when a sweep is due.
    due: Option<HashSet<u32>>,
}

impl Staying {
    pub(super) fn new(share: Share) -> Self {
        Self {
            closed: Closed::new(share),
            unreused: Unreused::new(share),
            writes_after_close: Tally::new(MAX_PLACES),
            unreused_counts: Tally::new(MAX_PLACES),
            overflows: Tally::new(MAX_PLACES),
            queues: Queues::default(),
            idle: Tally::new(MAX_PLACES),
            told: Arc::default(),
            listeners: Arc::default(),
            ports: Arc::default(),
            raised: Vec::new(),
            sweeps: SweepCounts::default(),
            looked_ns: 0,
            due: None,
        }
    }

    pub(super) fn uses(&self) -> [TableUse; 3] {
        let [runs, singles] = self.unreused.uses();
        [self.closed.usage(), runs, singles]
    }
}

/// A connection that has ended.
pub(super) struct Ending<'a> {
    pub(super) role: Role,
    pub(super) state: &'a ConnectionState,
    pub(super) is_answered: bool,
    pub(super) opened_ns: u64,
    pub(super) ended_ns: u64,
}

impl Staying {
    /// A connection has ended. Gives for how long nothing had passed before this side wrote to what the peer had closed.
    pub(super) fn ended(&mut self, attached: &Attached, ending: &Ending<'_>) -> Option<u64> {
        let Ending { role, state, .. } = *ending;
        if ClosedBy::of(state) == Some(ClosedBy::Local) {
            self.closed.add(state, attached.destination);
        }
        let timeline = &state.timeline;
        let exchanged_once = ending.is_answered && timeline.turns == 0 && timeline.turns_overlapping == 0;
        if role == Role::Client && exchanged_once && attached.owner.pid != 0 {
            let one = One {
                opened_ns: ending.opened_ns,
                ended_ns: ending.ended_ns,
                cgroup_id: state.cgroup_id,
            };
            let place = || place(role, attached, state);
            if let Some((place, count)) = self.unreused.ended(&attached.owner, attached.destination, one, place) {
                let what = attached.owner.name();
                self.unreused_counts.add_many(At { place, what }, count);
            }
        }
        let idle_ns = attached.activity.wrote_after_end(state, ending.is_answered)?;
        self.writes_after_close.add(place(role, attached, state));
        Some(idle_ns)
    }

    fn snapshot(&self) -> StayingSnapshot {
        StayingSnapshot {
            idle: self.idle.snapshot(),
            listeners: Arc::clone(&self.listeners),
            overflows: self.overflows.snapshot(),
            ports: Arc::clone(&self.ports),
            unreused: self.unreused_counts.snapshot(),
            writes_after_close: self.writes_after_close.snapshot(),
            staying: Arc::clone(&self.told),
            unreusing: self.unreused.told(),
            sweeps: self.sweeps.clone(),
            lingering_untracked: self.closed.refused(),
            unreused_untracked: self.unreused.refused(),
        }
    }
}

impl Pipeline {
    /// Namespaces whose sockets are to be listed now; `None` most of the time.
    pub fn sweep_due(&mut self) -> Option<HashSet<u32>> {
        self.staying.due.take()
    }

    /// Nobody had time for the sweep that was due.
    pub fn sweep_skipped(&mut self) {
        self.staying.sweeps.skipped += 1;
    }

    pub(super) fn staying(&self) -> StayingSnapshot {
        self.staying.snapshot()
    }

    /// Looks at all open connections, now and then.
    pub(super) fn look_at_staying(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.staying.looked_ns) < LOOK_EVERY_NS {
            return;
        }
        self.staying.looked_ns = now_ns;
        self.staying.closed.expire(now_ns);
        self.staying.unreused.expire(now_ns);
        let mut idle = Tally::new(MAX_PLACES);
        let mut namespaces: HashSet<u32> = self.listeners.values().map(|listener| listener.netns).collect();
        namespaces.extend(self.staying.closed.namespaces());
        let mut groups: HashMap<(DestinationId, u32, &'static str), (u64, &Attached, ConnectionState)> = HashMap::new();
        for entry in self.connections.iter() {
            let (state, attached) = (&entry.state.state(), &entry.attached);
            namespaces.insert(state.netns);
            let Some(role) = Role::of(state) else { continue };
            let held = attached.activity.idle(state, entry.first_seen_ns, now_ns);
            if let Some(what) = held {
                idle.add(At {
                    place: place(role, attached, state),
                    what,
                });
            }
            let what = match (held, TcpState::of(state.tcp_state)) {
                (Some(held), _) => held.name(),
                (None, None | Some(TcpState::Established)) => continue,
                (None, Some(state)) => state.name(),
            };
            let key = (attached.destination, attached.owner.pid, what);
            groups.entry(key).or_insert((0, attached, *state)).0 += 1;
        }
        let mut groups: Vec<_> = groups
            .into_iter()
            .filter_map(|((_, _, what), (connections, attached, state))| {
                let place = place(Role::of(&state)?, attached, &state);
                Some((connections, what, place, Arc::clone(&attached.owner), state.cgroup_id))
            })
            .collect();
        groups.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.2.cmp(&b.2)));
        groups.truncate(MAX_STAYING);
        let staying = groups
            .into_iter()
            .map(|(connections, what, place, owner, cgroup_id)| StayingDetail {
                place,
                what,
                connections,
                process: self.process_record(&owner, cgroup_id),
            });
        let staying = staying.collect();
        self.staying.told = staying;
        self.staying.idle = idle;
        self.tell_unreusing(now_ns);
        // An answer to the last order may be on its way still: the next one is another.
        self.staying.due = (!namespaces.is_empty()).then_some(namespaces);
    }

    fn tell_unreusing(&mut self, now_ns: u64) {
        let mut told = Vec::new();
        for (mut detail, owner, cgroup_id) in self.staying.unreused.worst(now_ns) {
            detail.process = self.process_record(&owner, cgroup_id);
            told.push(detail);
        }
        self.staying.unreused.tell(told);
    }
}

/// Where a connection is told.
fn place(role: Role, attached: &Attached, state: &ConnectionState) -> Place {
    let endpoints = Endpoints::of(state);
    let (destination, port) = match role {
        Role::Client => {
            let wanted = endpoints.wanted();
            let claim = attached.claim.as_ref();
            let name = claim.map_or_else(|| wanted.address.to_string().into(), |claim| Arc::clone(&claim.host));
            (name, wanted.port)
        }
        Role::Server => {
            let name = destination::server_name(&attached.owner, attached.pod.as_deref());
            (name, endpoints.local.port)
        }
    };
    Place {
        role,
        destination,
        port: Some(port),
        group: Arc::clone(&attached.group.name),
        source: destination::source(attached.pod.as_deref()),
    }
}

/// The same of a listener.
fn place_of_listener(listener: &Listener) -> Place {
    Place {
        role: Role::Server,
        destination: destination::server_name(&listener.owner, listener.pod.as_deref()),
        port: Some(listener.local.port),
        group: Arc::default(),
        source: destination::source(listener.pod.as_deref()),
    }
}

/// The same of a destination that had connections, else of its address.
fn place_of_peer(series: &Series, id: Option<DestinationId>, peer: Endpoint) -> Place {
    let of_address = |address: IpAddr| address.to_string().into();
    match id.and_then(|id| series.called(id)) {
        Some(key) => Place {
            role: key.role,
            destination: match &key.name {
                Name::Address(address) => of_address(*address),
                Name::Host(name) | Name::Process(name) => Arc::clone(name),
            },
            port: Some(key.port),
            group: Arc::clone(&key.group),
            source: key.source.clone(),
        },
        None => Place {
            role: Role::Client,
            destination: of_address(peer.address),
            port: Some(peer.port),
            group: Arc::default(),
            source: None,
        },
    }
}
