//! Why a TLS handshake failed: one fault has one name, whichever client found it and whatever alert it sent. Where the
//! wire hides the fault, the name says what is known and no more. Pure.

use agent_ebpf::{
    connection::{
        CLOSED_BY_LOCAL, CLOSED_BY_REMOTE, CLOSED_BY_RESET_LOCAL, CLOSED_BY_RESET_REMOTE, CLOSED_BY_TIMEOUT,
        ConnectionState,
    },
    hello::{BACKWARD, FORWARD},
    timeline::{ALERT_BACKWARD, ALERT_LEVEL_FATAL, TIMELINE_EARLY_DATA, TIMELINE_GAP, TIMELINE_TLS13, Timeline},
};

use super::library::{FailedBy, Library};
use crate::{
    aggregate::TlsFailure,
    connection::Role,
    protocol::{
        certificate::{Chain, ChainState, Circumstances, Roots},
        facts::TlsFacts,
    },
};

/// Alerts about certificates, and what stands for them in TLS 1.2 (RFC 8446 section 6.2).
const HANDSHAKE_FAILURE: u8 = 40;
const BAD_CERTIFICATE: u8 = 42;
const CERTIFICATE_EXPIRED: u8 = 45;
const CERTIFICATE_UNKNOWN: u8 = 46;
const UNKNOWN_CA: u8 = 48;
const CERTIFICATE_REQUIRED: u8 = 116;

/// Content types of TLS records (RFC 8446 section 5.1).
const CONTENT_TYPES: std::ops::RangeInclusive<u8> = 20..=23;
/// A client's encrypted alert of TLS 1.3 on the wire (header, alert, content type, tag): with the padding of the JDK, and each
/// behind the `ChangeCipherSpec` that some clients send first.
const ENCRYPTED_ALERTS: [u32; 4] = [24, 24 + 16, 6 + 24, 6 + 24 + 16];
/// A FIN that was acknowledged counts as a byte.
const FIN: i32 = 1;
/// What a server of TLS 1.3 sends encrypted has at least this many bytes once a certificate is in it; without one
/// (a resumed session) it has less than 150.
const SHORTEST_CERTIFICATE_FLIGHT: u32 = 400;

/// Why it failed, and who gave up.
pub(super) type Failure = (TlsFailure, Option<FailedBy>);

/// Why the TLS handshake of a connection that ended at `at_ns`, of the real-time clock, failed; `None` when it did not, or
/// when there was none. What the library says goes before what can be seen.
pub(super) fn failure(
    state: &ConnectionState,
    role: Role,
    tls: Option<&TlsFacts>,
    library: Option<&Library>,
    at_ns: u64,
) -> Option<Failure> {
    let timeline = &state.timeline;
    if timeline.client_hello_ns == 0 {
        return None;
    }
    let handshake = Handshake {
        state,
        role,
        tls,
        library,
        now_unix_s: (at_ns / 1_000_000_000).cast_signed(),
    };
    let done = timeline.tls_done_ns != 0;
    // What a client's library makes of silence or of something else than TLS, or says to a closed connection, is not why; a
    // server's knows why it said nothing.
    match handshake.answer() {
        Answer::NotTls if !done => return Some((TlsFailure::NotTls, Some(handshake.side(false)))),
        Answer::Nothing if !done && (role == Role::Client || library.is_none_or(Library::is_silent)) => {
            return Some((TlsFailure::NoAnswer, handshake.closer()));
        }
        _ => {}
    }
    // The last thing that is said of a connection, an alert, looks like a request in TLS 1.3.
    let unused = timeline.request_ns == 0 || timeline.turns == 0 && state.closed_by == CLOSED_BY_LOCAL;
    if let Some(library) = library
        && (!done || timeline.turns <= 1)
        && let Some((failure, by)) = library.verdict(unused)
    {
        return Some((handshake.named(failure, by), Some(by)));
    }
    if !done {
        return Some(handshake.seen());
    }
    // Some clients look at the certificate only after the handshake: they leave without a word.
    let fault = if timeline.request_ns == 0 && handshake.client_left() {
        handshake.chain_fault().filter(|fault| !is_about_authority(*fault))
    } else {
        None
    };
    let own_fault = || unused.then(|| handshake.own_fault()).flatten();
    let fault = fault.or_else(own_fault)?;
    Some((fault, Some(handshake.side(true))))
}

/// What the server said to the hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Nothing,
    NotTls,
    Tls,
    /// Bytes that passed without being looked at.
    Unseen,
}

/// All that is known of a handshake.
struct Handshake<'a> {
    state: &'a ConnectionState,
    role: Role,
    tls: Option<&'a TlsFacts>,
    library: Option<&'a Library>,
    now_unix_s: i64,
}

impl Handshake<'_> {
    fn timeline(&self) -> &Timeline {
        &self.state.timeline
    }

    /// The client, or the server, as who is observed calls it.
    fn side(&self, client: bool) -> FailedBy {
        if client == (self.role == Role::Client) {
            FailedBy::Local
        } else {
            FailedBy::Remote
        }
    }

    /// Who closed first; `None` when the kernel gave up.
    fn closer(&self) -> Option<FailedBy> {
        match self.state.closed_by {
            CLOSED_BY_LOCAL | CLOSED_BY_RESET_LOCAL => Some(FailedBy::Local),
            CLOSED_BY_REMOTE | CLOSED_BY_RESET_REMOTE => Some(FailedBy::Remote),
            _ => None,
        }
    }

    /// The client closed first, or said that it does: which FIN comes first after an alert is a race.
    fn client_left(&self) -> bool {
        self.closer() == Some(self.side(true)) || self.has_client_alert()
    }

    /// All that the client has sent since its hello is as long as one encrypted alert.
    fn has_client_alert(&self) -> bool {
        let (timeline, forward) = (self.timeline(), usize::from(FORWARD));
        let encrypted = timeline.next_seq[forward].wrapping_sub(timeline.plain_seq[forward]);
        timeline.tls_done_ns == 0
            && timeline.server_hello_ns != 0
            && timeline.flags & (TIMELINE_TLS13 | TIMELINE_EARLY_DATA) == TIMELINE_TLS13
            && ENCRYPTED_ALERTS
                .iter()
                .any(|alert| (0..=FIN).contains(&encrypted.wrapping_sub(*alert).cast_signed()))
    }

    /// The client has sent an alert of TLS 1.3 that is not encrypted.
    fn has_clear_alert_of_tls13(&self) -> bool {
        let timeline = self.timeline();
        timeline.flags & TIMELINE_TLS13 != 0
            && timeline.server_hello_ns != 0
            && timeline.alert_level != 0
            && timeline.alert_level & ALERT_BACKWARD == 0
    }

    fn answer(&self) -> Answer {
        let (timeline, backward) = (self.timeline(), usize::from(BACKWARD));
        let hello = self.tls.and_then(|tls| tls.server_hello.as_ref());
        let is_tls = hello.is_some()
            || timeline.server_hello_ns != 0
            || timeline.cipher != 0
            || timeline.flags & TIMELINE_TLS13 != 0
            || timeline.alert_level & ALERT_BACKWARD != 0;
        if is_tls {
            return Answer::Tls;
        }
        // The kernel side looks for a record's header: it keeps one that is cut, and flags what is none.
        if timeline.partial_length[backward] != 0 {
            let is_record = CONTENT_TYPES.contains(&timeline.partial[backward][0]);
            return if is_record { Answer::Nothing } else { Answer::NotTls };
        }
        let came = timeline.next_seq[backward].wrapping_sub(timeline.plain_seq[backward]);
        if came.cast_signed() <= FIN {
            Answer::Nothing
        } else if timeline.flags & TIMELINE_GAP != 0 {
            Answer::NotTls
        } else {
            Answer::Unseen
        }
    }

    /// The server's certificate has passed: seen in TLS 1.2; in TLS 1.3, which encrypts it, by how much the server sent.
    fn has_certificate(&self) -> bool {
        let (timeline, backward) = (self.timeline(), usize::from(BACKWARD));
        if self.tls.is_some_and(|tls| tls.chain.is_some()) {
            return true;
        }
        let resumed = self.tls.and_then(TlsFacts::resumed) == Some(true);
        let encrypted = timeline.next_seq[backward].wrapping_sub(timeline.plain_seq[backward]);
        timeline.flags & TIMELINE_TLS13 != 0
            && timeline.server_hello_ns != 0
            && !resumed
            && timeline.record_seq[backward] == timeline.next_seq[backward]
            && encrypted >= SHORTEST_CERTIFICATE_FLIGHT
    }

    /// What the wire alone says of a handshake that was not done.
    fn seen(&self) -> Failure {
        let timeline = self.timeline();
        let level = timeline.alert_level & !ALERT_BACKWARD;
        if level != 0 {
            let by = self.side(timeline.alert_level & ALERT_BACKWARD == 0);
            let failure = self.named(TlsFailure::Alert(timeline.alert_description), by);
            // A warning goes on, unless it is about a certificate.
            if level == ALERT_LEVEL_FATAL || !matches!(failure, TlsFailure::Alert(_)) {
                return (failure, Some(by));
            }
        }
        if self.state.closed_by == CLOSED_BY_TIMEOUT {
            return (TlsFailure::Timeout, None);
        }
        if self.client_left() && self.has_certificate() {
            let failure = self.fault().unwrap_or(TlsFailure::RejectedByClient);
            return (failure, Some(self.side(true)));
        }
        (TlsFailure::Closed, self.closer())
    }

    /// The fault behind what `by` said.
    fn named(&self, said: TlsFailure, by: FailedBy) -> TlsFailure {
        use TlsFailure::{Alert, CertExpired, CertMissingIntermediate, CertUnknownAuthority, RejectedByClient};
        if by != self.side(true) {
            return self.named_of_server(said);
        }
        match said {
            CertUnknownAuthority | CertMissingIntermediate | Alert(UNKNOWN_CA) => self.authority(),
            // It stands for both ends of the time (RFC 8446), as Go's reason does. OpenSSL alone sends alerts of TLS 1.3 in
            // clear, and has another for a time that has not come.
            Alert(CERTIFICATE_EXPIRED) if self.has_clear_alert_of_tls13() => CertExpired,
            Alert(CERTIFICATE_EXPIRED) => self.times().unwrap_or(said),
            TlsFailure::CertInvalid if self.library.is_some_and(Library::is_about_times) => {
                self.times().unwrap_or(said)
            }
            // These say that there is something, not what (RFC 8446); Go sends the first for everything, Java the second.
            Alert(BAD_CERTIFICATE | CERTIFICATE_UNKNOWN) => self.fault().unwrap_or(RejectedByClient),
            _ => said,
        }
    }

    /// What the server finds wrong with the client's certificate has the name of the alert by which the client hears of it:
    /// `cert_*` are faults of the server's.
    fn named_of_server(&self, said: TlsFailure) -> TlsFailure {
        use TlsFailure::{Alert, CertExpired, CertMissingIntermediate, CertNotYetValid, CertUnknownAuthority};
        let has_none = self.tls.is_some_and(|tls| tls.client_certificate == Some(false));
        match said {
            // TLS 1.2 has no alert for it.
            Alert(HANDSHAKE_FAILURE | BAD_CERTIFICATE) if has_none => Alert(CERTIFICATE_REQUIRED),
            CertExpired => Alert(CERTIFICATE_EXPIRED),
            CertUnknownAuthority | CertMissingIntermediate => Alert(UNKNOWN_CA),
            CertNotYetValid => Alert(BAD_CERTIFICATE),
            _ => said,
        }
    }

    /// What is wrong with the certificate of a server that the client does not trust.
    fn authority(&self) -> TlsFailure {
        let lacks = match self.tls.and_then(|tls| tls.chain.as_ref()) {
            Some(chain) => chain.lacks_intermediate(),
            // The library has the server's own alone, and says whether its issuer came.
            None => {
                self.library.is_some_and(Library::is_issuer_unknown)
                    && self.own().is_some_and(Chain::lacks_intermediate)
            }
        };
        if lacks {
            TlsFailure::CertMissingIntermediate
        } else {
            TlsFailure::CertUnknownAuthority
        }
    }

    /// What can be seen to be wrong with the server's certificates.
    fn fault(&self) -> Option<TlsFailure> {
        self.chain_fault().or_else(|| self.own_fault())
    }

    /// What is wrong with the times of the server's certificates.
    fn times(&self) -> Option<TlsFailure> {
        let chain = self.tls.and_then(|tls| tls.chain.as_ref());
        let wrong = chain.or_else(|| self.own())?.times(self.now_unix_s)?;
        name_of(wrong)
    }

    /// What is wrong with the certificates that were sent in clear.
    fn chain_fault(&self) -> Option<TlsFailure> {
        self.fault_of(self.tls?.chain.as_ref()?)
    }

    /// What is wrong with the server's own certificate, of which a library has shown the names and times.
    fn own_fault(&self) -> Option<TlsFailure> {
        let fault = self.fault_of(self.own()?)?;
        (!is_about_authority(fault)).then_some(fault)
    }

    fn fault_of(&self, chain: &Chain) -> Option<TlsFailure> {
        let circumstances = Circumstances {
            server_name: self.tls.and_then(TlsFacts::server_name),
            now_unix_s: self.now_unix_s,
            roots: &Roots::default(),
            is_authority_refused: false,
        };
        name_of(chain.state(circumstances))
    }

    /// The certificate that the client's library has shown; a server's library shows the client's.
    fn own(&self) -> Option<&Chain> {
        let own = self.library.and_then(|library| library.own.as_ref());
        own.filter(|_| self.role == Role::Client)
    }
}

fn is_about_authority(fault: TlsFailure) -> bool {
    matches!(
        fault,
        TlsFailure::CertUnknownAuthority | TlsFailure::CertMissingIntermediate
    )
}

fn name_of(state: ChainState) -> Option<TlsFailure> {
    Some(match state {
        ChainState::Ok => return None,
        ChainState::Expired => TlsFailure::CertExpired,
        ChainState::NotYetValid => TlsFailure::CertNotYetValid,
        ChainState::NameMismatch => TlsFailure::CertNameMismatch,
        ChainState::MissingIntermediate => TlsFailure::CertMissingIntermediate,
        ChainState::SelfSigned | ChainState::UnknownAuthority => TlsFailure::CertUnknownAuthority,
    })
}

#[cfg(test)]
mod tests;
