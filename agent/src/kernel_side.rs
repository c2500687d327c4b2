//! The thread that owns the kernel side: it walks over open connections, reads counters and detaches, all of which block.
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

use nix::time::{ClockId, clock_gettime};
use tokio::sync::{oneshot, watch};

use crate::{
    bpf::{BpfError, KernelCounts, Probes},
    memory::SocketRoom,
    privileges,
    selfmetrics::{CgroupThrottled, FeatureState, ProgramStats},
};

/// Requests that may wait at once; more are refused.
const REQUESTS: usize = 16;
/// Open connections are reported this often: what waits is known at most this much later than it might be.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// A walk over the open files of all processes (kernels from 7.0; some 0.4 µs for each) takes as long as strangers have files: so
/// many times the processor's time that it took passes until the next one, so that walks take 5 % of one at most.
const WALK_SHARE: u32 = 20;
/// However long it took.
const LONGEST_REST: Duration = Duration::from_secs(5);

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
    /// Moves `probes` to a thread of their own, which begins with a search for sockets that are open already.
    ///
    /// `kernel_bytes` is how much kernel memory may be used beyond what is loaded now: most of it is for watched sockets.
    pub fn start(probes: Probes, kernel_bytes: u64) -> io::Result<Self> {
        let features = probes.features().into();
        let (requests, inbox) = sync_channel(REQUESTS);
        let (done, walked) = watch::channel(false);
        thread::Builder::new()
            .name("kernel-side".to_owned())
            .spawn(move || run(probes, SocketRoom::beside_what_is_loaded(kernel_bytes), &inbox, &done))?;
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

fn run(mut probes: Probes, mut room: Option<SocketRoom>, inbox: &Receiver<Request>, walked: &watch::Sender<bool>) {
    if room.is_none() {
        tracing::info!("no cgroup with a memory controller is hopline's alone: watched sockets have no bound");
    }
    if let Err(error) = probes.find_existing() {
        tracing::warn!(%error, "sockets opened before the start may be missing");
    }
    walked.send_replace(true);
    privileges::drop_capabilities(privileges::Keep::default());
    let (mut report_at, mut weigh_at) = (Instant::now() + REPORT_EVERY, Instant::now());
    loop {
        let next = if room.is_some() {
            report_at.min(weigh_at)
        } else {
            report_at
        };
        match inbox.recv_timeout(next.saturating_duration_since(Instant::now())) {
            // Whoever asked may have gone since.
            Ok(Request::Numbers(answer)) => drop(answer.send(numbers(&probes))),
            Ok(Request::Detach(answer)) => {
                let last = numbers(&probes);
                probes.release();
                drop(probes);
                drop(answer.send(last));
                return;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Whoever asks all the time must not keep the rest from its turn.
        if let Some(room) = room.as_mut().filter(|_| Instant::now() >= weigh_at) {
            if let Some(refuse) = room.changed() {
                refuse_sockets(&mut probes, refuse);
            }
            weigh_at = Instant::now() + room.rest();
        }
        if Instant::now() >= report_at {
            report_at = Instant::now() + report(&mut probes);
        }
    }
}

fn refuse_sockets(probes: &mut Probes, refuse: bool) {
    if let Err(error) = probes.refuse_sockets(refuse) {
        tracing::warn!(%error, "watched sockets are not bounded");
    } else if refuse {
        tracing::warn!("as many sockets are watched as `limits.connections` allows: new ones are not");
    } else {
        tracing::info!("new sockets are watched again");
    }
}

/// One walk over open connections, and how long to wait for the next.
fn report(probes: &mut Probes) -> Duration {
    let (began, worked) = (Instant::now(), processor_time());
    if let Err(error) = probes.report_open() {
        tracing::warn!(%error, "open connections are not reported");
    }
    let worked = processor_time().saturating_sub(worked);
    if let Err(error) = probes.stop_tracing_states() {
        tracing::warn!(%error, "changes of state are traced for longer than needed");
    }
    from_walk_to_walk(worked, probes.looks_at_all_files()).saturating_sub(began.elapsed())
}

/// From the begin of one walk over open connections to the next.
fn from_walk_to_walk(worked: Duration, over_files: bool) -> Duration {
    if over_files {
        (worked * WALK_SHARE).clamp(REPORT_EVERY, LONGEST_REST)
    } else {
        REPORT_EVERY
    }
}

/// Of this thread, since its start. Not the time that passed: a busy node makes no walk dearer.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_walks_rest_longer() {
        let check = |walk_ms, over_files, rest_ms| {
            let rest = from_walk_to_walk(Duration::from_millis(walk_ms), over_files);
            assert_eq!(rest, Duration::from_millis(rest_ms), "{walk_ms} ms");
        };
        check(0, true, 1000);
        check(20, true, 1000);
        check(60, true, 1200);
        check(900, true, 5000);
        check(900, false, 1000);
    }
}
