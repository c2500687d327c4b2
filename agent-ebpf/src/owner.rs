//! Who opened a socket: the running process, where hooks run in its context.

use agent_ebpf::connection::ConnectionState;
use aya_ebpf::bindings::BPF_ANY;

use crate::{
    kernel::{Sock, Task, TcpSock},
    maps::MPTCP_OWNERS,
    phases,
};

/// The first subflow of an MPTCP connection, for those that are added to it: mostly by a worker of the kernel, but also by
/// whoever makes an address known (`ip mptcp endpoint add`).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Owner {
    cookie: u64,
    pid: u32,
    asked_port: [u8; 2],
    family: u16,
    comm: [u8; 16],
    asked_address: [u8; 16],
}

/// Takes the owner of a socket that connects or listens. Never to be called in softirq, where the task is anybody.
///
/// A joined subflow also has the first one's destination, and its cookie: what it says is its parent's, to whatever address.
#[inline(always)]
pub fn take(state: &mut ConnectionState, tcp: *const TcpSock) {
    let task = Task::current();
    let parent = if TcpSock::is_mptcp(tcp) {
        TcpSock::mptcp_parent(tcp)
    } else {
        None
    };
    if let Some(parent) = parent
        && TcpSock::is_joined(tcp, parent)
    {
        if let Some(owner) = MPTCP_OWNERS.get_ptr(parent) {
            // SAFETY: the entry lives as long as this program runs.
            let owner = unsafe { &*owner };
            state.pid = owner.pid;
            state.comm = owner.comm;
            state.listener_cookie = owner.cookie;
            if owner.family == Sock::family(tcp.cast()) {
                state.asked_address = owner.asked_address;
                state.asked_port = owner.asked_port;
            }
        }
        // It begins in the middle of what both ends say.
        phases::begin_unseen(&mut state.timeline);
        return;
    }
    if Task::is_kernel_thread(task) {
        return;
    }
    state.pid = Task::tgid(task);
    state.comm = Task::process_comm(task);
    if let Some(parent) = parent {
        let owner = Owner {
            cookie: state.cookie,
            pid: state.pid,
            asked_port: state.asked_port,
            family: Sock::family(tcp.cast()),
            comm: state.comm,
            asked_address: state.asked_address,
        };
        let _joined_subflows_then_have_no_owner = MPTCP_OWNERS.insert(parent, owner, u64::from(BPF_ANY));
    }
}
