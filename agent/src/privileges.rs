//! Gives up what the running agent does not need. Called by `agent` and by the threads it starts.
//!
//! Measured on 6.18: once everything is attached, reading maps and rings, program statistics and detaching need no
//! capability at all (they go by file descriptors). What remains is `/proc` of other users' processes, entering network
//! namespaces where late sockets need walks, sockets are listed and probes sent (those need raw sockets too), and a recording in a directory of another user.
//! In safe mode a waiting thread of `command::again` keeps all of them for the day after which the agent starts anew.
use std::io;

use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
};

/// Numbers of capabilities (include/uapi/linux/capability.h).
mod capability {
    pub(super) const DAC_OVERRIDE: u32 = 1;
    pub(super) const DAC_READ_SEARCH: u32 = 2;
    pub(super) const NET_RAW: u32 = 13;
    pub(super) const SYS_PTRACE: u32 = 19;
    pub(super) const SYS_ADMIN: u32 = 21;
    pub(super) const LEASE: u32 = 28;
    /// The second word's, counted from 32: what probing asks for where it does not ask for `SYS_ADMIN`.
    pub(super) const PERFMON_BPF_CHECKPOINT_RESTORE: u32 = 0b111 << (38 - 32);
}

/// Which capabilities stay beside those that reading `/proc` needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is asked for by itself")]
pub struct Keep {
    /// Files come and go in directories that root may not write by their mode: recordings, cgroups (0555).
    pub writes_files: bool,
    /// Sockets of other network namespaces are listed.
    pub enters_namespaces: bool,
    /// Files of other processes are opened through their mappings, leased and probed.
    pub probes_files: bool,
    /// Probes are sent.
    pub sends_probes: bool,
}

/// This process and all it starts can never gain privileges by executing a program.
pub fn no_new_privs() {
    if let Err(error) = prctl::set_no_new_privs() {
        tracing::warn!(%error, "no_new_privs could not be set");
    }
}

/// Lets BPF maps be as large as they need to be. Kernels from 5.11 count them elsewhere: a refusal is no error.
pub fn raise_memlock() {
    let raised = getrlimit(Resource::RLIMIT_MEMLOCK).and_then(|(_, hard)| {
        setrlimit(Resource::RLIMIT_MEMLOCK, u64::MAX, u64::MAX)
            .or_else(|_| setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard))
    });
    if let Err(error) = raised {
        tracing::debug!(%error, "RLIMIT_MEMLOCK stays as it is");
    }
}

/// Lets this process have as many files open as the hard limit allows, and says how many those are.
pub fn raise_descriptors() -> io::Result<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(usize::try_from(hard).unwrap_or(usize::MAX))
}

/// Gives memory back that was freed here and there: the allocator keeps what lies below something that is still in use.
pub fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions; it locks the allocator's arenas one by one, as any allocation does.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Puts this thread before others: what it does is little, and late it is worth nothing. Called before capabilities are
/// dropped; a refusal is no error.
pub fn hurry() {
    const NICE: libc::c_int = -15;
    // SAFETY: no preconditions; 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "this thread waits for others");
    }
}

/// Drops every capability of this thread, and of those that it will start, but the ones that are kept.
pub fn drop_capabilities(keep: Keep) {
    let kept = kept(keep);
    let dropped = capabilities().and_then(|held| {
        // What leaves the permitted set leaves the ambient set by itself.
        let both = |index: usize| Sets {
            effective: held[index].effective & kept[index].effective,
            permitted: held[index].permitted & kept[index].permitted,
            inheritable: 0,
        };
        set_capabilities([both(0), both(1)])
    });
    if let Err(error) = dropped {
        tracing::warn!(%error, "capabilities could not be dropped");
    }
}

/// What is kept, of the first 32 and of those behind.
fn kept(keep: Keep) -> [Sets; 2] {
    // `/proc/PID/exe` and `fd` of other users' processes.
    let mut bits = 1 << capability::SYS_PTRACE | 1 << capability::DAC_READ_SEARCH;
    if keep.writes_files {
        bits |= 1 << capability::DAC_OVERRIDE;
    }
    if keep.enters_namespaces || keep.probes_files {
        bits |= 1 << capability::SYS_ADMIN;
    }
    if keep.probes_files {
        bits |= 1 << capability::LEASE;
    }
    if keep.sends_probes {
        bits |= 1 << capability::NET_RAW;
    }
    let high = if keep.probes_files {
        capability::PERFMON_BPF_CHECKPOINT_RESTORE
    } else {
        0
    };
    [
        Sets {
            effective: bits,
            permitted: bits,
            inheritable: 0,
        },
        Sets {
            effective: high,
            permitted: high,
            inheritable: 0,
        },
    ]
}

/// 32 capabilities of a thread, one bit each (capget(2)).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Whose sets, and in which layout.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// The calling thread, and `_LINUX_CAPABILITY_VERSION_3`: two [`Sets`].
const THIS_THREAD: Header = Header {
    version: 0x2008_0522,
    pid: 0,
};

/// The calling thread's sets.
fn capabilities() -> io::Result<[Sets; 2]> {
    let (mut header, mut sets) = (THIS_THREAD, [Sets::default(); 2]);
    // SAFETY: capget reads and may write the header and, for version 3, writes two `Sets`; both live through the call.
    match unsafe { libc::syscall(libc::SYS_capget, &raw mut header, &raw mut sets) } {
        0 => Ok(sets),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_capabilities(sets: [Sets; 2]) -> io::Result<()> {
    let mut header = THIS_THREAD;
    // SAFETY: capset reads and may write the header and, for version 3, reads two `Sets`; both live through the call.
    match unsafe { libc::syscall(libc::SYS_capset, &raw mut header, &raw const sets) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_only_what_is_kept() {
        let keep = Keep {
            writes_files: true,
            ..Keep::default()
        };
        let before = capabilities().expect("capget");
        let after = std::thread::spawn(move || {
            drop_capabilities(keep);
            capabilities().expect("capget")
        });
        let after = after.join().expect("no panic");
        for (index, kept) in kept(keep).into_iter().enumerate() {
            assert_eq!(after[index].effective, before[index].effective & kept.effective);
            assert_eq!(after[index].permitted, before[index].permitted & kept.permitted);
            assert_eq!(after[index].inheritable, 0);
        }
    }

    #[test]
    fn the_soft_limit_of_descriptors_is_the_hard_one() {
        let allowed = raise_descriptors().expect("setrlimit");
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
        assert_eq!((soft, hard), (allowed as u64, allowed as u64));
    }

    #[test]
    fn refused_limits_are_no_error() {
        raise_memlock();
        let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).expect("getrlimit");
        assert_eq!(soft, hard);
    }
}
