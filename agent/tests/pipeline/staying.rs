//! Sockets that stay: sweeps beside events, nothing counted twice, nothing invented.
use agent_ebpf::{
    connection::{ConnectionState, FLAG_LATE, TcpCounters},
    event::{CONNECTION_OPEN, CONNECTION_UPDATE, LISTENER_OPEN},
};
use hopline::{
    connection::{Endpoint, Role, TcpState},
    pipeline::Pipeline,
    sockets::{Backlog, Lingering, NamespaceSweep, PeerPorts, SweepReport},
};

use crate::{
    events::{MILLISECOND, SECOND, close, closed_locally, connection, established, listener},
    pipeline, run,
};

const NETNS: u32 = 9;

fn active(pipeline: &Pipeline, role: Role, state: TcpState) -> u64 {
    let snapshot = pipeline.snapshot();
    let of_role = snapshot
        .destinations
        .iter()
        .filter(|destination| destination.role == role);
    of_role.map(|destination| destination.active[state as usize]).sum()
}

fn sweep() -> NamespaceSweep {
    NamespaceSweep {
        netns: NETNS,
        ..NamespaceSweep::default()
    }
}

fn report(started_ns: u64, sweep: NamespaceSweep) -> SweepReport {
    SweepReport {
        started_ns,
        namespaces: vec![sweep],
        ..SweepReport::default()
    }
}

fn lingering(cookie: u64, local_port: u16, state: TcpState) -> Lingering {
    Lingering {
        cookie,
        local_port,
        state,
    }
}

fn listening(cookie: u64, flags: u8) -> Vec<u8> {
    let state = ConnectionState {
        netns: NETNS,
        flags,
        ..listener(cookie)
    };
    connection(LISTENER_OPEN, SECOND, state)
}

fn closed(cookie: u64) -> Vec<u8> {
    let state = ConnectionState {
        netns: NETNS,
        ..closed_locally(cookie)
    };
    close(2 * SECOND, state)
}

#[test]
fn what_lingers_belongs_to_its_connection() {
    let mut pipeline = run(&[listening(7, 0), closed(1), closed(2)]);
    let mut found = sweep();
    found.lingering = vec![
        lingering(1, 40_000, TcpState::TimeWait),
        lingering(2, 40_000, TcpState::FinWait2),
        // Nobody told of its connection, but of the listener at its port.
        lingering(99, 8_080, TcpState::TimeWait),
        lingering(98, 5_000, TcpState::TimeWait),
    ];
    let local = |last| Endpoint {
        address: [10, 0, 0, last].into(),
        port: 8_080,
    };
    found.half_open = [(local(1), 3)].into();
    // Twice the same is no more.
    for started_ns in [3 * SECOND, 8 * SECOND] {
        pipeline.swept(&report(started_ns, found.clone()));
        for (role, state, expected) in [
            (Role::Client, TcpState::TimeWait, 1),
            (Role::Client, TcpState::FinWait2, 1),
            (Role::Server, TcpState::TimeWait, 1),
            (Role::Server, TcpState::SynReceived, 3),
            (Role::Server, TcpState::Listen, 1),
        ] {
            assert_eq!(active(&pipeline, role, state), expected, "{role:?} {state:?}");
        }
        let sweeps = pipeline.snapshot().staying.sweeps;
        assert_eq!(sweeps.unattributed, [(TcpState::TimeWait, 1)]);
    }
    // Its time is over, or its namespace has gone.
    let gone = SweepReport {
        started_ns: 80 * SECOND,
        vanished: vec![NETNS],
        ..SweepReport::default()
    };
    pipeline.swept(&gone);
    for role in Role::ALL {
        assert_eq!(active(&pipeline, role, TcpState::TimeWait), 0);
    }
    assert_eq!(active(&pipeline, Role::Server, TcpState::Listen), 1);
    let sweeps = pipeline.snapshot().staying.sweeps;
    assert_eq!((sweeps.done, sweeps.vanished, sweeps.unattributed.len()), (3, 1, 0));
    // Nothing is remembered of a namespace that has gone: the kernel may give its number again.
    pipeline.swept(&report(85 * SECOND, found));
    assert_eq!(active(&pipeline, Role::Client, TcpState::TimeWait), 0);
}

#[test]
fn a_closed_connection_is_forgotten_once_it_does_not_linger() {
    let mut pipeline = run(&[closed(1), closed(2)]);
    let mut found = sweep();
    found.lingering = vec![lingering(1, 40_000, TcpState::TimeWait)];
    pipeline.swept(&report(3 * SECOND, found.clone()));
    // The cookie of a connection that was not there any more comes back: it is not that connection.
    found.lingering.push(lingering(2, 40_000, TcpState::TimeWait));
    pipeline.swept(&report(8 * SECOND, found.clone()));
    assert_eq!(active(&pipeline, Role::Client, TcpState::TimeWait), 1);
    assert_eq!(
        pipeline.snapshot().staying.sweeps.unattributed,
        [(TcpState::TimeWait, 1)]
    );
}

#[test]
fn a_sweep_that_broke_off_forgets_nothing() {
    let mut pipeline = run(&[closed(1)]);
    let mut broken = sweep();
    broken.is_partial = true;
    pipeline.swept(&report(3 * SECOND, broken));
    let mut found = sweep();
    found.lingering = vec![lingering(1, 40_000, TcpState::TimeWait)];
    pipeline.swept(&report(8 * SECOND, found));
    assert_eq!(active(&pipeline, Role::Client, TcpState::TimeWait), 1);
    assert_eq!(pipeline.snapshot().staying.sweeps.partial, 1);
}

#[test]
fn queues_and_what_they_refused() {
    let mut pipeline = run(&[listening(7, 0), listening(8, FLAG_LATE)]);
    let backlog = |cookie, depth, drops| Backlog {
        cookie,
        local: Endpoint {
            address: [0, 0, 0, 0].into(),
            port: 8_080,
        },
        depth,
        limit: 4,
        drops: Some(drops),
    };
    let mut refused = Vec::new();
    for (overflows, drops) in [(10, [10, 1_000]), (15, [15, 1_030]), (15, [15, 1_031])] {
        let mut found = sweep();
        found.overflows = Some(overflows);
        // The third is nobody's: out of scope.
        found.listeners = vec![backlog(7, 5, drops[0]), backlog(8, 0, drops[1]), backlog(9, 1, 7)];
        pipeline.swept(&report(3 * SECOND, found));
        let staying = pipeline.snapshot().staying;
        refused.push(staying.overflows.iter().map(|(_, count)| count).sum::<u64>());
        assert_eq!(staying.listeners.len(), 2);
        assert_eq!(
            (staying.listeners[0].queue_depth, staying.listeners[0].queue_limit),
            (5, 4)
        );
        assert_eq!(staying.listeners[0].process.pid, Some(80));
    }
    assert_eq!(refused, [10, 15, 15]);
}

#[test]
fn a_hundred_thousand_closed_connections() {
    const ALL: u64 = 140_000;
    let mut pipeline = pipeline();
    pipeline.set_collect(false);
    for cookie in 1..=ALL {
        pipeline.apply(&closed(cookie));
    }
    let mut found = sweep();
    found.lingering = (1..=ALL)
        .map(|cookie| lingering(cookie, 40_000, TcpState::TimeWait))
        .collect();
    pipeline.swept(&report(3 * SECOND, found));
    let staying = pipeline.snapshot().staying;
    let [(_, nobodys)] = staying.sweeps.unattributed[..] else {
        panic!("{:?}", staying.sweeps);
    };
    assert!(nobodys > 0, "there is a bound");
    assert_eq!(staying.lingering_untracked, nobodys, "what found no room is counted");
    assert_eq!(active(&pipeline, Role::Client, TcpState::TimeWait), ALL - nobodys);
}

#[test]
fn ports_of_the_scope_alone() {
    let state = ConnectionState {
        netns: NETNS,
        ..established(1)
    };
    let mut pipeline = run(&[connection(CONNECTION_OPEN, 2 * SECOND, state), closed(2)]);
    let peer = |last, used, cookies: &[u64]| PeerPorts {
        peer: Endpoint {
            address: [10, 0, 0, last].into(),
            port: 443,
        },
        used,
        cookies: cookies.to_vec(),
    };
    let mut found = sweep();
    found.usable_ports = 10;
    found.peers = vec![peer(9, 10, &[77, 78]), peer(2, 8, &[79, 1, 2]), peer(3, 7, &[2])];
    pipeline.swept(&report(3 * SECOND, found));
    let ports = pipeline.snapshot().staying.ports;
    assert_eq!(ports.len(), 1, "one for each namespace");
    assert_eq!(
        (&*ports[0].place.destination, ports[0].used, ports[0].usable),
        ("10.0.0.2", 8, 10)
    );
    assert_eq!(ports[0].processes.len(), 1);
    assert_eq!(ports[0].processes[0].pid, Some(42));
}

/// A connection of one exchange from `opened` to `ended`, milliseconds.
fn one_exchange(cookie: u64, pid: u32, opened: u64, ended: u64) -> Vec<u8> {
    let at = |ms: u64| SECOND + ms * MILLISECOND;
    let mut state = ConnectionState {
        pid,
        intent_ns: at(opened),
        syn_ns: at(opened),
        established_ns: at(opened) + 1,
        ..closed_locally(cookie)
    };
    state.timeline.protocol = agent_ebpf::timeline::PROTOCOL_OTHER;
    state.timeline.request_ns = at(opened) + 2;
    state.timeline.first_byte_ns = at(opened) + 3;
    close(at(ended), state)
}

#[test]
fn connections_without_reuse() {
    let check = |connections: &[(u32, u64, u64)], expected: u64| {
        let events = (1..).zip(connections);
        let events: Vec<_> = events
            .map(|(cookie, (pid, opened, ended))| one_exchange(cookie, *pid, *opened, *ended))
            .collect();
        let unreused = run(&events).snapshot().staying.unreused;
        let count: u64 = unreused.iter().map(|(_, count)| count).sum();
        assert_eq!(count, expected, "{connections:?}");
    };
    check(&[(42, 0, 5)], 0);
    check(&[(42, 0, 5), (42, 10, 15)], 2);
    check(&[(42, 0, 5), (42, 10, 15), (42, 20, 25)], 3);
    // At the same time: none could have carried the other's exchange.
    check(&[(42, 0, 5), (42, 1, 6), (42, 2, 7)], 0);
    check(&[(42, 0, 5), (42, 1, 6), (42, 8, 9)], 2);
    // Processes share no connections; after a minute few servers keep one.
    check(&[(42, 0, 5), (43, 10, 15), (44, 20, 25)], 0);
    check(&[(42, 0, 5), (42, 70_000, 70_005)], 0);
    // More than one exchange.
    let mut kept = established(9);
    kept.timeline.turns = 1;
    kept.timeline.request_ns = 2 * SECOND;
    kept.timeline.first_byte_ns = 3 * SECOND;
    let events = [one_exchange(1, 42, 0, 5), close(4 * SECOND, kept)];
    assert!(run(&events).snapshot().staying.unreused.is_empty());
}

#[test]
fn held_connections_are_found_by_looking() {
    let silent = |kind, time_ns| {
        let state = ConnectionState {
            netns: NETNS,
            counters: TcpCounters {
                segments_received: 2,
                ..TcpCounters::default()
            },
            ..crate::events::child(5, 7)
        };
        connection(kind, time_ns, state)
    };
    let mut pipeline = run(&[listening(7, 0), silent(CONNECTION_OPEN, 2 * SECOND)]);
    pipeline.tick(10 * SECOND);
    assert!(pipeline.snapshot().staying.idle.is_empty());
    assert_eq!(pipeline.sweep_due(), Some([NETNS].into()));
    assert_eq!(pipeline.sweep_due(), None);
    pipeline.apply(&silent(CONNECTION_UPDATE, 12 * SECOND));
    pipeline.tick(16 * SECOND);
    let staying = pipeline.snapshot().staying;
    let idle: Vec<_> = staying
        .idle
        .iter()
        .map(|(at, count)| (at.what.name(), *count))
        .collect();
    assert_eq!(idle, [("silent", 1)]);
    let one = &staying.staying[0];
    assert_eq!((one.what, one.connections, one.process.pid), ("silent", 1, Some(80)));
    pipeline.sweep_skipped();
    assert_eq!(pipeline.snapshot().staying.sweeps.skipped, 1);
}
