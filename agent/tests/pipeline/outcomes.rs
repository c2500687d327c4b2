//! Requests without an answer, and senders who await none.
use super::{
    events::{SECOND, close, closed_locally, connection, established},
    only_destination, pipeline, records, run,
};
use agent_ebpf::{
    connection::{CLOSED_BY_LOCAL, CLOSED_BY_REMOTE, ConnectionState, TcpCounters},
    event::CONNECTION_OPEN,
    timeline::{PROTOCOL_HTTP1, PROTOCOL_OTHER},
};
use hopline::connection::{Outcome, Phase};

/// A request that nobody answers: who gave up, after how long; and what is none.
#[test]
fn unanswered_requests() {
    const HTTP: u8 = PROTOCOL_HTTP1;
    const OTHER: u8 = PROTOCOL_OTHER;
    let asked = |protocol, closed_by, ending_ns| {
        let mut state = ConnectionState {
            closed_by,
            ending_ns,
            quiet_ticks: 1_000,
            counters: TcpCounters {
                bytes_sent: 100,
                segments_sent: 3,
                ..TcpCounters::default()
            },
            ..closed_locally(1)
        };
        state.timeline.protocol = protocol;
        state.timeline.request_ns = 2 * SECOND;
        state
    };
    let check = |what, state: ConnectionState, expected: Option<(u64, usize)>| {
        let mut pipeline = run(&[close(90 * SECOND, state)]);
        let record = records(&mut pipeline).remove(0);
        let counters = only_destination(&pipeline).counters;
        let outcome = if expected.is_some() {
            Outcome::Unanswered
        } else {
            Outcome::Ok
        };
        assert_eq!(record.outcome, Some(outcome), "{what}");
        assert_eq!(record.waiting, expected.map(|_| Phase::Ttfb), "{what}");
        assert_eq!(record.waiting_us, expected.map(|(us, _)| us), "{what}");
        let counted = counters
            .unanswered
            .map(|waits| waits.map_or((0, 0), |waits| (waits.count, waits.sum_ns)));
        let mut wanted = [(0, 0); 2];
        if let Some((us, by)) = expected {
            wanted[by] = (1, us * 1_000);
        }
        assert_eq!(counted, wanted, "{what}");
    };
    let local = asked(OTHER, CLOSED_BY_LOCAL, 12 * SECOND);
    check("the client gives up", local, Some((10_000_000, 0)));
    let remote = asked(OTHER, CLOSED_BY_REMOTE, 3 * SECOND);
    check("the server closes", remote, Some((1_000_000, 1)));
    let at_once = ConnectionState {
        quiet_ticks: 0,
        ..local
    };
    check("it closes when it has sent all", at_once, None);
    let mut http = ConnectionState {
        quiet_ticks: 0,
        ..asked(HTTP, CLOSED_BY_LOCAL, 2 * SECOND + 5_000)
    };
    check("HTTP has an answer to each request", http, Some((5, 0)));
    http.timeline.first_byte_ns = 2 * SECOND + 1;
    check("it was answered", http, None);
    let after_the_end = asked(OTHER, CLOSED_BY_REMOTE, 2 * SECOND - 1);
    check("it was sent after the peer's end", after_the_end, None);
    let mut syslog = local;
    (syslog.walk_request, syslog.sent_on_ns, syslog.pauses) = (syslog.request_key(), 9 * SECOND, 2);
    check("the client goes on sending", syslog, None);
    let upload = ConnectionState { pauses: 0, ..syslog };
    check("it waits since it has sent all", upload, Some((3_000_000, 0)));
    let old = ConnectionState {
        walk_request: 1,
        ..syslog
    };
    check("that was another request", old, Some((10_000_000, 0)));
}

/// A sender to whom nothing comes back waits for nothing; an upload does once it is sent.
#[test]
fn one_way_senders_wait_for_nothing() {
    let check = |protocol, sent_on_ns, pauses, waiting| {
        let mut state = established(1);
        state.timeline.protocol = protocol;
        state.timeline.request_ns = 2 * SECOND;
        state.counters.bytes_sent = 100;
        state.reported_ns = 20 * SECOND;
        (state.walk_request, state.sent_on_ns, state.pauses) = (state.request_key(), sent_on_ns, pauses);
        let mut pipeline = pipeline();
        pipeline.apply(&connection(CONNECTION_OPEN, 20 * SECOND, state));
        pipeline.tick(30 * SECOND);
        let destination = only_destination(&pipeline);
        let waits_ns = (destination.waiting > 0).then_some(destination.longest_wait_ns);
        assert_eq!(waits_ns, waiting, "{protocol} {sent_on_ns} {pauses}");
    };
    check(PROTOCOL_OTHER, 0, 0, Some(28 * SECOND));
    check(PROTOCOL_OTHER, 19 * SECOND, 0, None);
    check(PROTOCOL_OTHER, 15 * SECOND, 1, Some(15 * SECOND));
    check(PROTOCOL_OTHER, 15 * SECOND, 2, None);
    check(PROTOCOL_HTTP1, 15 * SECOND, 2, Some(15 * SECOND));
    check(PROTOCOL_HTTP1, 19 * SECOND, 2, None);
}

/// What the kernel's walk makes of a client's bytes.
#[test]
fn a_walk_tells_senders_from_those_who_ask() {
    let mut state = established(1);
    state.timeline.request_ns = 2 * SECOND;
    let mut look = |second: u64, sent, received, pauses| {
        let counters = TcpCounters {
            bytes_sent: sent,
            bytes_received: received,
            ..TcpCounters::default()
        };
        state.look(&counters, pauses, second * SECOND);
        let now_ns = second * SECOND;
        (state.sends_on(now_ns), state.is_one_way())
    };
    assert_eq!(look(3, 100, 0, false), (false, false), "the request itself");
    assert_eq!(look(4, 100, 0, true), (false, false));
    assert_eq!(look(5, 200, 0, false), (true, false), "once more");
    assert_eq!(look(6, 300, 0, false), (true, false), "and without a pause");
    assert_eq!(look(9, 300, 0, true), (false, false));
    assert_eq!(look(10, 400, 0, false), (true, true), "after the second pause");
    assert_eq!(look(19, 400, 0, true), (false, true));
    assert_eq!(look(20, 500, 1, true), (false, false), "something came back");
    assert_eq!(look(21, 600, 1, true), (true, false), "a line between all looks");
    assert_eq!(look(22, 700, 1, true), (true, true));
}
