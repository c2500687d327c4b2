//! `struct cgroup` of the unified hierarchy.

use aya_ebpf::helpers::bpf_probe_read_kernel;

use super::Field;

/// Kernel's `struct cgroup`.
pub struct Cgroup;
/// Kernel's `struct kernfs_node`: the cgroup's directory.
pub struct Node;
/// Kernel's `struct cgroup_root`.
pub struct Root;

#[unsafe(no_mangle)]
static CGROUP_KN: Field<Cgroup, *const Node> = Field::new();
#[unsafe(no_mangle)]
static CGROUP_LEVEL: Field<Cgroup, i32> = Field::new();
#[unsafe(no_mangle)]
static CGROUP_ANCESTORS: Field<Cgroup, *const Cgroup> = Field::new();
#[unsafe(no_mangle)]
static CGROUP_ROOT: Field<Cgroup, *const Root> = Field::new();
#[unsafe(no_mangle)]
static CGROUP_ROOT_HIERARCHY: Field<Root, i32> = Field::new();
#[unsafe(no_mangle)]
static KERNFS_ID: Field<Node, u64> = Field::new();

/// Deeper cgroups than this are not told apart when an iterator decides on scope.
const MAX_LEVEL: i32 = 256;

impl Cgroup {
    /// The id that userspace knows: the inode number of the cgroup's directory.
    #[inline(always)]
    pub fn id(cgroup: *const Self) -> u64 {
        KERNFS_ID.read(CGROUP_KN.read(cgroup))
    }

    /// Id of the ancestor at `level`, the cgroup itself included; `None` when it is not that deep.
    #[inline(always)]
    pub fn ancestor_id(cgroup: *const Self, level: u32) -> Option<u64> {
        let own = CGROUP_LEVEL.read(cgroup);
        if own < level as i32 || level >= MAX_LEVEL as u32 {
            return None;
        }
        let slot = CGROUP_ANCESTORS.address(cgroup).wrapping_add(level as usize);
        // SAFETY: the helper checks the address; `ancestors` has `level + 1` entries.
        let ancestor = unsafe { bpf_probe_read_kernel(slot) }.ok()?;
        let node = CGROUP_KN.probe_read(ancestor)?;
        KERNFS_ID.probe_read(node)
    }

    /// On the unified hierarchy (number 0), not on one of cgroup v1.
    #[inline(always)]
    pub fn is_unified(cgroup: *const Self) -> bool {
        CGROUP_ROOT_HIERARCHY.read(CGROUP_ROOT.read(cgroup)) == 0
    }
}
