//! What can keep the programs from running, each with its remedy in one line.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

/// Why loading, attaching or asking failed.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// No kernel type information.
    #[error("hopline needs a kernel with CONFIG_DEBUG_INFO_BTF=y, 6.1 or later: cannot read {path}: {source}")]
    NoBtf {
        /// Where it was looked for.
        path: &'static str,
        /// Why it could not be read.
        source: io::Error,
    },
    /// Kernel type information that makes no sense.
    #[error("{path} is not BTF: the kernel's type information is damaged or of an unknown version")]
    MalformedBtf {
        /// Where it was read.
        path: &'static str,
    },
    /// A member that the programs cannot do without.
    #[error(
        "this kernel's `struct {structure}` has no `{member}` as hopline knows it: please report the kernel version"
    )]
    MissingField {
        /// Kernel struct.
        structure: &'static str,
        /// Path of members.
        member: &'static str,
    },
    /// cgroup v2 is not mounted.
    #[error(
        "cgroup v2 is not mounted: mount it with `mount -t cgroup2 none /sys/fs/cgroup` or boot with systemd.unified_cgroup_hierarchy=1"
    )]
    NoCgroup2,
    /// A `--cgroup` that is not there.
    #[error("cannot open cgroup {path}: {source}", path = path.display())]
    Cgroup {
        /// As given.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A `--cgroup` that is no cgroup.
    #[error("{path} is not a cgroup v2 directory: give a path below {mount}", path = path.display(), mount = mount.display())]
    NotCgroup2 {
        /// As given.
        path: PathBuf,
        /// Where cgroup v2 is mounted.
        mount: PathBuf,
    },
    /// More cgroups than the kernel side has room for.
    #[error("too many --cgroup: {given} were given, at most {most} can be watched; name a common parent instead")]
    TooManyCgroups {
        /// How many were given.
        given: usize,
        /// How many there may be.
        most: usize,
    },
    /// BPF is refused altogether.
    #[error(
        "the kernel refuses BPF ({reason}): run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; kernel lockdown must allow BPF"
    )]
    Refused {
        /// The kernel's word.
        reason: String,
    },
    /// The object could not be loaded.
    #[error("loading the kernel object failed: {0}")]
    Object(String),
    /// No program at all could be attached.
    #[error("the kernel took none of hopline's programs ({reason}): run `hopline doctor` for each one's reason")]
    NothingLoaded {
        /// Of the first feature.
        reason: String,
    },
    /// A map could not be read.
    #[error("reading map {name} failed: {source}")]
    Map {
        /// Name of the map.
        name: &'static str,
        /// Why.
        source: MapError,
    },
    /// The walk over existing sockets failed.
    #[error("looking for sockets opened before the start failed: {0}")]
    Walk(String),
}

impl From<EbpfError> for BpfError {
    fn from(error: EbpfError) -> Self {
        if is_permission_error(&error) {
            return Self::Refused {
                reason: one_line(&error),
            };
        }
        Self::Object(one_line(&error))
    }
}

/// The kernel's refusal of one program in one line: the system's word and the verifier's last one.
pub(super) fn reason(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            tracing::debug!("the verifier's log:\n{log}");
            // The last lines of a log are statistics; the complaint stands before them.
            let complaint = log.lines().rev().map(str::trim).find(|line| {
                let statistics = ["processed ", "verification time", "stack depth"];
                !line.is_empty() && !statistics.iter().any(|start| line.starts_with(start))
            });
            match complaint {
                Some(complaint) => format!("{io_error}: {complaint}"),
                None => io_error.to_string(),
            }
        }
        other => one_line(other),
    }
}

/// An error with its sources, without line breaks.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}

fn is_permission_error(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if cause
            .downcast_ref::<io::Error>()
            .is_some_and(|io| io.kind() == io::ErrorKind::PermissionDenied)
        {
            return true;
        }
        next = cause.source();
    }
    false
}
