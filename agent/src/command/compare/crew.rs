//! The threads that fetch. Each has a runtime of its own: the cryptography of one handshake does not hold up another.
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{runtime, sync::mpsc};

use super::Plan;
use crate::fetch::Fetched;

/// Threads at work; dropping it lets each end after its request.
#[derive(Debug)]
pub(super) struct Crew {
    results: mpsc::Receiver<(usize, Fetched)>,
}

impl Crew {
    /// Sets all to work. Request by request the URLs take turns, so that a slow moment of this machine hits all alike.
    pub(super) fn start(plan: &Arc<Plan>) -> io::Result<Self> {
        let (sender, results) = mpsc::channel(plan.concurrency);
        let taken = Arc::new(AtomicUsize::new(0));
        for _ in 0..plan.concurrency.min(plan.total()) {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let (plan, taken, sender) = (Arc::clone(plan), Arc::clone(&taken), sender.clone());
            let work = move || {
                work(&runtime, &plan, &taken, &sender);
                // A look-up that hangs must not keep the thread.
                runtime.shutdown_background();
            };
            thread::Builder::new().name("fetcher".to_owned()).spawn(work)?;
        }
        Ok(Self { results })
    }

    /// The next request that ended, and of which target; `None` after the last.
    pub(super) async fn next(&mut self) -> Option<(usize, Fetched)> {
        self.results.recv().await
    }
}

fn work(runtime: &runtime::Runtime, plan: &Plan, taken: &AtomicUsize, sender: &mpsc::Sender<(usize, Fetched)>) {
    loop {
        let number = taken.fetch_add(1, Ordering::Relaxed);
        if number >= plan.total() {
            return;
        }
        let target = number % plan.targets.len();
        let fetched = runtime.block_on(plan.client.fetch(&plan.targets[target]));
        if sender.blocking_send((target, fetched)).is_err() {
            // Nobody waits any more.
            return;
        }
    }
}
