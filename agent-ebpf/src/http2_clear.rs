//! HTTP/2 in clear (RFC 9113): every frame's header is read, so that an exchange is exact, from the HEADERS of a stream to the final
//! HEADERS of its answer.
//!
//! One exchange is followed at a time; streams that begin meanwhile are counted as overlapping. A connection whose frames cannot be
//! followed any more (reordered, or more of them in one packet than are looked at) has no further turns.

use agent_ebpf::{
    hello::{BACKWARD, FORWARD},
    timeline::{TIMELINE_GAP, Timeline},
};
use aya_ebpf::bindings::__sk_buff;

use crate::{
    hellos::load,
    kernel,
    phases::{self, Payload, STAGE_ASKED, STAGE_OPEN},
};

/// Client's preface: `PRI * HTTP/2.0`, and two empty lines with `SM` between them.
const PREFACE_BYTES: u32 = 24;
/// Its first bytes.
const PREFACE: [u8; 8] = *b"PRI * HT";
const HEADER: u32 = 9;
/// Most frames of one packet that are looked at: a super-packet of short messages has hundreds.
const MOST_FRAMES: usize = 400;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const FLAG_PADDED: u8 = 8;
const FLAG_PRIORITY: u8 = 32;

/// The client's first payload is the preface.
#[inline(always)]
pub fn is_preface(first: &[u8; 8]) -> bool {
    *first == PREFACE
}

/// The conversation begins, or goes on after `101 Switching Protocols`.
#[inline(always)]
pub fn begin(timeline: &mut Timeline, payload: &Payload) {
    let is_upgrade = timeline.request_ns != 0;
    timeline.stage = STAGE_OPEN;
    timeline.record_seq[usize::from(FORWARD)] = payload.seq.wrapping_add(PREFACE_BYTES);
    // Some servers send SETTINGS before the client says anything: whole frames.
    timeline.record_seq[usize::from(BACKWARD)] = timeline.next_seq[usize::from(BACKWARD)];
    timeline.partial_length = [0; 2];
    timeline.forward_ack = 0;
    if is_upgrade {
        // Frames may have followed the answer in its own packet.
        lose(timeline);
    }
}

/// Where frames begin is not known any more.
#[inline(always)]
pub fn lose(timeline: &mut Timeline) {
    timeline.flags |= TIMELINE_GAP;
    timeline.turn_ns = 0;
    if timeline.first_byte_ns == 0 {
        timeline.request_ns = 0;
    }
}

/// Whether its frames are still followed.
#[inline(always)]
pub fn is_followed(timeline: &Timeline) -> bool {
    timeline.flags & TIMELINE_GAP == 0
}

/// Looks at every frame that begins in this payload.
#[inline(always)]
pub fn walk(skb: *const __sk_buff, timeline: &mut Timeline, payload: &mut Payload) {
    let index = payload.index();
    if timeline.record_seq[index] == 0 {
        timeline.record_seq[index] = payload.seq;
    }
    for _ in 0..MOST_FRAMES {
        if one_frame(skb.cast_mut(), timeline, payload) == 0 {
            return;
        }
    }
    lose(timeline);
}

/// Looks at the next frame; 0 when none begins in this payload.
///
/// Exported, so that the verifier looks at it once and not once for each way to get here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn one_frame(skb: *mut __sk_buff, timeline: *mut Timeline, payload: *mut Payload) -> u32 {
    // SAFETY: the verifier checks for each caller that these are what they are said to be, or null.
    let (Some(timeline), Some(payload)) = (unsafe { timeline.as_mut() }, unsafe { payload.as_ref() }) else {
        return 0;
    };
    let index = payload.index();
    let before = timeline.record_seq[index].wrapping_sub(payload.seq);
    let part = u32::from(timeline.partial_length[index]);
    if part == 0 && (before as i32) < 0 {
        // Bytes were missed.
        lose(timeline);
        return 0;
    }
    if part == 0 && before >= payload.length {
        return 0;
    }
    let in_payload = if part == 0 { before } else { 0 };
    let (at, here) = (payload.at.wrapping_add(in_payload), payload.length - in_payload);
    let header = if part == 0 && here >= HEADER {
        load(skb, at)
    } else {
        gather(skb, timeline, index, at, here)
    };
    let Some(header) = header else { return 0 };
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
    let [.., a, b, c, d] = header;
    let stream = u32::from_be_bytes([a, b, c, d]);
    timeline.record_seq[index] = timeline.record_seq[index].wrapping_add(HEADER).wrapping_add(length);
    let body = at.wrapping_add(HEADER).wrapping_sub(part);
    match header[3] {
        HEADERS if payload.direction == FORWARD => request(timeline, stream, payload.now),
        HEADERS if !is_interim(skb, body, header[4]) => answer(timeline, stream, payload.now),
        RST_STREAM => cancel(timeline, stream),
        _ => {}
    }
    1
}

/// Puts a header together that the end of a packet cut; `None` until it is whole.
#[inline(always)]
fn gather(
    skb: *const __sk_buff,
    timeline: &mut Timeline,
    index: usize,
    at: u32,
    here: u32,
) -> Option<[u8; HEADER as usize]> {
    let part = u32::from(timeline.partial_length[index]);
    let mut byte = [0_u8];
    for place in 0..HEADER {
        if place < part {
            continue;
        }
        if place - part >= here {
            timeline.partial_length[index] = place as u8;
            return None;
        }
        byte = load::<1>(skb, at.wrapping_add(place - part))?;
        if place < HEADER - 1 {
            timeline.partial[index][kernel::index::<8>(place)] = byte[0];
        }
    }
    timeline.partial_length[index] = 0;
    let [a, b, c, d, e, f, g, h] = timeline.partial[index];
    Some([a, b, c, d, e, f, g, h, byte[0]])
}

/// HEADERS of the client: a new stream, unless they are its trailers.
#[inline(always)]
fn request(timeline: &mut Timeline, stream: u32, now: u64) {
    if stream <= timeline.forward_ack {
        return;
    }
    timeline.forward_ack = stream;
    if timeline.request_ns == 0 {
        timeline.stage = STAGE_ASKED;
        phases::ask(timeline, 0, now);
        timeline.request_seq = stream;
    } else if timeline.first_byte_ns == 0 || timeline.turn_ns != 0 {
        timeline.turns_overlapping += 1;
    } else {
        timeline.turn_ns = now;
        timeline.turn_seq = stream;
    }
}

/// Final HEADERS of the server, or its trailers.
#[inline(always)]
fn answer(timeline: &mut Timeline, stream: u32, now: u64) {
    if timeline.turn_ns != 0 && stream == timeline.turn_seq {
        phases::end_turn(timeline, now, 0);
    } else if timeline.request_ns != 0 && timeline.first_byte_ns == 0 && stream == timeline.request_seq {
        timeline.first_byte_ns = now;
    }
}

/// An exchange that is given up is not timed: the next one takes its place.
#[inline(always)]
fn cancel(timeline: &mut Timeline, stream: u32) {
    if timeline.turn_ns != 0 && stream == timeline.turn_seq {
        timeline.turn_ns = 0;
    } else if timeline.first_byte_ns == 0 && stream == timeline.request_seq {
        timeline.request_ns = 0;
    }
}

/// The block begins with a literal `:status` of 1xx (RFC 7541): Huffman-coded or not. One that refers to an earlier one is not
/// recognised.
#[inline(always)]
fn is_interim(skb: *const __sk_buff, body: u32, flags: u8) -> bool {
    /// Name by the static table's index 8: with indexing, without, never indexed.
    const STATUS: [u8; 3] = [0x48, 0x08, 0x18];
    const HUFFMAN: u8 = 0x80;
    let padding = if flags & FLAG_PADDED != 0 { 1 } else { 0 };
    let priority = if flags & FLAG_PRIORITY != 0 { 5 } else { 0 };
    let Some([name, length, first]) = load::<3>(skb, body.wrapping_add(padding).wrapping_add(priority)) else {
        return false;
    };
    // Huffman's code of `1` is 00001, five bits.
    STATUS.contains(&name) && (length & HUFFMAN == 0 && first == b'1' || length & HUFFMAN != 0 && first >> 3 == 1)
}
