//! Under which name a connection is counted: what it said of itself comes before its only event.
use agent_ebpf::{
    connection::ConnectionState,
    timeline::{PROTOCOL_TLS, Timeline},
};
use hopline::pipeline::{Pipeline, PipelineSettings};

use super::events::{MILLISECOND, SECOND, client_hello, close, closed_locally, hello, ipv4};

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
