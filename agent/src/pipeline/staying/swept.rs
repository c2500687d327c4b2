//! What a sweep means: which destination a lingering socket, a waiting request, a queue or a port belongs to.
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    MAX_PLACES, Pipeline, Queues,
    overflows::{self, Dropped},
    place, place_of_listener, place_of_peer,
};
use crate::{
    aggregate::{DestinationId, ListenerDetail, PortsDetail, TcpState},
    attribution::Process,
    connection::{Endpoint, Role},
    sockets::{Backlog, NamespaceSweep, PeerPorts, SweepReport},
};

/// Processes that are named for the ports of one destination.
const MOST_PROCESSES: usize = 4;

/// Sockets of one state that belong to one destination, and those of nobody.
#[derive(Default)]
struct Found {
    sockets: HashMap<(DestinationId, TcpState), u64>,
    nobodys: BTreeMap<TcpState, u64>,
    cookies: HashSet<u64>,
}

impl Found {
    fn add(&mut self, whose: Option<DestinationId>, state: TcpState, count: u64) {
        match whose {
            Some(id) => *self.sockets.entry((id, state)).or_default() += count,
            None => *self.nobodys.entry(state).or_default() += count,
        }
    }
}

impl Pipeline {
    /// The kernel's list of sockets of some namespaces.
    pub fn swept(&mut self, report: &SweepReport) {
        let found = self.find_owners(report);
        for (raised, state, count) in std::mem::take(&mut self.staying.raised) {
            self.series.lower(raised, state, count);
        }
        for ((id, state), count) in found.sockets {
            let raised = self.series.raise(id, state, count);
            self.staying.raised.push((raised, state, count));
        }
        let whole = report.namespaces.iter().filter(|sweep| !sweep.is_partial);
        // Of what was in a namespace that has gone nothing lingers.
        let known: HashSet<u32> = whole
            .map(|sweep| sweep.netns)
            .chain(report.vanished.iter().copied())
            .collect();
        self.staying.closed.swept(&known, report.started_ns, &found.cookies);
        self.queues(report);
        self.ports(report);
        let sweeps = &mut self.staying.sweeps;
        sweeps.done += 1;
        sweeps.vanished += report.vanished.len() as u64;
        sweeps.partial += report.unseen;
        sweeps.took = report.took;
        for sweep in &report.namespaces {
            sweeps.partial += u64::from(sweep.is_partial);
            sweeps.refused += sweep.refused;
        }
        sweeps.unattributed = found.nobodys.into_iter().collect();
    }

    /// What lingers has its connection's cookie; a request has nothing but its listener's address, and so has what lingers
    /// of a connection that hopline never knew.
    fn find_owners(&self, report: &SweepReport) -> Found {
        let mut by_address: HashMap<(u32, Option<IpAddr>, u16), DestinationId> = HashMap::new();
        let mut by_port: HashMap<(u32, u16), DestinationId> = HashMap::new();
        for listener in self.listeners.values() {
            let Endpoint { address, port } = listener.local;
            let address = (!address.is_unspecified()).then_some(address);
            by_address.insert((listener.netns, address, port), listener.shown);
            by_port.insert((listener.netns, port), listener.shown);
        }
        let mut found = Found::default();
        for sweep in &report.namespaces {
            let netns = sweep.netns;
            for one in &sweep.lingering {
                found.cookies.insert(one.cookie);
                let of_listener = || by_port.get(&(netns, one.local_port)).copied();
                found.add(self.staying.closed.find(one.cookie).or_else(of_listener), one.state, 1);
            }
            for (local, count) in &sweep.half_open {
                let of = |address| by_address.get(&(netns, address, local.port)).copied();
                found.add(
                    of(Some(local.address)).or_else(|| of(None)),
                    TcpState::SynReceived,
                    *count,
                );
            }
        }
        found
    }

    fn queues(&mut self, report: &SweepReport) {
        let before = std::mem::take(&mut self.staying.queues);
        let mut told = Vec::new();
        for sweep in &report.namespaces {
            let dropped: Vec<Dropped> = sweep
                .listeners
                .iter()
                .map(|backlog| self.dropped(backlog, &before))
                .collect();
            let overflows = sweep.overflows.map(|now| {
                let seen = before.overflows.get(&sweep.netns).copied().unwrap_or_default();
                now.saturating_sub(seen)
            });
            for (backlog, new) in sweep.listeners.iter().zip(overflows::share(overflows, &dropped)) {
                told.extend(self.queue(backlog, new));
            }
            let drops = sweep
                .listeners
                .iter()
                .filter_map(|backlog| Some((backlog.cookie, backlog.drops?)));
            self.staying.queues.drops.extend(drops);
            self.staying
                .queues
                .overflows
                .extend(sweep.overflows.map(|overflows| (sweep.netns, overflows)));
        }
        told.sort_by(|a, b| (b.queue_depth, b.overflows, &a.place).cmp(&(a.queue_depth, a.overflows, &b.place)));
        self.staying.listeners = told.into();
    }

    /// What a listener has dropped since the last sweep; of one that was there before hopline the first sweep says nothing.
    fn dropped(&self, backlog: &Backlog, before: &Queues) -> Dropped {
        let is_new = self
            .listeners
            .get(&backlog.cookie)
            .is_some_and(|listener| !listener.late);
        let drops = backlog.drops.map_or(0, |now| {
            let seen = before.drops.get(&backlog.cookie).copied();
            now.wrapping_sub(seen.unwrap_or(if is_new { 0 } else { now }))
        });
        Dropped {
            drops: drops.into(),
            is_full: backlog.depth > backlog.limit,
        }
    }

    /// `None` for a listener that is out of scope, or closed since.
    fn queue(&mut self, backlog: &Backlog, new: u64) -> Option<ListenerDetail> {
        let listener = self.listeners.get_mut(&backlog.cookie)?;
        listener.overflows += new;
        let place = place_of_listener(listener);
        if new > 0 {
            self.staying.overflows.add_many(place.clone(), new);
        }
        let (owner, cgroup_id, overflows) = (Arc::clone(&listener.owner), listener.cgroup_id, listener.overflows);
        let address = listener.local.address.to_string();
        Some(ListenerDetail {
            place,
            address,
            queue_depth: backlog.depth,
            queue_limit: backlog.limit,
            overflows,
            process: self.process_record(&owner, cgroup_id),
        })
    }

    fn ports(&mut self, report: &SweepReport) {
        let mut ports: Vec<PortsDetail> = report
            .namespaces
            .iter()
            .filter_map(|sweep| self.worst_of(sweep))
            .collect();
        // Of shares a/b and c/d the first is larger when a*d is.
        let product = |a: u32, b: u32| u64::from(a) * u64::from(b);
        ports.sort_by(|a, b| product(b.used, a.usable).cmp(&product(a.used, b.usable)));
        ports.truncate(MAX_PLACES);
        self.staying.ports = ports.into();
    }

    /// The destination of the scope that has used most ports of a namespace.
    fn worst_of(&mut self, sweep: &NamespaceSweep) -> Option<PortsDetail> {
        let (place, used, owners) = sweep.peers.iter().find_map(|peer| self.peer(peer))?;
        let processes = owners
            .iter()
            .map(|(owner, cgroup_id)| self.process_record(owner, *cgroup_id));
        Some(PortsDetail {
            netns: sweep.netns,
            place,
            used,
            usable: sweep.usable_ports,
            processes: processes.collect(),
        })
    }

    /// Whose a peer's ports are; `None` when no socket of the scope has one.
    #[expect(clippy::type_complexity, reason = "taken apart where it is called")]
    fn peer(&self, peer: &PeerPorts) -> Option<(crate::aggregate::Place, u32, Vec<(Arc<Process>, u64)>)> {
        let mut owners: Vec<(Arc<Process>, u64)> = Vec::new();
        let mut found = None;
        for cookie in &peer.cookies {
            let open = self.connections.get(*cookie);
            let open = open.map(|entry| (entry, entry.state.state()));
            if let Some((entry, state)) = open.filter(|(_, state)| Role::of(state) == Some(Role::Client)) {
                let owner = &entry.attached.owner;
                if owners.len() < MOST_PROCESSES && owners.iter().all(|(one, _)| one.pid != owner.pid) {
                    owners.push((Arc::clone(owner), state.cgroup_id));
                }
                found = found.or_else(|| Some(place(Role::Client, &entry.attached, &state)));
            } else if let Some(id) = self.staying.closed.find(*cookie) {
                let place = place_of_peer(&self.series, Some(id), peer.peer);
                found = found.or_else(|| (place.role == Role::Client).then_some(place));
            }
        }
        Some((found?, peer.used, owners))
    }
}
