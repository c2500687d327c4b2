//! What both ends of a connection said: its name, the version of TLS, its first answer. Pure functions on the kernel's
//! timeline and on the facts read from hello bytes.
use std::sync::Arc;

use agent_ebpf::{
    connection::ConnectionState,
    timeline::{
        ACKNOWLEDGED_WITHIN_NS, ANSWERS, HEARD_AWAITED, HEARD_DOUBT, HEARD_HTTP2, HEARD_NO_HTTP2, PROTOCOL_HTTP1,
        PROTOCOL_HTTP2, PROTOCOL_NONE, PROTOCOL_TLS, TIMELINE_RESUMED12, TIMELINE_TLS13,
    },
};

use crate::{
    aggregate::TlsVersion,
    connection::{Protocol, Role},
    protocol::{
        facts::{Facts, TlsFacts},
        first_byte::{self, FirstByte, Handshake},
        http1::{Host, HostClaim},
        ticket_lengths::TicketLengths,
        tls::{TLS12, TLS13, client_hello::ServerName},
    },
};

/// A name that the client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) host: Arc<str>,
    /// `sni`, `http` or `dns`.
    pub(super) source: &'static str,
    /// An address that was resolved agrees with it.
    pub(super) verified: bool,
}

/// The name that a connection claims; `None` when it claims none, or none yet.
pub(super) fn claim(facts: &Facts) -> Option<Claim> {
    let hello = facts.tls.as_ref().and_then(|tls| tls.client_hello.as_ref());
    if let Some(name) = hello.and_then(|hello| hello.server_name.name()) {
        return Some(Claim {
            host: name.shared(),
            source: "sni",
            verified: false,
        });
    }
    let HostClaim::Authority(authority) = &facts.http.as_ref()?.host else {
        return None;
    };
    let Host::Name(name) = &authority.host else { return None };
    Some(Claim {
        host: name.shared(),
        source: "http",
        verified: false,
    })
}

/// What the client's hello says of the protocol under TLS. HTTP/2 has frames that are no request, and nobody can see which.
pub(super) fn protocol(state: &ConnectionState, facts: Option<&Facts>) -> Protocol {
    let Some(tls) = facts.and_then(|facts| facts.tls.as_ref()) else {
        // In clear its frames are read.
        return Protocol {
            asks: state.timeline.protocol == PROTOCOL_HTTP2,
            multiplexes: false,
        };
    };
    let offers = |wanted: &str| {
        let hello = tls.client_hello.as_ref();
        hello.is_some_and(|hello| hello.alpn.iter().any(|name| name.as_ref() == wanted))
    };
    let is_http1 = tls.alpn_chosen().is_some_and(|chosen| chosen != "h2") || speaks_http2(state) == Some(false);
    Protocol {
        asks: offers("h2") || offers("http/1.1"),
        multiplexes: offers("h2") && !is_http1,
    }
}

/// The first request and its answer were read, and no TLS is to follow: nothing more will come.
pub(super) fn is_answered_in_clear(facts: &Facts) -> bool {
    let http = facts.http.as_ref();
    http.is_some_and(|http| http.status.is_some() && http.connect_target().is_none())
}

/// What a connection says of whom it asks for.
#[derive(Debug, Default)]
pub(super) struct Word {
    pub(super) claim: Option<Claim>,
    /// It asks for an address: in Host, or by a `ClientHello` without a name.
    pub(super) is_address: bool,
}

impl Word {
    pub(super) fn of(facts: Option<&Facts>) -> Self {
        Self {
            claim: facts.and_then(claim),
            is_address: facts.is_some_and(says_address),
        }
    }
}

fn says_address(facts: &Facts) -> bool {
    let hello = facts.tls.as_ref().and_then(|tls| tls.client_hello.as_ref());
    let unnamed = hello.is_some_and(|hello| !hello.truncated && matches!(hello.server_name, ServerName::Absent));
    let http = facts.http.as_ref().map(|http| &http.host);
    let literal = matches!(http, Some(HostClaim::Authority(authority)) if !matches!(authority.host, Host::Name(_)));
    unnamed || literal
}

/// Nothing more will be said about the name: what is counted from now on stands under it.
pub(super) fn is_named(state: &ConnectionState, facts: Option<&Facts>) -> bool {
    match state.timeline.protocol {
        PROTOCOL_NONE => false,
        PROTOCOL_TLS => facts.is_some_and(|facts| {
            let hello = facts.tls.as_ref().and_then(|tls| tls.client_hello.as_ref());
            hello.is_some_and(|hello| !hello.truncated || !matches!(hello.server_name, ServerName::Absent))
        }),
        // CONNECT may be followed by the name that counts.
        PROTOCOL_HTTP1 => facts
            .and_then(|facts| facts.http.as_ref())
            .is_some_and(|http| http.connect_target().is_none() || http.status.is_some()),
        // Nothing that could name it.
        _ => true,
    }
}

/// What the judgement of the first answer needs; hellos that were not seen may have offered anything.
fn handshake(state: &ConnectionState, facts: Option<&Facts>) -> Handshake {
    let tls = facts.and_then(|facts| facts.tls.as_ref());
    let known = tls.map_or(
        Handshake {
            offers_h2: true,
            ..Handshake::default()
        },
        Handshake::of,
    );
    Handshake {
        resumed: is_resumed(state, tls),
        chose_h2: known.chose_h2.or_else(|| speaks_http2(state)),
        is_h2_doubtful: state.timeline.heard & HEARD_DOUBT != 0,
        ..known
    }
}

/// Whether the conversation is of HTTP/2, as far as it shows: its clients acknowledge the server's SETTINGS, others do not.
fn speaks_http2(state: &ConnectionState) -> Option<bool> {
    let timeline = &state.timeline;
    if timeline.heard & HEARD_HTTP2 != 0 {
        return Some(true);
    }
    // At the server it takes a round trip more; the handshake took no less.
    let patience_ns = ACKNOWLEDGED_WITHIN_NS + timeline.tls_done_ns.saturating_sub(timeline.server_hello_ns);
    let answers = &timeline.answers[..usize::from(timeline.answer_count).min(ANSWERS)];
    let last_ns = answers.last().map_or(0, |last| {
        timeline.tls_done_ns.min(timeline.request_ns) + u64::from(last.after_us) * 1_000
    });
    let never = timeline.heard & HEARD_AWAITED != 0 && state.closed_ns > last_ns + patience_ns;
    (timeline.heard & HEARD_NO_HTTP2 != 0 || never).then_some(false)
}

/// The answer to the first request, if it has begun.
pub(super) fn first_byte(
    state: &ConnectionState,
    role: Role,
    facts: Option<&Facts>,
    tickets: &TicketLengths,
) -> Option<FirstByte> {
    first_byte::first_byte(&state.timeline, handshake(state, facts), tickets, || peer(state, role))
}

/// Remembers the lengths of tickets that this connection shows beyond doubt.
pub(super) fn learn_tickets(state: &ConnectionState, role: Role, facts: &Facts, tickets: &mut TicketLengths) {
    let handshake = handshake(state, Some(facts));
    first_byte::learn_tickets(&state.timeline, handshake, tickets, || peer(state, role));
}

/// Under which the lengths of a server's tickets are remembered: its address and port.
fn peer(state: &ConnectionState, role: Role) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    match role {
        Role::Client => (state.remote_address, state.remote_port).hash(&mut hasher),
        Role::Server => (state.local_address, state.local_port).hash(&mut hasher),
    }
    hasher.finish()
}

pub(super) fn is_resumed(state: &ConnectionState, tls: Option<&TlsFacts>) -> bool {
    state.timeline.flags & TIMELINE_RESUMED12 != 0 || tls.and_then(TlsFacts::resumed) == Some(true)
}

/// The agreed version: as the `ServerHello` says, else as the records showed.
pub(super) fn version(state: &ConnectionState, tls: Option<&TlsFacts>) -> Option<u16> {
    tls.and_then(TlsFacts::version).or_else(|| {
        let timeline = &state.timeline;
        if timeline.flags & TIMELINE_TLS13 != 0 {
            Some(TLS13)
        } else {
            (timeline.tls_done_ns != 0).then_some(TLS12)
        }
    })
}

pub(super) fn version_label(state: &ConnectionState, tls: Option<&TlsFacts>) -> TlsVersion {
    version(state, tls).map_or(TlsVersion::Other, TlsVersion::of)
}
