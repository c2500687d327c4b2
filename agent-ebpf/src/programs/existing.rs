//! Sockets opened before hopline: found by the kernel's own walk over a network namespace's TCP sockets.

use agent_ebpf::{
    connection::{FLAG_CALLBACKS, FLAG_LATE, ROLE_CLIENT, ROLE_LISTENER, ROLE_SERVER, tcp_state},
    event::{CONNECTION_OPEN, ConnectionEvent, LISTENER_OPEN},
};
use aya_ebpf::{
    bindings::{BPF_ANY, BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_STATE_CB_FLAG},
    helpers::generated::{bpf_get_socket_cookie, bpf_setsockopt},
};

use crate::{
    inside,
    kernel::{Sock, TcpSock, TcpWalk},
    maps::LISTENING,
    phases, samples, settings, socket,
};

const SOL_TCP: i32 = 6;
/// `TCP_BPF_SOCK_OPS_CB_FLAGS` (include/uapi/linux/bpf.h): 6.1 has no such option here and answers EINVAL.
const SOCK_OPS_CB_FLAGS: i32 = 1008;

/// One socket of the walk, locked by it. Listeners come before connections.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn iter_tcp(walk: *const TcpWalk) -> i32 {
    let Some(sk) = TcpWalk::socket(walk) else { return 0 };
    let Some(tcp) = TcpSock::of(sk) else { return 0 };
    let sk: *const Sock = tcp.cast_const().cast();
    let tcp_state = Sock::state(sk);
    if tcp_state == tcp_state::CLOSE || !inside::cgroup(Sock::cgroup(sk)) {
        return 0;
    }
    if let Some(event) = socket::find(tcp) {
        sample_without_callbacks(event, tcp);
        return 0;
    }
    let Some(event) = socket::find_or_create(tcp) else {
        return 0;
    };
    let state = &mut event.state;
    // SAFETY: `tcp` is a socket.
    socket::restart(state, unsafe { bpf_get_socket_cookie(tcp.cast()) }, ROLE_CLIENT);
    socket::identify(state, tcp);
    state.inode = Sock::inode(sk);
    state.tcp_state = tcp_state;
    let port = u64::from(state.netns) << 16 | u64::from(u16::from_be_bytes(state.local_port));
    let kind = if tcp_state == tcp_state::LISTEN {
        state.role = ROLE_LISTENER;
        let _role_of_its_children_is_then_a_guess = LISTENING.insert(port, 1, u64::from(BPF_ANY));
        LISTENER_OPEN
    } else {
        if LISTENING.get_ptr(port).is_some() {
            state.role = ROLE_SERVER;
        }
        CONNECTION_OPEN
    };
    state.flags |= FLAG_LATE;
    phases::begin_unseen(&mut state.timeline);
    if !settings::state_by_tracing() && ask_for_callbacks(tcp) {
        state.flags |= FLAG_CALLBACKS;
    }
    socket::report(event, tcp, kind);
    0
}

/// Before 6.12 nothing calls back for a late socket: each walk takes the last sample instead. Where nothing was received
/// since the walk before, the gate of `samples` refuses the same one again, but the sums have it twice.
#[inline(always)]
fn sample_without_callbacks(event: &mut ConnectionEvent, tcp: *const TcpSock) {
    let state = &mut event.state;
    if state.flags & FLAG_LATE == 0 || state.flags & FLAG_CALLBACKS != 0 || state.role == ROLE_LISTENER {
        return;
    }
    let sample = TcpSock::last_rtt_us(tcp);
    if sample != 0 {
        samples::add(state, tcp, sample);
    }
}

#[inline(always)]
fn ask_for_callbacks(tcp: *mut TcpSock) -> bool {
    let mut flags =
        i32::from(TcpSock::callback_flags(tcp)) | (BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG) as i32;
    // SAFETY: the walk holds the socket's lock; `flags` is as long as said.
    let result = unsafe {
        bpf_setsockopt(
            tcp.cast(),
            SOL_TCP,
            SOCK_OPS_CB_FLAGS,
            (&raw mut flags).cast(),
            size_of::<i32>() as i32,
        )
    };
    result == 0
}
