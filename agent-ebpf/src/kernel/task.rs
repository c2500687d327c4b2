//! `struct task_struct` and `struct linux_binprm`.

use aya_ebpf::helpers::generated::bpf_get_current_task_btf;

use super::{Cgroup, Field, Net};

/// Kernel's `struct task_struct`: a thread.
pub struct Task;
/// Kernel's `struct signal_struct`: what the threads of a process share.
pub struct Signal;
/// Kernel's `struct nsproxy`: a task's namespaces.
pub struct Namespaces;
/// Kernel's `struct mnt_namespace`: which files a task sees.
pub struct Mounts;
/// Kernel's `struct css_set`: a task's cgroups.
pub struct CssSet;
/// Kernel's `struct linux_binprm`: a program being executed.
pub struct Binprm;

#[unsafe(no_mangle)]
static TASK_PID: Field<Task, u32> = Field::new();
#[unsafe(no_mangle)]
static TASK_TGID: Field<Task, u32> = Field::new();
#[unsafe(no_mangle)]
static TASK_FLAGS: Field<Task, u32> = Field::new();
#[unsafe(no_mangle)]
static TASK_COMM: Field<Task, [u8; 16]> = Field::new();
#[unsafe(no_mangle)]
static TASK_GROUP_LEADER: Field<Task, *const Task> = Field::new();
#[unsafe(no_mangle)]
static TASK_REAL_PARENT: Field<Task, *const Task> = Field::new();
#[unsafe(no_mangle)]
static TASK_SIGNAL: Field<Task, *const Signal> = Field::new();
#[unsafe(no_mangle)]
static TASK_CGROUPS: Field<Task, *const CssSet> = Field::new();
#[unsafe(no_mangle)]
static TASK_NSPROXY: Field<Task, *const Namespaces> = Field::new();
#[unsafe(no_mangle)]
static NSPROXY_NET: Field<Namespaces, *const Net> = Field::new();
#[unsafe(no_mangle)]
static NSPROXY_MNT: Field<Namespaces, *const Mounts> = Field::new();
#[unsafe(no_mangle)]
static MNT_INUM: Field<Mounts, u32> = Field::new();
#[unsafe(no_mangle)]
static CSS_SET_UNIFIED: Field<CssSet, *const Cgroup> = Field::new();
#[unsafe(no_mangle)]
static SIGNAL_LIVE: Field<Signal, i32> = Field::new();
#[unsafe(no_mangle)]
static BINPRM_FILENAME: Field<Binprm, *const u8> = Field::new();

/// `task_struct.flags` of a kernel thread (include/linux/sched.h).
const PF_KTHREAD: u32 = 0x0020_0000;

impl Task {
    /// The thread that runs now: the owner in process context, anybody in softirq.
    #[inline(always)]
    pub fn current() -> *const Self {
        // SAFETY: no preconditions.
        unsafe { bpf_get_current_task_btf() }.cast_const().cast()
    }

    /// Thread id, init pid namespace.
    #[inline(always)]
    pub fn tid(task: *const Self) -> u32 {
        TASK_PID.read(task)
    }

    /// Process id, init pid namespace.
    #[inline(always)]
    pub fn tgid(task: *const Self) -> u32 {
        TASK_TGID.read(task)
    }

    /// A worker of the kernel, not a process.
    #[inline(always)]
    pub fn is_kernel_thread(task: *const Self) -> bool {
        TASK_FLAGS.read(task) & PF_KTHREAD != 0
    }

    /// Name of the process: its main thread's.
    #[inline(always)]
    pub fn process_comm(task: *const Self) -> [u8; 16] {
        Self::comm(TASK_GROUP_LEADER.read(task))
    }

    /// Name of the thread, NUL-padded.
    #[inline(always)]
    pub fn comm(task: *const Self) -> [u8; 16] {
        TASK_COMM.probe_read(task).unwrap_or_default()
    }

    /// Process id of the parent.
    #[inline(always)]
    pub fn parent_tgid(task: *const Self) -> u32 {
        TASK_TGID.read(TASK_REAL_PARENT.read(task))
    }

    /// Cgroup on the unified hierarchy.
    #[inline(always)]
    pub fn cgroup_id(task: *const Self) -> u64 {
        Cgroup::id(CSS_SET_UNIFIED.read(TASK_CGROUPS.read(task)))
    }

    /// Inode number of the network namespace; never to be asked of a task that is exiting, which has none.
    #[inline(always)]
    pub fn netns(task: *const Self) -> u32 {
        Net::inode_number(NSPROXY_NET.read(TASK_NSPROXY.read(task)))
    }

    /// Number that no other network namespace has; as [`Self::netns`] not to be asked of a task that is exiting.
    #[inline(always)]
    pub fn netns_cookie(task: *const Self) -> u64 {
        Net::cookie(NSPROXY_NET.read(TASK_NSPROXY.read(task)))
    }

    /// Inode number of the mount namespace, as `/proc/PID/ns/mnt` shows it; 0 when this kernel does not say.
    #[inline(always)]
    pub fn mount_namespace(task: *const Self) -> u32 {
        if NSPROXY_MNT.is_present() && MNT_INUM.is_present() {
            MNT_INUM
                .probe_read(NSPROXY_MNT.read(TASK_NSPROXY.read(task)))
                .unwrap_or(0)
        } else {
            0
        }
    }

    /// No thread of the process is left; the count is lowered before the exit tracepoint.
    #[inline(always)]
    pub fn is_last_thread(task: *const Self) -> bool {
        SIGNAL_LIVE.read(TASK_SIGNAL.read(task)) == 0
    }
}

impl Binprm {
    /// Path as given to execve.
    #[inline(always)]
    pub fn filename(binprm: *const Self) -> *const u8 {
        BINPRM_FILENAME.read(binprm)
    }
}
