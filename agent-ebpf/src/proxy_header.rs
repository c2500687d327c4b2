//! The PROXY protocol's header before a connection's own bytes: text (version 1, at most 107 bytes) or binary (version 2).

use aya_ebpf::bindings::__sk_buff;

use crate::{hellos::load, phases::Payload};

const TEXT: [u8; 6] = *b"PROXY ";
/// Longest line of version 1, with its end.
const TEXT_BYTES: u32 = 107;
const BINARY: [u8; 8] = *b"\r\n\r\n\0\r\nQ";
/// Rest of the signature, version and command, family, length: the addresses follow.
const BINARY_BYTES: u32 = 16;
const LENGTH_AT: u32 = 14;

/// The first payload may begin with one.
#[inline(always)]
pub fn may_be(first: &[u8; 8]) -> bool {
    let [a, b, c, d, e, f, _, _] = *first;
    *first == BINARY || [a, b, c, d, e, f] == TEXT
}

/// Bytes of the header; more than the payload has when its end is not in it.
///
/// Exported, so that the verifier looks at it once and not once for each way to get here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn length(skb: *mut __sk_buff, payload: *const Payload) -> u32 {
    // SAFETY: the verifier checks for each caller that this is a payload, or null.
    let Some(payload) = (unsafe { payload.as_ref() }) else {
        return 0;
    };
    let Some([first]) = load::<1>(skb, payload.at) else {
        return 0;
    };
    if first != TEXT[0] {
        let length = load::<2>(skb, payload.at.wrapping_add(LENGTH_AT));
        return length.map_or(u32::MAX, |length| BINARY_BYTES + u32::from(u16::from_be_bytes(length)));
    }
    for place in TEXT.len() as u32..TEXT_BYTES {
        match load::<1>(skb, payload.at.wrapping_add(place)) {
            Some([b'\n']) => return place + 1,
            Some(_) => {}
            None => break,
        }
    }
    u32::MAX
}
