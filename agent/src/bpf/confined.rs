//! What this process may not look at: other processes, other network namespaces. Each is a reason for `doctor`.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
};

use nix::sched::{CloneFlags, setns};

/// Why walks over open files miss processes, if they do.
pub(super) fn processes() -> Option<&'static str> {
    /// The first namespace's (`PROC_PID_INIT_INO`, `include/linux/proc_ns.h`).
    const FIRST: u64 = 0xefff_fffc;
    let own = fs::metadata("/proc/self/ns/pid").map_or(FIRST, |namespace| namespace.ino());
    (own != FIRST).then_some("in a PID namespace: sockets of processes outside are not found")
}

/// Why the kernel's list of sockets is asked for in the namespace of this process alone, if it is.
pub(super) fn network() -> Option<&'static str> {
    // Entering its own is refused as any other would be.
    let enter = || -> Option<()> {
        let own = File::open("/proc/thread-self/ns/net").ok()?;
        setns(own, CloneFlags::CLONE_NEWNET).ok()
    };
    let entered = std::thread::scope(|scope| scope.spawn(enter).join());
    matches!(entered, Ok(None)).then_some(
        "without CAP_SYS_ADMIN accept queues, TIME_WAIT and local ports are known of the own network namespace alone",
    )
}
