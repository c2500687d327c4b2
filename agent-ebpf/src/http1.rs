//! Answers of HTTP/1 in clear (RFC 9112): which are final, and with which status.

use aya_ebpf::bindings::__sk_buff;

use crate::{hellos::load, phases::Payload};

/// [`status`]: nothing but interim answers (1xx, RFC 9110 section 15.2), whose final one is still to come.
pub const INTERIM: u16 = 1;
/// Longest interim answer that is looked through: early hints name what a page needs.
const INTERIM_BYTES: u32 = 2_048;
/// `HTTP/1.1 100`.
const STATUS_LINE: usize = 12;

/// Registered methods by their first four bytes: RFC 9110 section 9, PATCH (RFC 5789), WebDAV (RFC 4918 and its extensions), QUERY
/// and PURGE. Other text protocols begin with words, too: what is in no list is none.
const METHODS: [[u8; 4]; 24] = [
    *b"GET ", *b"HEAD", *b"POST", *b"PUT ", *b"DELE", *b"CONN", *b"OPTI", *b"TRAC", *b"PATC", *b"PROP", *b"MKCO",
    *b"COPY", *b"MOVE", *b"LOCK", *b"UNLO", *b"REPO", *b"SEAR", *b"MERG", *b"CHEC", *b"MKAC", *b"ACL ", *b"BIND",
    *b"QUER", *b"PURG",
];
/// First letters of the frequent ones, for a head that comes byte by byte.
const LETTERS: [u8; 6] = *b"GHPDCO";

/// The client's first payload begins with a request, or with so little of one that userspace has to see more.
#[inline(always)]
pub fn begins_request(first: &[u8; 8], length: u32) -> bool {
    // An empty line before it is tolerated (RFC 9112 section 2.2).
    let [a, b, c, d, e, f, ..] = *first;
    let word = if [a, b] == *b"\r\n" { [c, d, e, f] } else { [a, b, c, d] };
    let mut is_method = false;
    for method in METHODS {
        is_method |= u32::from_ne_bytes(word) == u32::from_ne_bytes(method);
    }
    is_method || length < 4 && LETTERS.contains(&a)
}

/// Status of the answer that begins this payload; 0 where it cannot be read, also that of a final one behind an interim one.
#[inline(always)]
pub fn status(skb: *const __sk_buff, payload: &Payload) -> u16 {
    let Some(line) = load::<STATUS_LINE>(skb, payload.at) else {
        return 0;
    };
    let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', a, b, c] = line else {
        return 0;
    };
    if !(b'1'..=b'9').contains(&a) || !b.is_ascii_digit() || !c.is_ascii_digit() {
        return 0;
    }
    let status = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
    if a != b'1' || status == 101 {
        return status;
    }
    if final_follows(skb.cast_mut(), payload) != 0 {
        0
    } else {
        INTERIM
    }
}

/// Whether something stands behind the interim answer that begins this payload: 1, or 0.
///
/// Exported, so that the verifier looks at it once and not once for each way to get here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn final_follows(skb: *mut __sk_buff, payload: *const Payload) -> u32 {
    // SAFETY: the verifier checks for each caller that this is a payload, or null.
    let Some(payload) = (unsafe { payload.as_ref() }) else {
        return 0;
    };
    let mut last = 0_u32;
    for place in STATUS_LINE as u32..INTERIM_BYTES {
        if place >= payload.length {
            return 0;
        }
        let Some([byte]) = load::<1>(skb, payload.at.wrapping_add(place)) else {
            return 0;
        };
        last = last << 8 | u32::from(byte);
        if last == u32::from_be_bytes(*b"\r\n\r\n") && place + 1 < payload.length {
            return 1;
        }
    }
    0
}
