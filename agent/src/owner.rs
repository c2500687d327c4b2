//! The one task that owns the pipeline and the recording; everything that happens to them is an [`Input`].
//!
//! Reads the clock for the pipeline, which must not. Started by `agent`.
use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};

use crate::{
    aggregate::Snapshot,
    host,
    pipeline::{Output, Pipeline},
    reader::Batch,
    recording::Recorder,
};

/// How often the pipeline learns the time: `STUCK` lines and waiting gauges are at most this late.
const TICK: Duration = Duration::from_millis(250);
/// Ticks after which the clock offset is read again: 10 s.
const TICKS_PER_CLOCK: u32 = 40;

/// Everything that can happen to the owner beside the clock.
#[derive(Debug)]
pub enum Input {
    /// Events from the rings.
    Batch(Batch),
    /// Somebody wants to see the numbers.
    Scrape(oneshot::Sender<Scrape>),
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
                    // Whoever asked may have gone since.
                    Some(Input::Scrape(answer)) => drop(answer.send(self.scrape())),
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
            self.hand_out(&mut outputs).await;
        }
        self.tick();
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
        self.set_collect();
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
