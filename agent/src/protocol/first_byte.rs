//! Which record is the answer: a pure function of the kernel's log of records after the handshake.
//!
//! With TLS 1.3 everything is application data on the wire: session tickets and the SETTINGS of HTTP/2 look like the
//! answer. Called by the pipeline for each connection; the memory of ticket lengths is the caller's.

use agent_ebpf::timeline::Timeline;

use super::ticket_lengths::TicketLengths;

mod judge;

/// Which end of the connection is observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The client: records arrive.
    Client,
    /// The server: records leave.
    Server,
}

/// What the judgement needs to know of the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// Agreed cipher suite; [`Timeline::cipher`] when 0.
    pub cipher: u16,
    /// HTTP/2 was agreed, or was offered and the agreement is encrypted.
    pub may_be_h2: bool,
    /// HTTP/2 was agreed, and that is known.
    pub is_h2: bool,
    /// An earlier session is resumed.
    pub resumed: bool,
}

/// How sure it is that the time is that of the answer's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Basis {
    /// No other reading of the log is possible.
    Exact,
    /// The other readings would need a server that nobody has seen.
    Inferred,
    /// The record may be the answer or not: to be counted, not to be put in a histogram.
    Ambiguous,
}

/// When the answer began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstByte {
    /// `bpf_ktime_get_ns`.
    pub at_ns: u64,
    /// How sure that is.
    pub basis: Basis,
}

/// Decides when the answer began; `None` as long as no record can be it.
///
/// Without TLS the kernel knows. With TLS, of the records that acknowledge the request:
///
/// 1. session tickets are passed over (TLS 1.3): lengths that `tickets` knows for this destination, a run of equal
///    lengths at the start, one record when the session is resumed;
/// 2. where HTTP/2 may be spoken, its control records are passed over by the length of their plaintext;
/// 3. what is left first is the answer.
///
/// The basis is [`Basis::Exact`] in TLS 1.2 without HTTP/2, where application data is just that. See [`Basis`] for the rest.
pub fn first_byte(
    timeline: &Timeline,
    role: Role,
    handshake: Handshake,
    tickets: &TicketLengths,
    destination: u64,
) -> Option<FirstByte> {
    if timeline.request_ns == 0 {
        return None;
    }
    if timeline.tls_done_ns == 0 {
        let at_ns = timeline.first_byte_ns;
        return (at_ns != 0).then_some(FirstByte {
            at_ns,
            basis: Basis::Exact,
        });
    }
    judge::judge(timeline, role, handshake, &|length| {
        tickets.contains(destination, length)
    })
}

/// Teaches `tickets` what the log of one conversation shows beyond doubt.
pub fn learn_tickets(timeline: &Timeline, handshake: Handshake, tickets: &mut TicketLengths, destination: u64) {
    for length in judge::certain_tickets(timeline, handshake) {
        tickets.learn(destination, length);
    }
}
