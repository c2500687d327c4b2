//! TLS records (RFC 8446 section 5, RFC 5246 section 6) in the payload of one connection: what each means for the phases.

use agent_ebpf::{
    hello::{BACKWARD, FORWARD},
    timeline::{
        ANSWER_ACKS_REQUEST, ANSWER_STARTS_SEGMENT, ANSWERS, AnswerRecord, HEARD_PREFACE, PROTOCOL_TLS,
        TIMELINE_BACKWARD_CCS, TIMELINE_EARLY_DATA, TIMELINE_EARLY_TICKETS, TIMELINE_FORWARD_CCS, TIMELINE_GAP,
        TIMELINE_PACKED_FLIGHT, TIMELINE_RESUMED12, TIMELINE_TLS13, Timeline, is_packed_tickets,
    },
};
use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};

use crate::{
    hellos,
    http2::{self, Control},
    kernel,
    phases::{self, Payload, STAGE_ASKED, STAGE_HANDSHAKE, STAGE_OPEN},
};

/// Most records of one packet that are looked at: a hello may be cut into records of one byte.
const MOST_RECORDS: usize = 256;
pub const HEADER: u32 = 5;
/// Longest record: 2^14 bytes and what encryption may add in TLS 1.2.
const LONGEST: u16 = 16_384 + 2_048;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// A Finished of TLS 1.3 as a record: header of the message, hash, content type, tag.
const FINISHED_SHA256: u16 = 4 + 32 + 1 + 16;
const FINISHED_SHA384: u16 = 4 + 48 + 1 + 16;
/// The JDK's client pads every record of TLS 1.3 with this many zeros (*measured*, JDK 17).
const JDK_PADDING: u16 = 16;
/// Content type and tag.
pub const TLS13_OVERHEAD: u16 = 1 + 16;
/// `EndOfEarlyData` and an alert of TLS 1.3 as records.
const END_OF_EARLY_DATA: u16 = 4 + 1 + 16;
const ENCRYPTED_ALERT: u16 = 2 + 1 + 16;
/// `TLS_AES_256_GCM_SHA384`, the one suite of TLS 1.3 with the longer hash.
const AES_256_GCM_SHA384: u16 = 0x1302;

/// Bits of [`Timeline::finished`].
const FINISHED_FORWARD: u8 = 1;
const FINISHED_BACKWARD: u8 = 2;
const EARLY_DATA_ENDED: u8 = 4;
const CLIENT_PADS: u8 = 8;
/// HTTP/2 was offered, or the part of the `ClientHello` that would say so has not been seen.
pub const MAY_BE_HTTP2: u8 = 16;
/// TLS 1.3: the server's `EncryptedExtensions` have passed, which may be as long as a Finished.
const EXTENSIONS_BACKWARD: u8 = 32;

/// Session tickets as records (*measured*: 250 to 282 bytes of OpenSSL, 284 of `GnuTLS`).
const SHORTEST_TICKET: u16 = 240;
const LONGEST_TICKET: u16 = 300;

/// Bit of [`Timeline::heard`]: the extensions of the `ClientHello` go on at the sequence number in `forward_ack`.
pub const HELLO_CUT: u8 = 2;

/// Bit of [`Timeline::heard`]: an answer in clear may still pass before the server's first record.
pub const CLEAR_ANSWER_DUE: u8 = 1 << 7;

/// Certificates are longer than the other parts of a server's flight.
const SHORTEST_CERTIFICATE: u16 = 300;

/// The answer to the first request may still be coming.
#[inline(always)]
pub fn logs_answers(timeline: &Timeline) -> bool {
    timeline.protocol == PROTOCOL_TLS
        && usize::from(timeline.answer_count) < ANSWERS
        && !has_turns(timeline)
        && timeline.turn_ns == 0
}

/// Turns were counted since TLS began.
#[inline(always)]
pub fn has_turns(timeline: &Timeline) -> bool {
    timeline.turns != u32::from(timeline.turns_before_tls)
}

/// A record's header, and where it is.
pub struct Record {
    content_type: u8,
    pub length: u16,
    /// Sequence number of its header.
    pub seq: u32,
    /// Offset of its body in the packet; of no meaning when the header was cut.
    pub body: u32,
    /// Bytes of the body that are in this packet.
    pub here: u32,
    starts_segment: bool,
}

/// Looks at every record that begins in this payload. Gives the sequence number up to which the payload is plaintext of
/// the handshake.
#[inline(always)]
pub fn walk(skb: *const __sk_buff, timeline: &mut Timeline, payload: &mut Payload) -> u32 {
    let index = payload.index();
    if timeline.record_seq[index] == 0 {
        timeline.record_seq[index] = payload.seq;
        timeline.plain_seq[index] = payload.seq;
    }
    if timeline.heard & HELLO_CUT != 0 && payload.direction == FORWARD {
        hellos::client_hello_goes_on(skb.cast_mut(), timeline, payload);
    }
    for _ in 0..MOST_RECORDS {
        if one_record(skb.cast_mut(), timeline, payload) == 0 {
            break;
        }
    }
    timeline.plain_seq[index]
}

/// Looks at the next record; 0 when none begins in this payload.
///
/// Exported, so that the verifier looks at it once and not once for each way to get here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn one_record(skb: *mut __sk_buff, timeline: *mut Timeline, payload: *mut Payload) -> u32 {
    // SAFETY: the verifier checks for each caller that these are what they are said to be, or null.
    let (Some(timeline), Some(payload)) = (unsafe { timeline.as_mut() }, unsafe { payload.as_ref() }) else {
        return 0;
    };
    let index = payload.index();
    let before = timeline.record_seq[index].wrapping_sub(payload.seq);
    let part = u32::from(timeline.partial_length[index]);
    if part == 0 && before as i32 >= 0 && before >= payload.length {
        return 0;
    }
    let Some(record) = next_record(skb, timeline, payload, before, part) else {
        return 0;
    };
    timeline.record_seq[index] = record.seq.wrapping_add(HEADER).wrapping_add(u32::from(record.length));
    on_record(skb, timeline, payload, &record, payload.now);
    1
}

/// Reads the header at `before` bytes into the payload, of which `part` bytes came with the packet before.
#[inline(always)]
fn next_record(
    skb: *const __sk_buff,
    timeline: &mut Timeline,
    payload: &Payload,
    before: u32,
    part: u32,
) -> Option<Record> {
    let index = payload.index();
    let mut header = [0_u8; 8];
    let (seq, at, in_payload) = if part != 0 {
        (timeline.record_seq[index], payload.at, 0)
    } else if (before as i32) < 0 {
        // Records were missed. Whoever begins to speak begins a record; if not, the header will not look like one.
        (payload.seq, payload.at, 0)
    } else {
        (timeline.record_seq[index], payload.at + before, before)
    };
    let here = payload.length - in_payload;
    let missing = HEADER - part;
    if part != 0 || here < missing {
        if !gather(skb, timeline, index, at, here) {
            return None;
        }
        header = timeline.partial[index];
        timeline.partial_length[index] = 0;
    } else {
        // SAFETY: as long as said.
        let result = unsafe { bpf_skb_load_bytes(skb.cast(), at, header.as_mut_ptr().cast(), HEADER) };
        if result != 0 {
            return None;
        }
    }
    let record = Record {
        content_type: header[0],
        length: u16::from_be_bytes([header[3], header[4]]),
        seq,
        body: at + missing,
        here: here - missing,
        starts_segment: in_payload == 0,
    };
    let plausible = matches!(record.content_type, CHANGE_CIPHER_SPEC..=APPLICATION_DATA)
        && header[1] == 3
        && record.length <= LONGEST
        && record.length != 0;
    if !plausible {
        // Out of step, or no TLS at all: wait for the next turn of the conversation.
        timeline.flags |= TIMELINE_GAP;
        timeline.record_seq[index] = payload.seq.wrapping_sub(1);
        return None;
    }
    Some(record)
}

/// Adds to a header that the end of a segment cut; `true` when it is whole.
#[inline(always)]
fn gather(skb: *const __sk_buff, timeline: &mut Timeline, index: usize, at: u32, here: u32) -> bool {
    let (mut at, mut here) = (at, here);
    for _ in 0..HEADER {
        let filled = timeline.partial_length[index];
        if u32::from(filled) >= HEADER {
            return true;
        }
        if here == 0 {
            return false;
        }
        let mut byte = 0_u8;
        // SAFETY: as long as said.
        if unsafe { bpf_skb_load_bytes(skb.cast(), at, (&raw mut byte).cast(), 1) } != 0 {
            return false;
        }
        timeline.partial[index][kernel::index::<8>(u32::from(filled))] = byte;
        timeline.partial_length[index] = filled + 1;
        at += 1;
        here -= 1;
    }
    u32::from(timeline.partial_length[index]) >= HEADER
}

#[inline(always)]
fn on_record(skb: *const __sk_buff, timeline: &mut Timeline, payload: &Payload, record: &Record, now: u64) {
    if timeline.stage == STAGE_HANDSHAKE {
        in_handshake(skb, timeline, payload, record, now);
    } else {
        in_application(timeline, payload, record, now);
    }
}

#[inline(always)]
fn in_handshake(skb: *const __sk_buff, timeline: &mut Timeline, payload: &Payload, record: &Record, now: u64) {
    let forward = payload.direction == FORWARD;
    let tls13 = timeline.flags & TIMELINE_TLS13 != 0;
    let ccs = if forward {
        TIMELINE_FORWARD_CCS
    } else {
        TIMELINE_BACKWARD_CCS
    };
    match record.content_type {
        HANDSHAKE if !tls13 && timeline.flags & ccs != 0 => {
            timeline.finished |= if forward { FINISHED_FORWARD } else { FINISHED_BACKWARD };
            if timeline.finished & (FINISHED_FORWARD | FINISHED_BACKWARD) == FINISHED_FORWARD | FINISHED_BACKWARD {
                done(timeline, now);
            }
        }
        HANDSHAKE => {
            let end = record.seq.wrapping_add(HEADER).wrapping_add(u32::from(record.length));
            timeline.plain_seq[payload.index()] = end;
            if forward {
                let seq = record.seq.wrapping_add(HEADER);
                hellos::client_hello(skb.cast_mut(), timeline, record.body, record.here, seq);
            } else {
                hellos::server_hello(skb, timeline, record, now);
            }
        }
        CHANGE_CIPHER_SPEC => {
            if !forward && timeline.flags & TIMELINE_FORWARD_CCS == 0 && !tls13 {
                timeline.flags |= TIMELINE_RESUMED12;
            }
            timeline.flags |= ccs;
        }
        ALERT if record.length == 2 => {
            let end = record.seq.wrapping_add(HEADER).wrapping_add(2);
            timeline.plain_seq[payload.index()] = end;
            hellos::alert(skb, timeline, record, forward);
        }
        APPLICATION_DATA if forward => encrypted_forward(timeline, record, now),
        APPLICATION_DATA => encrypted_backward(timeline, payload, record, now),
        _ => {}
    }
}

/// The server sends encrypted records: most of TLS 1.3's handshake, or what follows one whose end was not seen.
#[inline(always)]
fn encrypted_backward(timeline: &mut Timeline, payload: &Payload, record: &Record, now: u64) {
    if timeline.cipher == 0 {
        // Before any ServerHello could be read, only TLS 1.3 hides its handshake like this.
        timeline.flags |= TIMELINE_TLS13;
    }
    let answers =
        timeline.flags & TIMELINE_TLS13 != 0 && timeline.request_ns != 0 && payload.acknowledges(timeline.request_seq);
    if !answers {
        expect_tickets(timeline, record);
        return;
    }
    // The server goes on, so it has had a Finished: in one record with the client's certificate (BoringSSL, rustls).
    // What came after that record was the request.
    timeline.tls_done_ns = timeline.request_ns;
    timeline.request_ns = timeline.turn_ns;
    timeline.request_seq = timeline.turn_seq;
    timeline.turn_ns = 0;
    timeline.stage = if timeline.request_ns != 0 {
        STAGE_ASKED
    } else {
        STAGE_OPEN
    };
    in_application(timeline, payload, record, now);
}

/// The server's own flight: does more follow its Finished? Then its tickets have been sent, and an answer is none.
#[inline(always)]
fn expect_tickets(timeline: &mut Timeline, record: &Record) {
    let before = timeline.finished;
    timeline.finished |= EXTENSIONS_BACKWARD;
    if before & EXTENSIONS_BACKWARD == 0 {
        http2::extensions(timeline, record.length);
        if record.length > SHORTEST_CERTIFICATE {
            timeline.flags |= TIMELINE_PACKED_FLIGHT;
        }
    }
    if before & FINISHED_BACKWARD != 0 && record.length > FINISHED_SHA384 {
        timeline.flags |= TIMELINE_EARLY_TICKETS;
    } else if before & EXTENSIONS_BACKWARD != 0 && record.length == finished_length(timeline) {
        timeline.finished |= FINISHED_BACKWARD;
    }
}

/// How long a record with a Finished is, by the hash of the agreed suite.
#[inline(always)]
fn finished_length(timeline: &Timeline) -> u16 {
    if timeline.cipher == AES_256_GCM_SHA384 {
        FINISHED_SHA384
    } else {
        FINISHED_SHA256
    }
}

/// The client sends encrypted records before the handshake is known to be done.
#[inline(always)]
fn encrypted_forward(timeline: &mut Timeline, record: &Record, now: u64) {
    if timeline.server_hello_ns == 0 {
        timeline.flags |= TIMELINE_EARLY_DATA;
        return;
    }
    if timeline.flags & TIMELINE_TLS13 == 0 {
        if timeline.finished & FINISHED_FORWARD != 0 && timeline.request_ns == 0 {
            // False start (RFC 7918): the request does not wait for the server's Finished.
            phases::ask(timeline, record.seq, now);
        }
        return;
    }
    let early = timeline.flags & TIMELINE_EARLY_DATA != 0;
    if early && record.length == END_OF_EARLY_DATA {
        timeline.finished |= EARLY_DATA_ENDED;
        return;
    }
    let expected = finished_length(timeline);
    let is_padded = record.length == expected + JDK_PADDING;
    let is_finished =
        is_padded || record.length == expected || timeline.cipher == 0 && record.length == FINISHED_SHA384;
    if is_finished && is_padded && timeline.cipher != 0 {
        timeline.finished |= CLIENT_PADS;
    }
    if is_finished && (!early || timeline.finished & EARLY_DATA_ENDED != 0) {
        timeline.request_ns = 0;
        timeline.turn_ns = 0;
        done(timeline, now);
    } else if !early && record.length != ENCRYPTED_ALERT && record.length != ENCRYPTED_ALERT + JDK_PADDING {
        // A certificate, or a Finished in one record with it and then the request: the server's answer will tell.
        if timeline.request_ns == 0 {
            phases::ask(timeline, record.seq, now);
        } else if timeline.turn_ns == 0 {
            timeline.turn_ns = now;
            timeline.turn_seq = record.seq.wrapping_add(1);
        }
    }
}

#[inline(always)]
fn done(timeline: &mut Timeline, now: u64) {
    timeline.tls_done_ns = now;
    let asked = timeline.request_ns != 0 || timeline.flags & TIMELINE_EARLY_DATA != 0;
    timeline.stage = if asked { STAGE_ASKED } else { STAGE_OPEN };
}

#[inline(always)]
fn in_application(timeline: &mut Timeline, payload: &Payload, record: &Record, now: u64) {
    let tls13 = timeline.flags & TIMELINE_TLS13 != 0;
    let is_alert =
        record.content_type == ALERT || tls13 && record.length == ENCRYPTED_ALERT + padding(timeline, payload);
    if payload.direction == BACKWARD && logs_answers(timeline) {
        log_answer(timeline, payload, record, now);
    }
    if record.content_type != APPLICATION_DATA || is_alert {
        return;
    }
    let control = http2::control(timeline, payload, record.length);
    if payload.direction == BACKWARD {
        let preface = http2::is_preface(timeline, record.length);
        if preface {
            http2::await_acknowledgement(timeline, payload, record);
        }
        if preface || control != Control::No {
            http2::during_turn(timeline, control, now);
            timeline.no_answers = timeline.no_answers.wrapping_add(1);
            return;
        }
        if http2::is_late(timeline, now) {
            http2::give_up_turn(timeline);
            return;
        }
    } else {
        http2::after_preface(timeline, payload, control, now);
        if control != Control::No {
            if control == Control::Ping {
                // What may have been a PING of the server was one: it is answered.
                timeline.doubtful_us = 0;
            }
            return;
        }
        if timeline.doubtful_us != 0 {
            http2::decide_turn(timeline, payload, now);
        }
        timeline.forward_ack = payload.ack;
    }
    if payload.direction == FORWARD && timeline.backward_last != 0 && !has_answered(timeline) {
        // Nothing has been an answer so far: the request goes on.
        timeline.backward_last = 0;
        return;
    }
    phases::application(timeline, payload, record.seq, 0, now);
}

#[inline(always)]
fn log_answer(timeline: &mut Timeline, payload: &Payload, record: &Record, now: u64) {
    let after_us = now.saturating_sub(log_begun_ns(timeline)) / 1_000;
    if usize::from(timeline.answer_count) >= ANSWERS {
        return;
    }
    let slot = kernel::index::<{ ANSWERS as u32 }>(u32::from(timeline.answer_count));
    let acks = timeline.request_ns != 0 && payload.acknowledges(timeline.request_seq);
    timeline.answers[slot] = AnswerRecord {
        after_us: phases::saturated(after_us),
        length: record.length,
        content_type: record.content_type,
        flags: if acks { ANSWER_ACKS_REQUEST } else { 0 }
            | if record.starts_segment {
                ANSWER_STARTS_SEGMENT
            } else {
                0
            },
    };
    timeline.answer_count += 1;
}

/// From when on times in the log of answers count.
#[inline(always)]
pub fn log_begun_ns(timeline: &Timeline) -> u64 {
    if timeline.request_ns != 0 && timeline.request_ns < timeline.tls_done_ns {
        timeline.request_ns
    } else {
        timeline.tls_done_ns
    }
}

/// What the sender of this payload adds to each record.
#[inline(always)]
pub fn padding(timeline: &Timeline, payload: &Payload) -> u16 {
    if payload.direction == FORWARD && timeline.finished & CLIENT_PADS != 0 {
        JDK_PADDING
    } else {
        0
    }
}

/// The server has sent more than tickets and the beginning of HTTP/2.
#[inline(always)]
pub fn has_answered(timeline: &Timeline) -> bool {
    if has_turns(timeline) || timeline.turn_ns != 0 {
        return true;
    }
    let answers = &timeline.answers;
    let pair = timeline.answer_count >= 2 && answers[0].length == answers[1].length
        || timeline.answer_count >= 3 && answers[1].length == answers[2].length;
    // The first of a pair, while HTTP/2 has not begun: the other is on its way.
    let first = timeline.answer_count == 1
        && timeline.finished & MAY_BE_HTTP2 != 0
        && timeline.heard & HEARD_PREFACE == 0
        && (SHORTEST_TICKET..=LONGEST_TICKET).contains(&answers[0].length);
    let tickets = if timeline.flags & TIMELINE_TLS13 == 0 {
        0
    } else if pair {
        2
    } else {
        u8::from(first || timeline.answer_count != 0 && packs_tickets(timeline, answers[0].length))
    };
    timeline.answer_count > timeline.no_answers.wrapping_add(tickets)
}

/// A first record of a server that packs its flight, with two tickets.
#[inline(always)]
fn packs_tickets(timeline: &Timeline, length: u16) -> bool {
    timeline.flags & TIMELINE_PACKED_FLIGHT != 0 && is_packed_tickets(length)
}
