//! What the kernel side counted: events, losses, and the cost of each program.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use agent_ebpf::{
    event::{KINDS, kind_name},
    loss::{EventCounts, FAILURES, Share, ShareKey, failure_name},
};
use aya::maps::{Array, HashMap};

use super::{BpfError, object::Object};
use crate::selfmetrics::{CgroupThrottled, ProgramStats};

/// Counts of one kind of event, over all CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelCounts {
    /// The kind's name.
    pub kind: &'static str,
    /// What was attempted and what was refused.
    pub counts: EventCounts,
}

pub(super) fn counts(object: &Object) -> Result<Vec<KernelCounts>, BpfError> {
    let kinds = (0..KINDS as u32).filter_map(|number| kind_name(number).map(|kind| (number, kind)));
    kinds
        .map(|(number, kind)| {
            let counts = object.per_cpu("COUNTS", number, |cpus: &[EventCounts]| {
                cpus.iter().fold(EventCounts::default(), |sum, cpu| EventCounts {
                    attempts: sum.attempts + cpu.attempts,
                    ring_full: sum.ring_full + cpu.ring_full,
                    throttled: sum.throttled + cpu.throttled,
                })
            })?;
            Ok(KernelCounts { kind, counts })
        })
        .collect()
}

pub(super) fn failures(object: &Object) -> Result<Vec<(&'static str, u64)>, BpfError> {
    let names = (0..FAILURES).filter_map(|index| failure_name(index).map(|name| (index, name)));
    names
        .map(|(index, name)| {
            Ok((
                name,
                object.per_cpu("FAILURES", index, |cpus: &[u64]| cpus.iter().sum())?,
            ))
        })
        .collect()
}

/// Sockets opened before the start that have not closed.
pub(super) fn late_open(object: &Object) -> Result<u64, BpfError> {
    const NAME: &str = "LATE_OPEN";
    let failed = |source| BpfError::Map { name: NAME, source };
    let count: Array<_, u64> = object.map(NAME)?.try_into().map_err(failed)?;
    count.get(&0, 0).map_err(failed)
}

pub(super) fn shares(object: &Object) -> Result<Vec<CgroupThrottled>, BpfError> {
    const NAME: &str = "SHARES";
    let failed = |source| BpfError::Map { name: NAME, source };
    let map: HashMap<_, ShareKey, Share> = object.map(NAME)?.try_into().map_err(failed)?;
    let mut shares = Vec::new();
    for entry in &map {
        // An entry may be replaced while the map is walked.
        let Ok((key, share)) = entry else { continue };
        if let Some(kind) = kind_name(key.kind)
            && share.throttled > 0
        {
            shares.push(CgroupThrottled {
                cgroup_id: key.cgroup_id,
                kind,
                throttled: share.throttled,
            });
        }
    }
    Ok(shares)
}

pub(super) fn programs(object: &Object) -> Vec<ProgramStats> {
    object
        .attached()
        .filter_map(|(name, program)| {
            let (run_ns, runs, recursion_misses) = run_stats(program.fd().ok()?.as_fd())?;
            Some(ProgramStats {
                name: name.to_owned(),
                run_ns,
                runs,
                recursion_misses,
            })
        })
        .collect()
}

/// `run_time_ns`, `run_cnt` and `recursion_misses` of `struct bpf_prog_info` (include/uapi/linux/bpf.h), which aya does
/// not hand out. `None` when the kernel does not tell.
fn run_stats(program: BorrowedFd<'_>) -> Option<(u64, u64, u64)> {
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
    const RUN_TIME_NS: usize = 192;

    #[repr(C, align(8))]
    struct Info([u8; 232]);
    #[repr(C)]
    struct Attribute {
        fd: u32,
        info_len: u32,
        info: u64,
    }

    let mut info = Info([0; 232]);
    let mut attribute = Attribute {
        fd: program.as_raw_fd() as u32,
        info_len: size_of::<Info>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the attribute is as the system call wants it for this command; the kernel writes at most `info_len` bytes
    // to `info`, which lives until after the call. An all-zero request asks for no arrays.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw mut attribute,
            size_of::<Attribute>() as libc::c_uint,
        )
    };
    if result != 0 {
        return None;
    }
    let value = |index: usize| {
        let start = RUN_TIME_NS + index * 8;
        info.0[start..start + 8].try_into().map(u64::from_ne_bytes).ok()
    };
    Some((value(0)?, value(1)?, value(2)?))
}
