//! DNS messages to the names of connections: what was resolved names what says nothing, and verifies what does.
use std::net::Ipv4Addr;

use agent_ebpf::{
    connection::{ConnectionState, FLAG_MPTCP, ROLE_CLIENT, tcp_state},
    dns::{DnsHeader, TRANSPORT_UDP},
    event::{CONNECTION_OPEN, DNS_MESSAGE, EventHeader},
    hello::{BACKWARD, FORWARD},
    timeline::{PROTOCOL_TLS, Timeline},
};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use hopline::{
    connection::ConnectionRecord,
    pipeline::{LookupRecord, Output, Pipeline, PipelineSettings},
};

use super::events::{self, MILLISECOND, SECOND, bytes, client_hello, close, closed_locally, exec, hello, ipv4, text};

const PID: u32 = 77;

/// A message of a client's socket, as the kernel side sends it.
fn sent(time_ns: u64, direction: u8, said: &[u8]) -> Vec<u8> {
    sent_in(1, time_ns, direction, said)
}

/// The same of a client in this cgroup.
fn sent_in(cgroup_id: u64, time_ns: u64, direction: u8, said: &[u8]) -> Vec<u8> {
    let header = DnsHeader {
        header: EventHeader {
            kind: DNS_MESSAGE,
            size: (size_of::<DnsHeader>() + said.len()) as u32,
            time_ns,
        },
        cookie: 900,
        cgroup_id,
        netns_cookie: 0,
        local_address: ipv4([10, 0, 0, 1]),
        remote_address: ipv4([10, 0, 0, 53]),
        comm: text("curl"),
        local_port: 41_000_u16.to_be_bytes(),
        remote_port: 53_u16.to_be_bytes(),
        pid: PID,
        netns: 5,
        offset: 0,
        length: said.len() as u16,
        message_length: said.len() as u16,
        direction,
        role: ROLE_CLIENT,
        transport: TRANSPORT_UDP,
        ip_version: 4,
    };
    [bytes(&header), said.to_vec()].concat()
}

/// A question for an address, or its answer.
fn message(id: u16, name: &str, address: Option<Ipv4Addr>) -> Vec<u8> {
    let name = Name::from_ascii(name).expect("a name");
    let kind = if address.is_some() {
        MessageType::Response
    } else {
        MessageType::Query
    };
    let mut message = Message::new(id, kind, OpCode::Query);
    message.add_query(Query::query(name.clone(), RecordType::A));
    if let Some(address) = address {
        message.add_answer(Record::from_rdata(name, 60, RData::A(A(address))));
    }
    message.to_vec().expect("a message")
}

/// A lookup in this cgroup.
pub(super) fn resolve_in(pipeline: &mut Pipeline, cgroup_id: u64, at_ns: u64, name: &str) {
    pipeline.apply(&sent_in(cgroup_id, at_ns, FORWARD, &message(7, name, None)));
    let answer = message(7, name, Some(Ipv4Addr::new(10, 0, 0, 7)));
    pipeline.apply(&sent_in(cgroup_id, at_ns + MILLISECOND, BACKWARD, &answer));
}

/// A lookup that takes 20 ms from `at_ns` on.
fn resolve(pipeline: &mut Pipeline, at_ns: u64, id: u16, name: &str, address: Ipv4Addr) {
    pipeline.apply(&sent(at_ns, FORWARD, &message(id, name, None)));
    let answer = message(id, name, Some(address));
    pipeline.apply(&sent(at_ns + 20 * MILLISECOND, BACKWARD, &answer));
}

/// A connection of the same process to 10.9.9.9, opened at `at_ns`.
fn connection(cookie: u64, at_ns: u64) -> ConnectionState {
    ConnectionState {
        pid: PID,
        netns: 5,
        cgroup_id: 1,
        intent_ns: at_ns,
        syn_ns: at_ns,
        established_ns: at_ns + MILLISECOND,
        remote_address: ipv4([10, 9, 9, 9]),
        ..closed_locally(cookie)
    }
}

fn collecting() -> Pipeline {
    let mut pipeline = Pipeline::new(PipelineSettings::default());
    pipeline.set_collect(true);
    pipeline
}

fn ended(pipeline: &mut Pipeline) -> (Vec<ConnectionRecord>, Vec<LookupRecord>) {
    let mut outputs = Vec::new();
    pipeline.take_outputs(&mut outputs);
    let (mut connections, mut lookups) = (Vec::new(), Vec::new());
    for output in outputs {
        match output {
            Output::Finished(record) => connections.push(*record),
            Output::Lookup(record) => lookups.push(*record),
            _ => {}
        }
    }
    (connections, lookups)
}

#[test]
fn the_first_connection_over_an_answer_has_its_lookup() {
    let mut pipeline = collecting();
    resolve(&mut pipeline, SECOND, 7, "Mirror.Example.", Ipv4Addr::new(10, 9, 9, 9));
    for (cookie, at_ns) in [(1, 2 * SECOND), (2, 3 * SECOND)] {
        pipeline.apply(&close(4 * SECOND, connection(cookie, at_ns)));
    }
    let (connections, lookups) = ended(&mut pipeline);
    let destinations: Vec<_> = connections
        .iter()
        .map(|record| {
            let destination = &record.destination;
            (destination.host.as_str(), destination.source, destination.verified)
        })
        .collect();
    assert_eq!(destinations, [("mirror.example", "dns", true); 2]);
    let phases: Vec<_> = connections.iter().map(|record| record.phases_us.dns).collect();
    assert_eq!(phases, [Some(20_000), None], "the second one waited for no lookup");
    let dns = connections[0].dns.as_ref().expect("the lookup");
    assert_eq!((dns.resolver.as_str(), dns.rcode.as_str()), ("10.0.0.53:53", "NOERROR"));
    let [lookup] = &lookups[..] else {
        panic!("one lookup, not {lookups:?}")
    };
    assert_eq!((lookup.qtype, lookup.rcode), ("A", Some("NOERROR")));
    assert_eq!((lookup.duration_us, lookup.queries), (Some(20_000), 1));
    assert_eq!(lookup.process.pid, Some(PID));
}

/// Java, nginx and others resolve at their start: their series does not split when the answer's time is over.
#[test]
fn what_was_resolved_once_names_connections_for_hours() {
    const HOUR: u64 = 3_600 * SECOND;
    let mut pipeline = collecting();
    pipeline.apply(&exec(SECOND / 2, PID, 1, "/usr/bin/java"));
    resolve(&mut pipeline, SECOND, 7, "mirror.example.", Ipv4Addr::new(10, 9, 9, 9));
    for hour in 1..=24 {
        let opened_ns = hour * HOUR;
        pipeline.tick(opened_ns);
        pipeline.apply(&close(opened_ns + SECOND, connection(hour, opened_ns)));
    }
    let (connections, _) = ended(&mut pipeline);
    assert_eq!(connections.len(), 24);
    for record in connections {
        let destination = &record.destination;
        assert_eq!(
            (destination.host.as_str(), destination.verified),
            ("mirror.example", true)
        );
        assert_eq!(record.phases_us.dns, None, "nobody waited");
    }
    // Another program under the same pid knows nothing of it.
    pipeline.apply(&exec(25 * HOUR, PID, 1, "/usr/bin/other"));
    pipeline.apply(&close(26 * HOUR + SECOND, connection(25, 26 * HOUR)));
    let (connections, _) = ended(&mut pipeline);
    assert_eq!(connections[0].destination.host, "10.9.9.9");
}

/// A subflow that joins another address goes where the first one went, whichever of them ends first.
#[test]
fn a_joined_subflow_is_its_parent_s() {
    for is_first_open in [false, true] {
        let mut pipeline = collecting();
        pipeline.apply(&hello(2 * SECOND, 1, &client_hello("parent.example")));
        let said = Timeline {
            protocol: PROTOCOL_TLS,
            client_hello_ns: 2 * SECOND + 2 * MILLISECOND,
            ..Timeline::default()
        };
        let first = ConnectionState {
            flags: FLAG_MPTCP,
            timeline: said,
            ..connection(1, 2 * SECOND)
        };
        let joined = ConnectionState {
            flags: FLAG_MPTCP,
            listener_cookie: 1,
            remote_address: ipv4([10, 8, 8, 8]),
            asked_address: first.remote_address,
            asked_port: first.remote_port,
            ..connection(2, 2 * SECOND)
        };
        if is_first_open {
            let open = ConnectionState {
                closed_ns: 0,
                closed_by: 0,
                tcp_state: tcp_state::ESTABLISHED,
                ..first
            };
            pipeline.apply(&events::connection(CONNECTION_OPEN, 3 * SECOND, open));
        } else {
            pipeline.apply(&close(4 * SECOND, first));
        }
        pipeline.apply(&close(4 * SECOND, joined));
        let (connections, _) = ended(&mut pipeline);
        let record = connections.last().expect("the joined one");
        let destination = (record.destination.host.as_str(), record.destination.port);
        let port = u16::from_be_bytes(first.remote_port);
        assert_eq!(destination, ("parent.example", port), "{is_first_open}");
        assert_eq!(record.remote.address, "10.8.8.8");
    }
}

#[test]
fn what_was_resolved_verifies_a_claim() {
    let mut pipeline = collecting();
    resolve(&mut pipeline, SECOND, 7, "good.example.", Ipv4Addr::new(10, 9, 9, 9));
    for (cookie, claimed) in [(1, "good.example"), (2, "other.example")] {
        pipeline.apply(&hello(2 * SECOND, cookie, &client_hello(claimed)));
        let state = ConnectionState {
            timeline: Timeline {
                protocol: PROTOCOL_TLS,
                client_hello_ns: 2 * SECOND + 2 * MILLISECOND,
                ..Timeline::default()
            },
            ..connection(cookie, 2 * SECOND)
        };
        pipeline.apply(&close(3 * SECOND, state));
    }
    let (connections, _) = ended(&mut pipeline);
    let claims: Vec<_> = connections
        .iter()
        .map(|record| (record.destination.host.as_str(), record.destination.verified))
        .collect();
    assert_eq!(claims, [("good.example", true), ("other.example", false)]);
}

#[test]
fn what_nobody_asked_for_names_nothing() {
    let mut pipeline = collecting();
    let address = Ipv4Addr::new(10, 9, 9, 9);
    pipeline.apply(&sent(SECOND, BACKWARD, &message(7, "spoof.example.", Some(address))));
    pipeline.apply(&sent(SECOND, FORWARD, &message(8, "real.example.", None)));
    pipeline.apply(&sent(SECOND, BACKWARD, &message(9, "real.example.", Some(address))));
    pipeline.apply(&sent(SECOND, BACKWARD, &message(8, "else.example.", Some(address))));
    pipeline.apply(&sent(SECOND, BACKWARD, b"\x00\x08no message at all"));
    pipeline.apply(&close(3 * SECOND, connection(1, 2 * SECOND)));
    let (connections, lookups) = ended(&mut pipeline);
    assert_eq!(connections[0].destination.host, "10.9.9.9");
    assert_eq!(lookups, []);
    let counts = pipeline.snapshot().counts;
    let of = |reason: &str| {
        counts
            .dns_ignored
            .iter()
            .find(|(name, _)| *name == reason)
            .map(|(_, count)| *count)
    };
    assert_eq!((of("unsolicited"), of("other_question")), (Some(2), Some(1)));
    assert!(counts.dns_malformed.iter().map(|(_, count)| count).sum::<u64>() > 0);
    // Nobody ever answers the one that was asked.
    for second in 2..10 {
        pipeline.tick(second * SECOND);
    }
    let snapshot = pipeline.snapshot();
    let queries: Vec<_> = snapshot
        .resolvers
        .queries
        .iter()
        .map(|(labels, count)| (labels.rcode, *count))
        .collect();
    assert_eq!(queries, [("TIMEOUT", 1)]);
}
