//! Is it inside the watched cgroups? For programs that a cgroup does not limit by itself.

use agent_ebpf::scope::{MAX_SCOPES, ScopeEntry};
use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;

use crate::{kernel::Cgroup, maps::SCOPE, settings};

/// The running task is inside. Meaningless in softirq, where the task is anybody.
#[inline(always)]
pub fn current_task() -> bool {
    // SAFETY: no preconditions.
    any_scope(|scope| unsafe { bpf_get_current_ancestor_cgroup_id(scope.level as i32) } == scope.cgroup_id)
}

/// The cgroup, or one above it, is watched.
#[inline(always)]
pub fn cgroup(cgroup: *const Cgroup) -> bool {
    any_scope(|scope| Cgroup::ancestor_id(cgroup, scope.level) == Some(scope.cgroup_id))
}

#[inline(always)]
fn any_scope(matches: impl Fn(&ScopeEntry) -> bool) -> bool {
    if settings::whole_node() {
        return true;
    }
    for index in 0..MAX_SCOPES as u32 {
        let Some(scope) = SCOPE.get(index) else { return false };
        if scope.cgroup_id == 0 {
            return false;
        }
        if matches(scope) {
            return true;
        }
    }
    false
}
