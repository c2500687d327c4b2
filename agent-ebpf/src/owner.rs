//! Who opened a socket: the running process, where hooks run in its context.

use agent_ebpf::connection::ConnectionState;
use aya_ebpf::bindings::BPF_ANY;

use crate::{
    kernel::{Task, TcpSock},
    maps::MPTCP_OWNERS,
};

/// The owner of an MPTCP connection, for the subflows that a worker of the kernel adds to it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Owner {
    pid: u32,
    comm: [u8; 16],
}

/// Takes the owner of a socket that connects or listens. Never to be called in softirq, where the task is anybody.
#[inline(always)]
pub fn take(state: &mut ConnectionState, tcp: *const TcpSock) {
    let task = Task::current();
    let parent = if TcpSock::is_mptcp(tcp) {
        TcpSock::mptcp_parent(tcp)
    } else {
        None
    };
    if !Task::is_kernel_thread(task) {
        state.pid = Task::tgid(task);
        state.comm = Task::process_comm(task);
        if let Some(parent) = parent {
            let owner = Owner {
                pid: state.pid,
                comm: state.comm,
            };
            let _joined_subflows_then_have_no_owner = MPTCP_OWNERS.insert(parent, owner, u64::from(BPF_ANY));
        }
        return;
    }
    if let Some(parent) = parent
        && let Some(owner) = MPTCP_OWNERS.get_ptr(parent)
    {
        // SAFETY: the entry lives as long as this program runs.
        let owner = unsafe { *owner };
        state.pid = owner.pid;
        state.comm = owner.comm;
    }
}
