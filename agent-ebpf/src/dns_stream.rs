//! DNS over TCP: each direction's bytes on their way to userspace, in order.

use agent_ebpf::{
    connection::ConnectionState,
    dns::{DNS_LIMIT, DnsHeader, TRANSPORT_TCP},
    event::{ConnectionEvent, DNS_MESSAGE, EventHeader},
};
use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};

use crate::{kernel::from_one_to, output, phases::Payload};

const LONG_BYTES: u32 = DNS_LIMIT as u32;
const SHORT_BYTES: u32 = 512;
/// Most pieces of one packet; what a longer one holds is missing, which ends the stream for userspace.
const MOST_PIECES: usize = 4;
const AF_INET: u16 = 2;

#[repr(C)]
struct Piece<B> {
    header: DnsHeader,
    bytes: B,
}

/// Sends new payload of a DNS connection.
///
/// Exported, so that the verifier looks at it once and not once for each way to get here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn dns_stream(skb: *mut __sk_buff, event: *mut ConnectionEvent, payload: *mut Payload) -> u32 {
    // SAFETY: the verifier checks for each caller that these are what they are said to be, or null.
    let (Some(event), Some(payload)) = (unsafe { event.as_mut() }, unsafe { payload.as_ref() }) else {
        return 0;
    };
    let state = &mut event.state;
    let index = payload.index();
    if state.timeline.hello_seq[index] == 0 {
        state.timeline.hello_seq[index] = payload.seq;
    }
    let mut offset = payload.seq.wrapping_sub(state.timeline.hello_seq[index]);
    let (mut at, mut left) = (payload.at, payload.length);
    for _ in 0..MOST_PIECES {
        if left == 0 {
            break;
        }
        let now = if left > LONG_BYTES { LONG_BYTES } else { left };
        if now <= SHORT_BYTES {
            send::<SHORT_BYTES, [u8; SHORT_BYTES as usize]>(skb, state, payload, at, offset, now);
        } else {
            send::<LONG_BYTES, [u8; LONG_BYTES as usize]>(skb, state, payload, at, offset, now);
        }
        at = at.wrapping_add(now);
        offset = offset.wrapping_add(now);
        left -= now;
    }
    0
}

#[inline(always)]
fn send<const N: u32, B>(
    skb: *const __sk_buff,
    state: &ConnectionState,
    payload: &Payload,
    at: u32,
    offset: u32,
    length: u32,
) {
    output::fill_dns::<Piece<B>>(state.cgroup_id, |piece| {
        // SAFETY: the reserved room is a piece's; the helper fills no more than `length` of its bytes, which the verifier
        // checks.
        unsafe {
            (*piece).header = DnsHeader {
                header: EventHeader::of::<Piece<B>>(DNS_MESSAGE, payload.now),
                cookie: state.cookie,
                cgroup_id: state.cgroup_id,
                netns_cookie: state.netns_cookie,
                local_address: state.local_address,
                remote_address: state.remote_address,
                comm: state.comm,
                local_port: state.local_port,
                remote_port: state.remote_port,
                pid: state.pid,
                netns: state.netns,
                offset,
                length: length as u16,
                message_length: length as u16,
                direction: payload.direction,
                role: state.role,
                transport: TRANSPORT_TCP,
                ip_version: if state.family == AF_INET { 4 } else { 6 },
            };
            let length = from_one_to::<N>(length);
            bpf_skb_load_bytes(skb.cast(), at, (&raw mut (*piece).bytes).cast(), length) == 0
        }
    });
}
