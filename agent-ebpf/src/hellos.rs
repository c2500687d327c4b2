//! What the kernel side itself needs of hellos and alerts; all else userspace reads from the bytes.

use agent_ebpf::timeline::{ALERT_BACKWARD, ALERT_LEVEL_FATAL, TIMELINE_TLS13, Timeline};
use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};

use crate::records::{MAY_BE_HTTP2, Record};

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// What all cipher suites of TLS 1.3 begin with.
const SUITES_OF_TLS13: u16 = 0x13;

/// Most extensions that are looked at; browsers send some twenty.
const MOST_EXTENSIONS: usize = 32;
/// Type, length, version, random: what is before the session id.
const BEFORE_SESSION: u32 = 1 + 3 + 2 + 32;

/// Whether the client offers HTTP/2 (RFC 7301): its control frames are then no answers. `body` is where the message is,
/// `here` how much of it is in this packet.
///
/// Exported, so that the verifier looks at it once and not once for each way to get here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn client_hello(skb: *mut __sk_buff, timeline: *mut Timeline, body: u32, here: u32) -> u32 {
    // SAFETY: the verifier checks for each caller that this is a timeline, or null.
    let Some(timeline) = (unsafe { timeline.as_mut() }) else {
        return 0;
    };
    let offers = offers_http2(skb, body, here);
    if offers.unwrap_or(true) {
        timeline.finished |= MAY_BE_HTTP2;
    }
    0
}

/// `None` when the end of the packet came first.
#[inline(always)]
fn offers_http2(skb: *const __sk_buff, body: u32, here: u32) -> Option<bool> {
    const ALPN: u16 = 16;
    let end = body.wrapping_add(here);
    let first: [u8; 1] = load(skb, body)?;
    if first[0] != CLIENT_HELLO {
        return Some(false);
    }
    let session: [u8; 1] = load(skb, body + BEFORE_SESSION)?;
    let ciphers_at = body + BEFORE_SESSION + 1 + u32::from(session[0]);
    let ciphers = u32::from(u16::from_be_bytes(load(skb, ciphers_at)?));
    let compressions_at = ciphers_at + 2 + ciphers;
    let compressions: [u8; 1] = load(skb, compressions_at)?;
    // Behind the length of all extensions.
    let mut at = compressions_at + 1 + u32::from(compressions[0]) + 2;
    for _ in 0..MOST_EXTENSIONS {
        if at.wrapping_add(4) > end {
            // The hello may go on in the next packet.
            return None;
        }
        let [high, low, length_high, length_low]: [u8; 4] = load(skb, at)?;
        if u16::from_be_bytes([high, low]) == ALPN {
            // Length of the list, then names behind their lengths: HTTP/2 stands first where it is wanted.
            let [_, _, length, h, two]: [u8; 5] = load(skb, at + 4)?;
            return Some(length == 2 && h == b'h' && two == b'2');
        }
        at = at
            .wrapping_add(4)
            .wrapping_add(u32::from(u16::from_be_bytes([length_high, length_low])));
    }
    Some(false)
}

/// Bytes of the packet; `None` beyond its end.
#[inline(always)]
pub fn load<const N: usize>(skb: *const __sk_buff, at: u32) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: as long as said.
    let result = unsafe { bpf_skb_load_bytes(skb.cast(), at, bytes.as_mut_ptr().cast(), N as u32) };
    (result == 0).then_some(bytes)
}

/// Cipher suite and `HelloRetryRequest`; all else userspace reads.
#[inline(always)]
pub fn server_hello(skb: *const __sk_buff, timeline: &mut Timeline, record: &Record, now: u64) {
    /// `HelloRetryRequest` is a `ServerHello` with this random (RFC 8446 section 4.1.3), of which eight bytes will do.
    const RETRY: [u8; 8] = [0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11];
    const RANDOM: u32 = 1 + 3 + 2;
    if timeline.server_hello_ns != 0 {
        return;
    }
    // Cut right after the header: taken for what it should be.
    let first = if record.here == 0 {
        Some([SERVER_HELLO])
    } else {
        load(skb, record.body)
    };
    if first != Some([SERVER_HELLO]) {
        return;
    }
    timeline.server_hello_ns = now;
    if record.here < BEFORE_SESSION + 1 + 2 {
        return;
    }
    let (Some(random), Some([session])) = (
        load::<8>(skb, record.body + RANDOM),
        load::<1>(skb, record.body + BEFORE_SESSION),
    ) else {
        return;
    };
    if session > 32 {
        return;
    }
    let Some(cipher) = load(skb, record.body + BEFORE_SESSION + 1 + u32::from(session)) else {
        return;
    };
    timeline.cipher = u16::from_be_bytes(cipher);
    if timeline.cipher >> 8 == SUITES_OF_TLS13 {
        timeline.flags |= TIMELINE_TLS13;
    }
    if u64::from_ne_bytes(random) == u64::from_ne_bytes(RETRY) {
        timeline.server_hello_ns = 0;
    }
}

#[inline(always)]
pub fn alert(skb: *const __sk_buff, timeline: &mut Timeline, record: &Record, forward: bool) {
    if timeline.alert_level & !ALERT_BACKWARD == ALERT_LEVEL_FATAL || record.here < 2 {
        return;
    }
    let Some([level, description]) = load(skb, record.body) else {
        return;
    };
    timeline.alert_description = description;
    timeline.alert_level = level & !ALERT_BACKWARD | if forward { 0 } else { ALERT_BACKWARD };
}
