//! Whether a TLS connection speaks HTTP/2 (RFC 9113), and which of its records are control frames then: by lengths and conduct, as
//! nothing else can be read.

use agent_ebpf::{
    hello::BACKWARD,
    timeline::{
        ACKNOWLEDGED_WITHIN_NS, ANSWERS, HEARD_AWAITED, HEARD_DOUBT, HEARD_HTTP2, HEARD_NO_HTTP2, HEARD_PREFACE,
        TIMELINE_TLS13, Timeline,
    },
};

use crate::{
    kernel,
    phases::{self, Payload, STAGE_ASKED},
    records::{HEADER, MAY_BE_HTTP2, Record, TLS13_OVERHEAD, has_answered, log_begun_ns, padding},
};

/// Bit of [`Timeline::heard`]: the server's extensions are as long as with HTTP/1.1 or another name, but may be HTTP/2's with
/// others beside.
const LIKELY_OTHER: u8 = 32;
/// [`Timeline::backward_last`]: what may be SETTINGS was the latest. The next record of the client is looked at, but begins no
/// turn by itself.
const PREFACE_LAST: u8 = 2;

/// `EncryptedExtensions` without any: header of the message, length of the list. Each extension but ALPN's, and
/// rare ones of one byte, has an even length.
const NO_EXTENSIONS: u16 = 4 + 2;
/// ALPN's with `h2` and the one that says that the server knows the name.
const ALPN_HTTP2: u16 = 4 + 2 + 1 + 2;
const SERVER_NAME: u16 = 4;
/// Longer ones are of servers that put their whole flight into one record.
const MOST_EXTENSION_BYTES: u16 = 64;

/// HTTP/2 clients send `WINDOW_UPDATE` after this much of an answer, not before (Go: 4 KiB, nghttp2: half a window).
const WINDOW_BYTES: u32 = 4_096;
/// The shortest ticket as a record: OpenSSL's without a session in it has 74 bytes.
const LEAST_TICKET: u16 = 70;
/// SETTINGS, `WINDOW_UPDATE` and an acknowledgement in one record are not longer.
const PREFACE_BYTES: u16 = 67 + 17;

/// What the length of the server's `EncryptedExtensions` says of its choice.
#[inline(always)]
pub fn extensions(timeline: &mut Timeline, length: u16) {
    let plain = length.wrapping_sub(TLS13_OVERHEAD);
    if !(NO_EXTENSIONS..=MOST_EXTENSION_BYTES).contains(&plain) {
        return;
    }
    if plain % 2 == NO_EXTENSIONS % 2 {
        // No protocol was chosen.
        timeline.finished &= !MAY_BE_HTTP2;
    } else if plain > NO_EXTENSIONS + ALPN_HTTP2 + SERVER_NAME {
        timeline.heard |= LIKELY_OTHER;
    }
}

/// What a record is if HTTP/2 is spoken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Control {
    No,
    /// An acknowledgement of SETTINGS, alone or with `WINDOW_UPDATE`.
    Acknowledgement,
    /// PING with or without others, GOAWAY.
    Ping,
    Other,
}

/// What may be the server's SETTINGS came after the request: the next record of the client decides.
#[inline(always)]
pub fn await_acknowledgement(timeline: &mut Timeline, payload: &Payload, record: &Record) {
    if timeline.stage != STAGE_ASKED || !payload.acknowledges(timeline.request_seq) {
        return;
    }
    timeline.heard |= HEARD_AWAITED;
    // No turn is open yet.
    timeline.turn_seq = record.seq.wrapping_add(HEADER).wrapping_add(u32::from(record.length));
    if timeline.backward_last == 0 {
        timeline.backward_last = PREFACE_LAST;
    }
}

/// The client sends a record: does it acknowledge what may have been the server's SETTINGS, or go on without?
#[inline(always)]
pub fn after_preface(timeline: &mut Timeline, payload: &Payload, control: Control, now: u64) {
    if control == Control::Acknowledgement {
        timeline.heard = timeline.heard & !(HEARD_AWAITED | HEARD_DOUBT) | HEARD_HTTP2;
    } else if timeline.heard & HEARD_AWAITED == 0 || control != Control::No {
        return;
    } else {
        timeline.heard &= !HEARD_AWAITED;
        if goes_on(timeline, payload, now) {
            timeline.heard |= HEARD_NO_HTTP2;
            timeline.finished &= !MAY_BE_HTTP2;
            // It was an answer.
            timeline.no_answers = timeline.no_answers.saturating_sub(1);
            if timeline.backward_last == PREFACE_LAST {
                timeline.backward_last = 1;
            }
            return;
        }
        timeline.heard |= HEARD_DOUBT;
    }
    if timeline.backward_last == PREFACE_LAST {
        timeline.backward_last = 0;
    }
}

/// A control frame of the server, or an answer as short as one, while an exchange is open.
#[inline(always)]
pub fn during_turn(timeline: &mut Timeline, control: Control, now: u64) {
    if timeline.turn_ns == 0 {
        return;
    }
    if control == Control::Acknowledgement {
        // What seemed to be a request was SETTINGS.
        give_up_turn(timeline);
    } else if control != Control::No && timeline.doubtful_us == 0 {
        timeline.doubtful_ping = u8::from(control == Control::Ping);
        let after_us = phases::saturated(now.saturating_sub(timeline.turn_ns) / 1_000);
        timeline.doubtful_us = if after_us == 0 { 1 } else { after_us };
    }
}

/// The answer comes so long after a record that may have been it that the two give different times.
#[inline(always)]
pub fn is_late(timeline: &Timeline, now: u64) -> bool {
    const LEAST_US: u64 = 1_000;
    let doubtful_us = u64::from(timeline.doubtful_us);
    let after_us = now.saturating_sub(timeline.turn_ns) / 1_000;
    timeline.turn_ns != 0 && doubtful_us != 0 && after_us > doubtful_us + LEAST_US + doubtful_us / 32
}

/// The client goes on. A PING it would have answered by now (RFC 9113 section 6.7), so that the record was the answer; of others
/// nothing is known.
#[inline(always)]
pub fn decide_turn(timeline: &mut Timeline, payload: &Payload, now: u64) {
    let came_ns = timeline.turn_ns + u64::from(timeline.doubtful_us) * 1_000;
    let waited_ns = now.saturating_sub(came_ns);
    if timeline.doubtful_ping != 0 && waited_ns > ACKNOWLEDGED_WITHIN_NS + way_ns(timeline, payload) {
        phases::end_turn_after(timeline, timeline.doubtful_us, 0);
        timeline.backward_last = 1;
    } else {
        give_up_turn(timeline);
    }
}

/// Seen at the server a reaction of the client takes a round trip more, and the handshake took no less.
#[inline(always)]
fn way_ns(timeline: &Timeline, payload: &Payload) -> u64 {
    if payload.egress != 0 {
        0
    } else {
        timeline.tls_done_ns.saturating_sub(timeline.server_hello_ns)
    }
}

/// The open exchange is not timed, and waits for nothing.
#[inline(always)]
pub fn give_up_turn(timeline: &mut Timeline) {
    timeline.turn_ns = 0;
    timeline.doubtful_us = 0;
    timeline.backward_last = 1;
}

/// The client has got it, and had time to acknowledge it: it speaks another protocol.
#[inline(always)]
fn goes_on(timeline: &Timeline, payload: &Payload, now: u64) -> bool {
    if payload.ack.wrapping_sub(timeline.turn_seq) as i32 >= 0 {
        let waited_ns = now.saturating_sub(last_answer_ns(timeline));
        return timeline.heard & LIKELY_OTHER != 0 || waited_ns > ACKNOWLEDGED_WITHIN_NS + way_ns(timeline, payload);
    }
    false
}

/// When the latest record in the log of answers came.
#[inline(always)]
fn last_answer_ns(timeline: &Timeline) -> u64 {
    let last = u32::from(timeline.answer_count.wrapping_sub(1));
    let answer = &timeline.answers[kernel::index::<{ ANSWERS as u32 }>(last)];
    log_begun_ns(timeline) + u64::from(answer.after_us) * 1_000
}

/// HTTP/2's control frames, alone or in pairs, by the length of their plaintext.
#[inline(always)]
pub fn control(timeline: &Timeline, payload: &Payload, length: u16) -> Control {
    // First payload is never control: it begins the connection's conversation.
    if timeline.stage != STAGE_ASKED || timeline.finished & MAY_BE_HTTP2 == 0 {
        return Control::No;
    }
    let overhead = if timeline.flags & TIMELINE_TLS13 != 0 {
        TLS13_OVERHEAD
    } else if matches!(timeline.cipher, 0xcca8..=0xccae) {
        16
    } else {
        24
    };
    // The JDK's padding is part of what is encrypted.
    let plain = length.wrapping_sub(overhead).wrapping_sub(padding(timeline, payload));
    match plain {
        9 => Control::Acknowledgement,
        13 => Control::Other,
        // PING, with `WINDOW_UPDATE` once or twice, two of them (gRPC).
        17 | 30 | 34 | 43 => Control::Ping,
        // `WINDOW_UPDATE` after an acknowledgement, two of them: or HEADERS whose fields the other side knows.
        22 | 26 => {
            let is_control = !has_answered(timeline)
                || if payload.direction == BACKWARD {
                    timeline.turn_ns == 0 || payload.ack.wrapping_sub(timeline.turn_seq) >= WINDOW_BYTES
                } else {
                    payload.ack.wrapping_sub(timeline.forward_ack) >= WINDOW_BYTES
                };
            match plain {
                _ if !is_control => Control::No,
                22 => Control::Acknowledgement,
                _ => Control::Other,
            }
        }
        _ => Control::No,
    }
}

/// The server's part of HTTP/2's preface: SETTINGS, its first record that is no ticket.
#[inline(always)]
pub fn is_preface(timeline: &mut Timeline, length: u16) -> bool {
    let is_pair = timeline.answer_count == 2 && timeline.answers[0].length == timeline.answers[1].length;
    if is_pair && length >= LEAST_TICKET && timeline.flags & TIMELINE_TLS13 != 0 {
        // SETTINGS come once: these are tickets.
        timeline.heard &= !(HEARD_PREFACE | HEARD_AWAITED);
        timeline.no_answers = 0;
        return false;
    }
    let first = timeline.finished & MAY_BE_HTTP2 != 0 && timeline.heard & HEARD_PREFACE == 0;
    if first && length <= PREFACE_BYTES {
        timeline.heard |= HEARD_PREFACE;
        return true;
    }
    false
}
