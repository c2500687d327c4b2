//! Which record is the answer: a pure function of the kernel's log of records after the handshake.
//!
//! With TLS 1.3 everything is application data on the wire: session tickets and the SETTINGS of HTTP/2 look like the
//! answer. Called by the pipeline for each connection; the memory of ticket lengths is the caller's. Client and server
//! role are judged alike: the kernel's flag says "acknowledges the request" for the one, "the request had come" for the
//! other.

use agent_ebpf::timeline::Timeline;

use super::facts::TlsFacts;
use super::ticket_lengths::TicketLengths;

mod judge;
#[cfg(test)]
mod tests;

/// What the judgement needs to know of the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of both hellos")]
pub struct Handshake {
    /// HTTP/2 was offered.
    pub offers_h2: bool,
    /// HTTP/2 was agreed or not, where that stands in clear (TLS 1.2) or the conversation shows it.
    pub chose_h2: Option<bool>,
    /// The client went on after what may be the server's SETTINGS, and may have acknowledged them in the same record.
    pub is_h2_doubtful: bool,
    /// An earlier session is resumed.
    pub resumed: bool,
    /// The client takes no tickets of TLS 1.3: its whole hello was seen, and says so.
    pub no_tickets: bool,
    /// Length of the ticket in the `ClientHello` (TLS 1.3); 0 when there was none or it was not seen.
    pub offered_ticket_bytes: u16,
}

impl Handshake {
    /// From what was read of the hellos.
    pub fn of(tls: &TlsFacts) -> Self {
        let client = tls.client_hello.as_ref();
        let server = tls
            .server_hello
            .as_ref()
            .filter(|hello| hello.version < super::tls::TLS13);
        Self {
            // A hello that was not seen may have offered it.
            offers_h2: client.is_none_or(|hello| hello.truncated || hello.offers_h2()),
            chose_h2: server.map(|hello| hello.alpn.as_deref() == Some("h2")),
            is_h2_doubtful: false,
            resumed: tls.resumed().unwrap_or_default(),
            no_tickets: client.is_some_and(|hello| !hello.truncated && !hello.psk_modes),
            offered_ticket_bytes: client.map_or(0, |hello| hello.offered_ticket_bytes),
        }
    }

    fn may_be_h2(self) -> bool {
        self.chose_h2.unwrap_or(self.offers_h2)
    }
}

/// How sure it is that the time is that of the answer's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Basis {
    /// The kernel saw it in clear, or it is the first application data of TLS 1.2 without HTTP/2.
    Exact,
    /// What was passed over has the lengths of tickets and control records, and what is left fits no other reading.
    Inferred,
    /// Another record may be it: to be counted, not to be put in a histogram.
    Ambiguous,
}

impl Basis {
    /// As in `ttfb_basis`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Inferred => "inferred",
            Self::Ambiguous => "ambiguous",
        }
    }
}

/// When the answer began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstByte {
    /// `bpf_ktime_get_ns`.
    pub at_ns: u64,
    /// How sure that is.
    pub basis: Basis,
    /// A record that comes later would change the verdict: it may be a ticket, as long as nothing else has come.
    pub may_be_ticket: bool,
}

/// Decides when the answer began; `destination` says whose tickets may be in the log, and is asked only where that
/// matters. `None` as long as no record can be it. The verdict is final when the log is full or
/// the exchange is over; before that, a record that comes later may show that the first one was a ticket.
///
/// Without TLS the kernel knows. With TLS, what is left first is the answer after these are taken away:
///
/// 1. what is not application data on the wire, and encrypted alerts;
/// 2. what does not acknowledge the request;
/// 3. in TLS 1.3, tickets at the start: a run of equal lengths; one of about the length of the ticket that the client
///    offered, when resumed; one of a length learned for this destination. Servers that send one ticket (JDK) or put two
///    into one record (rustls, `BoringSSL`) leave a lone record of any length: in a full handshake it is passed over when
///    more follows, but [`Basis::Ambiguous`], unless the server's tickets came before (Go) or the client takes none;
/// 4. where HTTP/2 may be spoken, the server's preface (the first record, when it has the length of SETTINGS, alone or
///    with `WINDOW_UPDATE` or an acknowledgement) and control records, by the length of their plaintext.
///
/// HTTP/2 is spoken when the client acknowledges SETTINGS, and is not when it goes on without.
///
/// [`Basis::Ambiguous`] also when the log has a gap, with early data, when HTTP/2 may be spoken but the cipher hides
/// lengths, and when all that is left of an answer would be a record that looks like a preface without HTTP/2 being
/// certain.
pub fn first_byte(
    timeline: &Timeline,
    handshake: Handshake,
    tickets: &TicketLengths,
    destination: impl Fn() -> u64,
) -> Option<FirstByte> {
    if timeline.request_ns == 0 {
        return None;
    }
    if timeline.tls_done_ns == 0 {
        let at_ns = timeline.first_byte_ns;
        return (at_ns != 0).then_some(FirstByte {
            at_ns,
            basis: Basis::Exact,
            may_be_ticket: false,
        });
    }
    judge::judge(timeline, handshake, &|length| tickets.known(destination(), length))
}

/// Teaches `tickets` what the log of one conversation shows to be a ticket of this destination, or one perhaps.
pub fn learn_tickets(
    timeline: &Timeline,
    handshake: Handshake,
    tickets: &mut TicketLengths,
    destination: impl FnOnce() -> u64,
) {
    if let Some((length, known)) = judge::ticket(timeline, handshake) {
        tickets.learn(destination(), length, known);
    }
}
