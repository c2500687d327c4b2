//! Life of processes and cgroups, so that an owner is known however short it lived.

use crate::event::EventHeader;

/// Longest program path that an exec event carries, terminating NUL included; longer ones are cut.
pub const PATH_BYTES: usize = 256;

/// A process (not a thread) was forked.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForkEvent {
    /// Kind, size and time.
    pub header: EventHeader,
    /// Id of the cgroup that the child starts in.
    pub cgroup_id: u64,
    /// tgid of the parent, init pid namespace.
    pub parent_pid: u32,
    /// tgid of the child, init pid namespace.
    pub pid: u32,
    /// The child's name until it executes something, NUL-padded: that of the thread that forked.
    pub comm: [u8; 16],
    /// Name of the parent (its main thread's), NUL-padded.
    pub parent_comm: [u8; 16],
}

/// A process executed a program.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecEvent {
    /// Kind, size and time.
    pub header: EventHeader,
    /// Id of the cgroup of the process.
    pub cgroup_id: u64,
    /// tgid, init pid namespace.
    pub pid: u32,
    /// tgid of the parent (`real_parent`), init pid namespace.
    pub parent_pid: u32,
    /// Inode number of the mount namespace, as `/proc/PID/ns/mnt` shows it; 0 when the kernel does not say.
    pub mount_namespace: u32,
    /// Unused, zero.
    pub reserved: u32,
    /// New name, NUL-padded.
    pub comm: [u8; 16],
    /// Path as given to execve (a script's own path, not its interpreter's), NUL-terminated.
    pub path: [u8; PATH_BYTES],
}

/// The last thread of a process ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitEvent {
    /// Kind, size and time.
    pub header: EventHeader,
    /// tgid, init pid namespace.
    pub pid: u32,
    /// Unused, zero.
    pub reserved: u32,
}

/// A cgroup was made.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupEvent {
    /// Kind, size and time.
    pub header: EventHeader,
    /// Its id (inode number in cgroup2).
    pub cgroup_id: u64,
    /// Path below the cgroup2 mount, NUL-terminated.
    pub path: [u8; PATH_BYTES],
}

const _: () = assert!(size_of::<ForkEvent>() == 64);
const _: () = assert!(size_of::<ExecEvent>() == 56 + PATH_BYTES);
const _: () = assert!(size_of::<ExitEvent>() == 24);
const _: () = assert!(size_of::<CgroupEvent>() == 24 + PATH_BYTES);
