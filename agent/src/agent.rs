//! Builds every stage, wires them, and ends them in order. The only file that knows all stages.
//!
//! Kernel programs → rings → `reader` → `owner` (pipeline, recording) → a listener of records; `kernel_side` holds the
//! programs, `sweeper` lists sockets when `owner` asks. `command` starts it, with or without the HTTP server on top.
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use agent_ebpf::event::{KINDS, kind_name};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    task::{JoinError, JoinHandle},
    time::{sleep, timeout},
};

use crate::{
    aggregate::Snapshot,
    bpf::{self, BpfError, ProbeOptions, Probes},
    capacity::Share,
    config::{Config, Feature, TraceWhat},
    export::http,
    host::{self, Host},
    kernel_side::{KernelNumbers, KernelSide},
    kubernetes, memory,
    owner::{Input, Listener, Owner, Scrape},
    path::Candidate,
    pipeline::{Output, PathSettings, Pipeline, PipelineSettings},
    privileges::{self, Keep},
    reader,
    recording::{self, Recorder, RecordingError},
    selfmetrics::{FeatureState, KindCounts, SelfMetrics, TlsTargets, missing_core},
    sweeper, tls_targets,
    tracer::{self, TracerSettings},
    workloads::PODS_BYTES,
};

/// Inputs that may wait for the owner.
const INPUTS: usize = 16;
/// Longest that the end may take; after it, whatever was not written is lost.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How often, and how many times, the pipeline is asked whether it has heard of everything found at the start.
const READY_EVERY: Duration = Duration::from_millis(20);
const READY_LOOKS: u32 = 250;
/// Probes to each hop in a trace.
const TRACE_ROUNDS: u32 = 3;

/// Why the agent could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The kernel side.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// Times of the kernel programs cannot be compared with those of this process.
    #[error(
        "this process is in a time namespace whose clock is {0} s off the node's, by which the kernel takes times: start \
         hopline outside of it"
    )]
    TimeNamespace(i64),
    /// The memory limit.
    #[error(transparent)]
    Memory(#[from] memory::TooLittle),
    /// The recording.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The system.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A stage ended with a panic.
    #[error("a part of the agent broke: {0}; please report this")]
    Broken(#[from] JoinError),
    /// A stage ended without being asked.
    #[error("the {0} stopped by itself; please report this")]
    Stopped(&'static str),
    /// The end took too long.
    #[error("the end took longer than {} s: the last records may be missing", STOP_LIMIT.as_secs())]
    StopLimit,
}

/// Everything running.
#[derive(Debug)]
pub struct Running {
    handle: Handle,
    inputs: mpsc::Sender<Input>,
    stop_reader: oneshot::Sender<()>,
    tls_targets: Option<tls_targets::Watch>,
    reader: JoinHandle<io::Result<()>>,
    owner: JoinHandle<Scrape>,
}

/// How exporters ask a running agent.
#[derive(Clone, Debug)]
pub struct Handle {
    inputs: mpsc::WeakSender<Input>,
    kernel: KernelSide,
    records: Option<broadcast::WeakSender<Arc<Output>>>,
    /// Records that listeners of the stream missed.
    stream_dropped: Arc<AtomicU64>,
    /// Files with TLS code.
    tls_targets: Option<watch::Receiver<Arc<TlsTargets>>>,
    /// Whether network paths are traced.
    path_feature: FeatureState,
    safe_mode: bool,
}

/// The last word of an agent that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The pipeline's last picture.
    pub scrape: Scrape,
    /// The kernel side's last numbers.
    pub kernel: KernelNumbers,
}

/// Attaches the kernel programs and starts every stage; of this thread's capabilities only those of `keep` stay.
pub fn start(config: &Config, listener: Listener, keep: Keep) -> Result<Running, AgentError> {
    let config = &config.with_switches();
    if let Some(offset_s) = host::time_namespace_offset_s() {
        return Err(AgentError::TimeNamespace(offset_s));
    }
    let host = Host::running()?;
    let limit = memory::own_limit();
    let plan = memory::Plan::new(config.limits, limit.as_ref())?;
    plan.log();
    let config = &Config {
        limits: plan.limits,
        ..config.clone()
    };
    privileges::raise_memlock();
    let options = ProbeOptions {
        cgroups: config.cgroups.clone(),
        ring_bytes: config.limits.ring_bytes,
        // Most connections end before they have one.
        rtt_histograms: u32::try_from(config.limits.connections / 2).unwrap_or(u32::MAX),
        share_per_second: config.share,
        dns_ports: config.dns_ports.clone(),
        tls_probes: config.tls.probes,
        features: config.features.clone(),
        safe_mode: config.safe_mode.is_some(),
        fail_programs: config.fail_programs.clone(),
    };
    let recorder = recorder(config, &host)?;
    let mut probes = Probes::load(&options)?;
    let rings = probes.take_rings()?;
    let for_files = probes.take_prober();
    let kernel = KernelSide::start(probes, plan.kernel_bytes)?;
    let tls_targets = for_files.and_then(|for_files| {
        tls_targets::start(for_files, tls_settings(config, plan.file_bytes))
            .inspect_err(|error| tracing::warn!(%error, "TLS libraries are not asked"))
            .ok()
    });
    let (inputs, owner_inputs) = mpsc::channel(INPUTS);
    let sweeper = sweeper::start(inputs.downgrade())?;
    let (tracer, path_feature) = start_tracer(config, &inputs);
    privileges::drop_capabilities(Keep {
        writes_files: keep.writes_files || recorder.is_some(),
        ..keep
    });

    let pods = kubernetes::Settings {
        most_bytes: plan.tables.of(PODS_BYTES),
        ..kubernetes::Settings::new(&config.kubernetes, &host.node)
    };
    let pods = kubernetes::start(pods, inputs.downgrade())?;
    let records = match &listener {
        Listener::Stream(records) => Some(records.downgrade()),
        Listener::All(_) => None,
    };
    let (spent, returned) = reader::channel();
    let (stop_reader, stop) = oneshot::channel();
    let owner = Owner {
        pipeline: Pipeline::new(pipeline_settings(config, &host, plan.tables)),
        recorder,
        listener,
        spent,
        sweeper: Some(sweeper),
        pods: Some(pods),
        tracer,
    };
    let owner = tokio::spawn(owner.run(owner_inputs));
    let reader = tokio::spawn(reader::run(
        rings,
        config.limits.ring_bytes as usize,
        inputs.clone(),
        returned,
        stop,
    ));
    let handle = Handle {
        inputs: inputs.downgrade(),
        kernel,
        records,
        stream_dropped: Arc::default(),
        tls_targets: tls_targets.as_ref().map(tls_targets::Watch::targets),
        path_feature,
        safe_mode: config.safe_mode.is_some(),
    };
    Ok(Running {
        handle,
        inputs,
        stop_reader,
        tls_targets,
        reader,
        owner,
    })
}

/// What to probe; of a file no more than `file_bytes` are in memory at once.
pub fn tls_settings(config: &Config, file_bytes: u64) -> tls_targets::Settings {
    tls_targets::Settings {
        cgroups: config.cgroups.clone(),
        cgroup_root: bpf::unified_mount(),
        libraries: config.tls.libraries(),
        exclude: config.tls.exclude.clone(),
        release_after: config.tls.release_after,
        file_bytes,
    }
}

fn pipeline_settings(config: &Config, host: &Host, tables: Share) -> PipelineSettings {
    PipelineSettings {
        node: host.node.clone(),
        boot_id: host.boot_id.clone(),
        max_connections: config.limits.connections,
        max_processes: config.limits.processes,
        max_series: config.limits.series,
        tables,
        stuck_after_ns: config.stuck_after.as_nanos() as u64,
        waiting_after_ns: config.waiting_after.as_nanos() as u64,
        groups: config.groups(),
        declared: config.declared.clone(),
        rtt_spike: config.rtt_spike.settings(),
        paths: path_settings(config),
        read_proc: true,
        environment: config.environment.iter().map(|name| name.as_str().into()).collect(),
        cgroup_root: bpf::unified_mount(),
    }
}

fn path_settings(config: &Config) -> PathSettings {
    let paths = &config.paths;
    PathSettings {
        troubled: paths.trace != TraceWhat::Off,
        busiest: if paths.trace == TraceWhat::All {
            paths.destinations
        } else {
            0
        },
        delta_above_us: paths.latency_delta_above.as_micros() as u64,
    }
}

/// Without it everything else works: why it is off is told once, and shown beside the other features.
fn start_tracer(
    config: &Config,
    inputs: &mpsc::Sender<Input>,
) -> (Option<std::sync::mpsc::SyncSender<Vec<Candidate>>>, FeatureState) {
    let paths = &config.paths;
    let settings = TracerSettings {
        limits: paths.limits(),
        in_flight: paths.in_flight,
        every_ns: paths.every.as_nanos() as u64,
        rounds: TRACE_ROUNDS,
        exclude: paths.exclude.clone(),
        seed: tracer::seed(),
    };
    if let Some(off) = path_switched_off(config) {
        return (None, off);
    }
    match tracer::start(settings, inputs.downgrade()) {
        Ok(tracer) => (Some(tracer), tracer::feature()),
        Err(error) => (
            None,
            FeatureState {
                feature: tracer::FEATURE,
                reason: error.to_string(),
                ..FeatureState::default()
            },
        ),
    }
}

/// That network paths are not traced, when the configuration says so.
pub fn path_switched_off(config: &Config) -> Option<FeatureState> {
    let reason = if config.features.is_off(Feature::Path) {
        bpf::SWITCHED_OFF
    } else if config.paths.trace == TraceWhat::Off {
        tracer::SWITCHED_OFF
    } else {
        return None;
    };
    Some(FeatureState {
        feature: tracer::FEATURE,
        switched_off: true,
        reason: reason.to_owned(),
        ..FeatureState::default()
    })
}

fn recorder(config: &Config, host: &Host) -> Result<Option<Recorder>, RecordingError> {
    let Some(file) = &config.record.file else {
        return Ok(None);
    };
    let header = recording::Header {
        version: recording::VERSION,
        hopline: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: host.boot_id.clone(),
        node: host.node.clone(),
        kernel: host.kernel.clone(),
        clock_offset_ns: host::clock_offset_ns(),
        waiting_after_ns: config.waiting_after.as_nanos() as u64,
        stuck_after_ns: config.stuck_after.as_nanos() as u64,
        max_connections: config.limits.connections as u64,
        max_processes: config.limits.processes as u64,
        max_series: config.limits.series as u64,
    };
    Recorder::create(file, &config.record, header).map(Some)
}

impl Running {
    /// How exporters ask.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits until sockets opened before the start were looked for and their owners found, for as long as both take.
    pub async fn ready(&self) {
        self.handle.kernel.ready().await;
        if let Some(mut targets) = self.handle.tls_targets.clone() {
            // An error means that the thread has ended: there is nothing to wait for.
            drop(targets.wait_for(|targets| targets.is_complete).await);
        }
        // What the walk found is in the ring. Whoever owns it must be asked for while it lives, so before that is done
        // nobody should be told that hopline watches.
        let Some(found) = self.handle.kernel.numbers().await else {
            return;
        };
        for _ in 0..READY_LOOKS {
            let Some(scrape) = self.handle.pipeline().await else {
                return;
            };
            let behind = kind_counts(&scrape.snapshot.counts.events, &found)
                .iter()
                .any(|kind| kind.received + kind.ring_full + kind.throttled < kind.attempts);
            if !behind {
                return;
            }
            sleep(READY_EVERY).await;
        }
    }

    /// Why a stage has ended though nobody asked; pending as long as all run.
    pub async fn ended(&mut self) -> AgentError {
        tokio::select! {
            reader = &mut self.reader => match reader {
                Ok(Err(error)) => error.into(),
                Err(error) => error.into(),
                Ok(Ok(())) => AgentError::Stopped("reader"),
            },
            owner = &mut self.owner => match owner {
                Err(error) => error.into(),
                Ok(_) => AgentError::Stopped("owner"),
            },
        }
    }

    /// Ends every stage: detach, empty the rings, apply, write out. Bounded in time.
    pub async fn stop(self) -> Result<Finished, AgentError> {
        timeout(STOP_LIMIT, self.stop_in_order())
            .await
            .map_err(|_| AgentError::StopLimit)?
    }

    async fn stop_in_order(self) -> Result<Finished, AgentError> {
        // Its thread ends within a tenth of a second, and the probes with it.
        drop(self.tls_targets);
        let kernel = self.handle.kernel.detach().await.unwrap_or_default();
        // The reader may have ended by itself; its result tells.
        self.stop_reader.send(()).ok();
        self.reader.await??;
        drop(self.inputs.send(Input::Finish).await);
        let scrape = self.owner.await?;
        Ok(Finished { scrape, kernel })
    }
}

impl http::Source for Handle {
    fn is_ready(&self) -> bool {
        self.kernel.is_ready()
    }

    fn missing_core(&self) -> Option<String> {
        missing_core(self.kernel.features())
    }

    async fn scrape(&self) -> Option<(Snapshot, SelfMetrics)> {
        // First what arrived, then what was attempted: a difference is what is still in the rings, never negative.
        let scrape = self.pipeline().await?;
        let kernel = self.kernel.numbers().await?;
        let own = self.self_metrics(&scrape, kernel);
        Some((scrape.snapshot, own))
    }

    fn records(&self) -> Option<broadcast::Receiver<Arc<Output>>> {
        self.records.as_ref()?.upgrade().map(|records| records.subscribe())
    }

    async fn events(&self) -> Option<Vec<Arc<Output>>> {
        let inputs = self.inputs.upgrade()?;
        let (answer, events) = oneshot::channel();
        inputs.send(Input::Events(answer)).await.ok()?;
        events.await.ok()
    }

    fn missed(&self, records: u64) {
        self.stream_dropped.fetch_add(records, Ordering::Relaxed);
    }
}

impl Handle {
    /// Which hook serves each feature.
    pub fn features(&self) -> Vec<FeatureState> {
        let kernel = self.kernel.features().iter().cloned();
        kernel.chain([self.path_feature.clone()]).collect()
    }

    /// The pipeline's picture, after everything that reached it before.
    async fn pipeline(&self) -> Option<Scrape> {
        let inputs = self.inputs.upgrade()?;
        let (answer, scrape) = oneshot::channel();
        inputs.send(Input::Scrape(answer)).await.ok()?;
        scrape.await.ok()
    }

    fn self_metrics(&self, scrape: &Scrape, kernel: KernelNumbers) -> SelfMetrics {
        SelfMetrics {
            tls_targets: self
                .tls_targets
                .as_ref()
                .map(|targets| TlsTargets::clone(&targets.borrow()))
                .unwrap_or_default(),
            features: self.features(),
            safe_mode: self.safe_mode,
            events: kind_counts(&scrape.snapshot.counts.events, &kernel),
            throttled: kernel.throttled,
            failures: kernel
                .failures
                .into_iter()
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
            programs: kernel.programs,
            stream_dropped: self.stream_dropped.load(Ordering::Relaxed),
            recording_dropped: scrape.recording_dropped,
            http: None, // The server adds its own.
            process: host::process_stats(),
        }
    }
}

/// What the pipeline got of each kind beside what the kernel programs attempted and lost.
pub fn kind_counts(received: &[u64; KINDS], kernel: &KernelNumbers) -> Vec<KindCounts> {
    (0..)
        .zip(received)
        .filter_map(|(number, received)| Some((kind_name(number)?, *received)))
        .map(|(kind, received)| {
            let counts = kernel
                .counts
                .iter()
                .find(|counts| counts.kind == kind)
                .map(|found| found.counts);
            let counts = counts.unwrap_or_default();
            KindCounts {
                kind,
                received,
                attempts: counts.attempts,
                ring_full: counts.ring_full,
                throttled: counts.throttled,
            }
        })
        .collect()
}
