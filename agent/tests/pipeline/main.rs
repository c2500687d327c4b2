//! Userspace from the bytes of a ring buffer to records and scrapes, through the public face of the crate alone.
//!
//! `decode`: bytes to events. `life`: connections, with events lost and out of order. `names`: under which name they are
//! counted. `owners`: processes by time, listeners, late sockets. `choices`: groups, fallbacks, declared destinations.
//! `dns`: names. `pods`: names of pods, and who waits for them. `spikes`: of RTT. `turns`: their own small events.
//! `staying`: sockets that stay. `sums`: nothing is lost or counted twice, whatever comes. `scrape`: what exporters show.
mod choices;
mod decode;
mod dns;
mod events;
mod life;
mod names;
mod outcomes;
mod owners;
mod pods;
mod scrape;
mod spikes;
mod staying;
mod sums;
mod turns;

use hopline::{
    aggregate::DestinationSnapshot,
    connection::ConnectionRecord,
    pipeline::{Output, Pipeline, PipelineSettings},
};

/// An empty pipeline that collects records.
fn pipeline() -> Pipeline {
    let settings = PipelineSettings {
        node: "n1".into(),
        boot_id: "boot".into(),
        ..PipelineSettings::default()
    };
    let mut pipeline = Pipeline::new(settings);
    pipeline.set_collect(true);
    pipeline
}

/// The pipeline after these events.
fn run(samples: &[Vec<u8>]) -> Pipeline {
    let mut pipeline = pipeline();
    for sample in samples {
        pipeline.apply(sample);
    }
    pipeline
}

/// Records of the connections that have ended.
fn records(pipeline: &mut Pipeline) -> Vec<ConnectionRecord> {
    let mut outputs = Vec::new();
    pipeline.take_outputs(&mut outputs);
    let finished = |output| match output {
        Output::Finished(record) => *record,
        other => panic!("no end of a connection: {other:?}"),
    };
    outputs.into_iter().map(finished).collect()
}

fn only_record(samples: &[Vec<u8>]) -> ConnectionRecord {
    let mut records = records(&mut run(samples));
    assert_eq!(records.len(), 1);
    records.remove(0)
}

fn only_destination(pipeline: &Pipeline) -> DestinationSnapshot {
    let snapshot = pipeline.snapshot();
    assert_eq!(snapshot.destinations.len(), 1, "{:?}", snapshot.destinations);
    snapshot.destinations[0].clone()
}
