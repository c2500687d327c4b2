//! The life of connections: counts, gauges and records, with events lost and out of order.
use super::{
    events::{
        MILLISECOND, SECOND, bytes, cgroup, client, close, closed_locally, connection, established, exec, fork, ipv4,
        moved, samples,
    },
    only_destination, only_record, pipeline, records, run,
};
use agent_ebpf::{
    connection::{
        CLOSED_BY_LOCAL, CLOSED_BY_NOBODY, CLOSED_BY_REMOTE, CLOSED_BY_RESET_LOCAL, CLOSED_BY_RESET_REMOTE,
        CLOSED_BY_TIMEOUT, ConnectionState, FLAG_FIN_RECEIVED, FLAG_LATE, FLAG_RTT_KEPT, RttSamples, TcpCounters,
        tcp_state,
    },
    event::{CONNECTION_OPEN, CONNECTION_UPDATE},
    timeline::Timeline,
};
use hopline::{
    aggregate::{Child, Ended},
    connection::{ClosedBy, Outcome, Phase, TcpState},
    pipeline::{Output, Pipeline, PipelineSettings},
    windows::Measure,
};

#[test]
fn the_record_has_every_key() {
    let samples = [
        fork(1, 41, 40, "sh"),
        exec(2, 41, 40, "/bin/sh"),
        fork(3, 42, 41, "sh"),
        exec(4, 42, 41, "/usr/bin/curl"),
        cgroup(5, 77, "/kubepods/burstable/pod11111111-2222-3333-4444-555555555555/x"),
        close(
            3 * SECOND,
            ConnectionState {
                cgroup_id: 77,
                netns: 9,
                ..moved()
            },
        ),
    ];
    let mut pipeline = pipeline();
    pipeline.set_clock_offset(1_700_000_000 * SECOND.cast_signed());
    for sample in &samples {
        pipeline.apply(sample);
    }
    let json = serde_json::to_value(&records(&mut pipeline)[0]).expect("plain data");
    let none = serde_json::Value::Null;
    let expected = serde_json::json!({
        "schema": 1, "id": "boot-1", "node": "n1", "netns": 9,
        "start": "2023-11-14T22:13:20.999000Z", "duration_us": 2_001_000, "role": "client", "role_basis": "observed", "family": "ipv4",
        "local": {"address": "10.0.0.1", "port": 40_000}, "remote": {"address": "10.0.0.2", "port": 443},
        "destination": {"host": "10.0.0.2", "port": 443, "source": "ip", "verified": true, "group": ""},
        "backend": none,
        "process": {
            "pid": 42, "comm": "curl", "exe": "/usr/bin/curl", "ancestry": ["sh"],
            "cgroup": "/kubepods/burstable/pod11111111-2222-3333-4444-555555555555/x", "container": none,
            "pod": "11111111-2222-3333-4444-555555555555", "namespace": none, "workload": none,
            "annotations": {}, "env": {},
        },
        "phases_us": {"dns": none, "tcp": 20_000, "tls": none, "ttfb": none},
        "marks_ns": {
            "dns_query": none, "dns_answer": none, "syn": SECOND, "established": SECOND + 20 * MILLISECOND,
            "client_hello": none, "server_hello": none, "tls_done": none, "request": none, "first_byte": none,
            "closed": 3 * SECOND,
        },
        "ttfb_basis": none, "late": false,
        "turns": {"count": none, "p50_us": none, "p95_us": none, "overlapping": none},
        "dns": none, "tls": none, "http": none,
        "tcp": {
            "rtt_us": {"min": 200, "mean": 300, "p50": 350, "p99": 350, "var": 70},
            "retransmits": {"syn": 1, "rto": 2, "fast": 3, "tlp": 4, "other": 5},
            "bytes_sent": 1_000, "bytes_received": 5_000, "closed_by": "local", "hops": none, "idle_before_us": none,
        },
        "chain": none, "waiting": none, "waiting_us": none, "outcome": "ok",
    });
    assert_eq!(json, expected);
}

/// Whatever was lost before the CLOSE, the numbers are the same.
#[test]
fn lost_events_lose_no_numbers() {
    let half = ConnectionState {
        counters: TcpCounters {
            bytes_sent: 500,
            segments_sent: 5,
            ..TcpCounters::default()
        },
        rtt: RttSamples {
            sum_us: 200,
            count: 1,
            min_us: 200,
            var_us: 0,
            gate: 0,
        },
        ..established(1)
    };
    let whole = [
        connection(CONNECTION_OPEN, SECOND, client(1)),
        connection(CONNECTION_UPDATE, 2 * SECOND, established(1)),
        connection(CONNECTION_UPDATE, 3 * SECOND, half),
        close(4 * SECOND, moved()),
    ];
    for kept in 0..8_u32 {
        let samples: Vec<_> = (0..4)
            .filter(|index| *index == 3 || kept & 1 << index != 0)
            .map(|index| whole[index].clone())
            .collect();
        let mut pipeline = run(&samples);
        let destination = only_destination(&pipeline);
        let counters = &destination.counters;
        assert_eq!(counters.connections[Outcome::Ok as usize], 1);
        assert_eq!((counters.connects(), counters.ended()), (1, 1));
        assert_eq!(counters.ended_by(Ended::Established, Some(ClosedBy::Local)), 1);
        assert_eq!(
            (counters.handshake.count, counters.handshake.sum_ns),
            (1, 20 * MILLISECOND)
        );
        assert_eq!((counters.bytes_sent, counters.bytes_received), (1_000, 5_000));
        assert_eq!((counters.segments_sent, counters.segments_received), (12, 9));
        // SYN-ACKs are counted by their own events.
        assert_eq!(counters.retransmits, [1, 0, 2, 3, 4, 5]);
        assert_eq!(destination.active, [0; TcpState::ALL.len()]);
        assert_eq!(destination.window.rtt_min_ns, Some(200_000));
        let p50 = destination.quantiles(Measure::Tcp).expect("one handshake").p50;
        assert!((p50 / 0.02 - 1.0).abs() < 0.01, "{p50}");
        assert_eq!(records(&mut pipeline).len(), 1);
        assert_eq!(pipeline.snapshot().counts.connections, 0);
    }
}

/// Samples come apart from the connection: before it has a name, before anything else of it, and again.
#[test]
fn samples_of_a_connection_are_counted_once() {
    let open = ConnectionState {
        flags: FLAG_RTT_KEPT,
        ..established(1)
    };
    let (first, second) = ([10_000; 5].as_slice(), [10_000; 8].as_slice());
    let last = close(20 * SECOND, moved());
    let told = |time_ns, all_us| bytes(&samples(time_ns, 1, all_us));
    for events in [
        vec![
            connection(CONNECTION_OPEN, 2 * SECOND, open),
            told(2 * SECOND, first),
            told(6 * SECOND, second),
        ],
        vec![told(6 * SECOND, first), told(19 * SECOND, second)],
        vec![told(19 * SECOND, second)],
        vec![
            connection(CONNECTION_OPEN, 9 * SECOND, open),
            told(9 * SECOND, second),
            told(9 * SECOND, second),
        ],
    ] {
        let mut pipeline = run(&events);
        pipeline.tick(19 * SECOND);
        pipeline.apply(&last);
        let counters = only_destination(&pipeline).counters;
        assert_eq!(counters.rtt.count, 8);
        assert_eq!(pipeline.snapshot().counts.rtt_unplaced, 0);
        let rtt = &records(&mut pipeline)[0].tcp.rtt_us;
        assert!(rtt.p50.expect("samples").abs_diff(10_000) <= 320, "{rtt:?}");
        assert_eq!(rtt.var, Some(70), "the last report's");
    }
    let mut pipeline = run(&[told(SECOND, first)]);
    pipeline.tick(30 * SECOND);
    assert_eq!(pipeline.snapshot().counts.rtt_unplaced, 1, "nobody came for them");
}

#[test]
fn active_connections_by_state() {
    let mut pipeline = pipeline();
    let mut check = |sample: Vec<u8>, expected: &[(TcpState, u64)]| {
        pipeline.apply(&sample);
        let destination = only_destination(&pipeline);
        let active = TcpState::ALL.map(|state| (state, destination.active[state as usize]));
        assert_eq!(
            active.into_iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>(),
            expected
        );
    };
    check(connection(CONNECTION_OPEN, 1, client(1)), &[(TcpState::SynSent, 1)]);
    check(connection(CONNECTION_OPEN, 2, client(2)), &[(TcpState::SynSent, 2)]);
    check(
        connection(CONNECTION_UPDATE, 3, established(1)),
        &[(TcpState::Established, 1), (TcpState::SynSent, 1)],
    );
    let closing = ConnectionState {
        tcp_state: tcp_state::CLOSE_WAIT,
        ..established(1)
    };
    check(
        connection(CONNECTION_UPDATE, 4, closing),
        &[(TcpState::SynSent, 1), (TcpState::CloseWait, 1)],
    );
    check(close(5, closed_locally(1)), &[(TcpState::SynSent, 1)]);
    check(close(6, client(2)), &[]);
    // An event that comes after the end opens nothing.
    let ended = ConnectionState {
        closed_ns: 5,
        ..closed_locally(1)
    };
    check(connection(CONNECTION_UPDATE, 7, ended), &[]);
    assert_eq!(pipeline.snapshot().counts.stale, 1);
}

#[test]
fn attempts_on_one_socket_are_connects_of_their_own() {
    let attempt = |attempt| ConnectionState { attempt, ..client(1) };
    let refused = |attempt| ConnectionState {
        attempt,
        error: libc::ECONNREFUSED as u16,
        ..client(1)
    };
    let mut pipeline = run(&[
        connection(CONNECTION_OPEN, 1, attempt(1)),
        close(2, refused(1)),
        connection(CONNECTION_OPEN, 3, attempt(2)),
        // The CLOSE of the second is lost; an event of the first comes late.
        connection(CONNECTION_OPEN, 5, attempt(3)),
        connection(CONNECTION_UPDATE, 6, attempt(1)),
        connection(
            CONNECTION_UPDATE,
            7,
            ConnectionState {
                attempt: 3,
                ..established(1)
            },
        ),
        close(
            8,
            ConnectionState {
                attempt: 3,
                ..closed_locally(1)
            },
        ),
    ]);
    let ids: Vec<_> = records(&mut pipeline)
        .into_iter()
        .map(|record| (record.id, record.outcome))
        .collect();
    assert_eq!(
        ids,
        [
            ("boot-1".into(), Some(Outcome::Refused)),
            ("boot-1.3".into(), Some(Outcome::Ok))
        ]
    );
    let counts = pipeline.snapshot().counts;
    assert_eq!((counts.superseded, counts.stale, counts.connections), (1, 1, 0));
    let destination = only_destination(&pipeline);
    assert_eq!((destination.counters.connects(), destination.counters.failed()), (2, 1));
    assert_eq!(destination.active, [0; TcpState::ALL.len()]);
}

#[test]
fn outcomes() {
    let check = |state: ConnectionState, error: i32, expected: Outcome| {
        let state = ConnectionState {
            error: error as u16,
            ..state
        };
        let mut pipeline = run(&[close(9 * SECOND, state)]);
        let record = records(&mut pipeline).remove(0);
        assert_eq!(record.outcome, Some(expected), "{error}");
        let late = record.late;
        let counters = only_destination(&pipeline).counters;
        let opened = state.established_ns != 0;
        let counted = if opened { Outcome::Ok } else { expected };
        assert_eq!(counters.connections[counted as usize], u64::from(!late));
        assert_eq!(counters.connects(), u64::from(!late));
        let phase = if opened || late { Ended::Established } else { Ended::Tcp };
        assert_eq!(counters.ended[phase as usize].iter().sum::<u64>(), 1);
    };
    let unsent = ConnectionState { syn_ns: 0, ..client(1) };
    let silent = closed_locally(1);
    let answered = ConnectionState {
        counters: TcpCounters {
            bytes_received: 1,
            ..TcpCounters::default()
        },
        ..closed_locally(1)
    };
    let only_fin = ConnectionState {
        flags: FLAG_FIN_RECEIVED,
        ..answered
    };
    let late = ConnectionState {
        flags: FLAG_LATE,
        intent_ns: 0,
        syn_ns: 0,
        established_ns: 0,
        ..silent
    };
    for (state, error, expected) in [
        (client(1), libc::ECONNREFUSED, Outcome::Refused),
        (client(1), libc::ETIMEDOUT, Outcome::Timeout),
        (client(1), libc::ECONNRESET, Outcome::Reset),
        (client(1), libc::EHOSTUNREACH, Outcome::Unreachable),
        (client(1), libc::ENETUNREACH, Outcome::Unreachable),
        (client(1), libc::EACCES, Outcome::Unreachable),
        (client(1), libc::EADDRNOTAVAIL, Outcome::Other),
        (client(1), 0, Outcome::Other),
        (unsent, libc::EADDRNOTAVAIL, Outcome::NoPort),
        (unsent, libc::ENETUNREACH, Outcome::Unreachable),
        (unsent, libc::EPERM, Outcome::Other),
        (unsent, libc::EACCES, Outcome::Other),
        (silent, 0, Outcome::Ok),
        (silent, libc::ECONNRESET, Outcome::Reset),
        (silent, libc::ETIMEDOUT, Outcome::Timeout),
        (silent, libc::EPIPE, Outcome::Reset),
        (silent, libc::EIO, Outcome::Ok),
        (answered, libc::ECONNRESET, Outcome::Ok),
        (answered, libc::ETIMEDOUT, Outcome::Ok),
        (only_fin, libc::ECONNRESET, Outcome::Reset),
        (late, 0, Outcome::Ok),
        (late, libc::ETIMEDOUT, Outcome::Timeout),
    ] {
        check(state, error, expected);
    }
}

#[test]
fn who_closed() {
    for (closed_by, expected, label) in [
        (CLOSED_BY_NOBODY, None, "null"),
        (CLOSED_BY_LOCAL, Some(ClosedBy::Local), "\"local\""),
        (CLOSED_BY_REMOTE, Some(ClosedBy::Remote), "\"remote\""),
        (CLOSED_BY_RESET_LOCAL, Some(ClosedBy::ResetLocal), "\"reset_local\""),
        (CLOSED_BY_RESET_REMOTE, Some(ClosedBy::ResetRemote), "\"reset_remote\""),
        (CLOSED_BY_TIMEOUT, Some(ClosedBy::Timeout), "\"timeout\""),
        (200, None, "null"),
    ] {
        let mut pipeline = run(&[close(
            9 * SECOND,
            ConnectionState {
                closed_by,
                ..established(1)
            },
        )]);
        assert_eq!(
            only_destination(&pipeline)
                .counters
                .ended_by(Ended::Established, expected),
            1
        );
        let record = records(&mut pipeline).remove(0);
        assert_eq!(record.tcp.closed_by, expected);
        assert_eq!(serde_json::to_string(&record.tcp.closed_by).expect("plain data"), label);
    }
}

#[test]
fn addresses() {
    let check = |state: ConnectionState, family: &str, remote: &str, host: (&str, u16), backend: Option<&str>| {
        let record = only_record(&[close(9 * SECOND, state)]);
        assert_eq!(record.family, family);
        assert_eq!(record.remote.address, remote);
        assert_eq!((record.destination.host.as_str(), record.destination.port), host);
        assert_eq!(record.backend.map(|backend| backend.address).as_deref(), backend);
    };
    let v6 = |text: &str| text.parse::<std::net::Ipv6Addr>().expect("an address").octets();
    let over_v6 = |remote: &str| ConnectionState {
        family: libc::AF_INET6 as u16,
        local_address: v6("::ffff:10.0.0.1"),
        remote_address: v6(remote),
        ..closed_locally(1)
    };
    check(closed_locally(1), "ipv4", "10.0.0.2", ("10.0.0.2", 443), None);
    check(over_v6("::ffff:10.0.0.2"), "ipv4", "10.0.0.2", ("10.0.0.2", 443), None);
    check(
        over_v6("2001:db8::2"),
        "ipv6",
        "2001:db8::2",
        ("2001:db8::2", 443),
        None,
    );
    // What the process asked for is the destination; where it ended up is the backend.
    let asked = |address, port: u16| ConnectionState {
        asked_address: ipv4(address),
        asked_port: port.to_be_bytes(),
        ..closed_locally(1)
    };
    check(
        asked([10, 96, 0, 1], 80),
        "ipv4",
        "10.0.0.2",
        ("10.96.0.1", 80),
        Some("10.0.0.2"),
    );
    check(asked([10, 0, 0, 2], 443), "ipv4", "10.0.0.2", ("10.0.0.2", 443), None);
    check(asked([0, 0, 0, 0], 443), "ipv4", "10.0.0.2", ("10.0.0.2", 443), None);
}

#[test]
fn late_connections_count_what_hopline_saw() {
    let before = ConnectionState {
        flags: FLAG_LATE,
        intent_ns: 0,
        syn_ns: 0,
        established_ns: 0,
        counters: TcpCounters {
            bytes_sent: 1_000_000,
            segments_sent: 1_000,
            ..TcpCounters::default()
        },
        ..closed_locally(1)
    };
    let after = ConnectionState {
        counters: TcpCounters {
            bytes_sent: 1_000_050,
            segments_sent: 1_001,
            ..TcpCounters::default()
        },
        ..before
    };
    let open = connection(CONNECTION_OPEN, SECOND, before);
    let mut pipeline = run(&[open, close(3 * SECOND, after)]);
    let counters = only_destination(&pipeline).counters;
    assert_eq!(
        (counters.bytes_sent, counters.segments_sent, counters.connects()),
        (50, 1, 0)
    );
    assert_eq!(counters.ended_by(Ended::Established, Some(ClosedBy::Local)), 1);
    let record = records(&mut pipeline).remove(0);
    assert!(record.late);
    assert_eq!((record.phases_us.tcp, record.marks_ns.established), (None, None));
    assert_eq!((record.duration_us, record.tcp.bytes_sent), (2_000_000, 1_000_050));
    assert_eq!(record.start, "1970-01-01T00:00:01.000000Z");
}

/// The program that tells of turns does not look at the socket: it sends the counters that the connection was found with.
#[test]
fn old_counters_take_nothing_back() {
    let late = |bytes_sent, segments_sent, turns| ConnectionState {
        flags: FLAG_LATE,
        counters: TcpCounters {
            bytes_sent,
            segments_sent,
            ..TcpCounters::default()
        },
        timeline: Timeline {
            turns,
            ..Timeline::default()
        },
        ..closed_locally(1)
    };
    let pipeline = run(&[
        connection(CONNECTION_OPEN, SECOND, late(100, 1, 0)),
        connection(CONNECTION_UPDATE, 2 * SECOND, late(150, 2, 3)),
        connection(CONNECTION_UPDATE, 3 * SECOND, late(100, 1, 8)),
        close(4 * SECOND, late(160, 3, 8)),
    ]);
    let counters = only_destination(&pipeline).counters;
    assert_eq!((counters.bytes_sent, counters.segments_sent), (60, 2));
}

/// A CLOSE that was lost shows in silence, but only where the walk tells of everything open.
#[test]
fn silence_is_an_end_only_while_the_walk_goes_on() {
    let open = |cookie, segments_sent, turns| ConnectionState {
        flags: FLAG_LATE,
        counters: TcpCounters {
            segments_sent,
            ..TcpCounters::default()
        },
        timeline: Timeline {
            turns,
            ..Timeline::default()
        },
        ..established(cookie)
    };
    let check = |segments: fn(u64) -> u32, left: u64| {
        let mut pipeline = run(&[
            connection(CONNECTION_OPEN, SECOND, open(1, 7, 0)),
            connection(CONNECTION_OPEN, SECOND, open(2, 7, 0)),
        ]);
        for minute in 1..=10 {
            let state = open(2, segments(minute), 8 * minute as u32);
            pipeline.apply(&connection(CONNECTION_UPDATE, minute * 60 * SECOND, state));
            pipeline.tick(minute * 60 * SECOND);
        }
        let counts = pipeline.snapshot().counts;
        assert_eq!((counts.connections, counts.evicted), (left, 2 - left));
    };
    // Turns alone: without counters, or with those of the first report.
    check(|_| 0, 2);
    check(|_| 7, 2);
    check(|minute| 7 + minute as u32, 1);
}

#[test]
fn hanging_connects_wait_then_are_stuck_once() {
    let mut pipeline = run(&[
        connection(CONNECTION_OPEN, SECOND, client(1)),
        connection(CONNECTION_OPEN, SECOND, client(2)),
        connection(CONNECTION_UPDATE, SECOND, established(2)),
    ]);
    let mut outputs = Vec::new();
    let mut check = |pipeline: &mut Pipeline, now_ns, waiting, stuck| {
        pipeline.tick(now_ns);
        let destination = only_destination(pipeline);
        assert_eq!(destination.waiting, waiting, "at {now_ns}");
        if waiting > 0 {
            assert_eq!(destination.longest_wait_ns, now_ns - SECOND);
            assert!(destination.has(Child::Waiting(Phase::Tcp)));
        }
        pipeline.take_outputs(&mut outputs);
        assert_eq!(outputs.len(), stuck, "at {now_ns}");
    };
    check(&mut pipeline, 2 * SECOND - 1, 0, 0);
    check(&mut pipeline, 2 * SECOND, 1, 0);
    check(&mut pipeline, 6 * SECOND - 1, 1, 0);
    check(&mut pipeline, 6 * SECOND, 1, 1);
    check(&mut pipeline, 60 * SECOND, 1, 1);
    pipeline.apply(&close(
        61 * SECOND,
        ConnectionState {
            error: libc::ETIMEDOUT as u16,
            ..client(1)
        },
    ));
    assert_eq!(only_destination(&pipeline).waiting, 0, "gone at once");
    check(&mut pipeline, 62 * SECOND, 0, 2);
    let Output::Stuck(record) = &outputs[0] else {
        panic!("the first is stuck")
    };
    assert_eq!(
        (record.waiting, record.outcome, record.tcp.closed_by),
        (Some(Phase::Tcp), None, None)
    );
    assert_eq!((record.duration_us, record.process.pid), (5_001_000, Some(42)));
    let Output::Finished(record) = &outputs[1] else {
        panic!("the second has finished")
    };
    assert_eq!((record.waiting, record.outcome), (None, Some(Outcome::Timeout)));
    assert_eq!(
        only_destination(&pipeline).counters.connections[Outcome::Timeout as usize],
        1
    );
}

#[test]
fn a_full_table_still_makes_whole_records() {
    let mut pipeline = Pipeline::new(PipelineSettings {
        max_connections: 1,
        ..PipelineSettings::default()
    });
    pipeline.set_collect(true);
    for cookie in [1, 2] {
        pipeline.apply(&connection(CONNECTION_OPEN, SECOND, client(cookie)));
        pipeline.apply(&connection(CONNECTION_UPDATE, SECOND, established(cookie)));
    }
    let counts = pipeline.snapshot().counts;
    assert_eq!((counts.connections, counts.untracked), (1, 2));
    for cookie in [1, 2] {
        pipeline.apply(&close(2 * SECOND, ConnectionState { cookie, ..moved() }));
    }
    assert_eq!(records(&mut pipeline).len(), 2);
    let counters = only_destination(&pipeline).counters;
    assert_eq!(
        (counters.connects(), counters.ended(), counters.bytes_sent),
        (2, 2, 2_000)
    );
}
