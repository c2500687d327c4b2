//! Whose network path should be traced, and what the traces tell: changes, the hop to blame for a spike, gauges.
//!
//! Sends nothing: `owner` hands candidates to the tracer and its traces to the pipeline.
use std::{cmp::Reverse, collections::HashMap, net::IpAddr};

use agent_ebpf::connection::ConnectionState;

use super::{Output, Pipeline, spikes::spike_destination};
use crate::{
    aggregate::{DestinationId, PathsSnapshot},
    capacity::TableUse,
    connection::{Endpoints, Role, record::EVENT_SCHEMA, rfc3339, routers_by_ttl},
    events::{PathEvent, Place, SpikeDestination, SpikePath},
    path::{Candidate, Change, PathRecord, PathSnapshot, StepRecord, Target, Watch},
};

/// Targets whose connections are counted; more are refused and counted.
const MOST_SEEN: usize = 8_192;
/// Paths that are remembered; the one that was traced longest ago makes room.
const MOST_PATHS: usize = 512;
/// Destinations with a spike that are traced at a time.
const MOST_TROUBLED: usize = 16;
/// Connections count half as much after so long.
const HALF_NS: u64 = 60_000_000_000;
const ORDER_EVERY_NS: u64 = 1_000_000_000;

/// Whose paths are traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathSettings {
    /// Destinations with an RTT spike.
    pub troubled: bool,
    /// And so many of those with the most connections.
    pub busiest: usize,
    /// Latency above what is usual that is told, microseconds.
    pub delta_above_us: u64,
}

impl Default for PathSettings {
    fn default() -> Self {
        Self {
            troubled: false,
            busiest: 0,
            delta_above_us: 20_000,
        }
    }
}

/// What is known of paths.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// Connections of late to each target.
    seen: HashMap<Target, Seen>,
    halved_ns: u64,
    ordered_ns: u64,
    refused: u64,
    known: HashMap<Target, Known>,
    probes: u64,
    failed: u64,
}

/// What connections to one target told, traced or not.
#[derive(Debug)]
struct Seen {
    place: Option<Place>,
    /// Twice the connections, halved as time passes.
    weight: u64,
    /// As in [`Known`]: a trace takes seconds, and nothing else may be told by then.
    arriving_hops: Option<u8>,
}

/// One path.
#[derive(Debug)]
struct Known {
    destination: SpikeDestination,
    watch: Watch,
    record: PathRecord,
    traced_ns: u64,
    /// By the TTL of what its connections got.
    arriving_hops: Option<u8>,
}

impl Paths {
    /// Halves what lies back, and forgets what comes to nothing.
    fn halve(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.halved_ns) >= HALF_NS {
            self.halved_ns = now_ns;
            self.seen.retain(|_, seen| {
                seen.weight /= 2;
                seen.weight > 0
            });
        }
    }

    pub(super) fn uses(&self) -> [TableUse; 2] {
        [
            TableUse::new("path_targets", self.seen.len(), MOST_SEEN),
            TableUse::new("paths", self.known.len(), MOST_PATHS),
        ]
    }

    fn snapshot(&self) -> Vec<PathSnapshot> {
        let mut known: Vec<_> = self.known.iter().collect();
        known.sort_by_key(|(target, _)| **target);
        let snapshot = |(target, known): (&Target, &Known)| PathSnapshot {
            destination: known.destination.host.clone(),
            port: known.destination.port,
            group: known.destination.group.clone(),
            netns: target.netns,
            changes: known.watch.changes(),
            traced_ns: known.traced_ns,
            arriving_hops: known.arriving_hops,
            path: known.record.clone(),
        };
        known.into_iter().map(snapshot).collect()
    }
}

impl Pipeline {
    /// A client's connection, at its end or as it moves on.
    pub(super) fn note_path(&mut self, role: Role, destination: DestinationId, state: &ConnectionState) {
        let is_counted = self.settings.paths.busiest > 0;
        if role != Role::Client || !is_counted && self.paths.known.is_empty() {
            return;
        }
        let (target, place) = (target_of(state), destination.place());
        let arriving_hops = routers_by_ttl(state.timeline.arrived_ttl);
        if let Some(known) = self.paths.known.get_mut(&target) {
            known.arriving_hops = arriving_hops.or(known.arriving_hops);
        }
        if !is_counted {
            return;
        }
        if let Some(seen) = self.paths.seen.get_mut(&target) {
            seen.place = place.or(seen.place);
            seen.weight += 2;
            seen.arriving_hops = arriving_hops.or(seen.arriving_hops);
        } else if self.paths.seen.len() < MOST_SEEN {
            let seen = Seen {
                place,
                weight: 2,
                arriving_hops,
            };
            self.paths.seen.insert(target, seen);
        } else {
            self.paths.refused += 1;
        }
    }

    /// Whom to trace, once a second; the most important first. `None`: nobody, or not yet.
    pub fn trace_due(&mut self) -> Option<Vec<Candidate>> {
        let settings = self.settings.paths;
        if !settings.troubled || self.now_ns.saturating_sub(self.paths.ordered_ns) < ORDER_EVERY_NS {
            return None;
        }
        self.paths.ordered_ns = self.now_ns;
        self.paths.halve(self.now_ns);
        let mut wanted: Vec<(Target, Option<Place>, bool)> = Vec::new();
        for place in self.watch.spikes.places_of(|_| true).into_iter().take(MOST_TROUBLED) {
            if let Some(target) = self.worst_target(place) {
                wanted.push((target, Some(place), true));
            }
        }
        let mut busiest: Vec<_> = self
            .paths
            .seen
            .iter()
            .map(|(target, seen)| (*target, seen.place, seen.weight))
            .collect();
        busiest.sort_by_key(|(target, _, weight)| (Reverse(*weight), *target));
        for (target, place, _) in busiest.into_iter().take(settings.busiest) {
            if wanted.iter().all(|(known, ..)| *known != target) {
                wanted.push((target, place, false));
            }
        }
        let mut candidates = Vec::with_capacity(wanted.len());
        for (target, place, is_troubled) in wanted {
            // One that is folded with others is known by its address.
            let key = place.and_then(|place| self.series.key_of(place));
            let host = key.map_or_else(|| target.address.to_string(), |key| spike_destination(key).host);
            // The trace comes back without its place.
            let seen = self.paths.seen.entry(target).or_insert(Seen {
                place,
                weight: 1,
                arriving_hops: None,
            });
            seen.place = place.or(seen.place);
            candidates.push(Candidate {
                target,
                host,
                is_troubled,
            });
        }
        Some(candidates)
    }

    /// A trace came back.
    pub fn traced(&mut self, target: Target, path: Option<PathRecord>, probes: u64, at_ns: u64) {
        self.paths.probes += probes;
        let Some(record) = path else {
            self.paths.failed += 1;
            return;
        };
        let seen = self.paths.seen.get(&target);
        let (place, arriving_hops) = seen.map_or((None, None), |seen| (seen.place, seen.arriving_hops));
        let key = place.and_then(|place| self.series.key_of(place));
        let destination = key.map_or_else(
            || SpikeDestination {
                host: record.host.clone(),
                port: target.port,
                group: String::new(),
            },
            spike_destination,
        );
        self.make_room(&target);
        let known = self.paths.known.entry(target).or_insert_with(|| Known {
            destination: destination.clone(),
            watch: Watch::default(),
            record: record.clone(),
            traced_ns: at_ns,
            arriving_hops,
        });
        let usual = known.watch.added(&record);
        let change = known.watch.trace(&record, self.settings.paths.delta_above_us, at_ns);
        known.destination = destination.clone();
        known.record = record.clone();
        known.traced_ns = at_ns;
        if let Some(change) = change {
            self.tell_change(change, destination.clone(), record.clone(), at_ns);
        }
        if let Some(place) = place {
            self.tell_spike_path(place, destination, record, usual, at_ns);
        }
    }

    /// The paths as of their last traces.
    pub(super) fn paths(&self) -> PathsSnapshot {
        PathsSnapshot {
            paths: self.paths.snapshot().into(),
            probes: self.paths.probes,
            failed: self.paths.failed,
            refused: self.paths.refused,
        }
    }

    /// The target of the worst connection of a destination with a spike.
    fn worst_target(&self, place: Place) -> Option<Target> {
        let of_place = self
            .connections
            .iter()
            .filter(|entry| entry.attached.destination.place() == Some(place))
            .map(|entry| (entry, entry.state.state()))
            .filter(|(_, state)| Role::of(state) == Some(Role::Client));
        let delta = |window: &crate::windows::Connection| {
            window
                .peek(crate::windows::slot_of(self.now_ns))
                .map_or(0, |verdict| verdict.rtt_delta_ns())
        };
        let (_, worst) = of_place.max_by_key(|(entry, state)| {
            let window = entry.attached.window.as_deref();
            (window.map_or(0, delta), Reverse(state.cookie))
        })?;
        Some(target_of(&worst))
    }

    fn make_room(&mut self, target: &Target) {
        let known = &mut self.paths.known;
        if known.len() >= MOST_PATHS && !known.contains_key(target) {
            let oldest = known
                .iter()
                .min_by_key(|(target, known)| (known.traced_ns, **target))
                .map(|(target, _)| *target);
            if let Some(oldest) = oldest {
                known.remove(&oldest);
            }
        }
    }

    fn tell_change(&mut self, change: Change, destination: SpikeDestination, path: PathRecord, now_ns: u64) {
        let (kind, text, before, step) = match change {
            Change::Route { before, after } => {
                let text = format!("the route changed: {} to {}", in_short(&before), in_short(&after));
                ("path_changed", text, Some(before), None)
            }
            Change::Slower { step, since_ns } => {
                let since = self.path_time(since_ns);
                let text = format!("{}, since {since}", blame(&step));
                ("path_slower", text, None, Some(step))
            }
            Change::Calm => ("path_calm", "latency is as usual again".to_owned(), None, None),
        };
        let event = PathEvent {
            schema: EVENT_SCHEMA,
            r#type: kind,
            id: format!("{}-path-{now_ns}-{}", self.settings.boot_id, path.source_port),
            node: self.settings.node.clone(),
            time: self.path_time(now_ns),
            destination,
            text,
            before,
            step,
            path,
        };
        let kept = self.events.admits(now_ns);
        self.tell_event(Output::Path(Box::new(event)), kept);
    }

    /// The first trace after the beginning of a spike goes into the spike's event, and to whoever listens.
    fn tell_spike_path(
        &mut self,
        place: Place,
        destination: SpikeDestination,
        path: PathRecord,
        usual: Option<StepRecord>,
        now_ns: u64,
    ) {
        let Some(incident) = self.watch.spikes.incident_mut(place) else {
            return;
        };
        let Some(id) = incident.known.lacks_path() else { return };
        // A step that is no latency says nothing.
        let usual = usual.filter(|step| step.added_us > 0);
        let step = usual.or(path.step);
        let text = step.as_ref().map_or_else(|| "no hop answered".to_owned(), blame);
        let found = SpikePath {
            text: text.clone(),
            step,
            beside_usual: usual.is_some(),
            path: path.clone(),
        };
        incident.known.set_path(found.clone());
        self.events.amend(|output| match output {
            Output::Spike(record) if record.id == id && record.path.is_none() => {
                record.path = Some(Box::new(found.clone()));
                true
            }
            _ => false,
        });
        if self.collect {
            let event = PathEvent {
                schema: EVENT_SCHEMA,
                r#type: "rtt_spike_path",
                id,
                node: self.settings.node.clone(),
                time: self.path_time(now_ns),
                destination,
                text,
                before: None,
                step,
                path,
            };
            self.tell(Output::Path(Box::new(event)));
        }
    }

    fn path_time(&self, monotonic_ns: u64) -> String {
        rfc3339(monotonic_ns.saturating_add_signed(self.clock_offset_ns))
    }
}

fn target_of(state: &ConnectionState) -> Target {
    let remote = Endpoints::of(state).remote;
    Target {
        address: remote.address.to_canonical(),
        port: remote.port,
        netns: state.netns,
    }
}

/// `+74 ms between hop 3 10.0.3.1 and hop 4 10.0.4.1`.
fn blame(step: &StepRecord) -> String {
    let place = |hop: u8, address: Option<IpAddr>| match address {
        _ if hop == 0 => "this node".to_owned(),
        Some(address) => format!("hop {hop} {address}"),
        None => format!("hop {hop}"),
    };
    format!(
        "+{} ms between {} and {}",
        (step.added_us + 500) / 1_000,
        place(step.from_hop, step.from),
        place(step.to_hop, step.to)
    )
}

fn in_short(route: &[Option<IpAddr>]) -> String {
    let hops = route
        .iter()
        .map(|hop| hop.map_or_else(|| "?".to_owned(), |address| address.to_string()));
    hops.collect::<Vec<_>>().join(" ")
}
