//! Which cgroups are watched, as the kernel programs read it.

/// Most cgroups that `--cgroup` may name.
pub const MAX_SCOPES: usize = 16;

/// One watched cgroup: a task or socket is inside when its ancestor at `level` has this id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScopeEntry {
    /// cgroup id (inode number of its directory); 0 ends the list.
    pub cgroup_id: u64,
    /// Depth below the cgroup2 root, which has 0.
    pub level: u32,
    /// Unused, zero.
    pub reserved: u32,
}
