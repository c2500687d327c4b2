//! Names of pods: held until they are told, in the events' order, and never a wrong one.
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use agent_ebpf::{
    connection::ConnectionState,
    event::{CONNECTION_OPEN, LISTENER_OPEN},
};
use hopline::{
    aggregate::DnsLabels,
    connection::{Role, TcpState},
    pipeline::Pipeline,
    workloads::{Change, Container, Pod, Source, SourceState, Workload},
};

use super::{
    dns,
    events::{MILLISECOND, SECOND, cgroup, child, close, closed_locally, connection, established, listener},
    pipeline, records,
};

const UID: &str = "11111111-2222-3333-4444-555555555555";
const CONTAINER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// The cgroup of a container of the pod.
const IN_POD: u64 = 77;

fn watching() -> Pipeline {
    let mut pipeline = pipeline();
    let state = SourceState {
        is_wanted: true,
        is_expected: true,
        source: Some(Source::Api),
        ..SourceState::default()
    };
    pipeline.pods(Change::State(state), 1);
    pipeline.apply(&cgroup(1, IN_POD, &format!("/kubepods/burstable/pod{UID}/{CONTAINER}")));
    pipeline.apply(&cgroup(1, 1, "/system.slice/ssh.service"));
    pipeline
}

fn pod(address: [u8; 4]) -> Pod {
    Pod {
        source: Source::Api,
        uid: UID.into(),
        cgroup_uid: None,
        name: "cart-5d4f-x".into(),
        workload: Arc::new(Workload {
            namespace: "shop".into(),
            name: "cart".into(),
        }),
        addresses: vec![IpAddr::from(address)],
        started_unix_ns: 0,
        is_over: false,
        containers: vec![Container {
            id: CONTAINER.into(),
            name: "main".into(),
        }],
        only_container: None,
        annotations: BTreeMap::from([("ci.example/job".to_owned(), "7".to_owned())]),
    }
}

fn tell(pipeline: &mut Pipeline, at_ns: u64) {
    pipeline.pods(Change::Seen(Box::new(pod([10, 9, 9, 9]))), at_ns);
}

fn in_pod(state: &ConnectionState) -> ConnectionState {
    ConnectionState {
        cgroup_id: IN_POD,
        ..*state
    }
}

#[test]
fn the_first_connection_waits_for_its_name() {
    let mut pipeline = watching();
    pipeline.apply(&connection(CONNECTION_OPEN, SECOND, in_pod(&established(1))));
    pipeline.apply(&close(2 * SECOND, in_pod(&closed_locally(1))));
    assert!(pipeline.waits_for_pods());
    assert_eq!(pipeline.snapshot().destinations.len(), 0, "nothing is counted yet");
    pipeline.tick(3 * SECOND);
    tell(&mut pipeline, 3 * SECOND);
    assert!(!pipeline.waits_for_pods());
    let snapshot = pipeline.snapshot();
    assert_eq!(snapshot.destinations.len(), 1);
    let labels = &snapshot.destinations[0].labels;
    assert_eq!((&*labels.source_namespace, &*labels.source_workload), ("shop", "cart"));
    assert_eq!(snapshot.destinations[0].counters.connects(), 1);
    assert_eq!(snapshot.counts.held.named, 2);
    let records = records(&mut pipeline);
    let process = &records[0].process;
    assert_eq!(process.pod.as_deref(), Some("cart-5d4f-x"));
    assert_eq!(process.container.as_deref(), Some("main"));
    assert_eq!(process.namespace.as_deref(), Some("shop"));
    assert_eq!(process.workload.as_deref(), Some("cart"));
    assert_eq!(process.annotations["ci.example/job"], "7");
}

#[test]
fn what_is_in_no_pod_does_not_wait() {
    let mut pipeline = watching();
    let outside = ConnectionState {
        cgroup_id: 1,
        ..closed_locally(1)
    };
    pipeline.apply(&close(2 * SECOND, outside));
    assert!(!pipeline.waits_for_pods());
    let records = records(&mut pipeline);
    assert_eq!((records.len(), records[0].process.pod.as_deref()), (1, None));
}

#[test]
fn a_name_that_does_not_come_is_done_without_until_it_comes() {
    let mut pipeline = watching();
    pipeline.apply(&connection(LISTENER_OPEN, SECOND, in_pod(&listener(5))));
    pipeline.apply(&connection(CONNECTION_OPEN, SECOND, in_pod(&established(1))));
    pipeline.apply(&close(SECOND, in_pod(&closed_locally(2))));
    pipeline.tick(3 * SECOND);
    assert!(pipeline.waits_for_pods(), "not yet");
    pipeline.tick(4 * SECOND);
    assert!(!pipeline.waits_for_pods());
    assert_eq!(pipeline.snapshot().counts.held.expired, 3);
    let nameless = records(&mut pipeline);
    assert_eq!(nameless[0].process.pod.as_deref(), Some(UID));
    assert_eq!(nameless[0].process.workload, None);
    // The next of this cgroup does not wait again.
    pipeline.apply(&close(5 * SECOND, in_pod(&closed_locally(3))));
    assert!(!pipeline.waits_for_pods());
    // Late: what is open goes on under its name, what was counted stays.
    tell(&mut pipeline, 6 * SECOND);
    let snapshot = pipeline.snapshot();
    let of = |role: Role, workload: &str| {
        let mut all = snapshot.destinations.iter();
        all.find(|one| one.role == role && *one.labels.source_workload == *workload)
            .expect("it is shown")
    };
    assert_eq!(of(Role::Client, "cart").active[TcpState::Established as usize], 1);
    assert_eq!(of(Role::Client, "").active[TcpState::Established as usize], 0);
    assert_eq!(of(Role::Client, "").counters.connects(), 2);
    let listens = of(Role::Server, "cart");
    assert_eq!(listens.active[TcpState::Listen as usize], 1);
    assert_eq!(&*listens.labels.destination, "cart");
    pipeline.apply(&close(7 * SECOND, in_pod(&closed_locally(1))));
    let records = records(&mut pipeline);
    assert_eq!(
        records.last().and_then(|record| record.process.pod.as_deref()),
        Some("cart-5d4f-x")
    );
    let snapshot = pipeline.snapshot();
    let mut all = snapshot.destinations.iter();
    let counted = all.find(|one| one.role == Role::Client && &*one.labels.source_workload == "cart");
    // It had said no name of a host until its end, so it was not counted before it had its pod.
    assert_eq!(counted.map(|one| one.counters.connects()), Some(1));
}

#[test]
fn what_a_pod_asks_of_dns_is_its_workloads() {
    let mut pipeline = watching();
    dns::resolve_in(&mut pipeline, IN_POD, SECOND, "a.test");
    tell(&mut pipeline, 2 * SECOND);
    dns::resolve_in(&mut pipeline, IN_POD, 3 * SECOND, "b.test");
    dns::resolve_in(&mut pipeline, 1, 4 * SECOND, "c.test");
    pipeline.tick(20 * SECOND);
    let snapshot = pipeline.snapshot();
    for counts in [&snapshot.resolvers.queries, &snapshot.resolvers.lookups] {
        let of = |name: Option<&str>| -> u64 {
            let is_its = |labels: &&(DnsLabels, u64)| labels.0.source.as_ref().map(|source| &*source.name) == name;
            counts.iter().filter(is_its).map(|(_, count)| count).sum()
        };
        // Nothing of DNS waits for a name.
        assert_eq!((of(Some("cart")), of(None)), (1, 2));
    }
}

#[test]
fn a_server_is_its_workload() {
    let mut pipeline = watching();
    tell(&mut pipeline, SECOND);
    pipeline.apply(&connection(LISTENER_OPEN, SECOND, in_pod(&listener(5))));
    pipeline.apply(&connection(CONNECTION_OPEN, SECOND, in_pod(&child(6, 5))));
    pipeline.apply(&close(2 * SECOND, in_pod(&child(6, 5))));
    let snapshot = pipeline.snapshot();
    assert_eq!(snapshot.destinations.len(), 1, "{:?}", snapshot.destinations);
    let labels = &snapshot.destinations[0].labels;
    assert_eq!((&*labels.destination, &*labels.source_workload), ("cart", "cart"));
    let records = records(&mut pipeline);
    let destination = &records[0].destination;
    assert_eq!((destination.host.as_str(), destination.source), ("cart", "kubernetes"));
}

#[test]
fn an_address_is_a_pods_for_as_long_as_it_has_it() {
    let mut pipeline = watching();
    // The client's 10.0.0.2 is the pod's from 500 ms on, until 3 s.
    pipeline.pods(Change::Seen(Box::new(pod([10, 0, 0, 2]))), 500 * MILLISECOND);
    let outside = |cookie, at_ns| ConnectionState {
        cgroup_id: 1,
        intent_ns: at_ns,
        syn_ns: at_ns,
        established_ns: at_ns + MILLISECOND,
        ..closed_locally(cookie)
    };
    pipeline.apply(&close(2 * SECOND, outside(1, 2 * SECOND)));
    pipeline.pods(Change::Gone(UID.into()), 3 * SECOND);
    pipeline.apply(&close(4 * SECOND, outside(2, 2 * SECOND)));
    pipeline.apply(&close(4 * SECOND, outside(3, 4 * SECOND)));
    let records = records(&mut pipeline);
    let said: Vec<(&str, &str, bool)> = records
        .iter()
        .map(|record| {
            let destination = &record.destination;
            (destination.host.as_str(), destination.source, destination.verified)
        })
        .collect();
    let named = ("cart-5d4f-x.shop.pod", "kubernetes", true);
    assert_eq!(said, [named, named, ("10.0.0.2", "ip", true)]);
}

#[test]
fn nothing_waits_while_nobody_tells() {
    let mut pipeline = watching();
    pipeline.apply(&connection(CONNECTION_OPEN, SECOND, in_pod(&established(1))));
    assert!(pipeline.waits_for_pods());
    let lost = SourceState {
        is_wanted: true,
        ..SourceState::default()
    };
    pipeline.pods(Change::State(lost), SECOND);
    pipeline.tick(SECOND + MILLISECOND);
    assert!(!pipeline.waits_for_pods());
    assert_eq!(pipeline.snapshot().counts.connections, 1);
}

#[test]
fn room_to_wait_is_bounded() {
    let mut pipeline = watching();
    for cookie in 1..=8_192 {
        pipeline.apply(&close(SECOND, in_pod(&closed_locally(cookie))));
    }
    assert_eq!(records(&mut pipeline).len(), 0);
    pipeline.apply(&close(SECOND, in_pod(&closed_locally(8_193))));
    assert_eq!(pipeline.snapshot().counts.held.refused, 1);
    assert_eq!(records(&mut pipeline).len(), 8_193, "all of them, in their order");
}
