//! DNS messages to lookups, names and counts; the names of connections that said none.
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use agent_ebpf::{
    connection::{ConnectionState, ROLE_CLIENT, ROLE_SERVER},
    dns::{DnsHeader, TRANSPORT_TCP, TRANSPORT_UDP},
    hello::FORWARD,
};
use serde::Serialize;

use super::{
    Output, Pipeline,
    talk::{Claim, Word},
};
use crate::{
    aggregate::{DestinationId, DestinationKey, DnsLabels, Name, Phase, ResolverLabels, Resolvers},
    attribution::Attribution,
    capacity::{Share, TableUse},
    connection::{
        Endpoints, Role,
        record::{AddressRecord, EVENT_SCHEMA, ProcessRecord},
        rfc3339,
    },
    dns::{
        Answered, Ending, Ignored, Lookup, LookupFacts, Lookups, Names, Namespaces, Observed, Queries, QueryEvent,
        Scope, Transport, WaitingLookup,
    },
    protocol::{
        Malformed,
        dns::{DnsName, Message, QueryType, StreamReader},
        facts::Facts,
        malformed::MalformedCounts,
    },
    workloads::Workload,
};

/// Directions of connections to DNS servers that are read at once; each may hold one message.
const MAX_STREAMS: usize = 2_048;
/// Network namespaces whose numbers are remembered.
const MAX_NAMESPACES: usize = 4_096;
/// A direction that was silent for this long is forgotten: its CLOSE was lost.
const STREAM_SILENT_NS: u64 = 120_000_000_000;

/// A lookup, as `trace --dns` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LookupRecord {
    /// [`EVENT_SCHEMA`].
    pub schema: u32,
    /// `lookup`.
    pub r#type: &'static str,
    /// Name of the node.
    pub node: String,
    /// RFC 3339, UTC: when the first query left.
    pub time: String,
    /// Which side was observed.
    pub role: Role,
    /// The name that was finally queried.
    pub name: String,
    /// What the program asked for, as far as its search list tells.
    pub asked: String,
    /// Type of the question.
    pub qtype: &'static str,
    /// Response code that decided it, or `TIMEOUT`; null while it waits.
    pub rcode: Option<&'static str>,
    /// Server of the last query.
    pub resolver: AddressRecord,
    /// `udp`, or `tcp` when one of its queries went so.
    pub transport: &'static str,
    /// Queries sent.
    pub queries: u32,
    /// From the first query to the answer that decided it, microseconds; null without one.
    pub duration_us: Option<u64>,
    /// Addresses of the name.
    pub addresses: Vec<String>,
    /// What the name is an alias of, first to last.
    pub aliases: Vec<String>,
    /// `dns` while it waits.
    pub waiting: Option<Phase>,
    /// For how long it has waited, microseconds.
    pub waiting_us: Option<u64>,
    /// Who asked.
    pub process: ProcessRecord,
}

/// What DNS says of a connection's address.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    pub(super) name: Arc<str>,
    /// The connection's own process resolved it.
    pub(super) is_own: bool,
}

/// The lookup that a connection waited for.
#[derive(Clone, Debug)]
pub(super) struct Waited {
    pub(super) name: Arc<str>,
    pub(super) lookup: LookupFacts,
}

impl Waited {
    /// How long it took.
    pub(super) fn duration_ns(&self) -> Option<u64> {
        let LookupFacts {
            started_ns,
            answered_ns,
            ..
        } = self.lookup;
        (started_ns != 0 && answered_ns != 0).then(|| answered_ns.saturating_sub(started_ns))
    }
}

#[derive(Debug)]
struct Stream {
    reader: StreamReader,
    heard_ns: u64,
}

/// All that is known of DNS.
#[derive(Debug)]
pub(super) struct Resolution {
    queries: Queries,
    lookups: Lookups,
    names: Names,
    namespaces: Namespaces,
    /// By the socket's cookie and the direction.
    streams: HashMap<(u64, u8), Stream>,
    max_streams: usize,
    streams_refused: u64,
    malformed: MalformedCounts,
    resolvers: Resolvers,
    /// Where lookups waited at the latest tick, and since when.
    waiting: Vec<(DestinationId, u64)>,
}

/// Counts for `hopline_dns_*` about what could not be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DnsLosses {
    pub(super) malformed: Vec<(&'static str, u64)>,
    pub(super) ignored: Vec<(&'static str, u64)>,
    pub(super) names_evicted: u64,
    pub(super) lookups_refused: u64,
    pub(super) streams_refused: u64,
}

impl Resolution {
    pub(super) fn new(max_series: usize, share: Share) -> Self {
        Self {
            queries: Queries::new(share.of(Queries::USUAL)),
            lookups: Lookups::new(share.of(Lookups::USUAL)),
            names: Names::new(share.of(Names::USUAL)),
            namespaces: Namespaces::new(share.of(MAX_NAMESPACES)),
            max_streams: share.of(MAX_STREAMS),
            streams: HashMap::new(),
            streams_refused: 0,
            malformed: MalformedCounts::default(),
            resolvers: Resolvers::new(max_series),
            waiting: Vec::new(),
        }
    }

    /// The best name of a client connection: what it says itself, else what its process, cgroup or network namespace
    /// resolved. It is verified when the process itself resolved that name to this address.
    pub(super) fn claim(
        &self,
        state: &ConnectionState,
        pid: u32,
        said: Word,
        resolved: Option<&Resolved>,
    ) -> Option<Claim> {
        let Some(claim) = said.claim else {
            // Who asks for an address was not led there by a name that others resolved.
            let resolved = resolved.filter(|resolved| resolved.is_own || !said.is_address);
            return resolved.map(|resolved| Claim {
                host: Arc::clone(&resolved.name),
                source: "dns",
                verified: resolved.is_own,
            });
        };
        let (address, at_ns) = (Endpoints::of(state).wanted().address, opened_ns(state));
        let verified = self.names.has_resolved(pid, &claim.host, address, at_ns);
        Some(Claim { verified, ..claim })
    }

    /// The same from what was read of a connection.
    pub(super) fn claim_of(
        &self,
        state: &ConnectionState,
        pid: u32,
        facts: Option<&Facts>,
        resolved: Option<&Resolved>,
    ) -> Option<Claim> {
        self.claim(state, pid, Word::of(facts), resolved)
    }

    /// The lookup that a connection of this name waited for; `None` for another connection over the same answer.
    pub(super) fn waited(&mut self, state: &ConnectionState, pid: u32, claim: Option<&Claim>) -> Option<Box<Waited>> {
        let (address, at_ns) = (Endpoints::of(state).wanted().address, opened_ns(state));
        let claimed = claim.map(|claim| &*claim.host);
        let (name, lookup) = self.names.take_lookup(pid, address, claimed, at_ns)?;
        Some(Box::new(Waited { name, lookup }))
    }

    /// The name that the address of a new connection was resolved from, which lasts longer by that.
    pub(super) fn resolved(
        &mut self,
        state: &ConnectionState,
        pid: u32,
        attribution: &mut Attribution,
    ) -> Option<Resolved> {
        let (address, at_ns) = (Endpoints::of(state).wanted().address, opened_ns(state));
        self.namespaces
            .met(&mut self.names, state.netns, state.netns_cookie, at_ns);
        self.names.used(pid, state.cgroup_id, address, at_ns, |earlier_ns| {
            attribution.is_same_process(pid, at_ns, earlier_ns)
        });
        let found = self.names.name_of(pid, state.cgroup_id, state.netns, address, at_ns)?;
        Some(Resolved {
            name: found.name,
            is_own: found.scope == Scope::Process,
        })
    }

    /// A process has ended, began, or runs another program: what it has resolved until then is no longer known to it.
    pub(super) fn process_ended(&mut self, pid: u32, at_ns: u64) {
        self.names.process_ended(pid, at_ns);
    }

    /// A connection has ended: no more will come of its streams.
    pub(super) fn closed(&mut self, cookie: u64) {
        for direction in [FORWARD, FORWARD ^ 1] {
            self.streams.remove(&(cookie, direction));
        }
    }

    /// Where lookups wait, and since when.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (DestinationId, Phase, u64)> + '_ {
        self.waiting.iter().map(|(id, since_ns)| (*id, Phase::Dns, *since_ns))
    }

    pub(super) fn uses(&self) -> [TableUse; 5] {
        [
            TableUse::new("dns_queries", self.queries.len(), self.queries.limit()),
            TableUse::new("dns_lookups", self.lookups.len(), self.lookups.limit()),
            TableUse::new("dns_names", self.names.len(), self.names.limit()),
            TableUse::new("network_namespaces", self.namespaces.len(), self.namespaces.limit()),
            TableUse::new("dns_streams", self.streams.len(), self.max_streams),
        ]
    }

    pub(super) fn resolvers(&self) -> &Resolvers {
        &self.resolvers
    }

    pub(super) fn losses(&self) -> DnsLosses {
        let malformed = |kind: Malformed| (kind.name(), u64::from(self.malformed.get(kind)));
        DnsLosses {
            malformed: Malformed::ALL
                .map(malformed)
                .into_iter()
                .filter(|(name, _)| of_dns(name))
                .collect(),
            ignored: self
                .queries
                .ignored()
                .iter()
                .map(|(reason, count): (Ignored, u64)| (reason.name(), count))
                .collect(),
            names_evicted: self.names.evicted(),
            lookups_refused: self.lookups.refused(),
            streams_refused: self.streams_refused,
        }
    }

    /// The messages that a piece of a stream completes.
    fn feed(&mut self, header: &DnsHeader, bytes: &[u8]) -> Vec<Message> {
        let key = (header.cookie, header.direction);
        if !self.streams.contains_key(&key) && self.streams.len() >= self.max_streams {
            self.streams_refused += 1;
            return Vec::new();
        }
        let stream = self.streams.entry(key).or_insert_with(|| Stream {
            reader: StreamReader::new(),
            heard_ns: 0,
        });
        stream.heard_ns = header.header.time_ns;
        let mut messages = Vec::new();
        stream
            .reader
            .feed(header.offset.into(), bytes, &mut self.malformed, |message| {
                messages.push(message);
            });
        messages
    }
}

impl Pipeline {
    /// A DNS message, or a piece of a stream of them.
    pub(super) fn dns(&mut self, header: &DnsHeader, bytes: &[u8]) {
        let (Some(role), Some(transport)) = (role(header), transport(header)) else {
            self.counts.malformed += 1;
            return;
        };
        let messages = match transport {
            Transport::Udp => {
                let is_whole = header.length == header.message_length;
                Message::read(bytes, is_whole, &mut self.resolution.malformed)
                    .into_iter()
                    .collect()
            }
            Transport::Tcp => self.resolution.feed(header, bytes),
        };
        let time_ns = header.header.time_ns;
        let Resolution { names, namespaces, .. } = &mut self.resolution;
        namespaces.met(names, header.netns, header.netns_cookie, time_ns);
        for message in &messages {
            let event = self.resolution.queries.observe(&Observed {
                time_ns,
                socket: header.cookie,
                role,
                transport,
                is_query_direction: header.direction == FORWARD,
                peer: socket_address(header.ip_version, header.remote_address, header.remote_port),
                pid: header.pid,
                cgroup_id: header.cgroup_id,
                netns: header.netns,
                message,
            });
            match event {
                Some(QueryEvent::Sent(query)) => {
                    self.attribution.seen(header.pid, time_ns, &header.comm);
                    // Whose names a server is asked for is not its own search list's doing.
                    if role == Role::Server {
                        continue;
                    }
                    let search = self.attribution.search_list(query.pid, query.cgroup_id, time_ns);
                    self.resolution.lookups.sent(&query, search.as_deref());
                }
                Some(QueryEvent::Answered(answered)) => self.query_ended(&answered),
                None => {}
            }
        }
    }

    /// The clock of DNS: what nobody answered, what is decided by now, who waits.
    pub(super) fn dns_tick(&mut self, now_ns: u64) {
        for ended in self.resolution.queries.expire(now_ns) {
            self.query_ended(&ended);
        }
        for lookup in self.resolution.lookups.expire(now_ns) {
            self.lookup_ended(&lookup);
        }
        self.resolution.names.expire(now_ns);
        let silent = |stream: &Stream| now_ns.saturating_sub(stream.heard_ns) > STREAM_SILENT_NS;
        self.resolution.streams.retain(|_, stream| !silent(stream));
        let waiting: Vec<WaitingLookup> = self
            .resolution
            .lookups
            .longer_than(self.settings.waiting_after_ns, now_ns)
            .collect();
        self.resolution.waiting.clear();
        for lookup in waiting {
            let group = self
                .choices
                .group_of(None, lookup.resolver.ip(), lookup.resolver.port());
            let key = DestinationKey {
                role: Role::Client,
                name: Name::Address(lookup.resolver.ip()),
                port: lookup.resolver.port(),
                group: group.name,
                source: self.workload_of(lookup.cgroup_id, lookup.pid),
            };
            let id = self.series.destination(key, now_ns);
            self.series.waits(id, Phase::Dns, now_ns);
            self.resolution.waiting.push((id, lookup.since_ns));
        }
        if self.collect {
            for lookup in self
                .resolution
                .lookups
                .newly_stuck(self.settings.stuck_after_ns, now_ns)
            {
                let record = self.waiting_record(&lookup);
                self.tell(Output::StuckLookup(Box::new(record)));
            }
        }
    }

    /// Ends the lookups that wait only for whether their program goes on to another name.
    pub(super) fn settle_lookups(&mut self) {
        const GOES_ON_NS: u64 = 1_000_000_001;
        for lookup in self.resolution.lookups.expire(self.now_ns + GOES_ON_NS) {
            self.lookup_ended(&lookup);
        }
    }

    fn query_ended(&mut self, answered: &Answered) {
        let query = &answered.query;
        self.resolution.names.query_ended(
            query.pid,
            query.question.name.as_str(),
            query.sent_ns,
            answered.ended_ns,
        );
        let source = self.workload_of(query.cgroup_id, query.pid);
        let labels = self.resolver_labels(query.role, query.peer, (query.pid, query.sent_ns), source.as_deref());
        if query.role == Role::Server && answered.ending != Ending::Timeout {
            self.resolution.resolvers.duration(&labels, answered.latency_ns());
        }
        self.resolution.resolvers.query(DnsLabels {
            resolver: labels,
            query_type: query.question.query_type().name(),
            rcode: answered.ending.name(),
            source,
        });
        if let Some(lookup) = self.resolution.lookups.answered(answered) {
            self.lookup_ended(&lookup);
        }
    }

    fn lookup_ended(&mut self, lookup: &Lookup) {
        let process = (lookup.pid, lookup.started_ns);
        let labels = DnsLabels {
            resolver: self.resolver_labels(Role::Client, lookup.resolver, process, None),
            query_type: lookup.query_type().name(),
            rcode: lookup.ending.name(),
            source: self.workload_of(lookup.cgroup_id, lookup.pid),
        };
        self.resolution.resolvers.lookup(labels, duration_ns(lookup));
        let host_network = self.attribution.is_host_network(lookup.netns);
        self.resolution.names.learn(lookup, host_network);
        if self.collect {
            let record = self.lookup_record(lookup);
            self.tell(Output::Lookup(Box::new(record)));
        }
    }

    /// For a client whom it asks, for a server itself.
    fn resolver_labels(
        &mut self,
        role: Role,
        peer: SocketAddr,
        (pid, at_ns): (u32, u64),
        workload: Option<&Workload>,
    ) -> ResolverLabels {
        let (choices, attribution) = (&self.choices, &mut self.attribution);
        match role {
            Role::Client => self.resolution.resolvers.labels(role, peer, || ResolverLabels {
                role,
                destination: peer.ip().to_string().into(),
                port: Some(peer.port()),
                group: choices.group_of(None, peer.ip(), peer.port()).name,
            }),
            Role::Server => ResolverLabels {
                role,
                destination: workload.map_or_else(
                    || attribution.process(pid, at_ns).name(),
                    |workload| Arc::clone(&workload.name),
                ),
                port: None,
                group: Arc::default(),
            },
        }
    }

    fn lookup_record(&mut self, lookup: &Lookup) -> LookupRecord {
        let names = |names: &[DnsName]| names.iter().map(|name| name.as_str().to_owned()).collect();
        LookupRecord {
            name: lookup.resolved.as_str().to_owned(),
            rcode: Some(lookup.ending.name()),
            transport: if lookup.tcp { "tcp" } else { "udp" },
            duration_us: duration_ns(lookup).map(|duration_ns| duration_ns / 1_000),
            addresses: lookup.addresses.iter().map(|one| one.address.to_string()).collect(),
            aliases: names(&lookup.aliases),
            waiting: None,
            waiting_us: None,
            ..self.waiting_record(&WaitingLookup {
                pid: lookup.pid,
                cgroup_id: lookup.cgroup_id,
                netns: lookup.netns,
                asked: lookup.asked.clone(),
                kind: lookup.kind,
                resolver: lookup.resolver,
                since_ns: lookup.started_ns,
                queries: lookup.queries,
            })
        }
    }

    fn waiting_record(&mut self, lookup: &WaitingLookup) -> LookupRecord {
        let owner = self.attribution.process(lookup.pid, lookup.since_ns);
        LookupRecord {
            schema: EVENT_SCHEMA,
            r#type: "lookup",
            node: self.settings.node.clone(),
            time: rfc3339(lookup.since_ns.saturating_add_signed(self.clock_offset_ns)),
            role: Role::Client,
            name: lookup.asked.as_str().to_owned(),
            asked: lookup.asked.as_str().to_owned(),
            qtype: QueryType::of(lookup.kind).name(),
            rcode: None,
            resolver: AddressRecord {
                address: lookup.resolver.ip().to_string(),
                port: lookup.resolver.port(),
            },
            transport: "udp",
            queries: lookup.queries,
            duration_us: None,
            addresses: Vec::new(),
            aliases: Vec::new(),
            waiting: Some(Phase::Dns),
            waiting_us: Some(self.now_ns.saturating_sub(lookup.since_ns) / 1_000),
            process: self.process_record(&owner, lookup.cgroup_id),
        }
    }
}

/// Kinds of what is malformed that a DNS message may be.
fn of_dns(kind: &str) -> bool {
    kind.starts_with("dns_") || kind == Malformed::Incomplete.name()
}

/// From the first query to the answer that decided it; nothing of what nobody answered.
fn duration_ns(lookup: &Lookup) -> Option<u64> {
    (lookup.ending != Ending::Timeout).then(|| lookup.answered_ns.saturating_sub(lookup.started_ns))
}

/// When a connection began, as far as it is known.
pub(super) fn opened_ns(state: &ConnectionState) -> u64 {
    let marks = [state.intent_ns, state.syn_ns, state.established_ns, state.reported_ns];
    marks.into_iter().find(|mark| *mark != 0).unwrap_or_default()
}

fn role(header: &DnsHeader) -> Option<Role> {
    match header.role {
        ROLE_CLIENT => Some(Role::Client),
        ROLE_SERVER => Some(Role::Server),
        _ => None,
    }
}

fn transport(header: &DnsHeader) -> Option<Transport> {
    match header.transport {
        TRANSPORT_UDP => Some(Transport::Udp),
        TRANSPORT_TCP => Some(Transport::Tcp),
        _ => None,
    }
}

fn socket_address(ip_version: u8, address: [u8; 16], port: [u8; 2]) -> SocketAddr {
    let [a, b, c, d, ..] = address;
    let address = if ip_version == 4 {
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        Ipv6Addr::from(address).to_canonical()
    };
    SocketAddr::new(address, u16::from_be_bytes(port))
}
