//! Looks at the windows of connections and destinations, and tells when RTT has a spike and when it is over.
//!
//! At every tick the connections that RTT or retransmissions came of, every second the destinations. The detector itself
//! is in `events`; here it gets what it needs, and what it finds gets its evidence.
use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use super::{
    Attached, Output, Pipeline,
    records::{self, in_us},
};
use crate::{
    aggregate::{ActiveRule, DestinationKey, Name},
    attribution::Process,
    connection::{Endpoints, record::EVENT_SCHEMA, rfc3339},
    events::{
        Ended, Incident, Place, SpikeConnection, SpikeDestination, SpikePath, SpikeProcess, SpikeRecord, SpikeSettings,
        SpikeWindow, Spikes,
    },
    windows::{Clock, Connection, SLOT_NS, Verdict, WINDOW_NS, WINDOW_SLOTS, slot_of},
};

/// Connections and processes in a record.
const WORST: usize = 5;
/// Name of the built-in rule.
const RULE: &str = "rtt_spike";

/// What is looked for, and where.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) clock: Clock,
    pub(super) spikes: Spikes<Known>,
    /// Connections with something new to judge, by cookie.
    pub(super) touched: Vec<u64>,
    /// Slot in which destinations were last judged.
    judged: u64,
}

/// What a spike's end says again.
#[derive(Debug)]
pub(super) struct Known {
    record: SpikeRecord,
    /// The evidence is that of a whole window by now.
    is_whole: bool,
}

impl Known {
    /// The spike's id, as long as its path is not known.
    pub(super) fn lacks_path(&self) -> Option<String> {
        self.record.path.is_none().then(|| self.record.id.clone())
    }

    pub(super) fn set_path(&mut self, path: SpikePath) {
        self.record.path = Some(Box::new(path));
    }
}

/// Who is affected, and how much.
struct Evidence {
    affected: u64,
    connections: Vec<SpikeConnection>,
    processes: Vec<SpikeProcess>,
}

/// A connection beside what is usual for it.
struct Suspect {
    cookie: u64,
    owner: Arc<Process>,
    cgroup_id: u64,
    verdict: Verdict,
}

impl Watch {
    pub(super) fn new(settings: SpikeSettings) -> Self {
        Self {
            clock: Clock::default(),
            spikes: Spikes::new(settings),
            touched: Vec::new(),
            judged: 0,
        }
    }
}

impl Attached {
    /// Something came into its window, and it is not on the list of those to judge yet.
    pub(super) fn is_newly_watched(&mut self) -> bool {
        self.window.as_deref_mut().is_some_and(Connection::enlist)
    }
}

impl Pipeline {
    /// Judges what is new, begins and ends spikes.
    pub(super) fn look_for_spikes(&mut self, now_ns: u64) {
        let slot = self.watch.clock.tick(now_ns);
        self.series.set_slot(slot);
        self.judge_connections(slot, now_ns);
        if slot != self.watch.judged {
            self.watch.judged = slot;
            for (place, verdict) in self.series.judge(&self.watch.spikes.destinations()) {
                if self.watch.spikes.destination(place, &verdict, now_ns) {
                    self.begin_spike(place, None, verdict, now_ns);
                }
            }
        }
        self.complete_evidence(now_ns);
        self.end_spikes(now_ns);
    }

    fn judge_connections(&mut self, slot: u64, now_ns: u64) {
        let mut cookies = std::mem::take(&mut self.watch.touched);
        cookies.extend(self.watch.spikes.connections());
        for cookie in &cookies {
            let spikes = &mut self.watch.spikes;
            let Some(attached) = self.connections.get_mut(*cookie).map(|entry| &mut entry.attached) else {
                spikes.leave(*cookie, Ended::Closed);
                continue;
            };
            let place = attached.destination.place();
            let Some(window) = attached.window.as_deref_mut() else {
                // Another connection of the same socket.
                spikes.leave(*cookie, Ended::Closed);
                continue;
            };
            let Some(verdict) = window.judge(slot) else { continue };
            if spikes.shows(*cookie) {
                spikes.again(*cookie, &verdict, now_ns);
                window.set_active(spikes.shows(*cookie));
                continue;
            }
            let settings = *spikes.settings();
            if let Some(place) = place
                && settings.holds(&verdict, &mut window.held_since_ns, now_ns)
            {
                if spikes.connection_spikes(place, *cookie, &verdict, now_ns) {
                    self.begin_spike(place, Some(*cookie), verdict, now_ns);
                }
                self.set_active(*cookie);
            }
        }
        // The list keeps its memory.
        cookies.clear();
        self.watch.touched = cookies;
    }

    /// A connection knows whether it shows a spike.
    fn set_active(&mut self, cookie: u64) {
        let shows = self.watch.spikes.shows(cookie);
        if let Some(entry) = self.connections.get_mut(cookie)
            && let Some(window) = entry.attached.window.as_deref_mut()
        {
            window.set_active(shows);
        }
    }

    fn begin_spike(&mut self, place: Place, cookie: Option<u64>, verdict: Verdict, now_ns: u64) {
        let Some(key) = self.series.key_of(place) else { return };
        let (role, destination) = (key.role, spike_destination(key));
        let evidence = self.evidence(place, now_ns);
        let record = SpikeRecord {
            schema: EVENT_SCHEMA,
            r#type: RULE,
            id: format!("{}-rtt-{now_ns}-{}", self.settings.boot_id, place.0),
            node: self.settings.node.clone(),
            time: self.time(now_ns),
            scope: if cookie.is_some() { "connection" } else { "destination" },
            role,
            destination,
            window: Some(self.spike_window(&verdict, now_ns)),
            duration_us: None,
            over: None,
            peak_us: in_us(verdict.p50_ns),
            connections_affected: evidence.affected,
            connections: evidence.connections,
            processes: evidence.processes,
            path: None,
        };
        let known = Known {
            record: record.clone(),
            is_whole: false,
        };
        if self
            .watch
            .spikes
            .begin(place, cookie, &verdict, known, now_ns)
            .is_some()
        {
            self.series.set_active(place, true);
            self.tell_spike(record, now_ns);
        }
    }

    /// A window after its beginning all that is affected shows: the end tells that.
    fn complete_evidence(&mut self, now_ns: u64) {
        for place in self
            .watch
            .spikes
            .places_of(|incident| !incident.known.is_whole && now_ns.saturating_sub(incident.raised_ns) >= WINDOW_NS)
        {
            let evidence = self.evidence(place, now_ns);
            let Some(incident) = self.watch.spikes.incident_mut(place) else {
                continue;
            };
            incident.known.is_whole = true;
            let record = &mut incident.known.record;
            // What has become calm again meanwhile was affected all the same.
            if evidence.affected >= record.connections_affected {
                record.connections_affected = evidence.affected;
                record.connections = evidence.connections;
                record.processes = evidence.processes;
            }
        }
    }

    fn end_spikes(&mut self, now_ns: u64) {
        let (over, silent) = self.watch.spikes.over(now_ns);
        for cookie in silent {
            self.set_active(cookie);
        }
        for (place, incident, how) in over {
            self.series.set_active(place, false);
            let Incident {
                raised_ns,
                peak_ns,
                last,
                known,
                ..
            } = incident;
            let window = last.filter(|_| how == Ended::Calm);
            let record = SpikeRecord {
                r#type: "rtt_spike_over",
                time: self.time(now_ns),
                window: window.map(|verdict| self.spike_window(&verdict, now_ns)),
                duration_us: Some(now_ns.saturating_sub(raised_ns) / 1_000),
                over: Some(how.name()),
                peak_us: in_us(peak_ns),
                ..known.record
            };
            self.tell_spike(record, now_ns);
        }
    }

    fn tell_spike(&mut self, record: SpikeRecord, now_ns: u64) {
        let kept = self.events.admits(now_ns);
        self.tell_event(Output::Spike(Box::new(record)), kept);
    }

    fn evidence(&mut self, place: Place, now_ns: u64) -> Evidence {
        let mut suspects = self.suspects(place, now_ns);
        suspects.sort_by_key(|suspect| (Reverse(suspect.verdict.rtt_delta_ns()), suspect.cookie));
        let threshold_ns = self.watch.spikes.settings().rtt_delta_above.as_nanos() as u64;
        let affected = suspects.partition_point(|suspect| suspect.verdict.rtt_delta_ns() > threshold_ns);
        Evidence {
            affected: affected as u64,
            processes: processes(&suspects[..affected]),
            connections: suspects
                .iter()
                .take(WORST)
                .filter_map(|suspect| self.spike_connection(suspect))
                .collect(),
        }
    }

    /// The connections of a destination whose windows can be compared.
    fn suspects(&self, place: Place, now_ns: u64) -> Vec<Suspect> {
        let of_place = self
            .connections
            .iter()
            .filter(|entry| entry.attached.destination.place() == Some(place));
        let suspects = of_place.filter_map(|entry| {
            Some(Suspect {
                cookie: entry.state.cookie(),
                owner: Arc::clone(&entry.attached.owner),
                cgroup_id: entry.state.state().cgroup_id,
                verdict: entry.attached.window.as_deref()?.peek(slot_of(now_ns))?,
            })
        });
        suspects.collect()
    }

    fn spike_connection(&mut self, suspect: &Suspect) -> Option<SpikeConnection> {
        let state = &self.connections.get(suspect.cookie)?.state.state();
        let endpoints = Endpoints::of(state);
        let verdict = &suspect.verdict;
        Some(SpikeConnection {
            id: self.surroundings(None).id((state.cookie, state.attempt)),
            local: records::address(endpoints.local),
            remote: records::address(endpoints.remote),
            p50_us: in_us(verdict.p50_ns),
            baseline_us: in_us(verdict.baseline_ns),
            samples: verdict.samples,
            retransmits: verdict.retransmits,
            process: self.process_record(&suspect.owner, suspect.cgroup_id),
        })
    }

    fn spike_window(&self, verdict: &Verdict, now_ns: u64) -> SpikeWindow {
        let first = slot_of(now_ns).saturating_sub(WINDOW_SLOTS - 1);
        SpikeWindow {
            from: self.time(first * SLOT_NS),
            to: self.time(now_ns),
            p50_us: in_us(verdict.p50_ns),
            baseline_us: in_us(verdict.baseline_ns),
            rtt_delta_us: in_us(verdict.rtt_delta_ns()),
            samples: verdict.samples,
            retransmits: verdict.retransmits,
        }
    }

    /// RFC 3339.
    fn time(&self, monotonic_ns: u64) -> String {
        rfc3339(monotonic_ns.saturating_add_signed(self.clock_offset_ns))
    }

    /// The spikes under way, each destination's name once.
    pub(super) fn active_rules(&self) -> Vec<ActiveRule> {
        let active = self.watch.spikes.incidents().map(|(_, incident)| {
            let destination = &incident.known.record.destination;
            ActiveRule {
                rule: RULE,
                destination: destination.host.clone(),
                port: destination.port,
                group: destination.group.clone(),
            }
        });
        let mut active: Vec<_> = active.collect();
        active.sort();
        active.dedup();
        active
    }
}

pub(super) fn spike_destination(key: &DestinationKey) -> SpikeDestination {
    SpikeDestination {
        host: match &key.name {
            Name::Address(address) => address.to_string(),
            Name::Host(name) | Name::Process(name) => name.to_string(),
        },
        port: key.port,
        group: key.group.to_string(),
    }
}

/// Whose connections these are: those with the most of them.
fn processes(suspects: &[Suspect]) -> Vec<SpikeProcess> {
    let mut counts: HashMap<u32, (&Process, u64)> = HashMap::new();
    for suspect in suspects {
        counts.entry(suspect.owner.pid).or_insert((&suspect.owner, 0)).1 += 1;
    }
    let mut counts: Vec<_> = counts.into_values().collect();
    counts.sort_by_key(|(owner, count)| (Reverse(*count), owner.pid));
    let process = |(owner, connections): (&Process, u64)| SpikeProcess {
        pid: (owner.pid != 0).then_some(owner.pid),
        comm: (!owner.comm.is_empty()).then(|| owner.comm.as_ref().into()),
        ancestry: owner.ancestry.iter().map(|comm| comm.as_ref().into()).collect(),
        connections,
    };
    counts.into_iter().take(WORST).map(process).collect()
}
