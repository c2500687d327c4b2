//! The whole of userspace between a ring buffer's bytes and a snapshot.
//!
//! Reads no clock: time comes in with events and ticks, so that a replay gives what live gave. I/O happens in
//! `attribution` alone, and not at all without `read_proc`. One task owns a [`Pipeline`]; nothing in it locks.
mod chains;
mod choices;
mod conclusion;
mod destination;
mod follow;
mod library;
mod paths;
mod pods;
mod progress;
mod records;
mod resolution;
mod rtt;
mod spikes;
mod staying;
mod subflows;
mod tables;
mod talk;
mod tls_outcome;

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use agent_ebpf::{
    connection::{ConnectionState, FLAG_LATE, ROLE_LISTENER},
    event::{CONNECTION_CLOSE, ConnectionEvent, LISTENER_OPEN, SYNACK_RETRANSMIT},
};

use crate::{
    aggregate::{DestinationId, PipelineCounts, Retransmit, Series, Snapshot},
    attribution::{Attribution, Cgroup, Process},
    capacity::Share,
    connection::{Activity, ConnectionRecord, Endpoints, Role, Rtt, Table, TcpState, WaitingList},
    declared::Declaration,
    decode::{DecodeError, Event, decode},
    events::{PathEvent, Recent, SpikeRecord, SpikeSettings},
    groups::{Group, Groups},
    protocol::{
        assembler::{Assembler, AssemblerLimits},
        facts::Facts,
        malformed::Malformed,
        shared::Shared,
        ticket_lengths::TicketLengths,
    },
    windows::{self, Sketch},
    workloads::{Pod, Workloads},
};
use chains::Linking;
use choices::Choices;
pub use choices::{FallbackRecord, UndeclaredRecord};
use library::{Libraries, Library};
pub use paths::PathSettings;
use paths::Paths;
use pods::Held;
use progress::Counted;
use records::Surroundings;
pub use resolution::LookupRecord;
use resolution::{Resolution, Resolved, Waited};
use rtt::Unplaced;
use spikes::Watch;
use staying::{Listener, Staying};
use subflows::Subflows;
use talk::Claim;

/// Records that wait to be fetched; more are dropped and counted.
const MAX_OUTPUTS: usize = 16_384;
/// Listeners that are shown; owners of more are still known.
const MAX_LISTENERS: usize = 16_384;
/// One in so many of the time series beyond the least are those of resolvers.
const DNS_PART: usize = 8;
/// Lengths of session tickets that are remembered.
const MAX_TICKET_LENGTHS: usize = 8_192;
/// Idle destinations are looked for this often.
const EXPIRE_EVERY_NS: u64 = 60_000_000_000;

/// How a pipeline works. Limits are hard: what they refuse is counted.
#[derive(Clone, Debug)]
pub struct PipelineSettings {
    /// Name of the node in records.
    pub node: String,
    /// `/proc/sys/kernel/random/boot_id`, or that of the recording.
    pub boot_id: String,
    /// Most open connections in the table.
    pub max_connections: usize,
    /// Most processes in the cache, ended ones in their grace included.
    pub max_processes: usize,
    /// Most time series with destination labels.
    pub max_series: usize,
    /// The share of its usual size that every other table gets.
    pub tables: Share,
    /// A connect that has waited for this long is told once as stuck, nanoseconds.
    pub stuck_after_ns: u64,
    /// A connect that has waited for this long counts as waiting, nanoseconds.
    pub waiting_after_ns: u64,
    /// Groups of destinations.
    pub groups: Groups,
    /// Whom processes, workloads and cgroups may talk to.
    pub declared: Vec<Declaration>,
    /// When RTT has a spike.
    pub rtt_spike: SpikeSettings,
    /// Whose network paths are traced.
    pub paths: PathSettings,
    /// Ask `/proc` and the cgroup tree for what no event told; off on replay.
    pub read_proc: bool,
    /// Variables of processes' environments that records carry, where `/proc` may be asked.
    pub environment: Vec<Arc<str>>,
    /// Where cgroup2 is mounted; `None`: cgroup paths come from events alone.
    pub cgroup_root: Option<PathBuf>,
}

impl Default for PipelineSettings {
    fn default() -> Self {
        Self {
            node: String::new(),
            boot_id: String::new(),
            max_connections: 100_000,
            max_processes: 32_768,
            max_series: 20_000,
            tables: Share::WHOLE,
            stuck_after_ns: 5_000_000_000,
            waiting_after_ns: 1_000_000_000,
            groups: Groups::default(),
            declared: Vec::new(),
            rtt_spike: SpikeSettings::default(),
            paths: PathSettings::default(),
            read_proc: false,
            environment: Vec::new(),
            cgroup_root: None,
        }
    }
}

/// What a listener of single connections gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// A connection ended.
    Finished(Box<ConnectionRecord>),
    /// A connect has waited for [`PipelineSettings::stuck_after_ns`]; told once per connect.
    Stuck(Box<ConnectionRecord>),
    /// A process went on to another host of a group.
    Fallback(Box<FallbackRecord>),
    /// A client connection does not keep to a declaration; told once for each.
    Undeclared(Box<UndeclaredRecord>),
    /// RTT has a spike, or no more.
    Spike(Box<SpikeRecord>),
    /// A network path changed, or that of a spike was traced.
    Path(Box<PathEvent>),
    /// A lookup ended.
    Lookup(Box<LookupRecord>),
    /// A lookup has waited for [`PipelineSettings::stuck_after_ns`]; told once.
    StuckLookup(Box<LookupRecord>),
}

impl Output {
    /// Something happened that somebody should know of; what is told of every connection and lookup is no event.
    pub fn is_event(&self) -> bool {
        !matches!(self, Self::Finished(_) | Self::Lookup(_))
    }
}

/// What the pipeline attaches to an open connection.
#[derive(Debug)]
struct Attached {
    owner: Arc<Process>,
    /// The pod that it belongs to.
    pod: Option<Arc<Pod>>,
    destination: DestinationId,
    /// Which gauge of open connections it has raised.
    gauge: Option<(DestinationId, TcpState)>,
    counted: Counted,
    activity: Activity,
    /// How long each took; most connections have none.
    turns: Option<Box<Sketch>>,
    /// Final responses of cleartext HTTP/1 by status code.
    responses: Option<Box<progress::Responses>>,
    rtt: Rtt,
    /// RTT of late, once it is older than a window.
    window: Option<Box<windows::Connection>>,
    /// Its name is as good as it will get; nothing is counted before.
    named: bool,
    claim: Option<Claim>,
    /// What DNS says of its address.
    resolved: Option<Box<Resolved>>,
    waited: Option<Box<Waited>>,
    group: Group,
    /// It was compared with what is declared.
    judged: bool,
    /// What was read of its hello bytes, once all was said.
    facts: Option<Arc<Facts>>,
    /// What its TLS library said.
    library: Option<Box<Library>>,
    /// Hash of its first request line; 0 where that is not known.
    request: u64,
}

/// The pipeline and all its state.
#[derive(Debug)]
pub struct Pipeline {
    settings: PipelineSettings,
    attribution: Attribution,
    connections: Table<Attached>,
    /// By cookie.
    listeners: HashMap<u64, Listener>,
    staying: Staying,
    waiting: WaitingList,
    unplaced_rtt: Unplaced,
    hellos: Assembler,
    /// What was read of those of open connections.
    facts: Shared,
    tickets: TicketLengths,
    libraries: Libraries,
    choices: Choices,
    resolution: Resolution,
    workloads: Workloads,
    held: Held,
    subflows: Subflows,
    series: Series,
    watch: Watch,
    paths: Paths,
    linking: Linking,
    /// The last events.
    events: Recent<Output>,
    counts: PipelineCounts,
    outputs: Vec<Output>,
    collect: bool,
    clock_offset_ns: i64,
    /// Time of the latest tick.
    now_ns: u64,
    /// When idle destinations were last looked for.
    expired_ns: u64,
    /// When the walk over open connections last told of one again; 0 where it never did.
    told_ns: u64,
}

impl Pipeline {
    /// An empty pipeline.
    pub fn new(settings: PipelineSettings) -> Self {
        let share = settings.tables;
        let dns_series = settings.max_series.saturating_sub(Series::MIN_SERIES) / DNS_PART;
        Self {
            attribution: Attribution::new(
                settings.max_processes,
                settings.read_proc,
                settings.cgroup_root.clone(),
                &settings.environment,
            ),
            connections: Table::new(settings.max_connections),
            listeners: HashMap::new(),
            staying: Staying::new(share),
            waiting: WaitingList::default(),
            unplaced_rtt: Unplaced::default(),
            hellos: Assembler::new(AssemblerLimits::new(share)),
            facts: Shared::new(share),
            tickets: TicketLengths::new(share.of(MAX_TICKET_LENGTHS)),
            libraries: Libraries::new(share),
            choices: Choices::new(&settings),
            resolution: Resolution::new(dns_series, share),
            workloads: Workloads::new(share),
            held: Held::new(share),
            subflows: Subflows::new(share),
            series: Series::new(settings.max_series - dns_series),
            watch: Watch::new(settings.rtt_spike),
            paths: Paths::default(),
            linking: Linking::new(share),
            events: Recent::new(share),
            counts: PipelineCounts::default(),
            outputs: Vec::new(),
            collect: false,
            clock_offset_ns: 0,
            now_ns: 0,
            expired_ns: 0,
            told_ns: 0,
            settings,
        }
    }

    /// Reads `/proc` and the cgroup tree, when the settings allow it. Call once, after the kernel programs are attached
    /// and before the first event is applied: then no process falls between.
    pub fn seed(&mut self) {
        self.attribution.seed();
    }

    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, nanoseconds; read again every 10 s by the caller.
    pub fn set_clock_offset(&mut self, realtime_minus_monotonic_ns: i64) {
        self.clock_offset_ns = realtime_minus_monotonic_ns;
    }

    /// Applies one ring-buffer sample. What is no event is counted and skipped.
    pub fn apply(&mut self, sample: &[u8]) {
        let event = match decode(sample) {
            Ok(event) => event,
            Err(DecodeError::UnknownKind(_)) => {
                self.counts.unknown_kind += 1;
                return;
            }
            Err(DecodeError::Truncated { .. } | DecodeError::WrongSize { .. }) => {
                self.counts.malformed += 1;
                return;
            }
        };
        self.counts.events[event.header().kind as usize] += 1;
        match event {
            Event::Hello(header, bytes) => self.hellos.push(&header, bytes),
            Event::Dns(header, bytes) => self.dns(&header, bytes),
            Event::Connection(event) => {
                if !self.hold_socket(&event) {
                    self.socket(&event);
                }
            }
            Event::Rtt(event) => self.rtt(&event),
            Event::Turns(event) => {
                if !self.hold_turns(&event) {
                    self.turns(&event);
                }
            }
            Event::TlsFact(event) => self.libraries.hear(&event),
            Event::TlsCertificate(header, bytes) => self.libraries.hear_certificate(&header, bytes),
            Event::TlsProtocol(event) => self.libraries.hear_protocol(&event),
            Event::Fork(event) => {
                self.choices.began(event.pid);
                self.resolution.process_ended(event.pid, event.header.time_ns);
                self.attribution.fork(&event);
            }
            Event::Exec(event) => {
                self.resolution.process_ended(event.pid, event.header.time_ns);
                self.attribution.exec(&event);
            }
            Event::Exit(event) => {
                self.choices.ended(event.pid, event.header.time_ns);
                self.resolution.process_ended(event.pid, event.header.time_ns);
                self.attribution.exit(&event);
            }
            Event::Cgroup(event) => self.attribution.cgroup_made(&event),
        }
    }

    /// The agent's clock: who waits, who is stuck, which destinations are idle.
    pub fn tick(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.look_at_held(now_ns);
        self.look_for_spikes(now_ns);
        for (cookie, waiting) in self.waiting.longer_than(self.settings.waiting_after_ns, now_ns) {
            if let Some(entry) = self.connections.get(cookie) {
                self.series.waits(entry.attached.destination, waiting.phase, now_ns);
            }
        }
        if self.collect {
            self.tell_stuck();
        }
        self.dns_tick(now_ns);
        self.look_for_fallbacks(now_ns);
        self.look_for_links(now_ns, false);
        self.look_at_staying(now_ns);
        self.attribution.tick(now_ns);
        self.unplaced_rtt.expire(now_ns, |cookie| {
            self.connections.get(cookie).is_some() || self.held.has(cookie)
        });
        self.hellos.expire(now_ns);
        self.libraries.expire(now_ns);
        if now_ns.saturating_sub(self.expired_ns) >= EXPIRE_EVERY_NS {
            self.expired_ns = now_ns;
            self.series.expire(now_ns);
            self.drop_silent();
        }
    }

    /// Whether records are collected: only while somebody listens. A connect that is stuck already is told at the next
    /// tick.
    pub fn set_collect(&mut self, on: bool) {
        self.collect = on;
        if !on {
            self.outputs = Vec::new();
        }
    }

    /// Moves the collected records out, in the order in which they came about.
    pub fn take_outputs(&mut self, into: &mut Vec<Output>) {
        into.append(&mut self.outputs);
    }

    /// The last events, the oldest first.
    pub fn events(&self) -> Vec<Arc<Output>> {
        self.events.all()
    }

    /// A picture of everything, immutable and cheap to clone. Waiting is told as of the latest tick.
    pub fn snapshot(&self) -> Snapshot {
        let waiting: Vec<_> = self
            .waiting
            .longer_than(self.settings.waiting_after_ns, self.now_ns)
            .filter_map(|(cookie, waiting)| {
                let entry = self.connections.get(cookie)?;
                Some((entry.attached.destination, waiting.phase, waiting.since_ns))
            })
            .chain(self.resolution.waiting())
            .collect();
        self.choices.complete(Snapshot {
            counts: self.counts(),
            active_rules: self.active_rules(),
            resolvers: self.resolution.resolvers().snapshot(),
            staying: self.staying(),
            paths: self.paths(),
            legs: self.linking.snapshot(),
            ..self.series.snapshot(&waiting, self.now_ns)
        })
    }

    /// The pipeline's own counts and those of its parts.
    fn counts(&self) -> PipelineCounts {
        let (processes, processes_evicted) = self.attribution.process_counts();
        let hellos = self.hellos.counts();
        let dns = self.resolution.losses();
        let malformed = |kind: Malformed| (kind.name(), u64::from(hellos.malformed.get(kind)));
        PipelineCounts {
            processes,
            processes_evicted,
            cgroups_evicted: self.attribution.cgroups_evicted(),
            events_dropped: self.events.counts().dropped,
            spikes_refused: self.watch.spikes.refused(),
            groups_refused: self.series.groups_refused(),
            fallbacks_evicted: self.choices.evicted(),
            connections: self.connections.len() as u64,
            hellos_malformed: Malformed::ALL.map(malformed).to_vec(),
            dns_malformed: dns.malformed,
            dns_ignored: dns.ignored,
            dns_names_evicted: dns.names_evicted,
            dns_lookups_refused: dns.lookups_refused,
            dns_streams_refused: dns.streams_refused,
            rtt_unplaced: self.unplaced_rtt.dropped(),
            hello_facts_unkept: self.facts.refused(),
            hellos_evicted: hellos.evicted,
            hellos_expired: hellos.expired,
            tickets_forgotten: self.tickets.forgotten(),
            tls_facts_evicted: self.libraries.evicted(),
            pods: self.workloads.counts(),
            held: self.held.counts(),
            tables: self.tables(),
            ..self.counts.clone()
        }
    }

    /// An event of a socket.
    fn socket(&mut self, event: &ConnectionEvent) {
        let (kind, now_ns, state) = (event.header.kind, event.header.time_ns, &event.state);
        self.series.set_slot(self.watch.clock.event(now_ns));
        match (kind, Role::of(state)) {
            (LISTENER_OPEN, _) => self.listener_opened(state, now_ns),
            (SYNACK_RETRANSMIT, _) => self.synack_retransmitted(state, now_ns),
            (CONNECTION_CLOSE, None) if state.role == ROLE_LISTENER => self.listener_closed(state.cookie),
            (_, Some(role)) => {
                // At its end it is noted with the name that it has by then.
                if kind != CONNECTION_CLOSE
                    && let Some(entry) = self.connections.get(state.cookie)
                {
                    self.note_path(role, entry.attached.destination, state);
                }
                self.connection(kind == CONNECTION_CLOSE, role, state, now_ns);
            }
            (_, None) if state.role == ROLE_LISTENER => {}
            (_, None) => self.counts.malformed += 1,
        }
        self.tell_undeclared();
    }

    /// A socket listens, or was found listening.
    fn listener_opened(&mut self, state: &ConnectionState, now_ns: u64) {
        self.attribution.listener_opened(state);
        if self.listeners.len() >= self.max_listeners() || self.listeners.contains_key(&state.cookie) {
            return;
        }
        let owner = self.attribution.owner(state);
        let pod = self.pod_of(state.cgroup_id, owner.pid, now_ns);
        self.linking.listens(owner.pid, now_ns);
        let destination = self.series.destination(
            destination::key(Role::Server, &owner, state, None, &Group::default(), pod.as_deref()),
            now_ns,
        );
        let listener = Listener {
            shown: self.series.enter(destination, TcpState::Listen),
            owner,
            pod,
            cgroup_id: state.cgroup_id,
            netns: state.netns,
            local: Endpoints::of(state).local,
            late: state.flags & FLAG_LATE != 0,
            overflows: 0,
        };
        self.listeners.insert(state.cookie, listener);
    }

    fn listener_closed(&mut self, cookie: u64) {
        self.attribution.listener_closed(cookie);
        if let Some(listener) = self.listeners.remove(&cookie) {
            self.series.leave(listener.shown, TcpState::Listen);
        }
    }

    /// One event per SYN-ACK that was sent again: the only source of this count, since most have no socket yet.
    fn synack_retransmitted(&mut self, state: &ConnectionState, now_ns: u64) {
        let owner = self.attribution.owner(state);
        let pod = self.pod_of(state.cgroup_id, owner.pid, now_ns);
        let destination = self.series.destination(
            destination::key(Role::Server, &owner, state, None, &Group::default(), pod.as_deref()),
            now_ns,
        );
        self.series.retransmitted(destination, Retransmit::Synack, 1, now_ns);
    }

    fn surroundings<'a>(&'a self, cgroup: Option<&'a Cgroup>) -> Surroundings<'a> {
        let Self {
            settings,
            clock_offset_ns,
            workloads,
            ..
        } = self;
        let pod = cgroup.and_then(|cgroup| workloads.pod(cgroup.pod.as_deref(), cgroup.container.as_deref()));
        Surroundings {
            node: &settings.node,
            boot_id: &settings.boot_id,
            clock_offset_ns: *clock_offset_ns,
            cgroup,
            pod: pod.map(|pod| &**pod),
            workloads,
        }
    }

    /// Keeps an event if there is room, and tells whoever listens.
    fn tell_event(&mut self, output: Output, kept: bool) {
        if kept {
            self.events.push(output.clone());
        }
        if self.collect {
            self.tell(output);
        }
    }

    fn tell(&mut self, output: Output) {
        if self.outputs.len() < MAX_OUTPUTS {
            self.outputs.push(output);
        } else {
            self.counts.outputs_dropped += 1;
        }
    }
}
