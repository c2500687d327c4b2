//! The one task that owns the pipeline and the recording; everything that happens to them is an [`Input`].
//!
//! Reads the clock for the pipeline, which must not. Started by `agent`.
use std::{
    collections::HashSet,
    sync::{Arc, mpsc::SyncSender},
    time::Duration,
};

use bytes::{Buf as _, BufMut as _, BytesMut};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};

use crate::{
    aggregate::Snapshot,
    host,
    path::Candidate,
    pipeline::{Output, Pipeline},
    recording::Recorder,
    sockets::SweepReport,
    tracer::Traced,
    workloads::Change,
};

/// How often the pipeline learns the time: `STUCK` lines and waiting gauges are at most this late.
const TICK: Duration = Duration::from_millis(250);
/// Ticks after which the clock offset is read again: 10 s.
const TICKS_PER_CLOCK: u32 = 40;

/// Bytes of one batch.
const BATCH_BYTES: usize = 1 << 18;
/// Room for one more event that a batch must still have; no event is longer.
const SAMPLE_ROOM: usize = 4096;

/// Some events, each behind its length.
#[derive(Debug)]
pub struct Batch(BytesMut);

impl Batch {
    /// A batch without events.
    pub fn empty() -> Self {
        Self(BytesMut::with_capacity(BATCH_BYTES))
    }

    /// Whether the next event might not fit.
    pub fn is_full(&self) -> bool {
        self.0.len() + SAMPLE_ROOM > BATCH_BYTES
    }

    /// Adds an event.
    pub fn push(&mut self, sample: &[u8]) {
        self.0.put_u32_ne(sample.len() as u32);
        self.0.put_slice(sample);
    }

    /// How much it holds, lengths included.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// Forgets its events and keeps its memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The events in it.
    pub fn samples(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let length = rest.get_u32_ne() as usize;
            let (sample, tail) = rest.split_at(length);
            rest = tail;
            Some(sample)
        })
    }
}

/// Everything that can happen to the owner beside the clock.
#[derive(Debug)]
pub enum Input {
    /// Events from the rings.
    Batch(Batch),
    /// What the kernel's list of sockets says.
    Swept(Box<SweepReport>),
    /// What a source of pods says.
    Pods(Change),
    /// What came of a trace.
    Traced(Box<Traced>),
    /// Somebody wants to see the numbers.
    Scrape(oneshot::Sender<Scrape>),
    /// Somebody wants to see the last events.
    Events(oneshot::Sender<Vec<Arc<Output>>>),
    /// No more events will come: finish and end.
    Finish,
}

/// What a scrape gets.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// The pipeline's picture.
    pub snapshot: Snapshot,
    /// Inputs that are missing in the recording.
    pub recording_dropped: u64,
}

/// Who gets single connections.
#[derive(Debug)]
pub enum Listener {
    /// One listener that gets all of them: the owner waits for it, and the kernel's ring fills up meanwhile.
    All(mpsc::Sender<Vec<Output>>),
    /// Any number of listeners that miss what they are too slow for.
    Stream(broadcast::Sender<Arc<Output>>),
}

/// The task's state.
#[derive(Debug)]
pub struct Owner {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// The recording, when one is made.
    pub recorder: Option<Recorder>,
    /// Who gets single connections.
    pub listener: Listener,
    /// Where batches go when they are through.
    pub spent: mpsc::Sender<Batch>,
    /// Who lists the sockets of namespaces; takes an order only when it has nothing to do.
    pub sweeper: Option<SyncSender<HashSet<u32>>>,
    /// Who asks for pods; is told when one is met that is not known.
    pub pods: Option<mpsc::Sender<()>>,
    /// Who traces network paths; a list that it is too busy for is no loss, as the next one replaces it.
    pub tracer: Option<SyncSender<Vec<Candidate>>>,
}

impl Owner {
    /// Runs until [`Input::Finish`] or until nobody can send any more; gives the last numbers.
    pub async fn run(mut self, mut inputs: mpsc::Receiver<Input>) -> Scrape {
        self.set_clock();
        self.pipeline.seed();
        self.set_collect();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut until_clock = TICKS_PER_CLOCK;
        let mut outputs = Vec::new();
        loop {
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(Input::Batch(batch)) => self.apply(batch),
                    Some(Input::Swept(report)) => self.pipeline.swept(&report),
                    Some(Input::Pods(change)) => self.pipeline.pods(change, host::monotonic_ns()),
                    Some(Input::Traced(traced)) => self.traced(*traced),
                    // Whoever asked may have gone since.
                    Some(Input::Scrape(answer)) => drop(answer.send(self.scrape())),
                    Some(Input::Events(answer)) => drop(answer.send(self.pipeline.events())),
                    Some(Input::Finish) | None => break,
                },
                _ = ticks.tick() => {
                    until_clock -= 1;
                    if until_clock == 0 {
                        until_clock = TICKS_PER_CLOCK;
                        self.set_clock();
                    }
                    self.tick();
                }
            }
            self.ask_for_pods();
            self.hand_out(&mut outputs).await;
        }
        self.tick();
        self.pipeline.settle();
        self.hand_out(&mut outputs).await;
        self.scrape()
    }

    fn apply(&mut self, batch: Batch) {
        for sample in batch.samples() {
            if let Some(recorder) = &mut self.recorder {
                recorder.sample(sample);
            }
            self.pipeline.apply(sample);
        }
        // There is room for every batch; the reader may have ended.
        drop(self.spent.try_send(batch));
    }

    fn tick(&mut self) {
        let now_ns = host::monotonic_ns();
        if let Some(recorder) = &mut self.recorder {
            recorder.tick(now_ns);
        }
        self.pipeline.tick(now_ns);
        self.order_sweep();
        if let Some(tracer) = &self.tracer
            && let Some(candidates) = self.pipeline.trace_due()
        {
            drop(tracer.try_send(candidates));
        }
        self.set_collect();
    }

    /// Says that pods are waited for; one word is enough, however many.
    fn ask_for_pods(&self) {
        if let Some(pods) = &self.pods
            && self.pipeline.waits_for_pods()
        {
            // One word that waits to be read says as much as two.
            pods.try_send(()).ok();
        }
    }

    fn traced(&mut self, traced: Traced) {
        let path = traced.path.inspect_err(|error| {
            tracing::debug!(error, address = %traced.target.address, "a path could not be traced");
        });
        self.pipeline
            .traced(traced.target, path.ok(), traced.probes, traced.at_ns);
    }

    fn order_sweep(&mut self) {
        if let Some(sweeper) = &self.sweeper
            && let Some(order) = self.pipeline.sweep_due()
            && sweeper.try_send(order).is_err()
        {
            self.pipeline.sweep_skipped();
        }
    }

    /// Records are made only while somebody listens.
    fn set_collect(&mut self) {
        self.pipeline.set_collect(match &self.listener {
            Listener::All(listener) => !listener.is_closed(),
            Listener::Stream(listeners) => listeners.receiver_count() > 0,
        });
    }

    fn set_clock(&mut self) {
        let offset_ns = host::clock_offset_ns();
        if let Some(recorder) = &mut self.recorder {
            recorder.clock_offset(offset_ns);
        }
        self.pipeline.set_clock_offset(offset_ns);
    }

    fn scrape(&self) -> Scrape {
        let recording_dropped = self.recorder.as_ref().map_or(0, Recorder::dropped);
        Scrape {
            snapshot: self.pipeline.snapshot(),
            recording_dropped,
        }
    }

    async fn hand_out(&mut self, outputs: &mut Vec<Output>) {
        self.pipeline.take_outputs(outputs);
        if outputs.is_empty() {
            return;
        }
        match &self.listener {
            // A listener that has gone wants nothing; the next tick stops the collection.
            Listener::All(listener) => drop(listener.send(std::mem::take(outputs)).await),
            Listener::Stream(listeners) => {
                for output in outputs.drain(..) {
                    drop(listeners.send(Arc::new(output)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::{
        config::RecordConfig,
        pipeline::PipelineSettings,
        recording::{Frame, Header, Reader, VERSION},
    };

    #[test]
    fn a_batch_gives_back_what_was_pushed() {
        let mut batch = Batch::empty();
        let samples: [&[u8]; 4] = [b"a", b"", b"ccc", &[7; 300]];
        for sample in samples {
            batch.push(sample);
        }
        assert!(batch.samples().eq(samples));
        batch.clear();
        assert_eq!((batch.samples().count(), batch.bytes()), (0, 0));
        while !batch.is_full() {
            batch.push(&[0; 1000]);
        }
        assert!((BATCH_BYTES - SAMPLE_ROOM..BATCH_BYTES).contains(&batch.bytes()));
    }

    #[tokio::test]
    async fn what_is_applied_is_recorded_in_order() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("r");
        let header = Header {
            version: VERSION,
            ..Header::default()
        };
        let recorder = Recorder::create(&path, &RecordConfig::default(), header).expect("create");
        let (spent, mut returned) = mpsc::channel(1);
        let (records, _) = mpsc::channel(1);
        let owner = Owner {
            pipeline: Pipeline::new(PipelineSettings::default()),
            recorder: Some(recorder),
            listener: Listener::All(records),
            spent,
            sweeper: None,
            pods: None,
            tracer: None,
        };
        let (inputs, inbox) = mpsc::channel(1);
        let task = tokio::spawn(owner.run(inbox));
        for number in 0..3_u8 {
            let mut batch = Batch::empty();
            batch.push(&[number; 8]);
            batch.push(&[number; 9]);
            inputs.send(Input::Batch(batch)).await.expect("the owner runs");
            returned.recv().await.expect("every batch comes back");
        }
        let (answer, scrape) = oneshot::channel();
        inputs.send(Input::Scrape(answer)).await.expect("the owner runs");
        assert_eq!(scrape.await.expect("an answer").snapshot.counts.malformed, 6);
        inputs.send(Input::Finish).await.expect("the owner runs");
        let last = task.await.expect("no panic");
        assert_eq!((last.snapshot.counts.malformed, last.recording_dropped), (6, 0));

        // Replayed, the recording gives the same.
        let mut replayed = Pipeline::new(PipelineSettings::default());
        let mut reader = Reader::new(File::open(path).expect("the recording"));
        let (mut samples, mut ticks, mut offsets) = (Vec::new(), 0, 0);
        while let Some(frame) = reader.next_frame().expect("readable") {
            match frame {
                Frame::Sample(sample) => {
                    replayed.apply(sample);
                    samples.push((sample[0], sample.len()));
                }
                Frame::Tick(_) => ticks += 1,
                Frame::ClockOffset(_) => offsets += 1,
                Frame::Header(_) => {}
            }
        }
        assert_eq!(samples, [(0, 8), (0, 9), (1, 8), (1, 9), (2, 8), (2, 9)]);
        assert!(ticks >= 1 && offsets == 1, "{ticks} {offsets}");
        assert_eq!(replayed.snapshot().counts, last.snapshot.counts);
    }
}
