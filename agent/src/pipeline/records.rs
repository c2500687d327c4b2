//! The record of one connection, put together from its last snapshot, its owner and where hopline runs.
use std::collections::BTreeMap;
use std::ops::Range;

use agent_ebpf::{
    connection::{ConnectionState, FLAG_LATE},
    timeline::PROTOCOL_NONE,
};

use super::{
    destination::server_name,
    library::{FailedBy, Library},
    resolution::Waited,
    talk::{self, Claim},
};
use crate::{
    aggregate::TlsFailure,
    attribution::{Cgroup, Process},
    connection::{
        ClosedBy, ConnectionRecord, Endpoint, Endpoints, Outcome, Phase, Role, RoleBasis, Rtt, received_bytes,
        record::{
            AddressRecord, BackendRecord, DestinationRecord, DnsRecord, HttpRecord, MarksRecord, PhasesRecord,
            ProcessRecord, RetransmitsRecord, RttRecord, SCHEMA, TcpRecord, TlsRecord, TurnsRecord,
        },
        rfc3339, routers_by_ttl, sent_bytes,
    },
    dns::LookupFacts,
    protocol::{
        facts::{Facts, TlsFacts},
        first_byte::FirstByte,
        http1::{Host, HostClaim},
        tls::{TLS13, cipher::cipher_name, version_name},
    },
    windows::Sketch,
    workloads::{Pod, Workloads},
};

/// What both ends said, as far as it is known.
pub(super) struct Said<'a> {
    pub(super) claim: Option<&'a Claim>,
    pub(super) waited: Option<&'a Waited>,
    pub(super) group: &'a str,
    pub(super) facts: Option<&'a Facts>,
    pub(super) answer: Option<FirstByte>,
    pub(super) failure: Option<(TlsFailure, Option<FailedBy>)>,
    pub(super) library: Option<&'a Library>,
    pub(super) turns: Option<&'a Sketch>,
    /// Final responses of cleartext HTTP/1 by status code.
    pub(super) responses: Option<&'a BTreeMap<u16, u64>>,
    pub(super) rtt: &'a Rtt,
    /// It was written to after the peer's end: for how long nothing had passed before.
    pub(super) idle_before_ns: Option<u64>,
    /// How it went, once it has ended.
    pub(super) outcome: Option<Outcome>,
}

/// What a record says beside the connection itself.
pub(super) struct Surroundings<'a> {
    pub(super) node: &'a str,
    pub(super) boot_id: &'a str,
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, nanoseconds.
    pub(super) clock_offset_ns: i64,
    /// The socket's cgroup, when its path is known.
    pub(super) cgroup: Option<&'a Cgroup>,
    /// The pod of that cgroup, when it is known.
    pub(super) pod: Option<&'a Pod>,
    /// All pods, for the other side.
    pub(super) workloads: &'a Workloads,
}

impl Surroundings<'_> {
    /// The record. `seen` is from the first event to the end, or to now for a connection that waits in a phase; `waiting` is for how
    /// long it has.
    pub(super) fn record(
        &self,
        role: Role,
        state: &ConnectionState,
        owner: &Process,
        said: &Said<'_>,
        seen: Range<u64>,
        waiting: Option<(Phase, u64)>,
    ) -> ConnectionRecord {
        let begun = [state.intent_ns, state.syn_ns, state.established_ns];
        let start_ns = begun.into_iter().find(|mark| *mark != 0).unwrap_or(seen.start);
        let endpoints = Endpoints::of(state);
        let ended = said.outcome.is_some();
        let is_late = state.flags & FLAG_LATE != 0;
        let lookup = said.waited.map(|waited| &waited.lookup);
        ConnectionRecord {
            schema: SCHEMA,
            id: self.id((state.cookie, state.attempt)),
            node: self.node.to_owned(),
            netns: state.netns,
            start: rfc3339(start_ns.saturating_add_signed(self.clock_offset_ns)),
            duration_us: seen.end.saturating_sub(start_ns) / 1_000,
            role,
            role_basis: RoleBasis::of(state),
            family: if endpoints.remote.address.is_ipv4() {
                "ipv4"
            } else {
                "ipv6"
            },
            local: address(endpoints.local),
            remote: address(endpoints.remote),
            destination: self.destination(role, owner, &endpoints, said),
            backend: endpoints.asked.map(|_| self.backend(endpoints.remote, start_ns)),
            process: self.process(owner),
            phases_us: phases(state, said.answer, lookup),
            marks_ns: marks(state, said.answer, lookup),
            ttfb_basis: said.answer.map(|answer| answer.basis.name()),
            late: is_late,
            turns: turns(state, said.turns),
            dns: said.waited.map(dns),
            tls: tls(state, said, ended),
            http: http(said.facts, said.responses),
            tcp: tcp(state, said),
            chain: None,
            waiting: waiting.map(|(phase, _)| phase),
            waiting_us: waiting.map(|(_, waited_ns)| waited_ns / 1_000),
            outcome: said.outcome,
        }
    }

    /// The record's id, of the socket's cookie and the number of its attempt.
    pub(super) fn id(&self, (cookie, attempt): (u64, u32)) -> String {
        id(self.boot_id, (cookie, attempt))
    }

    fn destination(&self, role: Role, owner: &Process, endpoints: &Endpoints, said: &Said<'_>) -> DestinationRecord {
        let (host, port, source) = match role {
            Role::Client => {
                let wanted = endpoints.wanted();
                match said.claim {
                    Some(claim) => (claim.host.as_ref().into(), wanted.port, claim.source),
                    None => (wanted.address.to_string(), wanted.port, "ip"),
                }
            }
            Role::Server => {
                let source = if self.pod.is_some() { "kubernetes" } else { "process" };
                let name = server_name(owner, self.pod);
                (name.as_ref().into(), endpoints.local.port, source)
            }
        };
        DestinationRecord {
            host,
            port,
            source,
            verified: role == Role::Client && is_verified(said.claim),
            group: said.group.to_owned(),
        }
    }

    fn backend(&self, remote: Endpoint, at_ns: u64) -> BackendRecord {
        let pod = self.workloads.at_address(remote.address, at_ns);
        BackendRecord {
            address: remote.address.to_string(),
            port: remote.port,
            workload: pod.map(|pod| pod.workload.name.as_ref().into()),
        }
    }

    pub(super) fn process(&self, owner: &Process) -> ProcessRecord {
        let cgroup = self.cgroup;
        let container = cgroup.and_then(|cgroup| cgroup.container.as_deref());
        let container_name = container.and_then(|id| self.pod?.container(id));
        let uid = cgroup.and_then(|cgroup| cgroup.pod.as_deref());
        let workload = self.pod.map(|pod| &pod.workload);
        let annotations = self.pod.into_iter().flat_map(|pod| &pod.annotations);
        ProcessRecord {
            pid: (owner.pid != 0).then_some(owner.pid),
            comm: (!owner.comm.is_empty()).then(|| owner.comm.as_ref().into()),
            exe: owner.exe.as_deref().map(str::to_owned),
            ancestry: owner.ancestry.iter().map(|comm| comm.as_ref().into()).collect(),
            cgroup: cgroup.map(|cgroup| cgroup.path.as_ref().into()),
            container: container_name.or(container).map(str::to_owned),
            pod: self.pod.map(|pod| &*pod.name).or(uid).map(str::to_owned),
            namespace: workload.map(|workload| workload.namespace.as_ref().into()),
            workload: workload.map(|workload| workload.name.as_ref().into()),
            annotations: annotations
                .map(|(key, value)| (key.clone(), value.as_str().into()))
                .collect(),
            env: owner
                .environment
                .iter()
                .map(|(name, value)| (name.as_ref().into(), value.as_ref().into()))
                .collect(),
        }
    }
}

/// The id of a connection of that boot.
pub(super) fn id(boot_id: &str, (cookie, attempt): (u64, u32)) -> String {
    match attempt {
        ..=1 => format!("{boot_id}-{cookie}"),
        _ => format!("{boot_id}-{cookie}.{attempt}"),
    }
}

/// Whether something other than the connection's own claim agrees with its name. An address is what the process asked
/// the kernel for.
pub(super) fn is_verified(claim: Option<&Claim>) -> bool {
    claim.is_none_or(|claim| claim.verified)
}

pub(super) fn address(endpoint: Endpoint) -> AddressRecord {
    AddressRecord {
        address: endpoint.address.to_string(),
        port: endpoint.port,
    }
}

fn phases(state: &ConnectionState, answer: Option<FirstByte>, lookup: Option<&LookupFacts>) -> PhasesRecord {
    let timeline = &state.timeline;
    let us = |from: u64, to: u64| (from != 0 && to != 0).then(|| to.saturating_sub(from) / 1_000);
    PhasesRecord {
        dns: lookup.and_then(|lookup| us(lookup.started_ns, lookup.answered_ns)),
        tcp: us(state.syn_ns, state.established_ns),
        tls: us(timeline.client_hello_ns, timeline.tls_done_ns),
        ttfb: answer.and_then(|answer| us(timeline.request_ns, answer.at_ns)),
    }
}

fn marks(state: &ConnectionState, answer: Option<FirstByte>, lookup: Option<&LookupFacts>) -> MarksRecord {
    let timeline = &state.timeline;
    // Before the handshake's end it is the machine's own.
    let may_ask = timeline.client_hello_ns == 0 || timeline.tls_done_ns != 0;
    MarksRecord {
        dns_query: lookup.and_then(|lookup| mark(lookup.started_ns)),
        dns_answer: lookup.and_then(|lookup| mark(lookup.answered_ns)),
        syn: mark(state.syn_ns),
        established: mark(state.established_ns),
        client_hello: mark(timeline.client_hello_ns),
        server_hello: mark(timeline.server_hello_ns),
        tls_done: mark(timeline.tls_done_ns),
        request: mark(timeline.request_ns).filter(|_| may_ask),
        first_byte: answer.map(|answer| answer.at_ns),
        closed: mark(state.closed_ns),
    }
}

/// The lookup that this connection waited for.
fn dns(waited: &Waited) -> DnsRecord {
    let lookup = &waited.lookup;
    DnsRecord {
        name: waited.name.as_ref().into(),
        resolver: lookup.resolver.to_string(),
        rcode: lookup.ending.name().to_owned(),
        queries: lookup.queries,
    }
}

fn turns(state: &ConnectionState, turns: Option<&Sketch>) -> TurnsRecord {
    let timeline = &state.timeline;
    if timeline.protocol == PROTOCOL_NONE {
        return TurnsRecord::default();
    }
    TurnsRecord {
        count: Some(timeline.turns.into()),
        p50_us: turns.and_then(|turns| turns.quantile_ns(0.5)).map(in_us),
        p95_us: turns.and_then(|turns| turns.quantile_ns(0.95)).map(in_us),
        overlapping: Some(timeline.turns_overlapping.into()),
    }
}

/// Nanoseconds as the nearest microseconds.
pub(super) fn in_us(ns: u64) -> u64 {
    (ns + 500) / 1_000
}

/// What the hellos said; `None` for a connection without TLS.
fn tls(state: &ConnectionState, said: &Said<'_>, ended: bool) -> Option<TlsRecord> {
    let timeline = &state.timeline;
    if timeline.client_hello_ns == 0 {
        return None;
    }
    let facts = said.facts.and_then(|facts| facts.tls.as_ref());
    let done = timeline.tls_done_ns != 0;
    let cipher = facts
        .and_then(TlsFacts::cipher_name)
        .or_else(|| (timeline.cipher != 0).then(|| cipher_name(timeline.cipher)));
    Some(TlsRecord {
        version: talk::version(state, facts).and_then(version_name).map(str::to_owned),
        cipher,
        sni: facts.and_then(TlsFacts::server_name).map(str::to_owned),
        alpn: facts.and_then(|facts| alpn(facts, said.library)),
        resumed: done.then(|| talk::is_resumed(state, facts)),
        outcome: match said.failure {
            Some((failure, _)) => Some(failure.name().to_owned()),
            None => (done && (ended || timeline.request_ns != 0)).then(|| "ok".to_owned()),
        },
        failed_by: said.failure.and_then(|(_, by)| by).map(FailedBy::name),
        library: said.library.and_then(Library::name),
    })
}

/// The agreed protocol where it can be seen; in TLS 1.3, which hides it, what the library says, else the one that was
/// offered if there was one only.
fn alpn(facts: &TlsFacts, library: Option<&Library>) -> Option<String> {
    if let Some(chosen) = facts.alpn_chosen().or_else(|| library?.protocol()) {
        return Some(chosen.to_owned());
    }
    if facts.version().is_some_and(|version| version < TLS13) {
        return None;
    }
    match facts.client_hello.as_ref()?.alpn.as_slice() {
        [only] => Some(only.as_ref().to_owned()),
        _ => None,
    }
}

fn http(facts: Option<&Facts>, responses: Option<&BTreeMap<u16, u64>>) -> Option<HttpRecord> {
    let http = facts?.http.as_ref()?;
    let host = match &http.host {
        HostClaim::Authority(authority) => match &authority.host {
            Host::Name(name) => Some(name.as_str().to_owned()),
            Host::Address(address) => Some(address.to_string()),
        },
        _ => None,
    };
    Some(HttpRecord {
        status: http.status,
        host,
        responses: responses.cloned().unwrap_or_default(),
    })
}

fn tcp(state: &ConnectionState, said: &Said<'_>) -> TcpRecord {
    let rtt = said.rtt;
    let idle_before_ns = said.idle_before_ns;
    let sampled = state.rtt.count > 0;
    let retransmits = &state.retransmits;
    TcpRecord {
        rtt_us: RttRecord {
            min: sampled.then_some(state.rtt.min_us),
            mean: state.rtt.sum_us.checked_div(u64::from(state.rtt.count)),
            p50: rtt.quantile_us(0.5),
            p99: rtt.quantile_us(0.99),
            var: rtt.rttvar_us().map(u64::from),
        },
        retransmits: RetransmitsRecord {
            syn: retransmits.syn,
            rto: retransmits.rto,
            fast: retransmits.fast,
            tlp: retransmits.tlp,
            other: retransmits.other,
        },
        bytes_sent: sent_bytes(state),
        bytes_received: received_bytes(state),
        closed_by: ClosedBy::of(state),
        hops: routers_by_ttl(state.timeline.arrived_ttl),
        idle_before_us: idle_before_ns.map(|idle_ns| idle_ns / 1_000),
    }
}

/// Zero in the kernel's snapshot is "not seen".
fn mark(at_ns: u64) -> Option<u64> {
    (at_ns != 0).then_some(at_ns)
}
