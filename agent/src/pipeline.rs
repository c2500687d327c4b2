//! The whole of userspace between a ring buffer's bytes and a snapshot.
//!
//! Reads no clock: time comes in with events and ticks, so that a replay gives what live gave. I/O happens in
//! `attribution` alone, and not at all without `read_proc`. One task owns a [`Pipeline`]; nothing in it locks.
mod records;

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use agent_ebpf::{
    connection::{ConnectionState, FLAG_LATE, ROLE_LISTENER, tcp_state},
    event::{CONNECTION_CLOSE, CONNECTION_UPDATE, ConnectionEvent, HEARTBEAT_NS, LISTENER_OPEN, SYNACK_RETRANSMIT},
};

use crate::{
    aggregate::{DestinationId, DestinationKey, Ended, Name, PipelineCounts, Retransmit, Series, Snapshot},
    attribution::{Attribution, Cgroup, Process},
    connection::{
        Admission, ClosedBy, ConnectionRecord, Endpoints, Entry, Outcome, Role, Table, TcpState, WaitingList, outcome,
        phase, received_bytes, rtt_window, sent_bytes,
    },
    decode::{DecodeError, Event, decode},
};
use records::Surroundings;

/// Records that wait to be fetched; more are dropped and counted.
const MAX_OUTPUTS: usize = 65_536;
/// Listeners that are shown; owners of more are still known.
const MAX_LISTENERS: usize = 65_536;
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
    /// A connect that has waited for this long is told once as stuck, nanoseconds.
    pub stuck_after_ns: u64,
    /// A connect that has waited for this long counts as waiting, nanoseconds.
    pub waiting_after_ns: u64,
    /// Ask `/proc` and the cgroup tree for what no event told; off on replay.
    pub read_proc: bool,
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
            stuck_after_ns: 5_000_000_000,
            waiting_after_ns: 1_000_000_000,
            read_proc: false,
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
}

/// What the pipeline attaches to an open connection.
#[derive(Debug)]
struct Attached {
    owner: Arc<Process>,
    destination: DestinationId,
    /// Which gauge of open connections it has raised.
    gauge: Option<(DestinationId, TcpState)>,
    /// Its connect has been counted.
    connected: bool,
}

/// The pipeline and all its state.
#[derive(Debug)]
pub struct Pipeline {
    settings: PipelineSettings,
    attribution: Attribution,
    connections: Table<Attached>,
    /// Where each listener is shown, by its cookie.
    listeners: HashMap<u64, DestinationId>,
    waiting: WaitingList,
    series: Series,
    counts: PipelineCounts,
    outputs: Vec<Output>,
    collect: bool,
    clock_offset_ns: i64,
    /// Time of the latest tick.
    now_ns: u64,
    /// When idle destinations were last looked for.
    expired_ns: u64,
    /// When an open connection was last told of again.
    told_ns: u64,
}

impl Pipeline {
    /// An empty pipeline.
    pub fn new(settings: PipelineSettings) -> Self {
        Self {
            attribution: Attribution::new(settings.max_processes, settings.read_proc, settings.cgroup_root.clone()),
            connections: Table::new(settings.max_connections),
            listeners: HashMap::new(),
            waiting: WaitingList::default(),
            series: Series::new(settings.max_series),
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
            Event::Connection(event) => self.socket(&event),
            Event::Fork(event) => self.attribution.fork(&event),
            Event::Exec(event) => self.attribution.exec(&event),
            Event::Exit(event) => self.attribution.exit(&event),
            Event::Cgroup(event) => self.attribution.cgroup_made(&event),
        }
    }

    /// The agent's clock: who waits, who is stuck, which destinations are idle.
    pub fn tick(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        for (cookie, _) in self.waiting.longer_than(self.settings.waiting_after_ns, now_ns) {
            if let Some(entry) = self.connections.get(cookie) {
                self.series.waits(entry.attached.destination);
            }
        }
        if self.collect {
            self.tell_stuck();
        }
        self.attribution.tick(now_ns);
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

    /// A picture of everything, immutable and cheap to clone. Waiting is told as of the latest tick.
    pub fn snapshot(&self) -> Snapshot {
        let waiting: Vec<_> = self
            .waiting
            .longer_than(self.settings.waiting_after_ns, self.now_ns)
            .filter_map(|(cookie, waiting)| {
                let entry = self.connections.get(cookie)?;
                Some((entry.attached.destination, waiting.since_ns))
            })
            .collect();
        let (processes, processes_evicted) = self.attribution.process_counts();
        let counts = PipelineCounts {
            processes,
            processes_evicted,
            cgroups_evicted: self.attribution.cgroups_evicted(),
            connections: self.connections.len() as u64,
            ..self.counts.clone()
        };
        Snapshot {
            counts,
            ..self.series.snapshot(&waiting, self.now_ns)
        }
    }

    /// An event of a socket.
    fn socket(&mut self, event: &ConnectionEvent) {
        let (kind, now_ns, state) = (event.header.kind, event.header.time_ns, &event.state);
        if kind == CONNECTION_UPDATE {
            self.told_ns = now_ns;
        }
        match (kind, Role::of(state)) {
            (LISTENER_OPEN, _) => self.listener_opened(state, now_ns),
            (SYNACK_RETRANSMIT, _) => self.synack_retransmitted(state, now_ns),
            (CONNECTION_CLOSE, None) if state.role == ROLE_LISTENER => self.listener_closed(state.cookie),
            (_, Some(role)) => self.connection(kind == CONNECTION_CLOSE, role, state, now_ns),
            (_, None) if state.role == ROLE_LISTENER => {}
            (_, None) => self.counts.malformed += 1,
        }
    }

    /// A socket listens, or was found listening.
    fn listener_opened(&mut self, state: &ConnectionState, now_ns: u64) {
        self.attribution.listener_opened(state);
        if self.listeners.len() >= MAX_LISTENERS || self.listeners.contains_key(&state.cookie) {
            return;
        }
        let owner = self.attribution.owner(state);
        let destination = self.series.destination(key(Role::Server, &owner, state), now_ns);
        let shown = self.series.enter(destination, TcpState::Listen);
        self.listeners.insert(state.cookie, shown);
    }

    fn listener_closed(&mut self, cookie: u64) {
        self.attribution.listener_closed(cookie);
        if let Some(shown) = self.listeners.remove(&cookie) {
            self.series.leave(shown, TcpState::Listen);
        }
    }

    /// One event per SYN-ACK that was sent again: the only source of this count, since most have no socket yet.
    fn synack_retransmitted(&mut self, state: &ConnectionState, now_ns: u64) {
        let owner = self.attribution.owner(state);
        let destination = self.series.destination(key(Role::Server, &owner, state), now_ns);
        self.series.retransmitted(destination, Retransmit::Synack, 1, now_ns);
    }

    /// A snapshot of a connection, the last one or not.
    fn connection(&mut self, closed: bool, role: Role, state: &ConnectionState, now_ns: u64) {
        match self.connections.get(state.cookie).map(|entry| entry.state.attempt) {
            Some(attempt) if attempt > state.attempt => {
                self.counts.stale += 1;
                return;
            }
            Some(attempt) if attempt < state.attempt => {
                // Its CLOSE was lost, and with it how it went: the kernel counted that loss.
                self.counts.superseded += 1;
                self.waiting.remove(state.cookie);
                if let Some(entry) = self.connections.remove(state.cookie) {
                    let_go(&mut self.series, &entry.attached);
                }
            }
            _ => {}
        }
        if closed {
            self.waiting.remove(state.cookie);
            if let Some(mut entry) = self.connections.remove(state.cookie) {
                self.finish(&mut entry, role, state, now_ns);
                let_go(&mut self.series, &entry.attached);
            } else {
                let mut entry = self.first_seen(role, state, now_ns);
                self.finish(&mut entry, role, state, now_ns);
            }
        } else if state.closed_ns != 0 {
            self.counts.stale += 1;
        } else if let Some(entry) = self.connections.get_mut(state.cookie) {
            progress(&mut self.series, entry, state, now_ns);
            enter(&mut self.series, &mut entry.attached, state);
            self.waiting
                .set(state.cookie, phase(state, answered(state), entry.first_seen_ns));
        } else {
            self.open(role, state, now_ns);
        }
    }

    /// Puts a connection into the table at its first event, whichever that is.
    fn open(&mut self, role: Role, state: &ConnectionState, now_ns: u64) {
        let entry = self.first_seen(role, state, now_ns);
        match self.connections.insert(entry, now_ns) {
            Admission::Inserted => {}
            Admission::Evicted(entry) => {
                self.counts.evicted += 1;
                self.waiting.remove(entry.state.cookie);
                let_go(&mut self.series, &entry.attached);
            }
            // Nothing of it is counted yet: its CLOSE will count it whole.
            Admission::Refused => {
                self.counts.untracked += 1;
                return;
            }
        }
        if let Some(entry) = self.connections.get_mut(state.cookie) {
            self.series.hold(entry.attached.destination);
            progress(&mut self.series, entry, state, now_ns);
            enter(&mut self.series, &mut entry.attached, state);
            self.waiting
                .set(state.cookie, phase(state, answered(state), entry.first_seen_ns));
        }
    }

    /// Connections whose CLOSE was lost: everything open is heard of once in [`HEARTBEAT_NS`], if anything is.
    fn drop_silent(&mut self) {
        let before_ns = self.told_ns.saturating_sub(3 * HEARTBEAT_NS);
        for entry in self.connections.take_silent(before_ns) {
            self.counts.evicted += 1;
            self.waiting.remove(entry.state.cookie);
            let_go(&mut self.series, &entry.attached);
        }
    }

    /// A connection before anything of it is counted: from zero, but what a late one did before hopline is not ours.
    fn first_seen(&mut self, role: Role, state: &ConnectionState, now_ns: u64) -> Entry<Attached> {
        let owner = self.attribution.owner(state);
        let destination = self.series.destination(key(role, &owner, state), now_ns);
        let counted = if late(state) {
            *state
        } else {
            ConnectionState {
                cookie: state.cookie,
                attempt: state.attempt,
                ..ConnectionState::default()
            }
        };
        let attached = Attached {
            owner,
            destination,
            gauge: None,
            connected: false,
        };
        Entry {
            state: counted,
            first_seen_ns: now_ns,
            attached,
        }
    }

    /// The last snapshot: counts what is new in it, how it went, and who ended it.
    fn finish(&mut self, entry: &mut Entry<Attached>, role: Role, state: &ConnectionState, now_ns: u64) {
        let opened = state.established_ns != 0 || (late(state) && entry.state.tcp_state != tcp_state::SYN_SENT);
        progress(&mut self.series, entry, state, now_ns);
        let destination = entry.attached.destination;
        if !entry.attached.connected && !late(state) {
            self.series.connected(destination, outcome(state), now_ns);
        }
        let ended = if opened { Ended::Established } else { Ended::Tcp };
        self.series.ended(destination, ended, ClosedBy::of(state), now_ns);
        if self.collect {
            let end_ns = if state.closed_ns == 0 { now_ns } else { state.closed_ns };
            let cgroup = self
                .attribution
                .cgroup(state.cgroup_id, entry.attached.owner.pid, now_ns);
            let surroundings = self.surroundings(cgroup.as_deref());
            let record = surroundings.record(role, state, &entry.attached.owner, entry.first_seen_ns..end_ns, None);
            self.tell(Output::Finished(Box::new(record)));
        }
    }

    /// Tells each connect that has waited for too long, once.
    fn tell_stuck(&mut self) {
        for (cookie, waiting) in self.waiting.newly_stuck(self.settings.stuck_after_ns, self.now_ns) {
            let Some(entry) = self.connections.get(cookie) else {
                continue;
            };
            let (state, owner) = (&entry.state, &entry.attached.owner);
            let Some(role) = Role::of(state) else { continue };
            let cgroup = self.attribution.cgroup(state.cgroup_id, owner.pid, self.now_ns);
            let times = entry.first_seen_ns..self.now_ns;
            let surroundings = self.surroundings(cgroup.as_deref());
            let record = surroundings.record(role, state, owner, times, Some(waiting));
            self.tell(Output::Stuck(Box::new(record)));
        }
    }

    fn surroundings<'a>(&'a self, cgroup: Option<&'a Cgroup>) -> Surroundings<'a> {
        let Self {
            settings,
            clock_offset_ns,
            ..
        } = self;
        Surroundings {
            node: &settings.node,
            boot_id: &settings.boot_id,
            clock_offset_ns: *clock_offset_ns,
            cgroup,
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

/// Counts what a snapshot tells beyond the last one, and keeps it.
fn progress(series: &mut Series, entry: &mut Entry<Attached>, state: &ConnectionState, now_ns: u64) {
    let (before, attached) = (&entry.state, &mut entry.attached);
    let id = attached.destination;
    if !attached.connected && state.established_ns != 0 {
        attached.connected = true;
        series.connected(id, Outcome::Ok, now_ns);
        if state.syn_ns != 0 {
            series.handshake(id, state.established_ns.saturating_sub(state.syn_ns), now_ns);
        }
    }
    if let Some(window) = rtt_window(&before.rtt, &state.rtt) {
        series.rtt(id, window, now_ns);
    }
    for (kind, before, now) in [
        (Retransmit::Syn, before.retransmits.syn, state.retransmits.syn),
        (Retransmit::Rto, before.retransmits.rto, state.retransmits.rto),
        (Retransmit::Fast, before.retransmits.fast, state.retransmits.fast),
        (Retransmit::Tlp, before.retransmits.tlp, state.retransmits.tlp),
        (Retransmit::Other, before.retransmits.other, state.retransmits.other),
    ] {
        series.retransmitted(id, kind, u64::from(now.saturating_sub(before)), now_ns);
    }
    let sent = sent_bytes(state).saturating_sub(sent_bytes(before));
    let received = received_bytes(state).saturating_sub(received_bytes(before));
    series.bytes(id, sent, received, now_ns);
    let (counters, counted) = (&state.counters, &before.counters);
    let sent = segments_since(counted.segments_sent, counters.segments_sent);
    let received = segments_since(counted.segments_received, counters.segments_received);
    series.segments(id, sent, received, now_ns);
    entry.state = *state;
}

/// The kernel's counter is 32 bits wide and wraps; one that went back belongs to another life of the socket.
fn segments_since(before: u32, now: u32) -> u64 {
    let difference = now.wrapping_sub(before);
    if difference > u32::MAX / 2 {
        0
    } else {
        u64::from(difference)
    }
}

/// Moves an open connection to the gauge of its present state.
fn enter(series: &mut Series, attached: &mut Attached, state: &ConnectionState) {
    let now = TcpState::of(state.tcp_state);
    if attached.gauge.map(|(_, state)| state) != now {
        if let Some((id, state)) = attached.gauge.take() {
            series.leave(id, state);
        }
        attached.gauge = now.map(|state| (series.enter(attached.destination, state), state));
    }
}

/// An open connection leaves the table.
fn let_go(series: &mut Series, attached: &Attached) {
    if let Some((id, state)) = attached.gauge {
        series.leave(id, state);
    }
    series.release(attached.destination);
}

fn late(state: &ConnectionState) -> bool {
    state.flags & FLAG_LATE != 0
}

/// The answer to the first request has begun.
fn answered(state: &ConnectionState) -> bool {
    state.timeline.first_byte_ns != 0
}

/// A client's destination is what it asked for; a server's is the process that listens, and its port.
fn key(role: Role, owner: &Process, state: &ConnectionState) -> DestinationKey {
    let endpoints = Endpoints::of(state);
    match role {
        Role::Client => {
            let wanted = endpoints.wanted();
            DestinationKey {
                role,
                name: Name::Address(wanted.address),
                port: wanted.port,
            }
        }
        Role::Server => DestinationKey {
            role,
            name: Name::Process(owner.name()),
            port: endpoints.local.port,
        },
    }
}
