//! What passes on the wire of one connection, as far as its phases need it: part of the socket's state.
//!
//! *Forward* is the direction of the client's bytes, *backward* that of the server's, whichever side is observed. Marks
//! are set when bytes pass the observed socket, at the next expected sequence number only.

use core::mem::offset_of;

/// [`Timeline::protocol`]: no payload yet.
pub const PROTOCOL_NONE: u8 = 0;
/// [`Timeline::protocol`]: payload that is neither TLS nor HTTP/1.
pub const PROTOCOL_OTHER: u8 = 1;
/// [`Timeline::protocol`]: the first forward payload begins with a method of HTTP/1.
pub const PROTOCOL_HTTP1: u8 = 2;
/// [`Timeline::protocol`]: a `ClientHello` was seen, first or after cleartext (CONNECT, STARTTLS).
pub const PROTOCOL_TLS: u8 = 3;

/// [`Timeline::protocol`]: DNS over TCP, by its port.
pub const PROTOCOL_DNS: u8 = 4;
/// [`Timeline::protocol`]: HTTP/2 in clear, by the client's preface (RFC 9113 section 3.4).
pub const PROTOCOL_HTTP2: u8 = 5;

/// [`Timeline::flags`]: the agreed cipher suite is one of TLS 1.3.
pub const TIMELINE_TLS13: u8 = 1;
/// [`Timeline::flags`]: TLS 1.3, the server sent records between its Finished and the client's: its tickets (Go).
pub const TIMELINE_EARLY_TICKETS: u8 = 1 << 1;
/// [`Timeline::flags`]: TLS 1.3, the server put its certificate into one record with what stands before it (`BoringSSL`, rustls).
pub const TIMELINE_PACKED_FLIGHT: u8 = 1 << 2;
/// [`Timeline::flags`]: the client's `ChangeCipherSpec` of TLS 1.2 passed.
pub const TIMELINE_FORWARD_CCS: u8 = 1 << 3;
/// [`Timeline::flags`]: the server's `ChangeCipherSpec` of TLS 1.2 passed; before the client's in a resumed session.
pub const TIMELINE_BACKWARD_CCS: u8 = 1 << 4;
/// [`Timeline::flags`]: TLS 1.2, the server's `ChangeCipherSpec` came first: an abbreviated handshake.
pub const TIMELINE_RESUMED12: u8 = 1 << 5;
/// [`Timeline::flags`]: the log of answers skipped bytes (reordered or lost): what follows is not certain.
pub const TIMELINE_GAP: u8 = 1 << 6;
/// [`Timeline::flags`]: the first request is not timed: it was sent before the handshake was done (0-RTT), or before
/// hopline.
pub const TIMELINE_EARLY_DATA: u8 = 1 << 7;

/// [`Timeline::heard`]: a record that may be the server's SETTINGS has come.
pub const HEARD_PREFACE: u8 = 1;
/// [`Timeline::heard`]: the client has acknowledged SETTINGS: it is HTTP/2 (RFC 9113 section 6.5.3).
pub const HEARD_HTTP2: u8 = 1 << 2;
/// [`Timeline::heard`]: it is not HTTP/2, although that was offered: the client went on without an acknowledgement.
pub const HEARD_NO_HTTP2: u8 = 1 << 3;
/// [`Timeline::heard`]: the client went on so soon that the acknowledgement may be in the same record.
pub const HEARD_DOUBT: u8 = 1 << 4;

/// [`Timeline::heard`]: the client is to acknowledge what may have been SETTINGS, and has sent nothing since.
pub const HEARD_AWAITED: u8 = 1 << 6;
/// A client that has got SETTINGS acknowledges them at once (RFC 9113 section 6.5.3): one that goes on after this time without does
/// not speak HTTP/2.
pub const ACKNOWLEDGED_WITHIN_NS: u64 = 5_000_000;

/// [`AnswerRecord::flags`]: its segment acknowledges the first byte of the request (server role: the request had come).
pub const ANSWER_ACKS_REQUEST: u8 = 1;
/// [`AnswerRecord::flags`]: the record begins its segment.
pub const ANSWER_STARTS_SEGMENT: u8 = 1 << 1;

/// [`Timeline::alert_level`] without its direction: the connection ends with this alert (RFC 8446 section 6).
pub const ALERT_LEVEL_FATAL: u8 = 2;
/// [`Timeline::alert_level`]: bit that is set when the alert came backward; the level is in the others.
pub const ALERT_BACKWARD: u8 = 128;

/// Answer records that are logged after `tls_done`.
pub const ANSWERS: usize = 8;
/// Latest turns that are kept; an event leaves each time all of them are new. A power of two.
pub const RECENT_TURNS: usize = 8;

/// [`Timeline::recent_turns_begun`] of a turn that began then.
#[inline(always)]
#[expect(clippy::inline_always, reason = "kernel programs have no calls")]
pub const fn turn_begun(ns: u64) -> u32 {
    (ns >> 10) as u32
}

/// When a turn began that was told of at `told_ns`, a few units early at most: those of 73 minutes are told apart.
pub const fn turn_begun_ns(begun: u32, told_ns: u64) -> u64 {
    let ago = turn_begun(told_ns).wrapping_sub(begun);
    ((told_ns >> 10).saturating_sub(ago as u64)) << 10
}

/// Whether a record of TLS 1.3 of this length can be the two tickets of `BoringSSL` in one record: each has 22 bytes of fields beside
/// the ticket, or 30 where early data is allowed; the ticket is 64 bytes and a session in blocks of 16.
#[inline]
pub const fn is_packed_tickets(length: u16) -> bool {
    const OVERHEAD: u16 = 17;
    const LEAST: u16 = 2 * (22 + 64);
    let plain = length.wrapping_sub(OVERHEAD);
    length > LEAST + OVERHEAD && matches!(plain % 32, 12 | 28)
}

/// One TLS record that came backward after `tls_done`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerRecord {
    /// Microseconds since `tls_done`, or since `request` when that came first.
    pub after_us: u32,
    /// Length in the record's header: the ciphertext without the 5 bytes of the header.
    pub length: u16,
    /// Content type in the record's header: 23 for application data, and for everything in TLS 1.3.
    pub content_type: u8,
    /// Bits `ANSWER_*`.
    pub flags: u8,
}

/// Marks, log of answers and turns of one connection. Times are `bpf_ktime_get_ns`; 0 is "not seen".
///
/// Both directions of a connection may be worked on by different CPUs, and each cache line that both write travels
/// between them. What every packet needs stands first, in the line that finding the socket's storage touches anyway; what
/// a TLS record needs is in the next one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// The open turn began; 0 when none is open.
    pub turn_ns: u64,
    /// Machine's own: next expected sequence number of each direction, forward first.
    pub next_seq: [u32; 2],
    /// Machine's own: sequence number after the first byte of the open turn.
    pub turn_seq: u32,
    /// Turns that were timed.
    pub turns: u32,
    /// Where the kernel's machine is; of no meaning to anybody else, as all that is said to be its own.
    pub stage: u8,
    /// One of the `PROTOCOL_*`.
    pub protocol: u8,
    /// Bits `TIMELINE_*`.
    pub flags: u8,
    /// Machine's own: the latest application payload went backward.
    pub backward_last: u8,
    /// Number of `answers` that are filled.
    pub answer_count: u8,
    /// Machine's own: all turns that are kept are new.
    pub turns_full: u8,
    /// Machine's own: which Finished have passed.
    pub finished: u8,
    /// Bits `HEARD_*`: what the conversation shows of HTTP/2; the others are the machine's own.
    pub heard: u8,

    /// Latest turns, microseconds; turn number `n`, from 0, is at `n % RECENT_TURNS`.
    pub recent_turns_us: [u32; RECENT_TURNS],
    /// When each of them began, in units of 1 024 ns, which overflow ([`turn_begun_ns`]).
    pub recent_turns_begun: [u32; RECENT_TURNS],
    /// Machine's own: where the next record begins, in each direction.
    pub record_seq: [u32; 2],
    /// Machine's own: what the latest forward application payload acknowledged; during the handshake where the client's hello
    /// goes on that a packet has cut.
    pub forward_ack: u32,
    /// Turns that began before the last one was answered: counted, not timed.
    pub turns_overlapping: u32,
    /// Cipher suite in the `ServerHello` (IANA number); 0 before.
    pub cipher: u16,
    /// Machine's own: how many bytes of `partial` are filled, in each direction.
    pub partial_length: [u8; 2],
    /// Machine's own: logged answers that are none: HTTP/2's preface and control frames.
    pub no_answers: u8,
    /// Description of a plaintext alert (RFC 8446 section 6), when `alert_level` is set.
    pub alert_description: u8,
    /// Level of a plaintext alert: 1 warning, 2 fatal; 0 for none. Plus [`ALERT_BACKWARD`].
    pub alert_level: u8,
    /// TTL or hop limit of the first payload that arrived; 0 before.
    pub arrived_ttl: u8,
    /// Machine's own: sequence number after the request's first byte.
    pub request_seq: u32,
    /// Segments, sent and received, when the walk over open connections last reported this one.
    pub reported_segments: u32,

    /// First byte of the (first) `ClientHello` record.
    pub client_hello_ns: u64,
    /// First byte of the last `ServerHello` record.
    pub server_hello_ns: u64,
    /// Both Finished have passed.
    pub tls_done_ns: u64,
    /// First forward application byte after `tls_done`, or of the connection without TLS. Before the end of a TLS
    /// handshake it is the machine's own, as is `turn_ns`: a record that may hold the client's Finished.
    pub request_ns: u64,
    /// First backward payload that acknowledges the request, without TLS; with TLS the log of answers tells.
    pub first_byte_ns: u64,
    /// Under which the hello bytes were sent ([`crate::hello::HelloHeader::stream`]); 0: the socket's cookie.
    pub hello_stream: u64,
    /// Machine's own: where the bytes for userspace begin, in each direction.
    pub hello_seq: [u32; 2],
    /// Machine's own: where the last plaintext handshake record ends, in each direction.
    pub plain_seq: [u32; 2],
    /// First records after `tls_done` in the direction of the answer.
    pub answers: [AnswerRecord; ANSWERS],
    /// Machine's own: first bytes of a record's or frame's header that was cut by the end of a segment, in each direction.
    pub partial: [[u8; 8]; 2],
    /// Status of the answer that ended each of the latest turns, in cleartext HTTP/1; 0 where it was not read.
    pub recent_turns_status: [u16; RECENT_TURNS],
    /// Machine's own: microseconds from the beginning of the open turn to a record that may be its answer or a PING of HTTP/2; 0
    /// for none.
    pub doubtful_us: u32,
    /// Machine's own: turns in clear before TLS began.
    pub turns_before_tls: u8,
    /// Machine's own: that record may be a PING, which the client has to answer.
    pub doubtful_ping: u8,
    /// Not used.
    pub reserved: [u8; 2],
}

const _: () = assert!(size_of::<AnswerRecord>() == 8);
const _: () = assert!(size_of::<Timeline>() == 296);
const _: () = assert!(offset_of!(Timeline, recent_turns_us) == 32);
