//! The kernel side seen from the agent: loads, attaches, asks. The only module with `unsafe` and, with `reader`, aya.
//!
//! Each program is loaded and attached on its own. What the kernel refuses lowers a feature, with the reason kept for
//! `hopline doctor` and `hopline_feature_enabled`.

mod btf;
mod cgroup;
mod confined;
mod error;
mod iterator;
#[cfg(debug_assertions)]
mod log;
mod multi;
mod object;
mod open;
mod perf;
mod plan;
mod stats;
mod switches;
mod syscall;
mod uprobe;

use std::path::PathBuf;

use aya::maps::{MapData, RingBuf};

pub use self::{
    cgroup::unified_mount,
    error::BpfError,
    object::SAFE_MODE,
    perf::{Mapping, Mappings},
    stats::KernelCounts,
    switches::SWITCHED_OFF,
    uprobe::{Probe, Prober},
};
use self::{object::Object, open::OpenWalk, plan::Plan};
use crate::{
    config::FeaturesConfig,
    selfmetrics::{CgroupThrottled, FeatureState, ProgramStats},
};

/// What to load and for whom.
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    /// Watched cgroups; empty for the whole node.
    pub cgroups: Vec<PathBuf>,
    /// Bytes of the ring of connection events (that of hello bytes is half of it, those of DNS messages and of process
    /// events a quarter), rounded up to a power of two of pages.
    pub ring_bytes: u32,
    /// Connections whose RTT samples are kept by length at once; each takes half a kilobyte of kernel memory when it has any.
    pub rtt_histograms: u32,
    /// Events per second that one cgroup may make of one kind while a ring is more than half full.
    pub share_per_second: u32,
    /// Ports of DNS; no more than [`agent_ebpf::dns::MAX_DNS_PORTS`] are looked at.
    pub dns_ports: Vec<u16>,
    /// Whether TLS libraries are to be probed.
    pub tls_probes: bool,
    /// Features that are switched off.
    pub features: FeaturesConfig,
    /// Whether programs on cgroups alone are loaded.
    pub safe_mode: bool,
    /// Programs to treat as refused by the kernel, for tests; each must be one of the object's.
    pub fail_programs: Vec<String>,
}

/// The rings that the reader drains.
#[expect(missing_debug_implementations, reason = "aya's ring has none")]
pub struct Rings {
    /// Connection events.
    pub connections: RingBuf<MapData>,
    /// First bytes of conversations.
    pub hellos: RingBuf<MapData>,
    /// DNS messages.
    pub dns: RingBuf<MapData>,
    /// Process and cgroup events.
    pub processes: RingBuf<MapData>,
}

/// Everything loaded into the kernel; dropping it detaches all of it.
#[derive(Debug)]
pub struct Probes {
    object: Object,
    features: Vec<FeatureState>,
    open: Option<OpenWalk>,
    prober: Option<Prober>,
}

impl Probes {
    /// Loads and attaches all that this kernel takes.
    pub fn load(options: &ProbeOptions) -> Result<Self, BpfError> {
        return_large_memory();
        let kernel = btf::Kernel::running()?;
        // What reading took must not stay while maps and programs are made: the start needs most memory of all.
        give_memory_back();
        let scopes = cgroup::scopes(&options.cgroups)?;
        let plan = Plan::for_this_kernel(&kernel, options)?;
        let mut object = Object::load(&kernel, &plan, &scopes, options)?;
        let tls_off = if options.safe_mode { None } else { uprobe::refused() };
        let mut features = plan::serve_features(&mut object, &kernel, &plan, &scopes, options, tls_off.as_deref());
        let open = OpenWalk::of(&mut object).unwrap_or_else(|error| {
            plan::turn_off(&mut features, plan::OPEN, &error);
            None
        });
        if plan.storage_may_vanish
            && object.is_attached("sock_ops")
            && let Err(reason) = object.attach(&kernel, &plan::ITER_RELEASE_LISTENERS, &[])
        {
            tracing::warn!(
                reason,
                "listeners keep their storage when hopline ends, which harms a kernel 7.0"
            );
        }
        // While the rings are still the object's.
        let prober = prober(&mut object, &mut features);
        if let Some(reason) = confined::network() {
            plan::explain(&mut features, plan::EXISTING, reason);
        }
        if let Some(reason) = confined::processes() {
            plan::explain(&mut features, plan::EXISTING, reason);
            if matches!(open, Some(OpenWalk::Files(_))) {
                plan::explain(&mut features, plan::OPEN, reason);
            }
        }
        drop(kernel);
        give_memory_back();
        let mut wanted = features.iter().filter(|feature| !feature.switched_off);
        if let Some(first) = wanted.next()
            && !features.iter().any(|feature| feature.enabled)
        {
            return Err(BpfError::NothingLoaded {
                reason: first.reason.clone(),
            });
        }
        Ok(Self {
            object,
            features,
            open,
            prober,
        })
    }

    /// The rings, once.
    pub fn take_rings(&mut self) -> Result<Rings, BpfError> {
        Ok(Rings {
            connections: self.object.take_ring("CONNECTIONS")?,
            hellos: self.object.take_ring("HELLOS")?,
            dns: self.object.take_ring("DNS")?,
            processes: self.object.take_ring("PROCESSES")?,
        })
    }

    /// How to probe files, once; `None` where that is switched off or the kernel refused the programs for it.
    pub fn take_prober(&mut self) -> Option<Prober> {
        self.prober.take()
    }

    /// Which hook serves each feature, and why not a better one.
    pub fn features(&self) -> &[FeatureState] {
        &self.features
    }

    /// Finds sockets opened before the start, listeners first, among the open files of all processes. Blocks.
    pub fn find_existing(&mut self) -> Result<(), BpfError> {
        iterator::walk_files(&mut self.object, "iter_listeners")?;
        iterator::walk_files(&mut self.object, "iter_existing")
    }

    /// Walks open connections: those that have moved on since the last walk are reported.
    pub fn report_open(&self) -> Result<(), BpfError> {
        self.open.as_ref().map_or(Ok(()), OpenWalk::walk)
    }

    /// Open connections are found among the open files of all processes, which takes time for each file.
    pub fn looks_at_all_files(&self) -> bool {
        matches!(self.open, Some(OpenWalk::Files(_)))
    }

    /// What has to be undone before everything is dropped; nothing is observed any more. Blocks.
    pub fn release(&mut self) {
        self.object.unload("sock_ops");
        if let Err(error) = iterator::walk_files(&mut self.object, "iter_release_listeners") {
            tracing::warn!(%error, "listeners keep their storage until the end");
        }
    }

    /// Stops tracing changes of state once no socket needs it: of all on the node it is the one hook that runs for sockets of
    /// others, too. Those that need it were opened before the start.
    pub fn stop_tracing_states(&mut self) -> Result<(), BpfError> {
        let traced = self
            .features
            .iter()
            .any(|feature| feature.hook == plan::SET_STATE_HOOK.hook);
        if !traced && self.object.is_attached(plan::SET_STATE.name) && stats::late_open(&self.object)? == 0 {
            self.object.unload(plan::SET_STATE.name);
            self.object.unload(plan::DESTROY.name);
        }
        Ok(())
    }

    /// From now on new sockets get no storage, or they do again.
    pub fn refuse_sockets(&mut self, refuse: bool) -> Result<(), BpfError> {
        self.object.set("SOCKETS_FULL", u32::from(refuse))
    }

    /// Events attempted and lost, by kind.
    pub fn counts(&self) -> Result<Vec<KernelCounts>, BpfError> {
        stats::counts(&self.object)
    }

    /// Failures of the kernel programs that are no events, by name.
    pub fn failures(&self) -> Result<Vec<(&'static str, u64)>, BpfError> {
        stats::failures(&self.object)
    }

    /// Events refused to cgroups that used up their share.
    pub fn shares(&self) -> Result<Vec<CgroupThrottled>, BpfError> {
        stats::shares(&self.object)
    }

    /// Runs, time and missed runs of each program; the first two only while the kernel's BPF statistics are on.
    pub fn program_stats(&self) -> Vec<ProgramStats> {
        stats::programs(&self.object)
    }
}

fn prober(object: &mut Object, features: &mut [FeatureState]) -> Option<Prober> {
    let works = features
        .iter()
        .any(|state| state.feature == plan::TLS_LIBRARY && state.enabled);
    if !works {
        return None;
    }
    Prober::of(object)
        .inspect(|prober| {
            if let Some(reason) = prober.slow() {
                plan::explain(features, plan::TLS_LIBRARY, reason);
            }
        })
        .map_err(|error| plan::turn_off(features, plan::TLS_LIBRARY, &error))
        .ok()
}

/// From now on what is large goes back to the system as soon as it is let go. glibc would learn from the first such allocation
/// to keep those that follow: lists of pods, texts for scrapers, tables that have grown.
fn return_large_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions; only how memory is managed changes.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

/// Reading the kernel's types takes tens of megabytes for a moment; glibc would keep them for later.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}
