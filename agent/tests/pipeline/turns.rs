//! Turns come in events of their own once a connection is known.
use agent_ebpf::{
    connection::ConnectionState,
    event::{CONNECTION_OPEN, EventHeader, TURNS, TurnsEvent},
    timeline::{PROTOCOL_OTHER, RECENT_TURNS, Timeline, turn_begun, turn_begun_ns},
};

use crate::{
    events::{bytes, close, closed_locally, connection, established},
    only_destination, records, run,
};

const SECOND: u64 = 1_000_000_000;
const KEPT: u32 = RECENT_TURNS as u32;

/// The turns of a connection so far, of which the last eight took this long.
fn turns(time_ns: u64, attempt: u32, turns: u32, each_us: u32) -> Vec<u8> {
    bytes(&TurnsEvent {
        header: EventHeader {
            kind: TURNS,
            size: size_of::<TurnsEvent>() as u32,
            time_ns,
        },
        cookie: 1,
        attempt,
        turns,
        turns_overlapping: 0,
        reserved: 0,
        recent_turns_us: [each_us; RECENT_TURNS],
        recent_turns_begun: [0; RECENT_TURNS],
        recent_turns_status: [0; RECENT_TURNS],
    })
}

fn with_turns(state: &ConnectionState, turns: u32) -> ConnectionState {
    ConnectionState {
        timeline: Timeline {
            protocol: PROTOCOL_OTHER,
            turns,
            recent_turns_us: [7_000; RECENT_TURNS],
            ..Timeline::default()
        },
        ..*state
    }
}

#[test]
fn each_turn_counts_once() {
    let state = established(1);
    let attempt = state.attempt;
    let mut pipeline = run(&[
        connection(CONNECTION_OPEN, SECOND, with_turns(&state, 3)),
        turns(2 * SECOND, attempt, KEPT, 5_000),
        turns(3 * SECOND, attempt, 2 * KEPT, 6_000),
        // Older than what is known, and of another attempt.
        turns(3 * SECOND, attempt, KEPT, 1),
        turns(3 * SECOND, attempt + 1, 3 * KEPT, 1),
        close(4 * SECOND, with_turns(&closed_locally(1), 2 * KEPT + 2)),
        // Its end has told all.
        turns(5 * SECOND, attempt, 3 * KEPT, 1),
    ]);
    let turn = only_destination(&pipeline).counters.turn.expect("turns");
    assert_eq!(turn.count, u64::from(2 * KEPT + 2));
    assert_eq!(pipeline.snapshot().counts.stale, 3);
    assert_eq!(records(&mut pipeline)[0].turns.count, Some(u64::from(2 * KEPT + 2)));
}

#[test]
fn the_beginning_of_a_turn_is_found_again() {
    let hour = 3_600 * SECOND;
    for begun_ns in [5, 1_023, 1_024, SECOND, 73 * 60 * SECOND, 500 * hour + 123_456] {
        for took_ns in [0, 1_000, SECOND, hour] {
            let found_ns = turn_begun_ns(turn_begun(begun_ns), begun_ns + took_ns);
            assert!(
                found_ns <= begun_ns && begun_ns - found_ns < 1_024,
                "{begun_ns} {took_ns}"
            );
        }
    }
}
