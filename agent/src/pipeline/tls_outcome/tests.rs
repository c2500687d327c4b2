//! One name for each fault: what the wire shows, what libraries say, and both, for either end.

use agent_ebpf::{
    event::{EventHeader, TLS_CERTIFICATE, TLS_FACT},
    tls_fact::{
        FACT_ALERT_RECEIVED, FACT_ALERT_SENT, FACT_ERROR, FACT_REFUSED, FACT_VERIFIED, GO_AUTHORITY, GO_INVALID,
        LIBRARY_GO, LIBRARY_OPENSSL, TlsCertificate, TlsFact,
    },
};

use super::*;
use crate::{capacity::Share, pipeline::library::Libraries, protocol::tls::server_hello::ServerHello};

const LEAF: &[u8] = include_bytes!("../../protocol/certificate/fixtures/leaf.der");
const LEAF_WITH_LOCATION: &[u8] = include_bytes!("../../protocol/certificate/fixtures/leafaia.der");
const INTERMEDIATE: &[u8] = include_bytes!("../../protocol/certificate/fixtures/inter.der");
const ROOT_LEAF: &[u8] = include_bytes!("../../protocol/certificate/fixtures/rootleaf.der");

const SECOND: u64 = 1_000_000_000;
const IN_2026: u64 = 1_796_000_000 * SECOND;
const IN_2027: u64 = 1_813_104_000 * SECOND;
const IN_2028: u64 = 1_840_000_000 * SECOND;
/// Where the server's and the client's bytes begin.
const SERVER: u32 = 5_000;
const CLIENT: u32 = 9_000;
/// Bytes of the hellos.
const HELLO: u32 = 200;

/// A connection whose client has said hello and that ended like this.
fn hello(closed_by: u8) -> ConnectionState {
    let mut state = ConnectionState {
        closed_by,
        ..ConnectionState::default()
    };
    let timeline = &mut state.timeline;
    timeline.client_hello_ns = 1;
    timeline.next_seq = [CLIENT + HELLO, SERVER];
    timeline.record_seq = timeline.next_seq;
    timeline.plain_seq = timeline.next_seq;
    state
}

/// The server has answered with a `ServerHello` and `encrypted` bytes; the client has sent `said` bytes since its hello.
fn answered(closed_by: u8, encrypted: u32, said: u32) -> ConnectionState {
    let mut state = hello(closed_by);
    let timeline = &mut state.timeline;
    timeline.server_hello_ns = 2;
    timeline.cipher = 0x1301;
    timeline.flags = TIMELINE_TLS13;
    timeline.plain_seq[1] = SERVER + HELLO;
    timeline.next_seq = [CLIENT + HELLO + said, SERVER + HELLO + encrypted];
    timeline.record_seq = timeline.next_seq;
    state
}

/// TLS 1.2 with an alert in clear: its number, and whether the server sent it.
fn alert(description: u8, backward: bool) -> ConnectionState {
    let mut state = hello(CLOSED_BY_LOCAL);
    let timeline = &mut state.timeline;
    timeline.server_hello_ns = 2;
    timeline.cipher = 0xc02f;
    timeline.alert_description = description;
    timeline.alert_level = ALERT_LEVEL_FATAL | if backward { ALERT_BACKWARD } else { 0 };
    state
}

/// Facts of TLS 1.2, whose certificates can be seen.
fn shown(certificates: &[&[u8]]) -> TlsFacts {
    TlsFacts {
        chain: Chain::read(certificates),
        ..TlsFacts::default()
    }
}

/// A library that said this, and showed a certificate's first part.
fn library(number: u8, facts: &[(u8, u32, u16)], certificate: Option<&[u8]>) -> Box<Library> {
    let mut libraries = Libraries::new(Share::WHOLE);
    for (kind, code, depth) in facts {
        libraries.hear(&TlsFact {
            header: EventHeader {
                kind: TLS_FACT,
                size: 40,
                time_ns: 1,
            },
            cookie: 7,
            pid: 1,
            code: *code,
            depth: *depth,
            library: number,
            fact: *kind,
            version: 0,
        });
    }
    if let Some(der) = certificate {
        // What is signed is the first member of the whole, whose own header has four bytes.
        let header = TlsCertificate {
            header: EventHeader {
                kind: TLS_CERTIFICATE,
                size: 32,
                time_ns: 1,
            },
            cookie: 7,
            pid: 1,
            length: (der.len() - 4) as u16,
            reserved: 0,
        };
        libraries.hear_certificate(&header, &der[4..]);
    }
    libraries.take(7, None).expect("heard of")
}

fn check_at(
    state: &ConnectionState,
    role: Role,
    tls: Option<&TlsFacts>,
    library: Option<&Library>,
    at_ns: u64,
    expected: Option<(&str, &str)>,
) {
    let failure = failure(state, role, tls, library, at_ns);
    let named = failure.map(|(failure, by)| (failure.name(), by.map_or("null", FailedBy::name)));
    assert_eq!(named, expected, "{:?}", state.timeline);
}

fn check(state: &ConnectionState, tls: Option<&TlsFacts>, library: Option<&Library>, expected: Option<(&str, &str)>) {
    check_at(state, Role::Client, tls, library, IN_2027, expected);
}

#[test]
fn nothing_came() {
    for (closed_by, by) in [
        (CLOSED_BY_LOCAL, "local"),
        (CLOSED_BY_RESET_LOCAL, "local"),
        (CLOSED_BY_REMOTE, "remote"),
        (CLOSED_BY_RESET_REMOTE, "remote"),
        (CLOSED_BY_TIMEOUT, "null"),
    ] {
        check(&hello(closed_by), None, None, Some(("no_answer", by)));
    }
    // Whatever the client makes of it.
    let said = library(LIBRARY_GO, &[(FACT_ALERT_SENT, 80, 0)], None);
    check(&hello(CLOSED_BY_LOCAL), None, Some(&said), Some(("no_answer", "local")));
    // A server knows why it said nothing.
    let state = hello(CLOSED_BY_LOCAL);
    let said = library(LIBRARY_OPENSSL, &[(FACT_ERROR, 258, 0)], None);
    let expected = Some(("alert_protocol_version", "local"));
    check_at(&state, Role::Server, None, Some(&said), IN_2027, expected);
    check_at(&state, Role::Server, None, None, IN_2027, Some(("no_answer", "local")));
    check(&ConnectionState::default(), None, None, None);
}

#[test]
fn no_tls_came() {
    let mut state = hello(CLOSED_BY_LOCAL);
    let timeline = &mut state.timeline;
    timeline.flags = TIMELINE_GAP;
    // The client has acknowledged the FIN behind it.
    timeline.next_seq[1] = SERVER + 301;
    timeline.record_seq[1] = SERVER + 301;
    // OpenSSL says WRONG_VERSION_NUMBER, and sends an alert of its own.
    timeline.alert_level = ALERT_LEVEL_FATAL;
    timeline.alert_description = 70;
    let said = library(LIBRARY_OPENSSL, &[(FACT_ERROR, 267, 0)], None);
    check(&state, None, None, Some(("not_tls", "remote")));
    check(&state, None, Some(&said), Some(("not_tls", "remote")));
    check_at(&state, Role::Server, None, None, IN_2027, Some(("not_tls", "local")));
    // Less than a record's header.
    let mut state = hello(CLOSED_BY_LOCAL);
    state.timeline.partial_length[1] = 3;
    state.timeline.partial[1][..3].copy_from_slice(b"no\n");
    check(&state, None, None, Some(("not_tls", "remote")));
    state.timeline.partial[1][..3].copy_from_slice(&[22, 3, 3]);
    check(&state, None, None, Some(("no_answer", "local")));
    // The client's bytes out of step say nothing of the server's.
    let mut state = hello(CLOSED_BY_LOCAL);
    state.timeline.flags = TIMELINE_GAP;
    check(&state, None, None, Some(("no_answer", "local")));
    state.timeline.next_seq[1] = SERVER + 1;
    check(&state, None, None, Some(("no_answer", "local")));
    // Something came that was not looked at.
    state.timeline.flags = 0;
    state.timeline.next_seq[1] = SERVER + 300;
    check(&state, None, None, Some(("closed", "local")));
}

#[test]
fn the_client_left_after_an_encrypted_certificate() {
    let rejected = |by| Some(("rejected_by_client", by));
    check(&answered(CLOSED_BY_LOCAL, 1_200, 0), None, None, rejected("local"));
    check(&answered(CLOSED_BY_LOCAL, 1_200, 24), None, None, rejected("local"));
    // Its alert was faster than its FIN: the server closed first.
    for said in [24, 25, 30, 40, 46, 47] {
        check(&answered(CLOSED_BY_REMOTE, 1_200, said), None, None, rejected("local"));
    }
    let state = answered(CLOSED_BY_REMOTE, 1_200, 24);
    check_at(&state, Role::Server, None, None, IN_2027, rejected("remote"));
    let closed = |by| Some(("closed", by));
    check(&answered(CLOSED_BY_REMOTE, 1_200, 0), None, None, closed("remote"));
    check(&answered(CLOSED_BY_REMOTE, 1_200, 58), None, None, closed("remote"));
    // The certificate had not come, or not all of it, or there is none.
    check(&answered(CLOSED_BY_LOCAL, 0, 0), None, None, closed("local"));
    check(&answered(CLOSED_BY_LOCAL, 140, 0), None, None, closed("local"));
    let mut state = answered(CLOSED_BY_LOCAL, 1_200, 0);
    state.timeline.record_seq[1] += 900;
    check(&state, None, None, closed("local"));
    let resumed = TlsFacts {
        server_hello: Some(ServerHello {
            version: 0x0304,
            cipher: 0x1301,
            is_retry: false,
            session_id: Box::default(),
            alpn: None,
            pre_shared_key: true,
            new_ticket: false,
        }),
        ..TlsFacts::default()
    };
    check(
        &answered(CLOSED_BY_LOCAL, 1_200, 0),
        Some(&resumed),
        None,
        closed("local"),
    );
    check(
        &answered(CLOSED_BY_TIMEOUT, 1_200, 0),
        None,
        None,
        Some(("timeout", "null")),
    );
}

#[test]
fn what_clients_say_of_a_certificate_in_clear() {
    let check = |description, certificates: &[&[u8]], at_ns, expected| {
        let state = alert(description, false);
        let facts = shown(certificates);
        check_at(
            &state,
            Role::Client,
            Some(&facts),
            None,
            at_ns,
            Some((expected, "local")),
        );
    };
    let whole: &[&[u8]] = &[LEAF_WITH_LOCATION, INTERMEDIATE];
    // OpenSSL, GnuTLS, rustls; Go; Java.
    for description in [UNKNOWN_CA, BAD_CERTIFICATE, CERTIFICATE_UNKNOWN] {
        check(description, &[LEAF_WITH_LOCATION], IN_2027, "cert_missing_intermediate");
    }
    for certificates in [whole, &[LEAF, INTERMEDIATE], &[ROOT_LEAF], &[LEAF]] {
        check(UNKNOWN_CA, certificates, IN_2027, "cert_unknown_authority");
        check(BAD_CERTIFICATE, certificates, IN_2027, "rejected_by_client");
        check(CERTIFICATE_UNKNOWN, certificates, IN_2027, "rejected_by_client");
    }
    for description in [CERTIFICATE_EXPIRED, BAD_CERTIFICATE, CERTIFICATE_UNKNOWN] {
        check(description, whole, IN_2028, "cert_expired");
        check(description, whole, IN_2026, "cert_not_yet_valid");
    }
    check(CERTIFICATE_EXPIRED, whole, IN_2027, "alert_certificate_expired");
    check(44, whole, IN_2027, "alert_certificate_revoked");
    // OpenSSL in TLS 1.3, where the certificates are encrypted.
    let mut state = answered(CLOSED_BY_LOCAL, 1_200, 7);
    state.timeline.plain_seq[0] += 7;
    state.timeline.alert_level = ALERT_LEVEL_FATAL;
    for (description, expected) in [
        (CERTIFICATE_EXPIRED, "cert_expired"),
        (UNKNOWN_CA, "cert_unknown_authority"),
        (BAD_CERTIFICATE, "rejected_by_client"),
    ] {
        state.timeline.alert_description = description;
        check_at(&state, Role::Client, None, None, IN_2027, Some((expected, "local")));
    }
}

#[test]
fn a_client_that_leaves_without_a_word_in_tls_1_2() {
    let mut state = alert(0, false);
    state.timeline.alert_level = 0;
    let facts = shown(&[LEAF, INTERMEDIATE]);
    check(&state, Some(&facts), None, Some(("rejected_by_client", "local")));
    let expected = Some(("cert_expired", "local"));
    check_at(&state, Role::Client, Some(&facts), None, IN_2028, expected);
    check(&state, None, None, Some(("closed", "local")));
    state.closed_by = CLOSED_BY_REMOTE;
    check(&state, Some(&facts), None, Some(("closed", "remote")));
}

#[test]
fn a_client_without_certificate_has_one_name_in_both_versions() {
    let asked = TlsFacts {
        client_certificate: Some(false),
        ..TlsFacts::default()
    };
    let required = Some(("alert_certificate_required", "remote"));
    for description in [HANDSHAKE_FAILURE, BAD_CERTIFICATE, CERTIFICATE_REQUIRED] {
        check(&alert(description, true), Some(&asked), None, required);
    }
    let failed = Some(("alert_handshake_failure", "remote"));
    check(&alert(HANDSHAKE_FAILURE, true), None, None, failed);
    let sent = TlsFacts {
        client_certificate: Some(true),
        ..TlsFacts::default()
    };
    check(&alert(HANDSHAKE_FAILURE, true), Some(&sent), None, failed);
    let said = library(LIBRARY_OPENSSL, &[(FACT_ERROR, 1_040, 0)], None);
    check(&alert(HANDSHAKE_FAILURE, true), Some(&asked), Some(&said), required);
    // What both ends' libraries say of a certificate of the client's: the alert that goes from one to the other.
    let server = library(LIBRARY_OPENSSL, &[(FACT_VERIFIED, 10, 0), (FACT_ERROR, 134, 0)], None);
    let client = library(LIBRARY_OPENSSL, &[(FACT_ERROR, 1_045, 0)], None);
    let state = answered(CLOSED_BY_LOCAL, 1_200, 900);
    let expected = Some(("alert_certificate_expired", "local"));
    check_at(&state, Role::Server, None, Some(&server), IN_2027, expected);
    check(
        &state,
        None,
        Some(&client),
        Some(("alert_certificate_expired", "remote")),
    );
}

#[test]
fn what_libraries_say_under_tls_1_3() {
    let state = answered(CLOSED_BY_LOCAL, 1_200, 24);
    let check = |number, facts: &[_], certificate, at_ns, expected| {
        let said = library(number, facts, certificate);
        check_at(
            &state,
            Role::Client,
            None,
            Some(&said),
            at_ns,
            Some((expected, "local")),
        );
    };
    let unknown = |depth| [(FACT_VERIFIED, 20, depth), (FACT_ERROR, 134, 0)];
    let located = Some(LEAF_WITH_LOCATION);
    check(
        LIBRARY_OPENSSL,
        &unknown(0),
        located,
        IN_2027,
        "cert_missing_intermediate",
    );
    check(LIBRARY_OPENSSL, &unknown(1), located, IN_2027, "cert_unknown_authority");
    check(
        LIBRARY_OPENSSL,
        &unknown(0),
        Some(ROOT_LEAF),
        IN_2027,
        "cert_unknown_authority",
    );
    check(LIBRARY_OPENSSL, &unknown(0), None, IN_2027, "cert_unknown_authority");
    let refused = |code| [(FACT_REFUSED, code, 0), (FACT_ALERT_SENT, 42, 0)];
    check(
        LIBRARY_GO,
        &refused(GO_AUTHORITY),
        located,
        IN_2027,
        "cert_missing_intermediate",
    );
    // Go came as far as the intermediate: that was sent.
    check(
        LIBRARY_GO,
        &refused(GO_AUTHORITY),
        Some(INTERMEDIATE),
        IN_2027,
        "cert_unknown_authority",
    );
    check(
        LIBRARY_GO,
        &refused(GO_AUTHORITY),
        Some(ROOT_LEAF),
        IN_2027,
        "cert_unknown_authority",
    );
    check(LIBRARY_GO, &refused(GO_INVALID + 1), located, IN_2028, "cert_expired");
    check(
        LIBRARY_GO,
        &refused(GO_INVALID + 1),
        located,
        IN_2026,
        "cert_not_yet_valid",
    );
    check(LIBRARY_GO, &refused(GO_INVALID + 1), None, IN_2028, "cert_invalid");
    check(LIBRARY_GO, &refused(GO_INVALID + 3), located, IN_2028, "cert_invalid");
    // At the other end.
    let state = answered(CLOSED_BY_REMOTE, 1_200, 24);
    for (alert, expected) in [
        (48, "cert_unknown_authority"),
        (42, "rejected_by_client"),
        (46, "rejected_by_client"),
        (45, "alert_certificate_expired"),
    ] {
        let said = library(LIBRARY_GO, &[(FACT_ALERT_RECEIVED, alert, 0)], None);
        check_at(
            &state,
            Role::Server,
            None,
            Some(&said),
            IN_2027,
            Some((expected, "remote")),
        );
    }
}

#[test]
fn what_is_wrong_with_a_clients_certificate_is_not_the_servers_fault() {
    // A server that asks for no proof has seen an expired certificate; its client left after the handshake.
    let mut state = answered(CLOSED_BY_LOCAL, 1_200, 900);
    state.timeline.tls_done_ns = 3;
    let said = library(LIBRARY_OPENSSL, &[(FACT_VERIFIED, 0, 0)], Some(LEAF));
    check_at(&state, Role::Server, None, Some(&said), IN_2028, None);
    check_at(
        &state,
        Role::Client,
        None,
        Some(&said),
        IN_2028,
        Some(("cert_expired", "local")),
    );
}
