//! The thread that owns the kernel side: it walks over existing sockets, reads counters and detaches, all of which block.
//!
//! Started by `agent`; everybody else asks through a [`KernelSide`].
use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use crate::{
    bpf::{BpfError, KernelCounts, Probes},
    privileges,
    selfmetrics::{CgroupThrottled, FeatureState, ProgramStats},
};

/// Requests that may wait at once; more are refused.
const REQUESTS: usize = 16;
/// Open connections are told of this often: what waits is known at most this much later than it might be.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Where late sockets get no callbacks, all sockets are looked at after this many of those rounds.
const ROUNDS_PER_WALK: u32 = 5;

/// What the kernel programs counted.
#[derive(Clone, Debug, Default)]
pub struct KernelNumbers {
    /// Events by kind.
    pub counts: Vec<KernelCounts>,
    /// Losses that are no events.
    pub failures: Vec<(&'static str, u64)>,
    /// Events held back by cgroup.
    pub throttled: Vec<CgroupThrottled>,
    /// Cost of each program.
    pub programs: Vec<ProgramStats>,
}

#[derive(Debug)]
enum Request {
    Numbers(oneshot::Sender<KernelNumbers>),
    /// Detach everything, then answer with the last numbers and end.
    Detach(oneshot::Sender<KernelNumbers>),
}

/// How to ask the thread.
#[derive(Clone, Debug)]
pub struct KernelSide {
    requests: SyncSender<Request>,
    walked: watch::Receiver<bool>,
    features: Arc<[FeatureState]>,
}

impl KernelSide {
    /// Moves `probes` to a thread of their own, which begins with a walk over the existing sockets.
    pub fn start(probes: Probes) -> io::Result<Self> {
        let features = probes.features().into();
        let (requests, inbox) = sync_channel(REQUESTS);
        let (done, walked) = watch::channel(false);
        thread::Builder::new()
            .name("kernel-side".to_owned())
            .spawn(move || run(probes, &inbox, &done))?;
        Ok(Self {
            requests,
            walked,
            features,
        })
    }

    /// Which hook serves each feature.
    pub fn features(&self) -> &[FeatureState] {
        &self.features
    }

    /// Whether the existing sockets were looked at.
    pub fn is_ready(&self) -> bool {
        *self.walked.borrow()
    }

    /// Waits until the existing sockets were looked at.
    pub async fn ready(&self) {
        // An error means that the thread has ended: there is nothing to wait for.
        drop(self.walked.clone().wait_for(|walked| *walked).await);
    }

    /// The numbers now; `None` while too many ask or after the end.
    pub async fn numbers(&self) -> Option<KernelNumbers> {
        self.ask(Request::Numbers).await
    }

    /// Detaches all programs and ends the thread. The rings stay as they are until their reader ends.
    pub async fn detach(&self) -> Option<KernelNumbers> {
        self.ask(Request::Detach).await
    }

    async fn ask(&self, request: impl FnOnce(oneshot::Sender<KernelNumbers>) -> Request) -> Option<KernelNumbers> {
        let (answer, numbers) = oneshot::channel();
        self.requests.try_send(request(answer)).ok()?;
        numbers.await.ok()
    }
}

fn run(mut probes: Probes, inbox: &Receiver<Request>, walked: &watch::Sender<bool>) {
    walk(&mut probes);
    walked.send_replace(true);
    let walks_on = probes.needs_walks();
    if !walks_on {
        privileges::drop_capabilities(privileges::Keep::default());
    }
    let mut due = Instant::now() + TELL_EVERY;
    let mut rounds = 0;
    loop {
        match inbox.recv_timeout(due.saturating_duration_since(Instant::now())) {
            // Whoever asked may have gone since.
            Ok(Request::Numbers(answer)) => drop(answer.send(numbers(&probes))),
            Ok(Request::Detach(answer)) => {
                let last = numbers(&probes);
                drop(probes);
                drop(answer.send(last));
                return;
            }
            Err(RecvTimeoutError::Timeout) => {
                due = Instant::now() + TELL_EVERY;
                rounds += 1;
                if let Err(error) = probes.tell_open() {
                    tracing::warn!(%error, "open connections are not told of");
                }
                if walks_on && rounds % ROUNDS_PER_WALK == 0 {
                    walk(&mut probes);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn walk(probes: &mut Probes) {
    if let Err(error) = probes.find_existing() {
        tracing::warn!(%error, "sockets opened before the start may be missing");
    }
}

/// All numbers; what cannot be read is told and left out.
fn numbers(probes: &Probes) -> KernelNumbers {
    fn told<T: Default>(numbers: Result<T, BpfError>) -> T {
        numbers.unwrap_or_else(|error| {
            tracing::warn!(%error, "numbers of the kernel side are missing");
            T::default()
        })
    }
    KernelNumbers {
        counts: told(probes.counts()),
        failures: told(probes.failures()),
        throttled: told(probes.shares()),
        programs: probes.program_stats(),
    }
}
