//! What a client's choice of destination tells: its group, that it went on to another host of that group, that the
//! destination is not among those declared for it.
use std::{net::IpAddr, sync::Arc};

use agent_ebpf::{
    connection::{CLOSED_BY_TIMEOUT, ConnectionState, FLAG_LATE},
    timeline::{PROTOCOL_HTTP1, PROTOCOL_NONE, PROTOCOL_TLS},
};
use serde::Serialize;

use super::{
    Attached, Output, Pipeline, PipelineSettings, destination, records, resolution::Resolution, subflows, talk,
};
use crate::{
    aggregate::{FallbackLabels, Snapshot, Tally, TlsFailure, UndeclaredLabels},
    attribution::{Attribution, Process},
    connection::{
        Endpoint, Endpoints, Outcome, Phase, Role, phase,
        record::{AddressRecord, DestinationRecord, EVENT_SCHEMA, ProcessRecord},
        rfc3339, transport_outcome,
    },
    declared::{Declarations, Misfit, Who, Whom},
    fallbacks::{Attempt, Fallback, Fallbacks, Naming, Progress, Reason},
    groups::{DNS, Group, Groups},
    protocol::{facts::Facts, first_byte::FirstByte},
};

/// Pairs of hosts with a counter of their own.
const MAX_FALLBACKS: usize = 200;
/// Undeclared destinations with a counter of their own.
const MAX_UNDECLARED: usize = 200;
/// Statuses that ask for credentials: who is asked comes again.
const CHALLENGES: [u16; 2] = [401, 407];

/// A process went on to another host of a group, since the first one did not serve it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FallbackRecord {
    /// [`EVENT_SCHEMA`].
    pub schema: u32,
    /// `fallback`.
    pub r#type: &'static str,
    /// Name of the node.
    pub node: String,
    /// RFC 3339, UTC: when the connection to the other host was opened.
    pub time: String,
    /// The group of both hosts.
    pub group: String,
    /// Who did not serve it.
    pub from: String,
    /// Where it went.
    pub to: String,
    /// Why: an outcome of TCP, `tls`, `closed`, `timeout`, `http_4xx`, `http_5xx` or `stuck`.
    pub reason: &'static str,
    /// From the failure to the opening, microseconds.
    pub after_us: u64,
    /// Which process.
    pub process: ProcessRecord,
}

/// A client connection did not keep to a declaration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UndeclaredRecord {
    /// [`EVENT_SCHEMA`].
    pub schema: u32,
    /// `undeclared`.
    pub r#type: &'static str,
    /// Id of the connection's own record.
    pub id: String,
    /// Name of the node.
    pub node: String,
    /// RFC 3339, UTC: when the connection was opened.
    pub time: String,
    /// Name of the declaration.
    pub declaration: String,
    /// `outside`: neither name nor address is declared. `unverified`: the name is, and nothing but the connection's own
    /// SNI or Host says that it is the name.
    pub reason: &'static str,
    /// Where it went.
    pub destination: DestinationRecord,
    /// The other side, as on the wire.
    pub remote: AddressRecord,
    /// Which process.
    pub process: ProcessRecord,
}

/// What was heard of a client connection whose name is known by now.
pub(super) struct Heard<'a> {
    pub(super) state: &'a ConnectionState,
    pub(super) facts: Option<&'a Facts>,
    pub(super) answer: Option<FirstByte>,
    pub(super) failure: Option<TlsFailure>,
    pub(super) first_seen_ns: u64,
    /// Exchanges after the first that were known before: timed ones, overlapping ones.
    pub(super) turns_before: (u32, u32),
    /// When it ended, if it has.
    pub(super) ended_ns: Option<u64>,
    pub(super) now_ns: u64,
}

/// A connection that does not keep to a declaration, not told yet.
#[derive(Debug)]
struct Undeclared {
    id: (u64, u32),
    opened_ns: u64,
    owner: Arc<Process>,
    cgroup_id: u64,
    labels: UndeclaredLabels,
    source: &'static str,
    verified: bool,
    remote: Endpoint,
}

/// Groups, fallbacks and declarations, with what was counted of them.
#[derive(Debug)]
pub(super) struct Choices {
    groups: Groups,
    declarations: Declarations,
    fallbacks: Fallbacks,
    fallback_counts: Tally<FallbackLabels>,
    undeclared_counts: Tally<UndeclaredLabels>,
    /// At most one for each event: they are told after it.
    undeclared: Vec<Undeclared>,
}

impl Choices {
    pub(super) fn new(settings: &PipelineSettings) -> Self {
        Self {
            groups: settings.groups.clone(),
            declarations: Declarations::new(&settings.declared),
            fallbacks: Fallbacks::new(settings.stuck_after_ns),
            fallback_counts: Tally::new(MAX_FALLBACKS),
            undeclared_counts: Tally::new(MAX_UNDECLARED),
            undeclared: Vec::new(),
        }
    }

    /// The group of what a client asked for; a server's destination is itself, and has none.
    pub(super) fn group(&self, state: &ConnectionState, host: Option<&str>) -> Group {
        if Role::of(state) != Some(Role::Client) {
            return Group::default();
        }
        let wanted = Endpoints::of(state).wanted();
        self.groups.of(host, wanted.address, wanted.port)
    }

    /// The group of any destination.
    pub(super) fn group_of(&self, host: Option<&str>, address: IpAddr, port: u16) -> Group {
        self.groups.of(host, address, port)
    }

    /// A process began.
    pub(super) fn began(&mut self, pid: u32) {
        self.fallbacks.began(pid);
    }

    /// A process ended.
    pub(super) fn ended(&mut self, pid: u32, now_ns: u64) {
        self.fallbacks.ended(pid, now_ns);
    }

    /// A client connection was heard of, for the first time or again.
    pub(super) fn heard(
        &mut self,
        attribution: &mut Attribution,
        resolution: &Resolution,
        attached: &mut Attached,
        heard: &Heard<'_>,
    ) {
        if Role::of(heard.state) != Some(Role::Client) {
            return;
        }
        if !attached.judged && !self.declarations.is_empty() {
            attached.judged = self.judge(attribution, resolution, attached, heard);
        }
        let state = heard.state;
        if attached.group.name.is_empty() || state.flags & FLAG_LATE != 0 {
            return;
        }
        let attempt = Attempt {
            id: (state.cookie, state.attempt),
            opened_ns: opened_ns(heard),
            group: Arc::clone(&attached.group.name),
            host: attached.claim.as_ref().map_or_else(
                || Endpoints::of(state).wanted().address.to_string().into(),
                |claim| Arc::clone(&claim.host),
            ),
            naming: naming(attached, heard),
            progress: progress(heard),
        };
        self.fallbacks
            .report(&attached.owner, state.cgroup_id, attempt, heard.now_ns);
    }

    /// Compares a connection with what is declared; `false` while a name may still come that changes the verdict.
    fn judge(
        &mut self,
        attribution: &mut Attribution,
        resolution: &Resolution,
        attached: &Attached,
        heard: &Heard<'_>,
    ) -> bool {
        let (state, owner) = (heard.state, &attached.owner);
        let needs_cgroup = self.declarations.need_cgroup();
        let cgroup = needs_cgroup
            .then(|| attribution.cgroup(state.cgroup_id, owner.pid, heard.now_ns))
            .flatten();
        let who = Who {
            comm: &owner.comm,
            exe: owner.exe.as_deref(),
            workload: attached.pod.as_ref().map(|pod| &*pod.workload.name),
            cgroup: cgroup.as_ref().map(|cgroup| &*cgroup.path),
        };
        // One that was silent for long has its place without a name; if it says one later, that counts here.
        let claim = if subflows::is_joined(state) {
            attached.claim.clone()
        } else {
            resolution.claim_of(state, owner.pid, heard.facts, attached.resolved.as_deref())
        };
        let has_said = claim.as_ref().is_some_and(|claim| claim.source != "dns");
        let name = claim.as_ref().map(|claim| &*claim.host);
        let endpoints = Endpoints::of(state);
        let wanted = endpoints.wanted();
        let may_say = state.timeline.protocol == PROTOCOL_NONE || !talk::is_named(state, heard.facts);
        let is_final = has_said || !may_say || name.is_some() && heard.ended_ns.is_some();
        let group = self.group(state, name);
        let verified = records::is_verified(claim.as_ref());
        let whom = Whom {
            name,
            verified,
            is_final,
            address: wanted.address,
            port: wanted.port,
            group: &group,
        };
        let Some((declaration, misfit)) = self.declarations.misfit(&who, &whom) else {
            return is_final;
        };
        let labels = UndeclaredLabels {
            declaration: Arc::clone(declaration),
            reason: misfit.name(),
            destination: claim
                .as_ref()
                .map_or_else(|| wanted.address.to_string().into(), |claim| Arc::clone(&claim.host)),
            port: Some(wanted.port),
            group: group.name,
            source: destination::source(attached.pod.as_deref()),
        };
        self.undeclared_counts.add(labels.clone());
        self.undeclared.push(Undeclared {
            id: (state.cookie, state.attempt),
            opened_ns: opened_ns(heard),
            owner: Arc::clone(owner),
            cgroup_id: state.cgroup_id,
            labels,
            source: claim.as_ref().map_or("ip", |claim| claim.source),
            verified: verified && misfit == Misfit::Outside,
            remote: endpoints.remote,
        });
        true
    }

    /// Adds what was counted.
    pub(super) fn complete(&self, snapshot: Snapshot) -> Snapshot {
        Snapshot {
            fallbacks: self.fallback_counts.snapshot(),
            undeclared: self.undeclared_counts.snapshot(),
            ..snapshot
        }
    }

    /// Processes that were forgotten while they might still fall back.
    pub(super) fn evicted(&self) -> u64 {
        self.fallbacks.evicted()
    }
}

impl Pipeline {
    /// Judges what waits for more to be heard: call when no more will come.
    pub fn settle(&mut self) {
        self.let_all_on();
        self.settle_lookups();
        let found = self.choices.fallbacks.finish();
        self.tell_fallbacks(found);
        self.look_for_links(self.now_ns, true);
    }

    /// Tells the fallbacks that are certain by now.
    pub(super) fn look_for_fallbacks(&mut self, now_ns: u64) {
        let found = self.choices.fallbacks.take(now_ns);
        self.tell_fallbacks(found);
    }

    fn tell_fallbacks(&mut self, found: Vec<Fallback>) {
        for fallback in found {
            let pod = self.pod_of(fallback.cgroup_id, fallback.process.pid, self.now_ns);
            self.choices.fallback_counts.add(FallbackLabels {
                group: Arc::clone(&fallback.group),
                from: Arc::clone(&fallback.from),
                to: Arc::clone(&fallback.to),
                source: destination::source(pod.as_deref()),
            });
            let kept = self.events.admits(self.now_ns);
            if kept || self.collect {
                let record = FallbackRecord {
                    schema: EVENT_SCHEMA,
                    r#type: "fallback",
                    node: self.settings.node.clone(),
                    time: rfc3339(fallback.opened_ns.saturating_add_signed(self.clock_offset_ns)),
                    group: fallback.group.to_string(),
                    from: fallback.from.to_string(),
                    to: fallback.to.to_string(),
                    reason: fallback.reason.name(),
                    after_us: fallback.opened_ns.saturating_sub(fallback.failed_ns) / 1_000,
                    process: self.process_record(&fallback.process, fallback.cgroup_id),
                };
                self.tell_event(Output::Fallback(Box::new(record)), kept);
            }
        }
    }

    /// Tells the undeclared destinations that the last event showed.
    pub(super) fn tell_undeclared(&mut self) {
        while let Some(one) = self.choices.undeclared.pop() {
            let kept = self.events.admits(self.now_ns);
            if !kept && !self.collect {
                continue;
            }
            let labels = &one.labels;
            let record = UndeclaredRecord {
                schema: EVENT_SCHEMA,
                r#type: "undeclared",
                id: self.surroundings(None).id(one.id),
                node: self.settings.node.clone(),
                time: rfc3339(one.opened_ns.saturating_add_signed(self.clock_offset_ns)),
                declaration: labels.declaration.to_string(),
                reason: labels.reason,
                destination: DestinationRecord {
                    host: labels.destination.to_string(),
                    port: labels.port.unwrap_or_default(),
                    source: one.source,
                    verified: one.verified,
                    group: labels.group.to_string(),
                },
                remote: records::address(one.remote),
                process: self.process_record(&one.owner, one.cgroup_id),
            };
            self.tell_event(Output::Undeclared(Box::new(record)), kept);
        }
    }

    pub(super) fn process_record(&mut self, owner: &Process, cgroup_id: u64) -> ProcessRecord {
        let cgroup = self.attribution.cgroup(cgroup_id, owner.pid, self.now_ns);
        self.surroundings(cgroup.as_deref()).process(owner)
    }
}

/// When its connect was called, or the first that is known of it.
pub(super) fn opened_ns(heard: &Heard<'_>) -> u64 {
    let state = heard.state;
    let marks = [state.intent_ns, state.syn_ns, state.established_ns];
    marks.into_iter().find(|mark| *mark != 0).unwrap_or(heard.first_seen_ns)
}

/// What the name is worth for telling hosts apart.
fn naming(attached: &Attached, heard: &Heard<'_>) -> Naming {
    if attached.claim.is_some() {
        return Naming::Named;
    }
    // Resolvers are configured by address. Others said all that they will, and it was no name.
    let is_resolver = !attached.group.by_name && *attached.group.name == *DNS;
    let could_name = matches!(heard.state.timeline.protocol, PROTOCOL_TLS | PROTOCOL_HTTP1);
    if is_resolver || could_name && talk::is_named(heard.state, heard.facts) {
        Naming::Literal
    } else {
        Naming::Unknown
    }
}

/// How far a connection has come with its first exchange.
fn progress(heard: &Heard<'_>) -> Progress {
    let state = heard.state;
    let mut progress = Progress {
        closed_ns: heard.ended_ns,
        went_on: state.timeline.turns > 0 || state.timeline.turn_ns != 0,
        ..Progress::default()
    };
    if let Some(answer) = heard.answer {
        progress.waited_since_ns = Some(state.timeline.request_ns);
        match heard.facts.and_then(|facts| facts.http.as_ref()?.status) {
            Some(status) if status >= 400 && !CHALLENGES.contains(&status) => {
                progress.failed = Some((answer.at_ns, Reason::Http(status)));
            }
            _ => progress.answered_ns = Some(answer.at_ns),
        }
        return progress;
    }
    let open = ConnectionState { closed_ns: 0, ..*state };
    // A later exchange that hangs is not looked at: what opens one may be a farewell.
    let waits = phase(&open, false, heard.first_seen_ns).filter(|(phase, _)| *phase != Phase::Turn);
    progress.waited_since_ns = waits.map(|(_, since_ns)| since_ns);
    if let Some(ended_ns) = heard.ended_ns {
        let reason = match transport_outcome(state) {
            Outcome::Ok if heard.failure.is_some() => Some(Reason::Tls),
            Outcome::Ok if waits.is_none() => None,
            Outcome::Ok if state.closed_by == CLOSED_BY_TIMEOUT => Some(Reason::Timeout),
            Outcome::Ok => Some(Reason::Closed),
            failure => Some(Reason::Transport(failure)),
        };
        progress.failed = reason.map(|reason| (ended_ns, reason));
    }
    progress
}
