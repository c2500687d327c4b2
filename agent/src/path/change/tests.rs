//! What is told of paths that change, and what is not.
use proptest::prelude::*;

use super::*;
use crate::path::{HopRecord, RttRecord};

const CYCLE_NS: u64 = 60_000_000_000;
const ABOVE_US: u64 = 20_000;

/// A trace over these routers (0: silent) with these round trips in milliseconds.
fn trace(hops: &[(u8, u64)]) -> PathRecord {
    let hop = |(at, (number, ms)): (usize, &(u8, u64))| HopRecord {
        hop: at as u8 + 1,
        address: (*number > 0).then(|| [10, 0, *number, 1].into()),
        addresses: Vec::new(),
        rtt_us: (*number > 0).then_some(RttRecord {
            min: ms * 1_000,
            p50: ms * 1_000,
            p95: ms * 1_000,
        }),
        probes: 3,
        answers: 3,
        unanswered: None,
        loss: None,
        answer_ttl: None,
    };
    PathRecord {
        schema: 1,
        r#type: "path".into(),
        host: "a.test".to_owned(),
        address: [10, 9, 9, 9].into(),
        port: Some(443),
        source: [10, 0, 0, 1].into(),
        source_port: 1,
        protocol: "tcp".into(),
        reached: true,
        end: Some("syn_ack".into()),
        end_by: None,
        hops: hops.iter().enumerate().map(hop).collect(),
        step: None,
        ignored: 0,
    }
}

/// What each trace tells, by its number.
fn told(watch: &mut Watch, traces: impl IntoIterator<Item = PathRecord>) -> Vec<(usize, Change)> {
    let told = |(at, record): (usize, PathRecord)| Some((at, watch.trace(&record, ABOVE_US, at as u64 * CYCLE_NS)?));
    traces.into_iter().enumerate().filter_map(told).collect()
}

#[test]
fn the_hop_where_latency_begins() {
    let calm = || trace(&[(1, 1), (2, 6), (3, 8), (4, 48), (5, 51)]);
    let slow = || trace(&[(1, 1), (2, 6), (3, 8), (4, 122), (5, 125)]);
    let traces = (0..5)
        .map(|_| calm())
        .chain((0..4).map(|_| slow()))
        .chain((0..3).map(|_| calm()));
    let told = told(&mut Watch::default(), traces);
    let [(6, Change::Slower { step, since_ns }), (9, Change::Calm)] = &told[..] else {
        panic!("{told:?}");
    };
    // Within two traces, and it says since when.
    assert_eq!(*since_ns, 5 * CYCLE_NS);
    assert_eq!((step.from_hop, step.to_hop, step.added_us), (3, 4, 74_000));
    assert_eq!(
        (step.from, step.to),
        (Some([10, 0, 3, 1].into()), Some([10, 0, 4, 1].into()))
    );
}

#[test]
fn a_slow_answer_is_no_slow_path() {
    let calm = || trace(&[(1, 1), (2, 6), (3, 8)]);
    // Router 2 is busy: those behind it are as fast as ever.
    let busy = || trace(&[(1, 1), (2, 300), (3, 8)]);
    let traces = (0..5).map(|_| calm()).chain((0..9).map(|_| busy()));
    assert_eq!(told(&mut Watch::default(), traces), []);
}

#[test]
fn another_route_within_two_traces() {
    let one = || trace(&[(1, 1), (2, 6), (3, 8)]);
    let other = || trace(&[(1, 1), (7, 6), (8, 7), (3, 8)]);
    let traces = (0..4).map(|_| one()).chain((0..4).map(|_| other()));
    let told = told(&mut Watch::default(), traces);
    let [(5, Change::Route { before, after })] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!((before.len(), after.len()), (3, 4));
}

#[test]
fn silence_is_no_change() {
    let mut watch = Watch::default();
    let traces = [
        trace(&[(1, 1), (0, 0), (3, 8)]),
        trace(&[(1, 1), (2, 6), (3, 8)]),
        trace(&[(0, 0), (2, 6), (3, 8)]),
        trace(&[(1, 1), (2, 6), (0, 0)]),
        trace(&[(1, 1), (0, 0), (3, 8)]),
    ];
    assert_eq!(told(&mut watch, traces), []);
    // One trace is not believed, the same one again is.
    let other = || trace(&[(1, 1), (9, 6), (3, 8)]);
    assert_eq!(
        told(&mut watch, [other(), trace(&[(1, 1), (2, 6), (3, 8)]), other()]),
        []
    );
    assert_eq!(told(&mut watch, [other()]).len(), 1);
}

#[test]
fn flapping_is_counted_and_told_three_times() {
    let route = |number: usize| trace(&[(1, 1), (2 + (number / 2 % 2) as u8, 6), (5, 8)]);
    let mut watch = Watch::default();
    // A change every two traces of ten seconds.
    let told = (0..60).filter(|at| watch.trace(&route(*at), ABOVE_US, *at as u64 * CYCLE_NS / 6).is_some());
    assert_eq!(told.count(), 3);
    assert_eq!(watch.changes(), 29);
}

proptest! {
    /// Ten quiet minutes, whatever the jitter below the limit, with answers that get lost and hops that fall silent.
    #[test]
    fn ten_quiet_minutes_are_silent(
        traces in proptest::collection::vec(proptest::array::uniform4((0_u64..19, 0_u8..10)), 60..300),
        every_s in 2_u64..11,
    ) {
        let mut watch = Watch::default();
        for (at, jitters) in traces.iter().enumerate() {
            let mut hops: Vec<(u8, u64)> = (1..).zip([1, 6, 8, 48]).collect();
            for ((number, ms), (jitter, luck)) in hops.iter_mut().zip(jitters) {
                *ms += jitter;
                // One of ten hops says nothing.
                *number = if *luck == 0 { 0 } else { *number };
            }
            let record = PathRecord { reached: hops[3].0 > 0, ..trace(&hops) };
            let at_ns = at as u64 * every_s * 1_000_000_000;
            prop_assert_eq!(watch.trace(&record, ABOVE_US, at_ns), None);
        }
        prop_assert_eq!(watch.changes(), 0);
    }
}

/// Ten quiet minutes with jitter: a trace every two seconds, round trips up to 12 ms later than usual at any hop.
#[test]
fn jitter_is_no_event() {
    let mut random = 7_u64;
    let mut jitter = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 40) % 13
    };
    let traces: Vec<_> = (0..300)
        .map(|_| trace(&[(1, 1 + jitter()), (2, 6 + jitter()), (3, 50 + jitter())]))
        .collect();
    assert_eq!(told(&mut Watch::default(), traces), []);
}
