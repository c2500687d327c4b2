//! Changes of state for sockets that `sock_ops` does not call back for: late ones, and all when it was refused.
//!
//! The kernel leaves out a run of such a program while another one runs on the same CPU: an interrupt or, with preemption, another
//! task in the middle of one is enough. So a close has two witnesses: the change of state, and the end of the socket.

use agent_ebpf::{
    connection::{FLAG_CALLBACKS, FLAG_LATE, ROLE_CLIENT, tcp_state},
    event::{CONNECTION_CLOSE, ConnectionEvent},
};
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    intent,
    kernel::{Sock, TcpSock},
    output, settings, socket,
};

const EADDRNOTAVAIL: u16 = 99;

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let sk: *const Sock = ctx.arg(0);
    let Some((event, tcp)) = traced(sk) else { return 0 };
    let (old, new) = (ctx.arg::<i32>(1) as u8, ctx.arg::<i32>(2) as u8);
    if settings::state_by_tracing() {
        connect_traced(event, tcp, old, new);
    } else if event.state.flags & FLAG_LATE != 0 {
        follow(event, tcp, old, new);
    }
    // Else the first callback is still to come: sock_ops follows this socket, or its connect fails before a SYN.
    0
}

/// What is left of the socket is about to go: its close was missed if it still counts as open.
#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn tcp_destroy_sock(ctx: BtfTracePointContext) -> i32 {
    let sk: *const Sock = ctx.arg(0);
    let Some((event, tcp)) = traced(sk) else { return 0 };
    let last = event.state.tcp_state;
    let is_followed = settings::state_by_tracing() || event.state.flags & FLAG_LATE != 0;
    // Without any state it never left for a peer.
    if !is_followed || event.state.closed_ns != 0 || last == 0 {
        return 0;
    }
    // From ESTABLISHED there is more than one way to here.
    let old = if last == tcp_state::ESTABLISHED { 0 } else { last };
    follow(event, tcp, old, tcp_state::CLOSE);
    0
}

/// A TCP socket with storage for which nothing calls back.
#[inline(always)]
fn traced<'a>(sk: *const Sock) -> Option<(&'a mut ConnectionEvent, *const TcpSock)> {
    let event = socket::find(sk)?;
    if event.state.flags & FLAG_CALLBACKS != 0 || !Sock::is_tcp(sk) {
        return None;
    }
    Some((event, TcpSock::of(sk)?))
}

/// Without `sock_ops`: the start of a connect, and its failure for want of a port, are seen here alone.
#[inline(always)]
fn connect_traced(event: &mut ConnectionEvent, tcp: *const TcpSock, old: u8, new: u8) {
    if new == tcp_state::SYN_SENT && event.state.role == ROLE_CLIENT {
        // Just before `tcp_connect`; a program on that function then sets the mark anew.
        event.state.syn_ns = socket::now();
        event.state.tcp_state = new;
        socket::identify(&mut event.state, tcp);
        // Process context still; what fails from here on is seen below.
        intent::forget(&event.state);
        return;
    }
    if old == tcp_state::SYN_SENT && new == tcp_state::CLOSE && !TcpSock::has_sent(tcp) {
        // No port was free, so no SYN left after all. The error is only on its way to the application.
        event.state.syn_ns = 0;
        event.state.error = EADDRNOTAVAIL;
        event.state.closed_ns = socket::now();
        event.state.tcp_state = new;
        socket::report(event, tcp, CONNECTION_CLOSE);
        return;
    }
    follow(event, tcp, old, new);
}

/// An error is on its way to the program, which may fetch it before its socket closes: then nothing is left of it. A connect's alone:
/// other sockets' have ended them, or are time stamps.
#[btf_tracepoint(function = "inet_sk_error_report")]
pub fn inet_sk_error_report(ctx: BtfTracePointContext) -> i32 {
    let sk: *const Sock = ctx.arg(0);
    let Some(event) = socket::find(sk) else { return 0 };
    let state = &mut event.state;
    if state.role != ROLE_CLIENT || state.tcp_state != tcp_state::SYN_SENT || state.closed_ns != 0 {
        return 0;
    }
    let error = Sock::reported_error(sk);
    if error != 0 {
        state.error = error;
    }
    0
}

#[inline(always)]
fn follow(event: &mut ConnectionEvent, tcp: *const TcpSock, old: u8, new: u8) {
    if new == tcp_state::CLOSE {
        if event.state.flags & FLAG_LATE != 0 {
            output::count_late(-1);
        }
        socket::close(event, tcp, old);
    } else {
        socket::enter(&mut event.state, tcp, new);
    }
}
