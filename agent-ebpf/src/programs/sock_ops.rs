//! Calls back for the sockets of a cgroup: SYN about to leave, child accepted, listening, change of state, RTT sample.

use agent_ebpf::{
    connection::{FLAG_CALLBACKS, ROLE_CLIENT, ROLE_LISTENER, ROLE_SERVER, tcp_state},
    event::{CONNECTION_OPEN, LISTENER_OPEN},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RTT_CB, BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_STATE_CB,
        BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB,
    },
    helpers::generated::bpf_get_socket_cookie,
    macros::sock_ops,
    programs::SockOpsContext,
};

use crate::{
    early, intent,
    kernel::{Sock, TcpSock},
    maps::CONNECT_STARTED,
    owner, samples, settings, socket,
};

/// What a `sock_ops` program returns; `reply` is never written, so hopline changes nothing that others decide.
const CONTINUE: u32 = 1;

#[sock_ops]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    // Most calls ask for a decision (initial window, time-out, ECN): leave those at once.
    match ctx.op() {
        BPF_SOCK_OPS_RTT_CB => rtt_sample(&ctx),
        BPF_SOCK_OPS_STATE_CB => state_changed(&ctx),
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(&ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => listening(&ctx),
        _ => {}
    }
    CONTINUE
}

/// The socket, unless the call is about a request that has none yet.
#[inline(always)]
fn sk(ctx: &SockOpsContext) -> Option<*const Sock> {
    // SAFETY: the context is valid for the program's run.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        None
    } else {
        Some(sk.cast_const().cast())
    }
}

/// First statement of `tcp_connect`, in process context: addresses and ports are final, no SYN has left.
#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let Some(sk) = sk(ctx) else { return };
    let Some(tcp) = TcpSock::of(sk) else { return };
    // One that found no room when its connect began was counted there.
    let found = if settings::takes_connects() && socket::is_full() {
        socket::find(sk)
    } else {
        socket::find_or_create(sk)
    };
    let Some(event) = found else { return };
    let state = &mut event.state;
    if state.role != ROLE_CLIENT || state.intent_ns == 0 || state.closed_ns != 0 {
        // No intent was seen: an MPTCP subflow, or cgroup/connect is not there. A worker of the kernel is no owner.
        socket::restart(state, cookie(ctx), ROLE_CLIENT);
        state.intent_ns = socket::now();
        owner::take(state, tcp);
    }
    intent::forget(state);
    if settings::syn_by_kprobe()
        && let Some(started) = CONNECT_STARTED.get_ptr(tcp as u64)
    {
        // SAFETY: the entry lives as long as this program runs.
        state.syn_ns = unsafe { *started };
        let _just_found = CONNECT_STARTED.remove(tcp as u64);
    }
    if state.syn_ns == 0 {
        state.syn_ns = socket::now();
    }
    socket::identify(state, tcp);
    state.tcp_state = tcp_state::SYN_SENT;
    call_back(ctx, of_connections());
    state.flags |= FLAG_CALLBACKS;
}

/// The final ACK made a child of a listener; softirq, so the owner is the listener's.
#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let Some(sk) = sk(ctx) else { return };
    let Some(tcp) = TcpSock::of(sk) else { return };
    if socket::find(sk).is_some_and(|event| event.state.role == ROLE_CLIENT) {
        // Who called connect was called at the same time, perhaps by itself: both ends are clients.
        return;
    }
    let Some(event) = socket::of_child(sk) else { return };
    socket::accepted(&mut event.state, tcp, cookie(ctx));
    early::adopt(&mut event.state);
    // ESTABLISHED follows at once, or later for TCP Fast Open: the state callback marks both.
    call_back(ctx, of_connections());
    event.state.flags |= FLAG_CALLBACKS;
}

/// `listen` was called; process context.
#[inline(always)]
fn listening(ctx: &SockOpsContext) {
    let Some(sk) = sk(ctx) else { return };
    let Some(tcp) = TcpSock::of(sk) else { return };
    let Some(event) = socket::find_or_create(sk) else {
        return;
    };
    let state = &mut event.state;
    socket::restart(state, cookie(ctx), ROLE_LISTENER);
    state.intent_ns = socket::now();
    state.tcp_state = tcp_state::LISTEN;
    owner::take(state, tcp);
    socket::identify(state, tcp);
    state.inode = Sock::inode(tcp.cast_const().cast());
    call_back(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
    state.flags |= FLAG_CALLBACKS;
    socket::send(event, LISTENER_OPEN);
}

#[inline(always)]
fn state_changed(ctx: &SockOpsContext) {
    let Some(sk) = sk(ctx) else { return };
    let Some(event) = socket::find(sk) else {
        return;
    };
    let Some(tcp) = TcpSock::of(sk) else { return };
    let (old, new) = (ctx.arg(0) as u8, ctx.arg(1) as u8);
    if new == tcp_state::CLOSE {
        socket::close(event, tcp, old);
        return;
    }
    socket::enter(&mut event.state, tcp, new);
    if new == tcp_state::ESTABLISHED && event.state.role == ROLE_SERVER && settings::tells_of_children() {
        socket::send(event, CONNECTION_OPEN);
    }
}

/// An ACK gave a raw sample, the first in each round trip: the argument from 6.10 on, RACK's before. Never `srtt_us`, which
/// is older than the sample.
#[inline(always)]
fn rtt_sample(ctx: &SockOpsContext) {
    // Somebody else may have asked for the call.
    if !settings::takes_rtt() {
        return;
    }
    let Some(sk) = sk(ctx) else { return };
    let Some(event) = socket::find(sk) else { return };
    if event.state.role == ROLE_LISTENER {
        // A child before it was accepted, with its listener's copy: the sample is taken there.
        return;
    }
    let Some(tcp) = TcpSock::of(sk) else { return };
    let mut sample = ctx.arg(0);
    if sample == 0 {
        sample = TcpSock::last_rtt_us(tcp);
    }
    if sample != 0 {
        samples::add(&mut event.state, tcp, sample);
    }
}

#[inline(always)]
fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the helper takes this context.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// The callbacks that a connection needs.
#[inline(always)]
fn of_connections() -> u32 {
    if settings::takes_rtt() {
        BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG
    } else {
        BPF_SOCK_OPS_STATE_CB_FLAG
    }
}

/// Adds to the callbacks that others may have asked for on this socket.
#[inline(always)]
fn call_back(ctx: &SockOpsContext, flags: u32) {
    let _refused_only_without_a_full_socket = ctx.set_cb_flags((ctx.cb_flags() | flags) as i32);
}
