//! Any sequence of samples leaves a pipeline whose sums add up, whose limits hold, and whose scrape can be written.
//!
//! The input is a sequence of samples, each after its length in two bytes, little-endian; an empty one is a tick.
#![no_main]

use hopline::{
    declared::Declaration,
    export::prometheus::encode,
    pipeline::{Pipeline, PipelineSettings},
    selfmetrics::SelfMetrics,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let settings = PipelineSettings {
        max_connections: 4,
        max_processes: 4,
        max_series: 400,
        declared: vec![Declaration {
            name: "all".to_owned(),
            process: Some("*".to_owned()),
            workload: None,
            cgroup: None,
            destinations: vec!["group:go".parse().expect("a destination")],
        }],
        ..PipelineSettings::default()
    };
    let mut pipeline = Pipeline::new(settings);
    pipeline.set_collect(true);
    let (mut rest, mut now_ns) = (bytes, 0_u64);
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (sample, after) = after.split_at(after.len().min(usize::from(u16::from_le_bytes(*length))));
        rest = after;
        if sample.is_empty() {
            now_ns = now_ns.saturating_add(3_600_000_000_000);
            pipeline.tick(now_ns);
        } else {
            pipeline.apply(sample);
        }
    }
    pipeline.settle();
    let snapshot = pipeline.snapshot();
    for totals in &snapshot.totals {
        let mut sum = totals.series.clone();
        sum.add(&totals.expired);
        assert_eq!(sum, totals.truth);
    }
    assert!(snapshot.fallbacks.len() <= 220 && snapshot.undeclared.len() <= 202);
    assert!(snapshot.counts.connections <= 4 && snapshot.counts.processes <= 4);
    assert!(encode(&snapshot, &SelfMetrics::default()).ends_with("# EOF\n"));
});
