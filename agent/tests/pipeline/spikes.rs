//! RTT spikes from events: once for a destination, with its worst connections, the same on a replay, none from silence.
use agent_ebpf::{
    connection::{ConnectionState, Retransmits, RttSamples},
    event::{CONNECTION_OPEN, CONNECTION_UPDATE},
};
use hopline::{
    events::{SpikeRecord, SpikeSettings},
    pipeline::{Output, Pipeline, PipelineSettings},
};
use std::time::Duration;

use super::events::{MILLISECOND, SECOND, child, close, connection, established, exec, fork, ipv4};

/// What one connection's path is like in each second: milliseconds, and segments that are sent again.
type Path = fn(second: u64, cookie: u64) -> (u64, u32);

/// Some connections that report every second, and the agent's clock four times as often. `extra`: more events in a second.
struct Story {
    settings: SpikeSettings,
    connections: u64,
    seconds: u64,
    path: Path,
    state: fn(u64) -> ConnectionState,
    extra: fn(second: u64) -> Vec<Vec<u8>>,
}

impl Story {
    fn of(path: Path) -> Self {
        Self {
            settings: SpikeSettings {
                retransmits_above: None,
                rtt_delta_above: Duration::from_millis(50),
                ..SpikeSettings::default()
            },
            connections: 1,
            seconds: 120,
            path,
            state: |cookie| ConnectionState {
                pid: 40 + (cookie % 2) as u32,
                ..established(cookie)
            },
            extra: |_| Vec::new(),
        }
    }

    fn tell(&self) -> Pipeline {
        let mut pipeline = Pipeline::new(PipelineSettings {
            node: "n1".into(),
            boot_id: "boot".into(),
            rtt_spike: self.settings,
            ..PipelineSettings::default()
        });
        pipeline.apply(&fork(1, 7, 1, "init"));
        pipeline.apply(&exec(1, 7, 1, "/bin/sh"));
        for pid in [40, 41] {
            pipeline.apply(&fork(1, pid, 7, "sh"));
            pipeline.apply(&exec(2, pid, 7, "/bin/worker"));
        }
        let mut states: Vec<ConnectionState> = (1..=self.connections).map(self.state).collect();
        for second in 2..self.seconds {
            let now_ns = second * SECOND;
            for state in &mut states {
                let (rtt_ms, again) = (self.path)(second, state.cookie);
                let kind = if second == 2 {
                    CONNECTION_OPEN
                } else {
                    CONNECTION_UPDATE
                };
                let min_us = (rtt_ms * 1_000) as u32;
                state.rtt = RttSamples {
                    sum_us: state.rtt.sum_us + 4 * rtt_ms * 1_000,
                    count: state.rtt.count + 4,
                    min_us: if state.rtt.count == 0 {
                        min_us
                    } else {
                        state.rtt.min_us.min(min_us)
                    },
                    var_us: 0,
                    gate: 0,
                };
                state.retransmits.rto += again;
                pipeline.apply(&connection(kind, now_ns + MILLISECOND, *state));
            }
            for event in (self.extra)(second) {
                pipeline.apply(&event);
            }
            (1..=4).for_each(|quarter| pipeline.tick(now_ns + quarter * SECOND / 4 - 1));
        }
        pipeline
    }
}

fn spikes(pipeline: &Pipeline) -> Vec<SpikeRecord> {
    let spike = |output: &Output| match output {
        Output::Spike(record) => (**record).clone(),
        other => panic!("no spike: {other:?}"),
    };
    pipeline.events().iter().map(|event| spike(event)).collect()
}

/// The second of a record's time; the clock of these stories begins at 1970.
fn second(record: &SpikeRecord) -> u64 {
    let time = &record.time[11..19];
    let parts: Vec<u64> = time.split(':').map(|part| part.parse().expect("a number")).collect();
    parts[0] * 3_600 + parts[1] * 60 + parts[2]
}

const STEP: Path = |second, _| if (60..80).contains(&second) { (160, 0) } else { (10, 0) };

#[test]
fn a_step_is_one_spike_with_its_evidence() {
    let pipeline = Story::of(STEP).tell();
    let [spike, over] = &spikes(&pipeline)[..] else {
        panic!("{:?}", spikes(&pipeline))
    };
    assert_eq!(
        (spike.r#type, over.r#type, spike.id == over.id),
        ("rtt_spike", "rtt_spike_over", true)
    );
    assert!(
        (60..66).contains(&second(spike)) && (80..86).contains(&second(over)),
        "{spike:?} {over:?}"
    );
    let window = spike.window.as_ref().expect("a window");
    let near = |measured: u64, truth: u64| measured.abs_diff(truth) * 100 <= truth;
    assert!(
        near(window.p50_us, 160_000) && near(window.baseline_us, 10_000),
        "{window:?}"
    );
    assert!(window.rtt_delta_us.abs_diff(window.p50_us - window.baseline_us) <= 1);
    assert!(
        (10..=24).contains(&window.samples) && window.from < window.to,
        "{window:?}"
    );
    let destination = &spike.destination;
    assert_eq!(
        (destination.host.as_str(), destination.port, spike.scope),
        ("10.0.0.2", 443, "connection")
    );
    let [worst] = &spike.connections[..] else {
        panic!("{spike:?}")
    };
    assert_eq!(
        (worst.id.as_str(), worst.process.comm.as_deref()),
        ("boot-1", Some("worker"))
    );
    let [process] = &spike.processes[..] else {
        panic!("{spike:?}")
    };
    assert_eq!(
        (process.pid, process.connections, &process.ancestry[..]),
        (Some(41), 1, &["sh".to_owned()][..])
    );
    assert_eq!((over.over, near(over.peak_us, 160_000)), (Some("calm"), true));
    assert!(
        over.duration_us
            .is_some_and(|us| (15_000_000..25_000_000).contains(&us))
    );
    assert!(pipeline.snapshot().active_rules.is_empty());
}

#[test]
fn many_connections_are_one_spike_of_their_destination() {
    let story = Story {
        connections: 30,
        path: |second, cookie| {
            let is_slow = (60..80).contains(&second) && cookie > 3;
            (if is_slow { 100 + cookie } else { 10 }, 0)
        },
        ..Story::of(STEP)
    };
    let all = spikes(&story.tell());
    assert_eq!(
        all.iter().map(|spike| spike.r#type).collect::<Vec<_>>(),
        ["rtt_spike", "rtt_spike_over"]
    );
    let worst: Vec<&str> = all[0].connections.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(worst.len(), 5);
    assert!(
        worst.iter().all(|id| !["boot-1", "boot-2", "boot-3"].contains(id)),
        "{worst:?}"
    );
    assert!(all[0].connections.is_sorted_by(|a, b| a.p50_us >= b.p50_us));
}

#[test]
fn the_default_asks_for_retransmissions_too() {
    let story = |path| Story {
        settings: SpikeSettings::default(),
        path,
        ..Story::of(STEP)
    };
    let slow: Path = |second, _| if (60..80).contains(&second) { (400, 0) } else { (10, 0) };
    assert_eq!(spikes(&story(slow).tell()), []);
    let lossy: Path = |second, _| if (60..80).contains(&second) { (10, 3) } else { (10, 0) };
    assert_eq!(spikes(&story(lossy).tell()), []);
    let both: Path = |second, _| if (60..80).contains(&second) { (400, 3) } else { (10, 0) };
    let found = spikes(&story(both).tell());
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].window.as_ref().is_some_and(|window| window.retransmits > 5));
}

#[test]
fn what_was_always_slow_is_no_spike() {
    assert_eq!(spikes(&Story::of(|_, _| (300, 0)).tell()), []);
    // Slowly worse and worse within the threshold.
    assert_eq!(spikes(&Story::of(|second, _| (10 + second / 3, 0)).tell()), []);
}

#[test]
fn a_connection_that_closes_takes_its_spike_with_it() {
    let story = Story {
        path: |second, _| if second >= 60 { (160, 0) } else { (10, 0) },
        seconds: 70,
        ..Story::of(STEP)
    };
    let mut pipeline = story.tell();
    assert_eq!(spikes(&pipeline).len(), 1);
    let active = &pipeline.snapshot().active_rules;
    assert_eq!(
        active
            .iter()
            .map(|active| (active.rule, active.destination.as_str()))
            .collect::<Vec<_>>(),
        [("rtt_spike", "10.0.0.2")]
    );
    pipeline.apply(&close(70 * SECOND, (story.state)(1)));
    (70..90).for_each(|second| pipeline.tick(second * SECOND));
    let over = &spikes(&pipeline)[1];
    // The destination's own window showed it too, and nobody is left to say that it is calm.
    assert!(matches!(over.over, Some("closed" | "silent")), "{over:?}");
}

#[test]
fn a_replay_tells_the_same() {
    let story = Story {
        connections: 7,
        ..Story::of(STEP)
    };
    let (first, second) = (story.tell(), story.tell());
    assert_eq!(spikes(&first), spikes(&second));
    assert_eq!(first.snapshot().destinations, second.snapshot().destinations);
}

#[test]
fn clocks_that_stand_or_step_back_invent_nothing() {
    let story = Story {
        // Late events of other connections, from the past and from far ahead.
        extra: |second| {
            let late = ConnectionState {
                remote_address: ipv4([10, 0, 0, 9]),
                rtt: RttSamples {
                    sum_us: second * 10_000,
                    count: second as u32,
                    min_us: 10_000,
                    ..RttSamples::default()
                },
                ..established(99)
            };
            let time_ns = if second % 2 == 0 { SECOND } else { u64::MAX / 2 };
            vec![connection(CONNECTION_UPDATE, time_ns, late)]
        },
        ..Story::of(STEP)
    };
    let mut pipeline = story.tell();
    assert_eq!(spikes(&pipeline).len(), 2, "{:?}", spikes(&pipeline));
    // The clock stands still, and goes back.
    let before = pipeline.snapshot();
    (0..100).for_each(|_| pipeline.tick(119 * SECOND));
    (0..50).for_each(|second| pipeline.tick(second * SECOND));
    assert_eq!(
        (spikes(&pipeline).len(), pipeline.snapshot().destinations),
        (2, before.destinations)
    );
}

#[test]
fn both_sides_have_windows_and_a_short_connection_has_none() {
    let mut pipeline = Story {
        state: |cookie| child(cookie, 500),
        connections: 2,
        ..Story::of(STEP)
    }
    .tell();
    assert_eq!(spikes(&pipeline)[0].destination.port, 8_080);
    let samples = RttSamples {
        sum_us: 10_000_000,
        count: 10,
        min_us: 1_000_000,
        ..RttSamples::default()
    };
    let short = ConnectionState {
        rtt: samples,
        retransmits: Retransmits {
            rto: 90,
            ..Retransmits::default()
        },
        established_ns: 129 * SECOND,
        ..established(1_000)
    };
    pipeline.apply(&connection(CONNECTION_OPEN, 130 * SECOND, short));
    (130..140).for_each(|second| pipeline.tick(second * SECOND));
    assert_eq!(spikes(&pipeline).len(), 2);
}
