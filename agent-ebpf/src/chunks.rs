//! Plaintext on its way to userspace: hello bytes in chunks, straight from the packet into a ring of their own.

use agent_ebpf::{
    event::{EventHeader, HELLO_BYTES},
    hello::{CHUNK_BYTES, HelloHeader},
};
use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};

use crate::{kernel::from_one_to, output};

/// Most chunks of one packet: a super-packet may bring a whole hello.
const MOST_CHUNKS: usize = 8;
const LONG_BYTES: u32 = CHUNK_BYTES as u32;
const SHORT_BYTES: u32 = 512;

/// Where bytes belong.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Place {
    /// When they pass.
    pub time_ns: u64,
    pub stream: u64,
    pub cgroup_id: u64,
    /// In the stream, of the first byte.
    pub offset: u32,
    pub direction: u8,
    pub protocol: u8,
    pub reserved: [u8; 2],
}

#[repr(C)]
struct Chunk<B> {
    header: HelloHeader,
    bytes: B,
}

/// Sends `length` bytes of the packet from `at` on.
///
/// Exported, so that the verifier looks at it once and not once for each way to get here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn send_chunks(skb: *mut __sk_buff, place: *mut Place, at: u32, length: u32) -> u32 {
    // SAFETY: the verifier checks for each caller that this is a place, or null.
    let Some(place) = (unsafe { place.as_mut() }) else {
        return 0;
    };
    let (mut at, mut left) = (at, length);
    for _ in 0..MOST_CHUNKS {
        if left == 0 {
            break;
        }
        let now = if left > LONG_BYTES { LONG_BYTES } else { left };
        if now <= SHORT_BYTES {
            send_one::<SHORT_BYTES, [u8; SHORT_BYTES as usize]>(skb, at, now, place);
        } else {
            send_one::<LONG_BYTES, [u8; LONG_BYTES as usize]>(skb, at, now, place);
        }
        at = at.wrapping_add(now);
        left -= now;
        place.offset += now;
    }
    0
}

#[inline(always)]
fn send_one<const N: u32, B>(skb: *const __sk_buff, at: u32, length: u32, place: &Place) {
    output::fill_hello::<Chunk<B>>(place.cgroup_id, |chunk| {
        // SAFETY: the reserved room is a chunk's; the helper fills no more than `length` of its bytes, which the
        // verifier checks.
        unsafe {
            (*chunk).header = HelloHeader {
                header: EventHeader::of::<Chunk<B>>(HELLO_BYTES, place.time_ns),
                stream: place.stream,
                cgroup_id: place.cgroup_id,
                offset: place.offset,
                length: length as u16,
                direction: place.direction,
                protocol: place.protocol,
            };
            let length = from_one_to::<N>(length);
            bpf_skb_load_bytes(skb.cast(), at, (&raw mut (*chunk).bytes).cast(), length) == 0
        }
    });
}
