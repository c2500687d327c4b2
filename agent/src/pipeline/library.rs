//! What TLS libraries said of handshakes, by connection, and the verdict that comes of it. Pure.

use std::collections::{HashMap, VecDeque};

use agent_ebpf::tls_fact::{
    FACT_ALERT_RECEIVED, FACT_ALERT_SENT, FACT_ERROR, FACT_REFUSED, FACT_STATUS, FACT_VERIFIED, GO_AUTHORITY,
    GO_INVALID, GO_NAME, LIBRARY_BORINGSSL, LIBRARY_GNUTLS, LIBRARY_GO, LIBRARY_OPENSSL, TlsCertificate, TlsFact,
    TlsProtocol,
};

use crate::{
    aggregate::TlsFailure,
    capacity::{Share, TableUse},
    protocol::{
        certificate::Chain,
        facts::{Facts, TlsFacts},
        tls::alpn_text,
    },
};

/// Connections of which something was said and that have not been told of yet.
const MOST: usize = 8_192;
/// Those that are not told of by then never will be.
const KEEP_NS: u64 = 60_000_000_000;

/// `SSL_AD_REASON_OFFSET`: reasons from here on are alerts of the peer's.
const PEERS_ALERT: u32 = 1000;
/// `SSL_R_CERTIFICATE_VERIFY_FAILED`: what was found wrong with the certificate ends the handshake. `BoringSSL`'s has a
/// number of its own.
const VERIFY_FAILED: [u32; 2] = [134, 125];
/// `SSL_R_UNEXPECTED_EOF_WHILE_READING`: the wire knows who closed.
const UNEXPECTED_EOF: u32 = 294;

/// `x509.Expired`.
const GO_EXPIRED: u32 = 1;

/// Who gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailedBy {
    /// The observed side.
    Local,
    /// The peer.
    Remote,
}

impl FailedBy {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }
}

/// What a library said of one handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Library {
    number: u8,
    version: u32,
    /// The verdict on the certificate, and the depth of the one that it is about.
    verified: Option<(u32, u16)>,
    /// The first error that was queued.
    error: Option<u32>,
    sent: Option<u8>,
    received: Option<u8>,
    refused: Option<u32>,
    status: Option<u32>,
    /// The peer's own certificate.
    pub(super) own: Option<Chain>,
    /// The protocol agreed on.
    protocol: Option<Box<str>>,
    last_ns: u64,
}

impl Library {
    fn hear(&mut self, fact: &TlsFact) {
        self.last_ns = fact.header.time_ns;
        self.number = fact.library;
        self.version = fact.version;
        let code = fact.code;
        match fact.fact {
            FACT_ERROR if (PEERS_ALERT..PEERS_ALERT + 256).contains(&code) => {
                self.received.get_or_insert((code - PEERS_ALERT) as u8);
            }
            FACT_ERROR if code != UNEXPECTED_EOF => {
                self.error.get_or_insert(code);
            }
            // The last word counts: callbacks ask for the verdict while it is being made.
            FACT_VERIFIED => self.verified = Some((code, fact.depth)),
            FACT_ALERT_SENT => {
                self.sent.get_or_insert(code as u8);
            }
            FACT_ALERT_RECEIVED => {
                self.received.get_or_insert(code as u8);
            }
            FACT_REFUSED => self.refused = Some(code),
            FACT_STATUS => self.status = Some(code),
            _ => {}
        }
    }

    /// The protocol that was agreed on by ALPN.
    pub(super) fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Name and version, as in records.
    pub(super) fn name(&self) -> Option<String> {
        let name = match self.number {
            LIBRARY_OPENSSL => "OpenSSL",
            LIBRARY_BORINGSSL => "BoringSSL",
            LIBRARY_GNUTLS => "GnuTLS",
            LIBRARY_GO => "Go",
            _ => return None,
        };
        let version = self.version;
        if version == 0 {
            return Some(name.to_owned());
        }
        let numbers = [version >> 16 & 0xff, version >> 8 & 0xff, version & 0xff];
        Some(format!("{name} {}.{}.{}", numbers[0], numbers[1], numbers[2]))
    }

    /// It has not said why it failed.
    pub(super) fn is_silent(&self) -> bool {
        self.verdict(false).is_none()
    }

    /// The client's library says that the issuer of the server's own certificate is neither trusted nor was sent.
    pub(super) fn is_issuer_unknown(&self) -> bool {
        match self.number {
            // Go stops at the certificate that it shows: an authority's was sent by the server.
            LIBRARY_GO => {
                let is_servers = self.own.as_ref().is_some_and(|own| !own.is_authority());
                self.refused == Some(GO_AUTHORITY) && is_servers
            }
            _ => match self.verified {
                // UNABLE_TO_VERIFY_LEAF_SIGNATURE
                Some((21, _)) => true,
                // UNABLE_TO_GET_ISSUER_CERT_LOCALLY
                Some((20, depth)) => depth == 0 && self.is_refused(),
                _ => false,
            },
        }
    }

    /// Go refuses the certificate for its times: it has one reason for both ends.
    pub(super) fn is_about_times(&self) -> bool {
        self.refused == Some(GO_INVALID + GO_EXPIRED)
    }

    /// OpenSSL has ended the handshake for the certificate. Where the handshake goes on in spite of it, so does the depth.
    fn is_refused(&self) -> bool {
        self.error.is_some_and(|error| VERIFY_FAILED.contains(&error))
    }

    /// Why it failed, if it did. `unused`: nothing came of the connection, so that what is wrong with the certificate may
    /// be why; programs that look at it after the handshake leave without a word.
    pub(super) fn verdict(&self, unused: bool) -> Option<(TlsFailure, FailedBy)> {
        let local = |failure| Some((failure, FailedBy::Local));
        if let Some(code) = self.refused {
            return local(go_refusal(code));
        }
        let refuses = self.is_refused();
        let certificate = self.verified.and_then(|(code, _)| openssl_verdict(code));
        if let Some(failure) = certificate.filter(|_| refuses) {
            return local(failure);
        }
        // The verdict is asked for to be told, and an alert's name for the one that was sent too.
        if let Some(failure) = self.status.and_then(gnutls_verdict).filter(|_| unused) {
            return local(failure);
        }
        if let Some(alert) = self.received.filter(|_| self.sent.is_none()) {
            return Some((TlsFailure::Alert(alert), FailedBy::Remote));
        }
        if let Some(alert) = self.sent {
            return local(TlsFailure::Alert(alert));
        }
        if let Some(error) = self.error {
            return local(openssl_error(error));
        }
        certificate.filter(|_| unused).and_then(local)
    }
}

/// `X509_V_ERR_*`, the same numbers in all of OpenSSL's kin.
fn openssl_verdict(code: u32) -> Option<TlsFailure> {
    Some(match code {
        0 => return None,
        10 => TlsFailure::CertExpired,
        9 => TlsFailure::CertNotYetValid,
        62..=64 => TlsFailure::CertNameMismatch,
        2 | 18..=21 | 24 | 27 | 28 => TlsFailure::CertUnknownAuthority,
        _ => TlsFailure::CertInvalid,
    })
}

/// Reasons of the SSL library that stand for one alert.
fn openssl_error(reason: u32) -> TlsFailure {
    match reason {
        // UNSUPPORTED_PROTOCOL, WRONG_SSL_VERSION, VERSION_TOO_LOW
        258 | 266 | 396 => TlsFailure::Alert(70),
        // NO_SHARED_CIPHER
        193 => TlsFailure::Alert(40),
        // PEER_DID_NOT_RETURN_A_CERTIFICATE
        199 => TlsFailure::Alert(116),
        // NO_APPLICATION_PROTOCOL
        235 => TlsFailure::Alert(120),
        _ => TlsFailure::ProtocolError,
    }
}

/// `GNUTLS_CERT_*`.
fn gnutls_verdict(status: u32) -> Option<TlsFailure> {
    let has = |bit: u32| status & 1 << bit != 0;
    Some(match () {
        () if status == 0 => return None,
        () if has(10) => TlsFailure::CertExpired,
        () if has(9) => TlsFailure::CertNotYetValid,
        () if has(14) => TlsFailure::CertNameMismatch,
        () if has(6) || has(7) => TlsFailure::CertUnknownAuthority,
        () => TlsFailure::CertInvalid,
    })
}

/// What it is in full, [`Library::is_about_times`] and the certificate say.
fn go_refusal(code: u32) -> TlsFailure {
    match code {
        GO_NAME => TlsFailure::CertNameMismatch,
        GO_AUTHORITY => TlsFailure::CertUnknownAuthority,
        _ => TlsFailure::CertInvalid,
    }
}

/// Once the hellos are known for good, only those of a certificate's names are kept that decide about the name asked for.
pub(super) fn settle(library: Option<&mut Library>, hellos: Option<&Facts>) {
    if let (Some(library), Some(hellos)) = (library, hellos)
        && let Some(own) = &mut library.own
    {
        own.keep_names_of(hellos.tls.as_ref().and_then(TlsFacts::server_name));
    }
}

/// What was said of connections that have not been told of since.
#[derive(Debug)]
pub(super) struct Libraries {
    limit: usize,
    by_cookie: HashMap<u64, Box<Library>>,
    /// In the order of their first word.
    order: VecDeque<u64>,
    evicted: u64,
}

impl Libraries {
    pub(super) fn new(share: Share) -> Self {
        Self {
            limit: share.of(MOST),
            by_cookie: HashMap::new(),
            order: VecDeque::new(),
            evicted: 0,
        }
    }

    pub(super) fn usage(&self) -> TableUse {
        TableUse::new("tls_facts", self.by_cookie.len(), self.limit)
    }

    pub(super) fn hear(&mut self, fact: &TlsFact) {
        self.at(fact.cookie).hear(fact);
    }

    pub(super) fn hear_certificate(&mut self, header: &TlsCertificate, bytes: &[u8]) {
        let library = self.at(header.cookie);
        library.last_ns = header.header.time_ns;
        if library.own.is_none() {
            library.own = Chain::of_own(bytes);
        }
    }

    pub(super) fn hear_protocol(&mut self, event: &TlsProtocol) {
        let library = self.at(event.cookie);
        library.last_ns = event.header.time_ns;
        let name = event.name.get(..event.length as usize);
        library.protocol = name.and_then(alpn_text).or_else(|| library.protocol.take());
    }

    fn at(&mut self, cookie: u64) -> &mut Library {
        if !self.by_cookie.contains_key(&cookie) {
            if self.by_cookie.len() >= self.limit
                && let Some(oldest) = self.order.pop_front()
                && self.by_cookie.remove(&oldest).is_some()
            {
                self.evicted += 1;
            }
            if self.order.len() >= 2 * self.limit {
                let waiting = &self.by_cookie;
                self.order.retain(|cookie| waiting.contains_key(cookie));
            }
            self.order.push_back(cookie);
        }
        self.by_cookie.entry(cookie).or_default()
    }

    /// What was said since the last time; `before` is what was said until then.
    pub(super) fn take(&mut self, cookie: u64, before: Option<Box<Library>>) -> Option<Box<Library>> {
        // Asked for every snapshot of every connection.
        if self.by_cookie.is_empty() {
            return before;
        }
        let Some(now) = self.by_cookie.remove(&cookie) else {
            return before;
        };
        let Some(before) = before else { return Some(now) };
        Some(Box::new(Library {
            verified: now.verified.or(before.verified),
            error: before.error.or(now.error),
            sent: before.sent.or(now.sent),
            received: before.received.or(now.received),
            refused: now.refused.or(before.refused),
            status: now.status.or(before.status),
            own: before.own.or(now.own),
            protocol: now.protocol.or(before.protocol),
            number: if now.number == 0 { before.number } else { now.number },
            version: if now.number == 0 { before.version } else { now.version },
            last_ns: now.last_ns,
        }))
    }

    /// Forgets those that nobody asks for.
    pub(super) fn expire(&mut self, now_ns: u64) {
        while let Some(cookie) = self.order.front() {
            match self.by_cookie.get(cookie) {
                Some(library) if now_ns.saturating_sub(library.last_ns) < KEEP_NS => break,
                Some(_) => {
                    self.by_cookie.remove(cookie);
                    self.evicted += 1;
                }
                None => {}
            }
            self.order.pop_front();
        }
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
mod tests {
    use agent_ebpf::{
        event::{EventHeader, TLS_FACT},
        tls_fact::PROTOCOL_BYTES,
    };

    use super::*;

    fn fact(cookie: u64, library: u8, fact: u8, code: u32, depth: u16) -> TlsFact {
        TlsFact {
            header: EventHeader {
                kind: TLS_FACT,
                size: 40,
                time_ns: cookie,
            },
            cookie,
            pid: 1,
            code,
            depth,
            library,
            fact,
            version: 0x3_0013,
        }
    }

    /// What comes of facts of one library about one handshake.
    fn check(library: u8, facts: &[(u8, u32, u16)], unused: bool, expected: Option<(&str, &str)>) {
        let mut libraries = Libraries::new(Share::WHOLE);
        for (kind, code, depth) in facts {
            libraries.hear(&fact(7, library, *kind, *code, *depth));
        }
        let heard = libraries.take(7, None).expect("heard of");
        let verdict = heard.verdict(unused).map(|(failure, by)| (failure.name(), by.name()));
        assert_eq!(verdict, expected, "{facts:?}");
    }

    #[test]
    fn openssl_says_why() {
        let check = |facts: &[_], unused, expected| check(LIBRARY_OPENSSL, facts, unused, expected);
        let refused = (FACT_ERROR, 134, 0);
        check(&[(FACT_VERIFIED, 0, 0)], true, None);
        check(
            &[(FACT_VERIFIED, 10, 0), refused],
            true,
            Some(("cert_expired", "local")),
        );
        check(
            &[(FACT_VERIFIED, 62, 0), refused],
            true,
            Some(("cert_name_mismatch", "local")),
        );
        check(
            &[(FACT_VERIFIED, 20, 0), refused],
            true,
            Some(("cert_unknown_authority", "local")),
        );
        check(
            &[(FACT_VERIFIED, 20, 1), refused],
            true,
            Some(("cert_unknown_authority", "local")),
        );
        // Node goes on and looks later; who uses the connection does not mind.
        check(
            &[(FACT_VERIFIED, 20, 0)],
            true,
            Some(("cert_unknown_authority", "local")),
        );
        check(
            &[(FACT_VERIFIED, 21, 0)],
            true,
            Some(("cert_unknown_authority", "local")),
        );
        check(&[(FACT_VERIFIED, 10, 0)], false, None);
        check(
            &[(FACT_VERIFIED, 0, 0), (FACT_ERROR, 1116, 0)],
            false,
            Some(("alert_certificate_required", "remote")),
        );
        check(&[(FACT_ERROR, 258, 0)], true, Some(("alert_protocol_version", "local")));
        check(&[(FACT_ERROR, 294, 0)], true, None);
        check(&[(FACT_ERROR, 267, 0)], true, Some(("protocol_error", "local")));
        check(&[(FACT_ERROR, 9_999, 0)], true, Some(("protocol_error", "local")));
    }

    #[test]
    fn others_say_why() {
        let go = |facts: &[_], expected| check(LIBRARY_GO, facts, true, expected);
        let sent = (FACT_ALERT_SENT, 42, 0);
        go(
            &[(FACT_REFUSED, GO_NAME, 0), sent],
            Some(("cert_name_mismatch", "local")),
        );
        go(
            &[(FACT_REFUSED, GO_AUTHORITY, 0), sent],
            Some(("cert_unknown_authority", "local")),
        );
        go(
            &[(FACT_REFUSED, GO_INVALID + 1, 0), sent],
            Some(("cert_invalid", "local")),
        );
        go(&[sent], Some(("alert_bad_certificate", "local")));
        go(
            &[(FACT_ALERT_RECEIVED, 70, 0)],
            Some(("alert_protocol_version", "remote")),
        );
        let gnutls = |facts: &[_], expected| check(LIBRARY_GNUTLS, facts, true, expected);
        gnutls(
            &[(FACT_STATUS, 1 << 1 | 1 << 10, 0), (FACT_ALERT_RECEIVED, 42, 0)],
            Some(("cert_expired", "local")),
        );
        gnutls(&[(FACT_STATUS, 0, 0)], None);
    }

    #[test]
    fn the_protocol_is_kept_through_later_facts() {
        let event = |bytes: &[u8], length| {
            let mut name = [0; PROTOCOL_BYTES];
            name[..bytes.len()].copy_from_slice(bytes);
            TlsProtocol {
                header: fact(7, 0, 0, 0, 0).header,
                cookie: 7,
                pid: 1,
                length,
                name,
            }
        };
        let mut libraries = Libraries::new(Share::WHOLE);
        libraries.hear_protocol(&event(b"h2", 2));
        let first = libraries.take(7, None);
        libraries.hear(&fact(7, LIBRARY_GO, FACT_ALERT_SENT, 42, 0));
        let heard = libraries.take(7, first).expect("heard of");
        assert_eq!(heard.protocol(), Some("h2"));
        assert_eq!(heard.name().as_deref(), Some("Go 3.0.19"));
        // What is no name takes nothing away.
        libraries.hear_protocol(&event(b"http/1.1", 8));
        libraries.hear_protocol(&event(b"\x01\x02", 2));
        libraries.hear_protocol(&event(b"h3", 33));
        let heard = libraries.take(7, None).expect("heard of");
        assert_eq!((heard.protocol(), heard.verdict(true)), (Some("http/1.1"), None));
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten_and_counted() {
        let mut libraries = Libraries::new(Share::WHOLE);
        for cookie in 0..=MOST as u64 {
            libraries.hear(&fact(cookie, LIBRARY_GO, FACT_ALERT_SENT, 42, 0));
        }
        assert_eq!(libraries.evicted(), 1);
        assert!(libraries.take(0, None).is_none(), "the oldest");
        libraries.expire(KEEP_NS * 2);
        assert_eq!(libraries.evicted(), MOST as u64 + 1);
        assert!(libraries.take(1, None).is_none());
    }
}
