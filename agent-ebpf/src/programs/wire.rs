//! Payload on its way into and out of the sockets of a cgroup: advances each connection's timeline, changes nothing.
//!
//! Ingress runs before the socket takes its lock, egress with the lock held, so that on two CPUs both may be here for one
//! connection. Positions in the stream are each direction's own; marks are written by the one that finds them. Flags and
//! "who spoke last" are written by both without atomics: when a request and the end of an answer cross within the same
//! few instructions, a turn may be missed or a log entry lost. Nothing outside the timeline depends on them.

use agent_ebpf::{
    connection::{ConnectionState, ROLE_CLIENT, ROLE_LISTENER},
    hello::{BACKWARD, FORWARD},
};
use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::bpf_tcp_sock,
    macros::cgroup_skb,
    programs::SkBuffContext,
};

use crate::{
    datagram, early,
    kernel::index,
    phases::{self, Payload},
    segment::{self, Segment},
    settings, socket,
};

/// What a `cgroup_skb` program returns to let a packet pass: hopline never decides.
const PASS: i32 = 1;

#[cgroup_skb(ingress)]
pub fn ingress(ctx: SkBuffContext) -> i32 {
    observe(ctx.skb.skb, false);
    PASS
}

#[cgroup_skb(egress)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    observe(ctx.skb.skb, true);
    PASS
}

#[inline(always)]
fn observe(skb: *const __sk_buff, egress: bool) {
    // SAFETY: the context is valid for the program's run.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() || Segment::is_bare(skb) {
        return;
    }
    if !settings::looks_at_payload() {
        datagram::observe(skb, egress);
        return;
    }
    let Some(event) = socket::find(sk.cast_const()) else {
        datagram::observe(skb, egress);
        return;
    };
    let (event, mut payload) = if event.state.role == ROLE_LISTENER {
        if egress {
            return;
        }
        let Some(early) = early::keep(skb, &event.state) else {
            return;
        };
        early
    } else {
        let forward = (event.state.role == ROLE_CLIENT) == egress;
        if phases::is_settled(&event.state.timeline, forward) {
            return;
        }
        let Some(segment) = Segment::with_payload(skb) else {
            return;
        };
        let direction = if forward { FORWARD } else { BACKWARD };
        match new_bytes(skb, &mut event.state, sk, &segment, direction, egress) {
            Some(payload) => (event, payload),
            None => return,
        }
    };
    // Once per connection, and read only by what is about to change the timeline anyway.
    if !egress && event.state.timeline.arrived_ttl == 0 {
        event.state.timeline.arrived_ttl = segment::ttl(skb);
    }
    phases::pass(skb, event, &mut payload);
}

/// The part of a segment that has not passed before; `None` when there is none, or when bytes before it are missing.
///
/// A retransmitted segment passes again, a forged one may pass before TCP drops it: only bytes at the next expected
/// sequence number count.
#[inline(always)]
fn new_bytes(
    skb: *const __sk_buff,
    state: &mut ConnectionState,
    sk: *mut bpf_sock,
    segment: &Segment,
    direction: u8,
    egress: bool,
) -> Option<Payload> {
    let timeline = &mut state.timeline;
    let own = index::<2>(u32::from(direction));
    let other = own ^ 1;
    let mut next = timeline.next_seq[own];
    if egress {
        // SAFETY: the helper takes the packet's socket; null is no TCP socket.
        let tcp = unsafe { bpf_tcp_sock(sk).as_ref() }?;
        // What leaves for the first time begins where the socket has got to; a SYN counts for one.
        next = tcp.snd_nxt.wrapping_add(u32::from(segment.syn));
        // What this side has taken is in order: the other direction goes on from there.
        let gap = segment.ack.wrapping_sub(timeline.next_seq[other]) as i32;
        if timeline.next_seq[other] == 0 || gap > 0 {
            phases::skip_to(timeline, other, segment.ack);
        }
    } else if next != segment.seq {
        // SAFETY: as above.
        let tcp = unsafe { bpf_tcp_sock(sk).as_ref() }?;
        if next == 0 || (tcp.rcv_nxt.wrapping_sub(next) as i32) > 0 {
            next = tcp.rcv_nxt;
            phases::skip_to(timeline, own, next);
        }
    }
    let passed = next.wrapping_sub(segment.seq);
    if (passed as i32) < 0 {
        if !egress {
            phases::ahead(skb, state, segment, direction, next);
        }
        return None;
    }
    if passed >= segment.length {
        return None;
    }
    timeline.next_seq[own] = segment.seq.wrapping_add(segment.length);
    Some(Payload {
        now: socket::now(),
        at: segment.at + passed,
        length: segment.length - passed,
        seq: next,
        ack: segment.ack,
        direction,
        egress: u8::from(egress),
    })
}
