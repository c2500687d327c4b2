//! Traces over a network that is made up: routers with delays, one way, and what they do to probes.
use std::{collections::BinaryHeap, net::IpAddr};

use proptest::prelude::*;

use super::*;
use crate::path::{
    PathRecord,
    answer::{read_ipv4, read_tcp_ipv6},
    build,
};

const MS: u64 = 1_000_000;

/// What a router, or the destination as the last of them, does.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Round trip from here, milliseconds.
    rtt_ms: u64,
    is_silent: bool,
    /// The first so many probes that would be answered here vanish.
    lose_first: u32,
}

fn node(rtt_ms: u64) -> Node {
    Node {
        rtt_ms,
        is_silent: false,
        lose_first: 0,
    }
}

fn flow(kind: Kind) -> Flow {
    Flow {
        kind,
        source: [10, 0, 0, 1].into(),
        source_port: 40_000,
        destination: [10, 9, 9, 9].into(),
        destination_port: 443,
    }
}

/// Runs a trace to its end; probes by TTL, resets, the most SYNs at the destination at a time, and how long it took.
struct Run {
    trace: Trace,
    sent: Vec<u8>,
    resets: usize,
    took_ms: u64,
    most_at_once: usize,
}

fn run(settings: Settings, nodes: &[Node]) -> Run {
    let mut nodes = nodes.to_vec();
    let flow = flow(Kind::Tcp);
    let mut trace = Trace::new(settings, flow);
    let mut due: BinaryHeap<std::cmp::Reverse<(u64, u8, u32)>> = BinaryHeap::new();
    let (mut now_ns, mut sent, mut resets, mut most_at_once) = (MS, Vec::new(), 0, 0);
    for _ in 0..1_000_000 {
        while let Some(std::cmp::Reverse((at_ns, ttl, tag))) = due.peek().copied()
            && at_ns <= now_ns
        {
            due.pop();
            let arrival = arrival(&flow, ttl, tag, nodes.len());
            trace.answer(&arrival, at_ns);
        }
        match trace.step(now_ns) {
            Step::Send { ttl, tag } => {
                trace.sent(now_ns);
                sent.push(ttl);
                let at = usize::from(ttl).min(nodes.len()) - 1;
                let node = &mut nodes[at];
                if node.lose_first > 0 {
                    node.lose_first -= 1;
                } else if !node.is_silent {
                    due.push(std::cmp::Reverse((now_ns + node.rtt_ms * MS, at as u8 + 1, tag)));
                }
                let end = nodes.len();
                most_at_once = most_at_once.max(due.iter().filter(|waiting| usize::from(waiting.0.1) == end).count());
            }
            Step::Reset { .. } => resets += 1,
            Step::Wait { until_ns } => {
                assert!(until_ns > now_ns, "it waits for what is to come");
                let next = due.peek().map_or(until_ns, |waiting| waiting.0.0.min(until_ns));
                now_ns = next.max(now_ns);
            }
            Step::Done => {
                let took_ms = now_ns / MS;
                return Run {
                    trace,
                    sent,
                    resets,
                    took_ms,
                    most_at_once,
                };
            }
        }
    }
    panic!("a trace ends");
}

/// The answer to the probe `tag` of the hop at `ttl`, through the parsers, as it would be on the wire.
fn arrival(flow: &Flow, ttl: u8, tag: u32, hops: usize) -> Arrival {
    if usize::from(ttl) == hops {
        let mut segment = Vec::new();
        segment.extend(flow.destination_port.to_be_bytes());
        segment.extend(flow.source_port.to_be_bytes());
        segment.extend([0, 0, 0, 9]);
        segment.extend(tag.wrapping_add(1).to_be_bytes());
        segment.extend([0x50, 0x12, 0, 0, 0, 0, 0, 0]);
        let read = read_tcp_ipv6([0; 8].into(), Some(50), &segment).expect("a segment");
        return Arrival {
            from: flow.destination,
            ..read
        };
    }
    let mut packet = vec![
        0x45, 0, 0, 0, 0, 0, 0, 0, 60, 1, 0, 0, 10, 0, ttl, 1, 10, 0, 0, 1, 11, 0, 0, 0, 0, 0, 0, 0,
    ];
    packet.extend(&build(flow, 1, tag)[..28]);
    read_ipv4(&packet).expect("an answer")
}

fn rounds(rounds: u32) -> Settings {
    Settings {
        rounds,
        interval_ns: 100 * MS,
        seed: 7,
        ..Settings::default()
    }
}

fn addresses(run: &Run) -> Vec<String> {
    let shown = |address: IpAddr| address.to_string();
    run.trace
        .hops()
        .iter()
        .map(|hop| hop.address().map_or_else(|| "?".to_owned(), shown))
        .collect()
}

#[test]
fn every_hop_and_its_time() {
    for parallel in [true, false] {
        let run = run(
            Settings { parallel, ..rounds(20) },
            &[node(1), node(6), node(8), node(48), node(51), node(51)],
        );
        assert_eq!(
            addresses(&run),
            ["10.0.1.1", "10.0.2.1", "10.0.3.1", "10.0.4.1", "10.0.5.1", "10.9.9.9"]
        );
        let p50 = |hop: &Hop| hop.p50_ns().map(|ns| ns / MS);
        let times: Vec<_> = run.trace.hops().iter().filter_map(p50).collect();
        assert_eq!(times, [1, 6, 8, 48, 51, 51]);
        assert!(
            run.trace
                .hops()
                .iter()
                .all(|hop| hop.answered() == 20 && hop.settled() == 20)
        );
        assert_eq!(
            (run.sent.len(), run.resets, run.trace.end()),
            (120, 0, Some(End::SynAck))
        );
        assert!(run.took_ms < 4_000, "{}", run.took_ms);
        assert_eq!(run.most_at_once, 1, "one SYN at a time can reach the server");
        let step = PathRecord::of(&run.trace, "x").step.expect("there is latency");
        assert_eq!((step.from_hop, step.to_hop, step.added_us), (3, 4, 40_000));
    }
}

#[test]
fn silent_hops_are_unknown_and_a_silent_destination_is_given_up() {
    let silent = Node {
        is_silent: true,
        ..node(0)
    };
    let among = run(rounds(3), &[node(1), silent, node(3), node(3)]);
    assert_eq!(addresses(&among), ["10.0.1.1", "?", "10.0.3.1", "10.9.9.9"]);
    let loss: Vec<_> = PathRecord::of(&among.trace, "x")
        .hops
        .iter()
        .map(|hop| hop.loss)
        .collect();
    assert_eq!(loss, [Some(0.0); 4]);

    let end = run(rounds(3), &[node(1), node(2), silent]);
    assert!(!end.trace.is_reached());
    // The search goes on behind it, later rounds only to where the destination might be.
    assert_eq!(addresses(&end), ["10.0.1.1", "10.0.2.1", "?"]);
    assert_eq!(end.sent.iter().filter(|ttl| **ttl > 3).count(), 4);
    assert_eq!(end.resets, 0, "nothing says that the server has heard of us");
    let nothing = run(rounds(3), &[silent]);
    assert_eq!((addresses(&nothing), nothing.trace.end()), (vec!["?".to_owned()], None));
}

#[test]
fn a_lost_answer_adds_no_hop() {
    let lossy = Node {
        lose_first: 1,
        ..node(5)
    };
    let run = run(rounds(4), &[node(1), lossy, lossy]);
    assert_eq!(addresses(&run), ["10.0.1.1", "10.0.2.1", "10.9.9.9"]);
    assert_eq!(run.trace.hops()[1].unanswered_ratio(), Some(0.25));
}

#[test]
fn a_syn_without_an_answer_is_taken_back() {
    let mut settings = rounds(4);
    settings.parallel = false;
    let flow = flow(Kind::Tcp);
    let mut trace = Trace::new(settings, flow);
    let mut now_ns = MS;
    let Step::Send { ttl: 1, tag } = trace.step(now_ns) else {
        panic!()
    };
    trace.sent(now_ns);
    assert!(trace.answer(&arrival(&flow, 1, tag, 1), now_ns + MS));
    let Step::Send { ttl: 1, tag: lost } = trace.step(now_ns + 2 * MS) else {
        panic!()
    };
    trace.sent(now_ns + 2 * MS);
    now_ns += 2 * MS + settings.timeout_ns;
    assert_eq!(trace.step(now_ns), Step::Reset { tag: lost });
    // What comes now is too late, and counts for nothing.
    assert!(!trace.answer(&arrival(&flow, 1, lost, 1), now_ns));
    assert_eq!(trace.counts().late, 1);
}

/// The server has not heard the RST for the first SYN: its ACK for that one answers the second.
#[test]
fn a_challenge_answers_the_last_syn() {
    let flow = flow(Kind::Tcp);
    let mut trace = Trace::new(rounds(4), flow);
    let Step::Send { tag: first, .. } = trace.step(MS) else {
        panic!()
    };
    trace.sent(MS);
    let challenge = |tag| {
        let mut arrival = arrival(&flow, 1, tag, 1);
        if let Answer::Tcp { syn_ack, ack, .. } = &mut arrival.answer {
            (*syn_ack, *ack) = (false, true);
        }
        arrival
    };
    assert!(!trace.answer(&challenge(first), 2 * MS), "nothing was acknowledged yet");
    assert!(trace.answer(&arrival(&flow, 1, first, 1), 2 * MS));
    let at_ns = 200 * MS;
    let Step::Send { .. } = trace.step(at_ns) else { panic!() };
    trace.sent(at_ns);
    assert!(!trace.answer(&challenge(first ^ 1), at_ns + MS), "not ours");
    assert!(trace.answer(&challenge(first), at_ns + MS));
    assert_eq!((trace.hops()[0].answered(), trace.hops()[0].p50_ns()), (2, Some(MS)));
}

#[test]
fn what_others_sent_is_not_taken_for_ours() {
    let flow = flow(Kind::Tcp);
    let mut trace = Trace::new(rounds(2), flow);
    let Step::Send { tag, .. } = trace.step(MS) else {
        panic!()
    };
    trace.sent(MS);
    let right = arrival(&flow, 1, tag, 2);
    let other = |change: fn(&mut Flow)| {
        let mut other = flow;
        change(&mut other);
        arrival(&other, 1, tag, 2)
    };
    for wrong in [
        arrival(&flow, 1, tag ^ 1, 2),
        other(|flow| flow.source_port += 1),
        other(|flow| flow.destination_port += 1),
        other(|flow| flow.source = [10, 0, 0, 2].into()),
        other(|flow| flow.destination = [10, 9, 9, 8].into()),
        // A segment of somebody who is not the destination.
        Arrival {
            from: [10, 9, 9, 8].into(),
            ..arrival(&flow, 2, tag, 2)
        },
    ] {
        assert!(!trace.answer(&wrong, 2 * MS), "{wrong:?}");
    }
    assert!(trace.answer(&right, 2 * MS));
    assert!(!trace.answer(&right, 2 * MS), "once");
    assert_eq!(trace.counts(), Counts { unrelated: 5, late: 2 });
}

#[test]
fn a_refusal_is_nobodys_hop() {
    let flow = flow(Kind::Tcp);
    let mut trace = Trace::new(rounds(2), flow);
    let mut now_ns = MS;
    for (ttl, refused) in [(1, false), (2, true)] {
        let Step::Send { ttl: sent, tag } = trace.step(now_ns) else {
            panic!()
        };
        assert_eq!(sent, ttl);
        trace.sent(now_ns);
        let mut arrival = arrival(&flow, ttl, tag, 9);
        if let (true, Answer::Expired(quoted)) = (refused, arrival.answer) {
            arrival.answer = Answer::Unreachable(Reason::Prohibited, quoted);
            arrival.from = [10, 0, 1, 1].into();
        }
        now_ns += MS;
        assert!(trace.answer(&arrival, now_ns));
    }
    let by = [10, 0, 1, 1].into();
    assert_eq!(trace.end(), Some(End::Unreachable(Reason::Prohibited, by)));
    assert_eq!(trace.hops().len(), 1);
    assert!(matches!(
        trace.step(now_ns),
        Step::Wait { .. } | Step::Send { ttl: 1, .. }
    ));
}

#[test]
fn no_more_hops_than_allowed() {
    let nodes = vec![node(1); 90];
    let settings = Settings {
        max_hops: 255,
        ..rounds(2)
    };
    let run = run(settings, &nodes);
    assert_eq!(run.trace.hops().len(), usize::from(Settings::MOST_HOPS));
    assert!(!run.trace.is_reached());
}

proptest! {
    #[test]
    fn every_trace_ends_and_loses_no_probe(
        nodes in proptest::collection::vec((0_u64..2_000, any::<bool>(), 0_u32..3), 1..12),
        count in 1_u32..6,
        parallel in any::<bool>(),
    ) {
        let nodes: Vec<Node> = nodes
            .into_iter()
            .map(|(rtt_ms, is_silent, lose_first)| Node { rtt_ms, is_silent, lose_first })
            .collect();
        let run = run(Settings { parallel, ..rounds(count) }, &nodes);
        for (at, hop) in run.trace.hops().iter().enumerate() {
            let sent = run.sent.iter().filter(|ttl| usize::from(**ttl) == at + 1).count() as u64;
            prop_assert_eq!(hop.settled(), sent);
        }
    }
}
