//! The record of one connection, put together from its last snapshot, its owner and where hopline runs.
use std::ops::Range;

use agent_ebpf::connection::{ConnectionState, FLAG_LATE};

use crate::{
    attribution::{Cgroup, Process},
    connection::{
        ClosedBy, ConnectionRecord, Endpoint, Endpoints, Phase, Role, outcome, received_bytes,
        record::{
            AddressRecord, BackendRecord, DestinationRecord, MarksRecord, PhasesRecord, ProcessRecord,
            RetransmitsRecord, RttRecord, SCHEMA, TcpRecord, TurnsRecord,
        },
        rfc3339, sent_bytes,
    },
};

/// What a record says beside the connection itself.
pub(super) struct Surroundings<'a> {
    pub(super) node: &'a str,
    pub(super) boot_id: &'a str,
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, nanoseconds.
    pub(super) clock_offset_ns: i64,
    /// The socket's cgroup, when its path is known.
    pub(super) cgroup: Option<&'a Cgroup>,
}

impl Surroundings<'_> {
    /// The record. `seen` is from the first event to the end, or to now for a connection that waits in a phase.
    pub(super) fn record(
        &self,
        role: Role,
        state: &ConnectionState,
        owner: &Process,
        seen: Range<u64>,
        waiting: Option<(Phase, u64)>,
    ) -> ConnectionRecord {
        let marks = [state.intent_ns, state.syn_ns, state.established_ns];
        let start_ns = marks.into_iter().find(|mark| *mark != 0).unwrap_or(seen.start);
        let endpoints = Endpoints::of(state);
        let attempt = if state.attempt > 1 {
            format!(".{}", state.attempt)
        } else {
            String::new()
        };
        let ended = waiting.is_none();
        ConnectionRecord {
            schema: SCHEMA,
            id: format!("{}-{}{attempt}", self.boot_id, state.cookie),
            node: self.node.to_owned(),
            netns: state.netns,
            start: rfc3339(start_ns.saturating_add_signed(self.clock_offset_ns)),
            duration_us: seen.end.saturating_sub(start_ns) / 1_000,
            role,
            family: if endpoints.remote.address.is_ipv4() {
                "ipv4"
            } else {
                "ipv6"
            },
            local: address(endpoints.local),
            remote: address(endpoints.remote),
            destination: destination(role, owner, &endpoints),
            backend: endpoints.asked.map(|_| backend(endpoints.remote)),
            process: self.process(owner),
            phases_us: phases(state),
            marks_ns: MarksRecord {
                syn: mark(state.syn_ns),
                established: mark(state.established_ns),
                closed: mark(state.closed_ns),
                ..MarksRecord::default()
            },
            ttfb_basis: None,
            late: state.flags & FLAG_LATE != 0,
            turns: TurnsRecord::default(),
            dns: None,
            tls: None,
            http: None,
            tcp: tcp(state),
            waiting: waiting.map(|(phase, _)| phase),
            waiting_us: waiting.map(|(_, since_ns)| seen.end.saturating_sub(since_ns) / 1_000),
            outcome: ended.then(|| outcome(state)),
        }
    }

    fn process(&self, owner: &Process) -> ProcessRecord {
        ProcessRecord {
            pid: (owner.pid != 0).then_some(owner.pid),
            comm: (!owner.comm.is_empty()).then(|| owner.comm.as_ref().into()),
            exe: owner.exe.as_deref().map(str::to_owned),
            ancestry: owner.ancestry.iter().map(|comm| comm.as_ref().into()).collect(),
            cgroup: self.cgroup.map(|cgroup| cgroup.path.as_ref().into()),
            container: self
                .cgroup
                .and_then(|cgroup| cgroup.container.as_deref())
                .map(str::to_owned),
            pod: self.cgroup.and_then(|cgroup| cgroup.pod.as_deref()).map(str::to_owned),
            ..ProcessRecord::default()
        }
    }
}

fn destination(role: Role, owner: &Process, endpoints: &Endpoints) -> DestinationRecord {
    let (host, port, source) = match role {
        Role::Client => {
            let wanted = endpoints.wanted();
            (wanted.address.to_string(), wanted.port, "ip")
        }
        Role::Server => (owner.name().as_ref().into(), endpoints.local.port, "process"),
    };
    // An address is what the process asked the kernel for: nothing is claimed.
    DestinationRecord {
        host,
        port,
        source,
        verified: role == Role::Client,
        group: String::new(),
    }
}

fn backend(remote: Endpoint) -> BackendRecord {
    BackendRecord {
        address: remote.address.to_string(),
        port: remote.port,
        workload: None,
    }
}

fn address(endpoint: Endpoint) -> AddressRecord {
    AddressRecord {
        address: endpoint.address.to_string(),
        port: endpoint.port,
    }
}

fn phases(state: &ConnectionState) -> PhasesRecord {
    let both = state.syn_ns != 0 && state.established_ns != 0;
    let tcp = both.then(|| state.established_ns.saturating_sub(state.syn_ns) / 1_000);
    PhasesRecord {
        tcp,
        ..PhasesRecord::default()
    }
}

fn tcp(state: &ConnectionState) -> TcpRecord {
    let sampled = state.rtt.count > 0;
    let retransmits = &state.retransmits;
    TcpRecord {
        rtt_us: RttRecord {
            min: sampled.then_some(state.rtt.min_us),
            mean: state.rtt.sum_us.checked_div(u64::from(state.rtt.count)),
            ..RttRecord::default()
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
    }
}

/// Zero in the kernel's snapshot is "not seen".
fn mark(at_ns: u64) -> Option<u64> {
    (at_ns != 0).then_some(at_ns)
}
