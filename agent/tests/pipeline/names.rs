//! Under which name a connection is counted: what it said of itself comes before its only event.
use agent_ebpf::{
    connection::ConnectionState,
    event::CONNECTION_OPEN,
    hello::{BACKWARD, FORWARD},
    timeline::{PROTOCOL_HTTP1, PROTOCOL_TLS, Timeline},
};
use hopline::pipeline::{Output, Pipeline, PipelineSettings};

use super::events::{
    MILLISECOND, SECOND, client_hello, close, closed_locally, connection, established, first_bytes, hello, ipv4,
};

/// A connection that ended in its TLS handshake.
fn shook_hands(cookie: u64, remote_address: [u8; 16]) -> ConnectionState {
    ConnectionState {
        remote_address,
        timeline: Timeline {
            protocol: PROTOCOL_TLS,
            client_hello_ns: SECOND + 30 * MILLISECOND,
            ..Timeline::default()
        },
        ..closed_locally(cookie)
    }
}

/// What was read of a head is kept for as long as the connection, however long that is silent afterwards.
#[test]
fn a_kept_alive_connection_does_not_forget_what_it_asked() {
    let mut pipeline = Pipeline::new(PipelineSettings::default());
    pipeline.set_collect(true);
    let asked = first_bytes(
        SECOND,
        1,
        (PROTOCOL_HTTP1, FORWARD),
        b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
    );
    pipeline.apply(&asked);
    let answered = first_bytes(SECOND, 1, (PROTOCOL_HTTP1, BACKWARD), b"HTTP/1.1 503 Busy\r\n");
    pipeline.apply(&answered);
    let open = ConnectionState {
        timeline: Timeline {
            protocol: PROTOCOL_HTTP1,
            request_ns: SECOND,
            first_byte_ns: SECOND + MILLISECOND,
            ..Timeline::default()
        },
        ..established(1)
    };
    pipeline.apply(&connection(CONNECTION_OPEN, 2 * SECOND, open));
    for second in 2..400 {
        pipeline.tick(second * SECOND);
    }
    pipeline.apply(&close(400 * SECOND, open));
    let mut outputs = Vec::new();
    pipeline.take_outputs(&mut outputs);
    let [Output::Finished(record)] = &outputs[..] else {
        panic!("one record, not {outputs:?}")
    };
    let http = record.http.as_ref().expect("what the head said");
    assert_eq!((http.status, http.host.as_deref()), (Some(503), Some("a.example")));
}

/// Addresses of a name that is known are no destinations, so they use up nothing of the budget.
#[test]
fn a_short_connection_leaves_no_destination_under_its_address() {
    const CONNECTIONS: u16 = 1_000;
    let mut pipeline = Pipeline::new(PipelineSettings {
        max_series: 1_000,
        ..PipelineSettings::default()
    });
    for number in 0..CONNECTIONS {
        let [high, low] = number.to_be_bytes();
        let cookie = u64::from(number) + 1;
        pipeline.apply(&hello(SECOND, cookie, &client_hello("a.example")));
        pipeline.apply(&close(2 * SECOND, shook_hands(cookie, ipv4([10, 1, high, low]))));
    }
    pipeline.apply(&close(2 * SECOND, closed_locally(5_000)));
    let snapshot = pipeline.snapshot();
    let named: Vec<_> = snapshot
        .destinations
        .iter()
        .map(|destination| (&*destination.labels.destination, destination.counters.connects()))
        .collect();
    assert_eq!(named, [("a.example", CONNECTIONS.into()), ("10.0.0.2", 1)]);
    assert_eq!(snapshot.totals[0].truth, snapshot.totals[0].series);
}
