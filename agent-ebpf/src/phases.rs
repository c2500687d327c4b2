//! The machine that finds the marks of a connection's timeline in its payload.
//!
//! It sees new bytes only, in order per direction. Cleartext: request, first byte, turns. TLS: hellos, both Finished,
//! then the log of answers and turns. What cannot be told here (tickets from answers) userspace decides from the log.

use agent_ebpf::{
    connection::{ConnectionState, ROLE_CLIENT},
    event::{CONNECTION_UPDATE, ConnectionEvent, EventHeader, TURNS, TurnsEvent},
    hello::{BACKWARD, FORWARD, HELLO_LIMIT, HTTP_LIMIT},
    timeline::{
        HEARD_PREFACE, PROTOCOL_DNS, PROTOCOL_HTTP1, PROTOCOL_HTTP2, PROTOCOL_NONE, PROTOCOL_OTHER, PROTOCOL_TLS,
        RECENT_TURNS, TIMELINE_EARLY_DATA, TIMELINE_TLS13, Timeline, turn_begun,
    },
};
use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};

use crate::{
    chunks::{self, Place},
    dns_stream,
    hellos::load,
    http1, http2_clear,
    kernel::{from_one_to, index},
    output, proxy_header,
    records::{self, CLEAR_ANSWER_DUE, MAY_BE_HTTP2},
    segment::Segment,
    settings, socket,
};

/// [`Timeline::stage`]: no forward payload yet.
pub const STAGE_FIRST: u8 = 0;
/// [`Timeline::stage`]: from the `ClientHello` to both Finished.
pub const STAGE_HANDSHAKE: u8 = 1;
/// [`Timeline::stage`]: the first application payload is awaited; of a connection older than hopline, any payload.
pub const STAGE_OPEN: u8 = 2;
/// [`Timeline::stage`]: the first request has begun to pass; of a connection older than hopline, any payload has.
pub const STAGE_ASKED: u8 = 3;

/// Bytes of an answer's status line that are sent.
const STATUS_BYTES: u32 = 64;
/// TLS that begins after cleartext (CONNECT, STARTTLS) does so within this many turns; later nobody looks for it.
const TURNS_BEFORE_TLS: u32 = 16;
/// So may TLS that does not wait for an answer to what was said in clear (MySQL's SSLRequest, a CONNECT with the hello right behind
/// it), within this many bytes.
const BYTES_BEFORE_TLS: u32 = 4_096;

/// New bytes of one packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Payload {
    /// When they pass.
    pub now: u64,
    /// Offset in the packet.
    pub at: u32,
    /// Number of bytes.
    pub length: u32,
    /// Sequence number of the first one.
    pub seq: u32,
    /// What the packet acknowledges.
    pub ack: u32,
    /// `FORWARD` or `BACKWARD`.
    pub direction: u8,
    /// 1: the observed side sends them.
    pub egress: u8,
}

impl Payload {
    #[inline(always)]
    pub fn index(&self) -> usize {
        index::<2>(u32::from(self.direction))
    }

    /// This payload came after its sender had got the byte before `seq`.
    #[inline(always)]
    pub fn acknowledges(&self, seq: u32) -> bool {
        // What this side sends it sends after what it has got.
        self.egress != 0 || self.ack.wrapping_sub(seq) as i32 >= 0
    }
}

/// Nothing can come of more payload in this direction: the way out for bulk data, before any header is read.
#[inline(always)]
pub fn is_settled(timeline: &Timeline, forward: bool) -> bool {
    if timeline.stage != STAGE_ASKED || timeline.protocol == PROTOCOL_DNS {
        return false;
    }
    if timeline.protocol == PROTOCOL_HTTP2 {
        return !http2_clear::is_followed(timeline);
    }
    if forward && !may_be_early_hello(timeline) {
        timeline.backward_last == 0
    } else if forward {
        false
    } else {
        timeline.backward_last != 0 && timeline.turn_ns == 0 && !records::logs_answers(timeline)
    }
}

/// Bytes up to `seq` were taken without being looked at.
#[inline(always)]
pub fn skip_to(timeline: &mut Timeline, direction: usize, seq: u32) {
    let direction = index::<2>(direction as u32);
    timeline.next_seq[direction] = seq;
    timeline.partial_length[direction] = 0;
    if timeline.record_seq[direction] != 0 && (seq.wrapping_sub(timeline.record_seq[direction]) as i32) > 0 {
        // Whoever speaks next begins a record: the other side has had all of the last one.
        timeline.record_seq[direction] = seq;
    }
}

/// New payload passes.
#[inline(always)]
pub fn pass(skb: *const __sk_buff, event: &mut ConnectionEvent, payload: &mut Payload) {
    let now = payload.now;
    let timeline = &mut event.state.timeline;
    if may_begin(timeline, payload) {
        let mut first = first_bytes(skb, payload);
        if timeline.stage == STAGE_FIRST && proxy_header::may_be(&first) {
            let length = proxy_header::length(skb.cast_mut(), payload);
            if length >= payload.length {
                return;
            }
            payload.at = payload.at.wrapping_add(length);
            payload.seq = payload.seq.wrapping_add(length);
            payload.length -= length;
            first = first_bytes(skb, payload);
        }
        if timeline.stage == STAGE_OPEN {
            begin_late(timeline, &first);
        } else if http2_clear::is_preface(&first) {
            timeline.protocol = PROTOCOL_HTTP2;
            http2_clear::begin(timeline, payload);
        } else if begins_hello(&first, payload.length) {
            begin_tls(timeline, payload, now);
        } else if timeline.stage == STAGE_FIRST {
            let dns = is_dns(&event.state);
            begin_cleartext(&mut event.state.timeline, payload, &first, dns, now);
        }
    }
    let timeline = &mut event.state.timeline;
    if timeline.protocol == PROTOCOL_HTTP2 {
        if http2_clear::is_followed(timeline) {
            http2_clear::walk(skb, timeline, payload);
        }
    } else if timeline.protocol == PROTOCOL_TLS {
        if timeline.heard & CLEAR_ANSWER_DUE != 0
            && payload.direction == BACKWARD
            && is_clear_answer(skb, event, payload)
        {
            return;
        }
        let timeline = &mut event.state.timeline;
        let in_clear = timeline.stage == STAGE_HANDSHAKE;
        let clear_to = records::walk(skb, timeline, payload);
        if in_clear {
            send_plain(skb, event, payload, clear_to);
        }
    } else if timeline.stage == STAGE_ASKED {
        let mut status = 0;
        if timeline.protocol == PROTOCOL_HTTP1 && payload.direction == BACKWARD && timeline.backward_last == 0 {
            status = http1::status(skb, payload);
            if status == http1::INTERIM {
                // Its head goes on the way to userspace, but is no answer.
                return;
            }
        }
        application(timeline, payload, payload.seq, status, now);
        match timeline.protocol {
            PROTOCOL_HTTP1 => send_head(skb, event, payload),
            PROTOCOL_DNS => {
                dns_stream::dns_stream(skb.cast_mut(), event, payload);
            }
            _ => {}
        }
    }
    if event.state.timeline.turns_full != 0 {
        tell_turns(event, now);
    }
}

/// The payload may be the first of its protocol.
#[inline(always)]
fn may_begin(timeline: &Timeline, payload: &Payload) -> bool {
    let forward = payload.direction == FORWARD;
    match timeline.stage {
        STAGE_FIRST => forward,
        STAGE_OPEN => timeline.protocol == PROTOCOL_NONE,
        STAGE_ASKED => {
            forward
                && timeline.protocol != PROTOCOL_TLS
                && timeline.protocol != PROTOCOL_HTTP2
                && (timeline.backward_last != 0 && timeline.turns < TURNS_BEFORE_TLS || may_be_early_hello(timeline))
        }
        _ => false,
    }
}

/// The first request in clear is as short as those after which TLS begins without an answer.
#[inline(always)]
fn may_be_early_hello(timeline: &Timeline) -> bool {
    timeline.turns == 0
        && timeline.request_ns != 0
        && timeline.first_byte_ns == 0
        && timeline.protocol != PROTOCOL_TLS
        && timeline.next_seq[usize::from(FORWARD)].wrapping_sub(timeline.request_seq) < BYTES_BEFORE_TLS
}

/// TLS has begun before the answer to what was said in clear: that answer passes.
#[inline(always)]
fn is_clear_answer(skb: *const __sk_buff, event: &mut ConnectionEvent, payload: &Payload) -> bool {
    const RECORD_TYPES: core::ops::RangeInclusive<u8> = 20..=23;
    let timeline = &mut event.state.timeline;
    let first: Option<[u8; 1]> = load(skb, payload.at);
    if first.is_none_or(|[first]| RECORD_TYPES.contains(&first)) {
        timeline.heard &= !CLEAR_ANSWER_DUE;
        return false;
    }
    let end = payload.seq.wrapping_add(payload.length);
    let backward = usize::from(BACKWARD);
    timeline.record_seq[backward] = end;
    timeline.plain_seq[backward] = end;
    if first == Some([b'H']) && timeline.hello_seq[backward] == 0 {
        // To a CONNECT.
        timeline.hello_seq[backward] = payload.seq;
        let length = at_most(payload.length, STATUS_BYTES);
        let mut place = place(&event.state, payload.now, payload.direction, 0, PROTOCOL_HTTP1);
        chunks::send_chunks(skb.cast_mut(), &raw mut place, payload.at, length);
    }
    true
}

/// All turns that are kept are new: they leave before the next one overwrites the first.
#[inline(always)]
fn tell_turns(event: &mut ConnectionEvent, now: u64) {
    event.state.timeline.turns_full = 0;
    let state = &mut event.state;
    if state.reported_ns == 0 {
        // Nobody knows of it yet.
        if output::send_open(CONNECTION_UPDATE, now, event, None) {
            event.state.reported_ns = now;
        }
        return;
    }
    output::fill_turns(state.cgroup_id, |room| {
        let timeline = &state.timeline;
        let told = TurnsEvent {
            header: EventHeader::of::<TurnsEvent>(TURNS, now),
            cookie: state.cookie,
            attempt: state.attempt,
            turns: timeline.turns,
            turns_overlapping: timeline.turns_overlapping,
            reserved: 0,
            recent_turns_us: timeline.recent_turns_us,
            recent_turns_begun: timeline.recent_turns_begun,
            recent_turns_status: timeline.recent_turns_status,
        };
        // SAFETY: the reserved room is a whole event's.
        unsafe { room.write(told) };
        // Its CLOSE tells of them, and may have been sent meanwhile.
        state.closed_ns == 0
    });
}

/// The first request begins with the payload at `seq`.
#[inline(always)]
pub fn ask(timeline: &mut Timeline, seq: u32, now: u64) {
    timeline.request_ns = now;
    timeline.request_seq = seq.wrapping_add(1);
    timeline.backward_last = 0;
}

/// One piece of application payload: cleartext, or a TLS record of it that begins at `seq`; `status` is that of an answer, where it
/// was read.
#[inline(always)]
pub fn application(timeline: &mut Timeline, payload: &Payload, seq: u32, status: u16, now: u64) {
    let asked = timeline.stage == STAGE_ASKED;
    if payload.direction == FORWARD {
        if !asked {
            timeline.stage = STAGE_ASKED;
            ask(timeline, seq, now);
        } else if timeline.backward_last != 0 {
            timeline.backward_last = 0;
            if timeline.turn_ns != 0 {
                timeline.turns_overlapping += 1;
            } else {
                timeline.turn_ns = now;
                timeline.turn_seq = seq.wrapping_add(1);
            }
        }
        return;
    }
    if !asked {
        // The server speaks first: no answer to anything.
        return;
    }
    if timeline.turn_ns != 0 {
        if payload.acknowledges(timeline.turn_seq) {
            end_turn(timeline, now, status);
        }
    } else if timeline.request_ns != 0 {
        if !payload.acknowledges(timeline.request_seq) {
            return;
        }
        if timeline.protocol != PROTOCOL_TLS && timeline.first_byte_ns == 0 {
            timeline.first_byte_ns = now;
        }
    }
    timeline.backward_last = 1;
}

#[inline(always)]
pub fn end_turn(timeline: &mut Timeline, now: u64, status: u16) {
    let turn_us = saturated(now.saturating_sub(timeline.turn_ns) / 1_000);
    end_turn_after(timeline, turn_us, status);
}

#[inline(always)]
pub fn end_turn_after(timeline: &mut Timeline, turn_us: u32, status: u16) {
    let slot = index::<{ RECENT_TURNS as u32 }>(timeline.turns);
    timeline.recent_turns_us[slot] = turn_us;
    timeline.recent_turns_begun[slot] = turn_begun(timeline.turn_ns);
    timeline.recent_turns_status[slot] = status;
    timeline.turns += 1;
    timeline.turn_ns = 0;
    timeline.doubtful_us = 0;
    if slot == RECENT_TURNS - 1 {
        timeline.turns_full = 1;
    }
}

/// Microseconds as they are kept: 71 minutes at most.
#[inline(always)]
pub fn saturated(us: u64) -> u32 {
    if us > u64::from(u32::MAX) { u32::MAX } else { us as u32 }
}

/// The port that was connected to is one of DNS.
#[inline(always)]
fn is_dns(state: &ConnectionState) -> bool {
    let port = if state.role == ROLE_CLIENT {
        state.remote_port
    } else {
        state.local_port
    };
    settings::is_dns_port(u16::from_be_bytes(port))
}

#[inline(always)]
fn begin_cleartext(timeline: &mut Timeline, payload: &Payload, first: &[u8; 8], dns: bool, now: u64) {
    timeline.stage = STAGE_ASKED;
    timeline.protocol = if dns {
        PROTOCOL_DNS
    } else if http1::begins_request(first, payload.length) {
        PROTOCOL_HTTP1
    } else {
        PROTOCOL_OTHER
    };
    timeline.hello_seq[usize::from(FORWARD)] = payload.seq;
    ask(timeline, payload.seq, now);
}

/// A connection is older than hopline: what it has sent so far is not known.
#[inline(always)]
pub fn begin_unseen(timeline: &mut Timeline) {
    timeline.stage = STAGE_OPEN;
    timeline.flags = TIMELINE_EARLY_DATA;
}

/// The first payload seen of a connection that is older than hopline: its turns are followed, no mark is made up.
#[inline(always)]
fn begin_late(timeline: &mut Timeline, first: &[u8; 8]) {
    const APPLICATION_DATA: u8 = 23;
    timeline.stage = STAGE_ASKED;
    timeline.protocol = if first[0] == APPLICATION_DATA && first[1] == 3 {
        timeline.flags |= TIMELINE_TLS13;
        // Nothing is known of it: what may be a control frame opens and ends no turn.
        timeline.finished |= MAY_BE_HTTP2;
        timeline.heard |= HEARD_PREFACE;
        PROTOCOL_TLS
    } else {
        PROTOCOL_OTHER
    };
}

/// A `ClientHello` begins. After cleartext (CONNECT, STARTTLS) the timeline begins again.
#[inline(always)]
fn begin_tls(timeline: &mut Timeline, payload: &Payload, now: u64) {
    let (forward, backward) = (usize::from(FORWARD), usize::from(BACKWARD));
    // What was said in clear waits for its answer.
    let is_due = timeline.request_ns != 0 && (timeline.backward_last == 0 || timeline.turn_ns != 0);
    if is_due {
        timeline.heard |= CLEAR_ANSWER_DUE;
    }
    timeline.request_ns = 0;
    timeline.first_byte_ns = 0;
    timeline.turn_ns = 0;
    timeline.turns_before_tls = timeline.turns as u8;
    if timeline.protocol != PROTOCOL_HTTP1 {
        timeline.hello_seq[forward] = payload.seq;
        timeline.hello_seq[backward] = 0;
    }
    timeline.stage = STAGE_HANDSHAKE;
    timeline.protocol = PROTOCOL_TLS;
    timeline.backward_last = 0;
    timeline.client_hello_ns = now;
    timeline.record_seq[forward] = payload.seq;
    timeline.record_seq[backward] = timeline.next_seq[backward];
    timeline.plain_seq[forward] = payload.seq;
    timeline.plain_seq[backward] = timeline.next_seq[backward];
}

/// The first bytes of a payload; zeros where it is shorter.
#[inline(always)]
fn first_bytes(skb: *const __sk_buff, payload: &Payload) -> [u8; 8] {
    let mut bytes = [0; 8];
    let length = from_one_to::<8>(if payload.length > 8 { 8 } else { payload.length });
    // SAFETY: no more than fits.
    let _zeros_then = unsafe { bpf_skb_load_bytes(skb.cast(), payload.at, bytes.as_mut_ptr().cast(), length) };
    bytes
}

/// A handshake record (RFC 8446 section 5.1) with a `ClientHello`, or as much of it as has come.
#[inline(always)]
fn begins_hello(first: &[u8; 8], length: u32) -> bool {
    const HANDSHAKE: u8 = 22;
    const CLIENT_HELLO: u8 = 1;
    first[0] == HANDSHAKE
        && (length < 2 || first[1] == 3)
        && (length < 6 || first[5] == CLIENT_HELLO)
        // No hello is longer than 64 KiB.
        && (length < 7 || first[6] == 0)
}

/// Sends the plaintext of a handshake that this payload brought, up to the sequence number `to`.
#[inline(always)]
pub fn send_plain(skb: *const __sk_buff, event: &mut ConnectionEvent, payload: &Payload, to: u32) {
    let from = payload.seq;
    let length = to.wrapping_sub(from);
    if length as i32 <= 0 {
        return;
    }
    let length = at_most(length, payload.length);
    let index = payload.index();
    if event.state.timeline.hello_seq[index] == 0 {
        event.state.timeline.hello_seq[index] = from;
    }
    let offset = from.wrapping_sub(event.state.timeline.hello_seq[index]);
    if offset < HELLO_LIMIT as u32 {
        let mut place = place(&event.state, payload.now, payload.direction, offset, PROTOCOL_TLS);
        let length = at_most(length, HELLO_LIMIT as u32 - offset);
        chunks::send_chunks(skb.cast_mut(), &raw mut place, payload.at, length);
    }
}

#[inline(always)]
fn at_most(length: u32, limit: u32) -> u32 {
    if length > limit { limit } else { length }
}

/// A segment came before those that it follows. Hello bytes are put in order by userspace; nothing else is made of it,
/// as nobody knows whether TCP will take it.
#[inline(always)]
pub fn ahead(skb: *const __sk_buff, state: &mut ConnectionState, segment: &Segment, direction: u8, next: u32) {
    let timeline = &mut state.timeline;
    let index = index::<2>(u32::from(direction));
    let awaited = match timeline.stage {
        STAGE_FIRST => direction == FORWARD,
        STAGE_HANDSHAKE => timeline.server_hello_ns == 0 || timeline.flags & TIMELINE_TLS13 == 0,
        _ => false,
    };
    if !awaited {
        return;
    }
    if timeline.hello_seq[index] == 0 {
        timeline.hello_seq[index] = next;
    }
    let offset = segment.seq.wrapping_sub(timeline.hello_seq[index]);
    if offset < HELLO_LIMIT as u32 {
        let mut place = place(state, socket::now(), direction, offset, PROTOCOL_TLS);
        let length = at_most(segment.length, HELLO_LIMIT as u32 - offset);
        chunks::send_chunks(skb.cast_mut(), &raw mut place, segment.at, length);
    }
}

/// Sends the head of a cleartext HTTP/1 request, and the status line of the first answer.
#[inline(always)]
fn send_head(skb: *const __sk_buff, event: &mut ConnectionEvent, payload: &Payload) {
    let timeline = &mut event.state.timeline;
    if timeline.turns != 0 || timeline.turn_ns != 0 {
        return;
    }
    let (offset, limit) = if payload.direction == FORWARD {
        (
            payload.seq.wrapping_sub(timeline.hello_seq[usize::from(FORWARD)]),
            HTTP_LIMIT as u32,
        )
    } else if timeline.first_byte_ns == payload.now {
        timeline.hello_seq[usize::from(BACKWARD)] = payload.seq;
        (0, STATUS_BYTES)
    } else {
        return;
    };
    if offset >= limit {
        return;
    }
    let length = at_most(payload.length, limit - offset);
    let mut place = place(&event.state, payload.now, payload.direction, offset, PROTOCOL_HTTP1);
    chunks::send_chunks(skb.cast_mut(), &raw mut place, payload.at, length);
}

#[inline(always)]
fn place(state: &ConnectionState, time_ns: u64, direction: u8, offset: u32, protocol: u8) -> Place {
    Place {
        time_ns,
        stream: if state.timeline.hello_stream == 0 {
            state.cookie
        } else {
            state.timeline.hello_stream
        },
        cgroup_id: state.cgroup_id,
        offset,
        direction,
        protocol,
        reserved: [0; 2],
    }
}
