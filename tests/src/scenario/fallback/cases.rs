//! What mirror `a` does to a client that knows mirror `b` as well, and what must be told of it.

/// Who serves at a's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// The module, like b.
    Module,
    /// Every page is missing.
    Missing,
    /// Nobody.
    Nobody,
    /// Accepts and never says a word.
    Silent,
}

/// How the client calls a and b.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// `go mod download` with GOPROXY's two separators: `,` goes on after 404 and 410 only, `|` after any error.
    Go(char),
    /// One `curl` that asks both at the same time.
    Parallel,
}

pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) scheme: &'static str,
    pub(super) call: Call,
    pub(super) a: Server,
    /// Mirrors are called by their addresses.
    pub(super) by_address: bool,
    /// Why the client went on to b, as it may be told; empty where that is no fallback, or nobody outside can know.
    pub(super) reasons: &'static [&'static str],
}

impl Case {
    pub(super) fn is_fallback(&self) -> bool {
        !self.reasons.is_empty()
    }

    /// `outcome` of the connections to a.
    pub(super) fn outcome_of_a(&self) -> &'static str {
        match self.a {
            Server::Module | Server::Missing => "ok",
            Server::Nobody => "refused",
            Server::Silent => "tls",
        }
    }

    /// Whether a server there says anything: then there are an end of the handshake, if any, and a first byte.
    pub(super) fn is_answered_by_a(&self) -> bool {
        self.outcome_of_a() == "ok"
    }

    /// Who hangs is told of while it does.
    pub(super) fn is_stuck(&self) -> bool {
        self.a == Server::Silent
    }

    pub(super) fn is_tls(&self) -> bool {
        self.scheme == "https"
    }

    /// The client goes on to b.
    pub(super) fn reaches_b(&self) -> bool {
        self.a != Server::Module
    }
}

const PLAIN: Case = Case {
    name: "",
    scheme: "http",
    call: Call::Go(','),
    a: Server::Missing,
    by_address: false,
    reasons: &[],
};

pub(super) const CASES: [Case; 7] = [
    Case {
        name: "404, comma",
        reasons: &["http_4xx"],
        ..PLAIN
    },
    // An answer under TLS is no failure: nobody outside can read its status.
    Case {
        name: "404 under TLS, comma",
        scheme: "https",
        ..PLAIN
    },
    Case {
        name: "refused, pipe",
        // Only DNS tells the name of a: it is never said to anybody.
        call: Call::Go('|'),
        a: Server::Nobody,
        reasons: &["refused"],
        ..PLAIN
    },
    Case {
        name: "refused, pipe, by address",
        call: Call::Go('|'),
        a: Server::Nobody,
        by_address: true,
        reasons: &["refused"],
        ..PLAIN
    },
    // Go waits for a handshake for 10 s.
    Case {
        name: "silent, pipe",
        scheme: "https",
        call: Call::Go('|'),
        a: Server::Silent,
        // Whether the end of the silent connection comes before the next one is opened is a race.
        reasons: &["tls", "stuck"],
        ..PLAIN
    },
    Case {
        name: "healthy, pipe",
        call: Call::Go('|'),
        a: Server::Module,
        ..PLAIN
    },
    Case {
        name: "both at once",
        call: Call::Parallel,
        ..PLAIN
    },
];
