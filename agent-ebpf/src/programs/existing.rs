//! Sockets opened before hopline: found once among the open files of all processes, listeners first.
//!
//! No walk over the kernel's own tables of sockets: `iter/tcp` takes a reference on requests whose count is 0
//! (`docs/kernels.md`). Nothing locks a socket here; whatever happens to it meanwhile is seen by the programs that were attached
//! before. `sock_ops` is not called back for a socket that it did not see born: `programs/state.rs` sees its close,
//! `programs/open.rs` takes its RTT.

use agent_ebpf::{
    connection::{FLAG_FOUND_CONNECTING, FLAG_LATE, ROLE_CLIENT, ROLE_LISTENER, ROLE_SERVER, tcp_state},
    event::{CONNECTION_OPEN, ConnectionEvent, LISTENER_OPEN},
};
use aya_ebpf::{bindings::BPF_ANY, helpers::generated::bpf_get_socket_cookie};

use crate::{
    inside,
    kernel::{FileWalk, Sock, TcpSock},
    maps::LISTENING,
    output, phases, socket,
};

/// One open file of one process: a listener.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn iter_listeners(walk: *const FileWalk) -> i32 {
    let Some(tcp) = unseen(walk) else { return 0 };
    if Sock::state(tcp.cast_const().cast()) != tcp_state::LISTEN {
        return 0;
    }
    let Some(event) = begin(tcp, ROLE_LISTENER) else {
        return 0;
    };
    let _role_of_its_children_is_then_a_guess = LISTENING.insert(port(event), 1, u64::from(BPF_ANY));
    socket::report(event, tcp, LISTENER_OPEN);
    0
}

/// One open file of one process: a connection. Comes after all listeners.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn iter_existing(walk: *const FileWalk) -> i32 {
    let Some(tcp) = unseen(walk) else { return 0 };
    if matches!(
        Sock::state(tcp.cast_const().cast()),
        tcp_state::LISTEN | tcp_state::CLOSE
    ) {
        return 0;
    }
    let Some(event) = begin(tcp, ROLE_CLIENT) else { return 0 };
    if event.state.tcp_state == tcp_state::SYN_SENT {
        event.state.flags |= FLAG_FOUND_CONNECTING;
        // It has sent nothing but SYNs.
        event.state.retransmits.syn = TcpSock::total_retransmits(tcp);
    } else if LISTENING.get_ptr(port(event)).is_some() {
        event.state.role = ROLE_SERVER;
    }
    socket::report(event, tcp, CONNECTION_OPEN);
    0
}

/// A TCP socket inside the watched cgroups that has no storage.
#[inline(always)]
fn unseen(walk: *const FileWalk) -> Option<*mut TcpSock> {
    let tcp = TcpSock::of(FileWalk::socket(walk)?)?;
    let is_new = inside::cgroup(Sock::cgroup(tcp.cast_const().cast())) && socket::find(tcp).is_none();
    if is_new { Some(tcp) } else { None }
}

/// Makes its storage.
#[inline(always)]
fn begin<'a>(tcp: *mut TcpSock, role: u8) -> Option<&'a mut ConnectionEvent> {
    let event = socket::find_or_create(tcp)?;
    let state = &mut event.state;
    // SAFETY: `tcp` is a socket.
    socket::restart(state, unsafe { bpf_get_socket_cookie(tcp.cast()) }, role);
    socket::identify(state, tcp);
    let sk: *const Sock = tcp.cast_const().cast();
    state.inode = Sock::inode(sk);
    state.tcp_state = Sock::state(sk);
    state.flags |= FLAG_LATE;
    phases::begin_unseen(&mut state.timeline);
    output::count_late(1);
    Some(event)
}

/// The local port and its network namespace.
#[inline(always)]
fn port(event: &ConnectionEvent) -> u64 {
    u64::from(event.state.netns) << 16 | u64::from(u16::from_be_bytes(event.state.local_port))
}
