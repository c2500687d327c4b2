//! The table of cases: how each is made and what must come of it.

use crate::router::{ALL, Fault};

/// Which end of the connection is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

impl Side {
    /// As the record's `role`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// Ports that are there and taken in the case without a free one; their holders are not watched, the server is.
pub(super) const HOLDERS: usize = 4;
/// The same number, as a range of ports.
pub(super) const PORT_RANGE: &str = "40000 40003";

/// One way to connect and end.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    /// Added to the family's first port.
    pub(super) port: u16,
    /// What the router does to it.
    pub(super) fault: Option<Fault>,
    /// Behaviour of the listener; none: nobody listens.
    pub(super) server: Option<&'static str>,
    /// Words for the generator.
    pub(super) words: &'static [&'static str],
    /// What errno of the connect may be; -1 where the generator gave up by itself.
    pub(super) errors: &'static [i32],
    pub(super) outcome: &'static str,
    /// As the client must name it.
    pub(super) closed_by: Option<&'static str>,
    /// The end is a FIN or RST that the client's capture shows.
    pub(super) on_wire: bool,
    /// Connections of its own that the server has; they went well.
    pub(super) server_records: usize,
    /// Tail loss probes and retransmissions after a time-out that the client must need; `None`: left to chance.
    pub(super) probes_and_timeouts: Option<(u64, u64)>,
    /// Bytes that a good connection carries, each way.
    pub(super) bytes: u64,
    /// The address has no route.
    pub(super) no_route: bool,
    /// All local ports are taken.
    pub(super) no_free_port: bool,
}

const fn case(name: &'static str, port: u16) -> Case {
    Case {
        name,
        port,
        fault: None,
        server: None,
        words: &[],
        errors: &[0],
        outcome: "ok",
        closed_by: None,
        on_wire: false,
        server_records: 0,
        probes_and_timeouts: Some((0, 0)),
        bytes: 0,
        no_route: false,
        no_free_port: false,
    }
}

/// A connection that is established and ends in an orderly way.
const fn good(name: &'static str, port: u16, closed_by: &'static str, words: &'static [&'static str]) -> Case {
    Case {
        server: Some("echo"),
        words,
        closed_by: Some(closed_by),
        on_wire: true,
        server_records: 1,
        bytes: 1_000,
        ..case(name, port)
    }
}

pub(super) const CASES: &[Case] = &[
    good("closed by client", 1, "local", &[]),
    Case {
        server: Some("close-first"),
        ..good("closed by server", 2, "remote", &["--end", "last"])
    },
    good("reset by client", 3, "reset_local", &["--end", "reset"]),
    Case {
        errors: &[libc::ECONNREFUSED],
        outcome: "refused",
        closed_by: Some("reset_remote"),
        on_wire: true,
        ..case("refused", 4)
    },
    Case {
        fault: Some(Fault::SwallowSyn { first: ALL }),
        errors: &[libc::ETIMEDOUT],
        outcome: "timeout",
        closed_by: Some("timeout"),
        ..case("SYN dropped", 5)
    },
    Case {
        fault: Some(Fault::Unreachable),
        errors: &[libc::EHOSTUNREACH],
        outcome: "unreachable",
        ..case("ICMP unreachable", 6)
    },
    Case {
        fault: Some(Fault::ResetHandshake),
        server: Some("echo"),
        words: &["--end", "last"],
        // The client is established by then; whether its connect sees more than that is a race.
        errors: &[0, libc::ECONNRESET],
        outcome: "reset",
        closed_by: Some("reset_remote"),
        on_wire: true,
        ..case("RST in the handshake", 7)
    },
    Case {
        fault: Some(Fault::SwallowSynAck { first: 1 }),
        ..good("SYN-ACK lost once", 8, "local", &[])
    },
    Case {
        fault: Some(Fault::SwallowSynAck { first: ALL }),
        server: Some("echo"),
        errors: &[libc::ETIMEDOUT],
        outcome: "timeout",
        closed_by: Some("timeout"),
        ..case("SYN-ACKs lost", 9)
    },
    Case {
        fault: Some(Fault::SwallowSyn { first: 1 }),
        ..good("SYN lost once", 10, "local", &[])
    },
    Case {
        fault: Some(Fault::SwallowSyn { first: ALL }),
        words: &["--abort-after-ms", "300"],
        errors: &[-1],
        outcome: "abandoned",
        closed_by: Some("local"),
        ..case("aborted by its owner", 11)
    },
    Case {
        fault: Some(Fault::Lose { per_mille: 30 }),
        probes_and_timeouts: None,
        bytes: 2_000_000,
        ..good("lossy transfer", 12, "local", &[])
    },
    Case {
        server: Some("echo"),
        errors: &[libc::EADDRNOTAVAIL],
        outcome: "no_port",
        no_free_port: true,
        server_records: HOLDERS,
        ..case("no free port", 13)
    },
    Case {
        errors: &[libc::ENETUNREACH],
        outcome: "unreachable",
        no_route: true,
        ..case("no route", 14)
    },
    Case {
        // The request is one segment, the last of its flight: a probe sends it again.
        fault: Some(Fault::SwallowPayload { first: 1 }),
        probes_and_timeouts: Some((1, 0)),
        ..good("request lost once", 15, "local", &[])
    },
    Case {
        // The probe and the first retransmission vanish too.
        fault: Some(Fault::SwallowPayload { first: 3 }),
        probes_and_timeouts: Some((1, 2)),
        ..good("request lost three times", 16, "local", &[])
    },
];
