//! Which thread has last read of which handshake: the one place that ties what a TLS library says to a connection.

use agent_ebpf::timeline::{PROTOCOL_TLS, Timeline};
use aya_ebpf::{bindings::BPF_ANY, macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    maps::LAST_READ,
    phases::STAGE_HANDSHAKE,
    records, socket,
    tls::{self, LastRead},
};

/// A process copies bytes out of its socket: in its own context, once or more per read.
#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
pub fn tcp_rcv_space_adjust(ctx: BtfTracePointContext) -> i32 {
    let sk: *const crate::kernel::Sock = ctx.arg(0);
    let Some(event) = socket::find(sk) else { return 0 };
    if !is_shaking_hands(&event.state.timeline) {
        return 0;
    }
    let last = LastRead {
        cookie: event.state.cookie,
        time_ns: socket::now(),
    };
    let _evicts_the_oldest = LAST_READ.insert(tls::pid_tgid() as u32, last, u64::from(BPF_ANY));
    0
}

/// Until the first answer is over: a server's refusal of a client's certificate comes after the client's Finished (TLS 1.3).
/// This runs at each read of the node: what every packet needs anyway tells most of them.
#[inline(always)]
fn is_shaking_hands(timeline: &Timeline) -> bool {
    timeline.protocol == PROTOCOL_TLS
        && (timeline.stage == STAGE_HANDSHAKE || records::logs_answers(timeline) && timeline.client_hello_ns != 0)
}
