//! The kernel object in the kernel: globals and maps set up, programs loaded and attached one by one.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    path::Path,
};

use agent_ebpf::scope::ScopeEntry;
use aya::{
    Btf, Ebpf, EbpfLoader, Pod,
    maps::{Array, MapData, RingBuf},
    programs::{CgroupAttachMode, CgroupSkbAttachType, Iter, Program, ProgramError},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::{
    BpfError, ProbeOptions,
    btf::Kernel,
    cgroup::Scope,
    error::reason,
    multi,
    plan::{ITER_RELEASE_LISTENERS, Plan, Settings},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/hopline-ebpf"));

/// The ring of process events is this much smaller: thousands of processes a second fill it no faster.
const PROCESS_RING_FRACTION: u32 = 4;

/// The ring of hello bytes is this much smaller: a connection fills it with a few kilobytes at most.
const HELLO_RING_FRACTION: u32 = 2;
/// The ring of DNS messages is this much smaller: most are short, and few wait.
const DNS_RING_FRACTION: u32 = 4;
/// Why a program is not loaded though the kernel might take it.
pub const SAFE_MODE: &str = "safe mode: programs on cgroups alone";
/// Target of the program on what comes in.
pub(super) const INGRESS: &str = "ingress";

/// Maps that only probes in TLS libraries use. The kernel makes all their entries when it makes them: 5 MiB.
const TLS_MAPS: [&str; 5] = ["LAST_READ", "SESSIONS", "ASKED", "GO_HANDSHAKES", "GO_REFUSED"];

/// Sizes of maps that are known when the object is loaded.
struct Sizes {
    ring_bytes: u32,
    rtt_histograms: u32,
    tls_probes: bool,
}

/// The loaded object.
#[derive(Debug)]
pub(super) struct Object {
    ebpf: Ebpf,
    refused: Vec<String>,
    cgroups_only: bool,
    attached: BTreeSet<&'static str>,
    /// Why the kernel took a program not: several features ask for it.
    failed: BTreeMap<&'static str, String>,
    #[cfg(debug_assertions)]
    _log: std::sync::Arc<()>,
}

impl Object {
    /// Creates the maps; no program is loaded yet.
    pub(super) fn load(
        kernel: &Kernel,
        plan: &Plan,
        scopes: &[Scope],
        options: &ProbeOptions,
    ) -> Result<Self, BpfError> {
        let mut this = Self::with_globals(
            kernel,
            &plan.settings(options),
            &Sizes {
                ring_bytes: options.ring_bytes,
                rtt_histograms: options.rtt_histograms.max(1),
                tls_probes: options.tls_probes,
            },
            options,
        )?;
        let map = this
            .ebpf
            .map_mut("SCOPE")
            .ok_or_else(|| BpfError::Object("map SCOPE is missing".to_owned()))?;
        let mut entries: Array<_, ScopeEntry> = map
            .try_into()
            .map_err(|source| BpfError::Map { name: "SCOPE", source })?;
        for (index, scope) in scopes.iter().enumerate() {
            entries
                .set(index as u32, scope.entry, 0)
                .map_err(|source| BpfError::Map { name: "SCOPE", source })?;
        }
        Ok(this)
    }

    /// An instance with the smallest maps, to try on this kernel what the plan depends on.
    pub(super) fn for_trial(kernel: &Kernel, options: &ProbeOptions) -> Result<Self, BpfError> {
        let sizes = Sizes {
            ring_bytes: 0,
            rtt_histograms: 1,
            tls_probes: false,
        };
        Self::with_globals(kernel, &Settings::new(), &sizes, options)
    }

    fn with_globals(
        kernel: &Kernel,
        settings: &Settings,
        sizes: &Sizes,
        options: &ProbeOptions,
    ) -> Result<Self, BpfError> {
        let ring_bytes = sizes.ring_bytes;
        let rings = [
            ("CONNECTIONS", "CONNECTION_RING_BYTES", whole_pages(ring_bytes)),
            (
                "HELLOS",
                "HELLO_RING_BYTES",
                whole_pages(ring_bytes / HELLO_RING_FRACTION),
            ),
            ("DNS", "DNS_RING_BYTES", whole_pages(ring_bytes / DNS_RING_FRACTION)),
            (
                "PROCESSES",
                "PROCESS_RING_BYTES",
                whole_pages(ring_bytes / PROCESS_RING_FRACTION),
            ),
        ];
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&kernel.btf));
        for (ring, global, bytes) in &rings {
            loader
                .map_max_entries(ring, *bytes)
                .override_global(global, bytes, true);
        }
        loader.map_max_entries("RTTS", sizes.rtt_histograms);
        if !sizes.tls_probes {
            for map in TLS_MAPS {
                loader.map_max_entries(map, 1);
            }
        }
        for (global, offset) in &kernel.offsets {
            loader.override_global(global, offset, true);
        }
        for (global, value) in settings {
            loader.override_global(global, value, true);
        }
        #[cfg_attr(not(debug_assertions), expect(unused_mut, reason = "only the log takes a map out"))]
        let mut ebpf = loader.load(OBJECT)?;
        let refused = &options.fail_programs;
        if let Some(name) = refused.iter().find(|name| ebpf.program(name).is_none()) {
            return Err(BpfError::Object(format!("it has no program `{name}` to do without")));
        }
        Ok(Self {
            #[cfg(debug_assertions)]
            _log: super::log::forward(&mut ebpf),
            ebpf,
            refused: refused.clone(),
            cgroups_only: options.safe_mode,
            attached: BTreeSet::new(),
            failed: BTreeMap::new(),
        })
    }

    /// Why these programs are not even offered to the kernel, if they are not.
    pub(super) fn forbids(&self, programs: &[Attachment]) -> Option<String> {
        let is_allowed = |program: &Attachment| {
            // Runs once, at the end, where the end itself would harm the kernel without it.
            *program == ITER_RELEASE_LISTENERS
                || matches!(
                    self.ebpf.program(program.name),
                    Some(Program::CgroupSockAddr(_) | Program::CgroupSkb(_) | Program::SockOps(_))
                )
        };
        let is_forbidden = self.cgroups_only && !programs.iter().all(is_allowed);
        is_forbidden.then(|| SAFE_MODE.to_owned())
    }

    /// Loads and attaches one program; the error is the kernel's reason in one line.
    pub(super) fn attach(&mut self, kernel: &Kernel, program: &Attachment, scopes: &[Scope]) -> Result<(), String> {
        if self.refused.iter().any(|name| name == program.name) {
            return Err("refused for a test".to_owned());
        }
        if let Some(reason) = self.forbids(std::slice::from_ref(program)) {
            return Err(reason);
        }
        if self.attached.contains(program.name) {
            return Ok(());
        }
        if let Some(reason) = self.failed.get(program.name) {
            return Err(reason.clone());
        }
        let loaded = self
            .ebpf
            .program_mut(program.name)
            .ok_or_else(|| "not in the kernel object".to_owned())?;
        if let Err(error) = load_and_attach(loaded, program.target, &kernel.btf, scopes) {
            let reason = reason(&error);
            self.failed.insert(program.name, reason.clone());
            return Err(reason);
        }
        self.attached.insert(program.name);
        Ok(())
    }

    /// Takes a program off again.
    pub(super) fn unload(&mut self, name: &str) {
        if !self.attached.remove(name) {
            return;
        }
        let unloaded = match self.ebpf.program_mut(name) {
            Some(Program::SockOps(program)) => program.unload(),
            Some(Program::BtfTracePoint(program)) => program.unload(),
            _ => Ok(()),
        };
        if let Err(error) = unloaded {
            tracing::debug!(name, %error, "a program stays until the end");
        }
    }

    pub(super) fn is_attached(&self, program: &str) -> bool {
        self.attached.contains(program)
    }

    /// The attached programs, by name.
    pub(super) fn attached(&self) -> impl Iterator<Item = (&'static str, &Program)> {
        self.attached
            .iter()
            .filter_map(|name| self.ebpf.program(name).map(|program| (*name, program)))
    }

    /// An iterator, when it is loaded.
    pub(super) fn iterator(&mut self, name: &str) -> Option<&mut Iter> {
        if !self.attached.contains(name) {
            return None;
        }
        self.ebpf.program_mut(name)?.try_into().ok()
    }

    /// A program, loaded or not.
    pub(super) fn program(&self, name: &str) -> Option<&Program> {
        self.ebpf.program(name)
    }

    pub(super) fn take_ring(&mut self, name: &'static str) -> Result<RingBuf<MapData>, BpfError> {
        let map = self
            .ebpf
            .take_map(name)
            .ok_or_else(|| BpfError::Object(format!("ring {name} was taken before")))?;
        RingBuf::try_from(map).map_err(|source| BpfError::Map { name, source })
    }

    /// One of its programs in the form that holds all probes of a file.
    pub(super) fn load_multi(&self, program: &str) -> Result<OwnedFd, BpfError> {
        multi::load(OBJECT, program, self.ebpf.maps())
    }

    /// A map to read.
    pub(super) fn map(&self, name: &'static str) -> Result<&aya::maps::Map, BpfError> {
        self.ebpf
            .map(name)
            .ok_or_else(|| BpfError::Object(format!("map {name} is missing")))
    }

    /// Sets the one entry of an array.
    pub(super) fn set<T: Pod>(&mut self, name: &'static str, value: T) -> Result<(), BpfError> {
        let failed = |source| BpfError::Map { name, source };
        let map = self
            .ebpf
            .map_mut(name)
            .ok_or_else(|| BpfError::Object(format!("map {name} is missing")))?;
        let mut array: Array<_, T> = map.try_into().map_err(failed)?;
        array.set(0, value, 0).map_err(failed)
    }

    /// Sums an entry of a per-CPU array over the CPUs.
    pub(super) fn per_cpu<T: Pod, S>(
        &self,
        name: &'static str,
        index: u32,
        sum: impl FnOnce(&[T]) -> S,
    ) -> Result<S, BpfError> {
        let failed = |source| BpfError::Map { name, source };
        let array: aya::maps::PerCpuArray<_, T> = self.map(name)?.try_into().map_err(failed)?;
        Ok(sum(&array.get(&index, 0).map_err(failed)?))
    }
}

/// How one program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attachment {
    /// Name of the program.
    pub(super) name: &'static str,
    /// Function, tracepoint or iterator; empty for programs on cgroups.
    pub(super) target: &'static str,
}

fn load_and_attach(program: &mut Program, target: &str, btf: &Btf, scopes: &[Scope]) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => {
            program.load()?;
            for scope in scopes {
                program.attach(&scope.directory, CgroupAttachMode::Single)?;
            }
        }
        Program::CgroupSkb(program) => {
            program.load()?;
            let direction = if target == INGRESS {
                CgroupSkbAttachType::Ingress
            } else {
                CgroupSkbAttachType::Egress
            };
            for scope in scopes {
                program.attach(&scope.directory, direction, CgroupAttachMode::Single)?;
            }
        }
        Program::SockOps(program) => {
            program.load()?;
            for scope in scopes {
                program.attach(&scope.directory, CgroupAttachMode::Single)?;
            }
        }
        Program::BtfTracePoint(program) => {
            program.load(target, btf)?;
            program.attach()?;
        }
        Program::FEntry(program) => {
            program.load(target, btf)?;
            program.attach()?;
        }
        Program::FExit(program) => {
            program.load(target, btf)?;
            program.attach()?;
        }
        Program::KProbe(program) => {
            program.load()?;
            program.attach(target, 0)?;
        }
        Program::TracePoint(program) => {
            program.load()?;
            let (category, name) = target
                .split_once('/')
                .expect("tracepoint targets are written category/name");
            with_tracefs(|| program.attach(category, name))?;
        }
        // Where to is known later.
        Program::UProbe(program) => program.load()?,
        // Runs when it is asked to.
        Program::Iter(program) => program.load(target, btf)?,
        _ => return Err(ProgramError::UnexpectedProgramType),
    }
    Ok(())
}

/// Runs `attach` where tracefs can be seen. Where nobody mounted it, a thread does so in a mount namespace of its own,
/// which ends with it: nothing of the host changes.
fn with_tracefs<T: Send>(attach: impl FnOnce() -> Result<T, ProgramError> + Send) -> Result<T, ProgramError> {
    const TRACEFS: &str = "/sys/kernel/tracing";
    if ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"]
        .iter()
        .any(|path| Path::new(path).exists())
    {
        return attach();
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let private = unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
                .and_then(|()| {
                    mount(
                        None::<&str>,
                        "/",
                        None::<&str>,
                        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                        None::<&str>,
                    )
                })
                .and_then(|()| {
                    mount(
                        Some("tracefs"),
                        TRACEFS,
                        Some("tracefs"),
                        MsFlags::empty(),
                        None::<&str>,
                    )
                });
            if let Err(error) = private {
                tracing::debug!(%error, "cannot mount tracefs for this thread");
            }
            attach()
        });
        thread.join().expect("attaching does not panic")
    })
}

/// A ring's size must be a power of two and whole pages.
fn whole_pages(bytes: u32) -> u32 {
    const PAGE: u32 = 4096;
    const LARGEST: u32 = 1 << 30;
    bytes.clamp(PAGE, LARGEST).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_sizes_are_powers_of_two_of_pages() {
        for (asked, given) in [
            (0, 4096),
            (4096, 4096),
            (5000, 8192),
            (8 << 20, 8 << 20),
            (u32::MAX, 1 << 30),
        ] {
            assert_eq!(whole_pages(asked), given, "{asked}");
        }
    }
}
