//! What the kernel side itself needs of hellos and alerts; all else userspace reads from the bytes.

use agent_ebpf::{
    hello::FORWARD,
    timeline::{ALERT_BACKWARD, ALERT_LEVEL_FATAL, TIMELINE_TLS13, Timeline},
};
use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};

use crate::{
    phases::Payload,
    records::{HELLO_CUT, MAY_BE_HTTP2, Record},
};

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// What all cipher suites of TLS 1.3 begin with.
const SUITES_OF_TLS13: u16 = 0x13;

/// Most extensions that are looked at; browsers send some twenty.
const MOST_EXTENSIONS: usize = 32;
/// Type, length, version, random: what is before the session id.
const BEFORE_SESSION: u32 = 1 + 3 + 2 + 32;

/// What the extensions of a hello say of HTTP/2 (RFC 7301).
enum Alpn {
    /// The client offers it first, or the server has chosen it.
    Http2,
    Other,
    /// The packet ends before the extension at this offset.
    Cut(u32),
    Unknown,
}

/// Whether the client offers HTTP/2: its control frames are then no answers. `body` is where the message is, at the sequence
/// number `seq`, `here` how much of its record is in this packet.
///
/// Exported, so that the verifier looks at it once and not once for each way to get here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn client_hello(skb: *mut __sk_buff, timeline: *mut Timeline, body: u32, here: u32, seq: u32) -> u32 {
    // SAFETY: the verifier checks for each caller that this is a timeline, or null.
    let Some(timeline) = (unsafe { timeline.as_mut() }) else {
        return 0;
    };
    let head = load::<4>(skb, body);
    if head.is_some_and(|head| head[0] != CLIENT_HELLO) {
        return 0;
    }
    let offer = match head.and_then(|head| extensions_of_client(skb, body, head)) {
        Some((first, end)) => {
            let is_one_record = seq.wrapping_add(end - body) == timeline.record_seq[usize::from(FORWARD)];
            if is_one_record {
                alpn(skb, first, body.wrapping_add(here), end)
            } else {
                // Headers of records stand between its parts.
                Alpn::Unknown
            }
        }
        None => Alpn::Unknown,
    };
    match offer {
        Alpn::Other => return 0,
        Alpn::Cut(at) => cut_at(timeline, seq.wrapping_add(at - body)),
        Alpn::Http2 | Alpn::Unknown => {}
    }
    timeline.finished |= MAY_BE_HTTP2;
    0
}

/// The hello goes on in this packet: those with a key share against quantum computers take two.
///
/// Exported as the first part.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn client_hello_goes_on(skb: *mut __sk_buff, timeline: *mut Timeline, payload: *const Payload) -> u32 {
    // SAFETY: the verifier checks for each caller that these are what they are said to be, or null.
    let (Some(timeline), Some(payload)) = (unsafe { timeline.as_mut() }, unsafe { payload.as_ref() }) else {
        return 0;
    };
    let skipped = timeline.forward_ack.wrapping_sub(payload.seq);
    if skipped >= payload.length {
        if (skipped as i32) < 0 {
            // The packet before cut that extension itself.
            whole(timeline);
        }
        return 0;
    }
    let left = timeline.record_seq[usize::from(FORWARD)].wrapping_sub(payload.seq);
    let (at, end) = (
        payload.at.wrapping_add(skipped),
        payload.at.wrapping_add(payload.length),
    );
    match alpn(skb, at, end, payload.at.wrapping_add(left)) {
        Alpn::Cut(at) => timeline.forward_ack = payload.seq.wrapping_add(at - payload.at),
        Alpn::Other => {
            timeline.finished &= !MAY_BE_HTTP2;
            whole(timeline);
        }
        Alpn::Http2 | Alpn::Unknown => whole(timeline),
    }
    0
}

/// The rest is looked for from this sequence number on.
#[inline(always)]
fn cut_at(timeline: &mut Timeline, seq: u32) {
    timeline.heard |= HELLO_CUT;
    timeline.forward_ack = seq;
}

/// No more is to come.
#[inline(always)]
fn whole(timeline: &mut Timeline) {
    timeline.heard &= !HELLO_CUT;
    timeline.forward_ack = 0;
}

/// Where the extensions of a `ClientHello` begin and where the hello ends, by its first four bytes among others.
#[inline(always)]
fn extensions_of_client(skb: *const __sk_buff, body: u32, head: [u8; 4]) -> Option<(u32, u32)> {
    let session: [u8; 1] = load(skb, body + BEFORE_SESSION)?;
    let ciphers_at = body + BEFORE_SESSION + 1 + u32::from(session[0]);
    let ciphers = u32::from(u16::from_be_bytes(load(skb, ciphers_at)?));
    let compressions_at = ciphers_at + 2 + ciphers;
    let compressions: [u8; 1] = load(skb, compressions_at)?;
    // Behind the length of all extensions.
    let first = compressions_at + 1 + u32::from(compressions[0]) + 2;
    Some((first, body + 4 + length(head)))
}

/// Length of a handshake message, by its first four bytes.
#[inline(always)]
fn length(head: [u8; 4]) -> u32 {
    u32::from_be_bytes([0, head[1], head[2], head[3]])
}

/// Looks through extensions from `at` on; the packet ends at `end`, the hello at `hello_end`.
#[inline(always)]
fn alpn(skb: *const __sk_buff, at: u32, end: u32, hello_end: u32) -> Alpn {
    const ALPN: u16 = 16;
    let mut at = at;
    for _ in 0..MOST_EXTENSIONS {
        if at >= hello_end {
            return Alpn::Other;
        }
        if at.wrapping_add(4) > end {
            return Alpn::Cut(at);
        }
        let Some([high, low, length_high, length_low]) = load::<4>(skb, at) else {
            return Alpn::Unknown;
        };
        if u16::from_be_bytes([high, low]) == ALPN {
            // Length of the list, then names behind their lengths: HTTP/2 stands first where it is wanted.
            return match load::<5>(skb, at + 4) {
                Some([_, _, 2, b'h', b'2']) => Alpn::Http2,
                Some(_) => Alpn::Other,
                None => Alpn::Unknown,
            };
        }
        at = at
            .wrapping_add(4)
            .wrapping_add(u32::from(u16::from_be_bytes([length_high, length_low])));
    }
    Alpn::Unknown
}

/// What a server of TLS 1.2 has chosen stands in clear: without a choice of HTTP/2 there is none. `cipher_at` is where the
/// cipher suite of the `ServerHello` at `body` is, `end` the end of what is here of it.
///
/// Exported as the client's.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn server_choice(
    skb: *mut __sk_buff,
    timeline: *mut Timeline,
    body: u32,
    cipher_at: u32,
    end: u32,
) -> u32 {
    // SAFETY: the verifier checks for each caller that this is a timeline, or null.
    let Some(timeline) = (unsafe { timeline.as_mut() }) else {
        return 0;
    };
    let Some(head) = load::<4>(skb, body) else { return 0 };
    // Cipher suite, compression, length of all extensions.
    let choice = alpn(skb, cipher_at + 2 + 1 + 2, end, body + 4 + length(head));
    if matches!(choice, Alpn::Other) {
        timeline.finished &= !MAY_BE_HTTP2;
    }
    0
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
    } else if timeline.finished & MAY_BE_HTTP2 != 0 {
        let cipher_at = record.body + BEFORE_SESSION + 1 + u32::from(session);
        server_choice(
            skb.cast_mut(),
            timeline,
            record.body,
            cipher_at,
            record.body + record.here,
        );
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
