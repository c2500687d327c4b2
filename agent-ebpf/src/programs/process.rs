//! Life of processes and cgroups inside the scope: names the owner of a connection however short it lived.

use core::ptr;

use agent_ebpf::{
    event::{CGROUP_MKDIR, EventHeader, PROCESS_EXEC, PROCESS_EXIT, PROCESS_FORK},
    process::{CgroupEvent, ExecEvent, ExitEvent, ForkEvent},
};
use aya_ebpf::{
    btf_maps::PerCpuArray,
    helpers::bpf_probe_read_kernel_str_bytes,
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};

use crate::{
    inside,
    kernel::{Binprm, Cgroup, Task},
    output, socket,
};

/// Room for the two events that carry a path: too large for the stack. No second run of the program comes in between on the
/// same CPU: until 7.0 a tracepoint runs without preemption, and in process context alone; from 7.0 on (a46023d5616e) a task
/// may preempt it, but since 6.2 (05b24ff9b2cf) the kernel skips a program that runs on this CPU already, which is counted
/// (`process_exec_missed`). That guard is each program's own, so each has an entry of its own.
#[btf_map]
static SCRATCH_EXEC: PerCpuArray<ExecEvent, 1> = PerCpuArray::new();
#[btf_map]
static SCRATCH_CGROUP: PerCpuArray<CgroupEvent, 1> = PerCpuArray::new();

#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let (parent, child): (*const Task, *const Task) = (ctx.arg(0), ctx.arg(1));
    let pid = Task::tgid(child);
    if pid != Task::tid(child) || !inside::current_task() {
        return 0;
    }
    let event = ForkEvent {
        header: EventHeader::of::<ForkEvent>(PROCESS_FORK, socket::now()),
        cgroup_id: Task::cgroup_id(child),
        parent_pid: Task::tgid(parent),
        pid,
        comm: Task::comm(child),
        parent_comm: Task::process_comm(parent),
    };
    output::send_process(PROCESS_FORK, event.cgroup_id, &raw const event);
    0
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    const BINPRM: usize = 2;
    if !inside::current_task() {
        return 0;
    }
    let Some(event) = SCRATCH_EXEC.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own entry.
    let event = unsafe { &mut *event };
    let task: *const Task = ctx.arg(0);
    event.header = EventHeader::of::<ExecEvent>(PROCESS_EXEC, socket::now());
    event.cgroup_id = Task::cgroup_id(task);
    event.pid = Task::tgid(task);
    event.parent_pid = Task::parent_tgid(task);
    event.mount_namespace = Task::mount_namespace(task);
    event.reserved = 0;
    event.comm = Task::comm(task);
    read_path(Binprm::filename(ctx.arg(BINPRM)), &mut event.path);
    output::send_process(PROCESS_EXEC, event.cgroup_id, event);
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let task: *const Task = ctx.arg(0);
    if !Task::is_last_thread(task) || !inside::current_task() {
        return 0;
    }
    let event = ExitEvent {
        header: EventHeader::of::<ExitEvent>(PROCESS_EXIT, socket::now()),
        pid: Task::tgid(task),
        reserved: 0,
    };
    output::send_process(PROCESS_EXIT, Task::cgroup_id(task), &raw const event);
    0
}

#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: BtfTracePointContext) -> i32 {
    let cgroup: *const Cgroup = ctx.arg(0);
    if !Cgroup::is_unified(cgroup) || !inside::cgroup(cgroup) {
        return 0;
    }
    let Some(event) = SCRATCH_CGROUP.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own entry.
    let event = unsafe { &mut *event };
    event.header = EventHeader::of::<CgroupEvent>(CGROUP_MKDIR, socket::now());
    event.cgroup_id = Cgroup::id(cgroup);
    read_path(ctx.arg(1), &mut event.path);
    output::send_process(CGROUP_MKDIR, event.cgroup_id, event);
    0
}

/// Copies a NUL-terminated string; the rest of `path` is cleared, as the scratch holds an older one.
#[inline(always)]
fn read_path(from: *const u8, path: &mut [u8; agent_ebpf::process::PATH_BYTES]) {
    // SAFETY: `path` is this long.
    unsafe { ptr::write_bytes(path, 0, 1) };
    // SAFETY: the helper checks the address.
    let _unreadable_stays_empty = unsafe { bpf_probe_read_kernel_str_bytes(from, path) };
}
