//! Whatever comes, nothing panics and every observation is counted exactly once.
use agent_ebpf::connection::{ConnectionState, RttSamples};
use hopline::pipeline::{Pipeline, PipelineSettings};

use super::{
    events::{
        Random, SECOND, bytes, child, client, close, connection, established, exec, exit, fork, ipv4, moved, samples,
    },
    run,
};

#[test]
fn what_is_no_event_is_counted_and_skipped() {
    let mut pipeline = run(&[
        vec![],
        vec![0; 15],
        vec![0xff; 300],
        close(1, client(1))[..100].to_vec(),
    ]);
    let nobody = ConnectionState { role: 77, ..client(1) };
    pipeline.apply(&close(1, nobody));
    let counts = pipeline.snapshot().counts;
    assert_eq!((counts.malformed, counts.unknown_kind), (4, 1));
    assert!(pipeline.snapshot().destinations.is_empty());
}

/// Any events in any order: no panic, and every sum is accounted for.
#[test]
fn random_events_keep_the_sums() {
    let mut random = Random(42);
    let settings = PipelineSettings {
        max_connections: 50,
        max_processes: 40,
        max_series: 1_000,
        ..Default::default()
    };
    let mut pipeline = Pipeline::new(settings);
    pipeline.set_collect(true);
    let mut now_ns = SECOND;
    for step in 0..60_000 {
        now_ns += random.below(SECOND);
        let (cookie, pid) = (random.below(100) + 1, random.below(60) as u32 + 1);
        let mut sample = match random.below(9) {
            0 => fork(now_ns, pid, random.below(60) as u32, "f"),
            1 => exec(now_ns, pid, random.below(60) as u32, "/bin/x"),
            2 => exit(now_ns, pid),
            8 => {
                let all_us = [random.below(1 << 26) as u32, 10_000, 10_000];
                bytes(&samples(now_ns, cookie, &all_us))
            }
            kind => {
                let mut state = if random.below(2) == 0 {
                    established(cookie)
                } else {
                    child(cookie, cookie % 7)
                };
                state.remote_address = ipv4([10, 1, 0, random.below(40) as u8]);
                state.counters.bytes_sent = random.below(5_000);
                state.counters.segments_sent = random.next() as u32;
                state.rtt = RttSamples {
                    sum_us: random.below(9_999),
                    count: random.below(9) as u32,
                    ..moved().rtt
                };
                state.attempt = random.below(3) as u32;
                state.flags = random.below(128) as u8;
                state.tcp_state = random.below(14) as u8;
                state.pid = pid;
                if kind == 7 {
                    close(now_ns, state)
                } else {
                    connection(kind as u32 - 2, now_ns, state)
                }
            }
        };
        if random.below(10) == 0 {
            let at = 16 + random.below(sample.len() as u64 - 16) as usize;
            sample[at] = random.next() as u8;
        }
        pipeline.apply(&sample);
        if step % 64 == 0 {
            pipeline.tick(now_ns);
        }
        if step % 8_192 == 8_191 {
            for cookie in 1..=100 {
                pipeline.apply(&close(
                    now_ns,
                    ConnectionState {
                        attempt: 9,
                        ..established(cookie)
                    },
                ));
            }
            now_ns += 3 * 3_600 * SECOND;
            pipeline.tick(now_ns);
        }
    }
    let snapshot = pipeline.snapshot();
    for totals in &snapshot.totals {
        let mut sum = totals.series.clone();
        sum.add(&totals.expired);
        assert_eq!(sum, totals.truth);
        assert!(totals.expired.connects() > 0 && totals.truth.bytes_sent > 0);
    }
    assert!(snapshot.families.iter().any(|family| family.folded > 0));
    assert!(snapshot.families.iter().map(|family| family.series).sum::<u64>() <= 1_000);
    assert!(snapshot.counts.connections <= 50 && snapshot.counts.processes <= 40);
}
