//! Segments sent again, by the reason the kernel had; as many as the kernel's own counter says.

use agent_ebpf::{
    connection::{ROLE_LISTENER, tcp_state},
    event::{ConnectionEvent, SYNACK_RETRANSMIT},
};
use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::PerCpuArray,
    helpers::generated::bpf_get_socket_cookie,
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};

use crate::{
    kernel::{RequestSock, RetransmitReason, SkBuff, Sock, TcpSock},
    maps::SYNACKS,
    settings, socket,
};

/// Room for a listener's state with the peer of one request: too large for the stack. The tracepoint runs in softirq
/// (the request's timer, a SYN that came again), where a second one cannot come in between on the same CPU; where softirqs
/// may be preempted (`PREEMPT_RT`), the guard that `programs/process.rs` describes keeps it out.
#[btf_map]
static SCRATCH_SYNACK: PerCpuArray<ConnectionEvent, 1> = PerCpuArray::new();

#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn tcp_retransmit_skb(ctx: BtfTracePointContext) -> i32 {
    const SKB: usize = 1;
    const RESULT: usize = 2;
    let sk: *const Sock = ctx.arg(0);
    let Some(event) = socket::find(sk) else { return 0 };
    let Some(tcp) = TcpSock::of(sk) else { return 0 };
    let state = &mut event.state;
    if settings::retransmit_has_result() && ctx.arg::<i32>(RESULT) != 0 {
        // Never left this host: no retransmission, though the kernel's counters have it. Before 6.18 the tracepoint is
        // silent then, so that the difference of two counters would take it for the next one's.
        return 0;
    }
    // As many as the kernel counts: a super-packet by its segments.
    let segments = SkBuff::tcp_segments(ctx.arg(SKB));
    let retransmits = &mut state.retransmits;
    if Sock::state(sk) == tcp_state::SYN_SENT {
        retransmits.syn += segments;
    } else {
        match TcpSock::retransmit_reason(tcp) {
            RetransmitReason::Rto => retransmits.rto += segments,
            RetransmitReason::Fast => retransmits.fast += segments,
            RetransmitReason::LossProbe => retransmits.tlp += segments,
            RetransmitReason::Other => retransmits.other += segments,
        }
    }
    0
}

/// A listener answers a SYN again. The request has no storage of its own: the event carries the listener's.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub fn tcp_retransmit_synack(ctx: BtfTracePointContext) -> i32 {
    let listener: *const Sock = ctx.arg(0);
    let Some(event) = socket::find(listener) else { return 0 };
    let request: *const RequestSock = ctx.arg(1);
    // SAFETY: a request begins as every socket does; its child will have the same cookie.
    let cookie = unsafe { bpf_get_socket_cookie(request.cast_mut().cast()) };
    let _kept_from_the_first_time =
        SYNACKS.insert(cookie, RequestSock::first_synack_ns(request), u64::from(BPF_NOEXIST));
    if event.state.role == ROLE_LISTENER {
        let Some(copy) = SCRATCH_SYNACK.get_ptr_mut(0) else {
            return 0;
        };
        // SAFETY: this CPU's own entry; the listener's storage is another place.
        let copy = unsafe { &mut *copy };
        *copy = *event;
        socket::identify_remote(&mut copy.state, request.cast());
        socket::send(copy, SYNACK_RETRANSMIT);
    }
    0
}
