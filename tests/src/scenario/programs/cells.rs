//! Which client meets which server. Pure.

use std::ops::RangeInclusive;

/// Ports of all cells.
pub(super) const PORTS: RangeInclusive<u16> = 9000..=9099;

/// What listens.
#[derive(Clone, Copy, Debug)]
pub(super) enum Server {
    /// `openssl s_server -rev`, which sends each line back turned around: no HTTP.
    Rev(&'static [&'static str]),
    /// `short.py` with this list of protocols, after so many milliseconds.
    Short { alpn: Option<&'static str>, think_ms: u64 },
    /// Go's `net/http` with HTTP/2.
    Go,
    /// Envoy, which answers four bytes by itself: both tickets in one record, SETTINGS right behind it.
    Envoy,
}

/// What asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Client {
    /// `openssl s_client` with these options: a line at a time.
    Typed(&'static [&'static str]),
    /// `net/http` with a pause between requests.
    Go { tls: &'static str, pause_ms: u64 },
    /// curl, which offers HTTP/2, with a pause between requests or without.
    Curl {
        http: &'static str,
        rate: Option<&'static str>,
    },
}

impl Server {
    /// Its process's name.
    pub(super) fn comm(self) -> &'static str {
        match self {
            Self::Rev(_) => "openssl",
            Self::Short { .. } => "python3",
            Self::Go => "go-server",
            Self::Envoy => "envoy",
        }
    }
}

impl Client {
    /// Its process's name.
    pub(super) fn comm(self) -> &'static str {
        match self {
            Self::Typed(_) => "openssl",
            Self::Go { .. } => "go-pooled",
            Self::Curl { .. } => "curl",
        }
    }
}

/// One combination: a connection with a first exchange and turns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) name: &'static str,
    pub(super) server: Server,
    pub(super) client: Client,
    /// Of no other cell.
    pub(super) port: u16,
    /// Only lengths tell, and they may not: the first byte may be ambiguous, and a turn be missing.
    pub(super) may_be_unknown: bool,
    /// Answers are as short as control frames: turns may be missing, and the others are right.
    pub(super) may_lack_turns: bool,
}

/// Exchanges on each connection.
pub(super) const EXCHANGES: usize = 5;

const HTTP11: Option<&str> = Some("http/1.1");
const SHORT: Server = Server::Short {
    alpn: HTTP11,
    think_ms: 2,
};
const SLOW: Server = Server::Short {
    alpn: HTTP11,
    think_ms: 300,
};
const PAUSE_MS: u64 = 300;

pub(super) const CELLS: &[Cell] = &[
    cell(
        "lines tls 1.3, no ALPN",
        9000,
        Server::Rev(&["-tls1_3"]),
        Client::Typed(&["-tls1_3"]),
    ),
    cell(
        "lines tls 1.2, no ALPN",
        9001,
        Server::Rev(&["-tls1_2"]),
        Client::Typed(&["-tls1_2"]),
    ),
    cell(
        "lines tls 1.3, http/1.1",
        9002,
        Server::Rev(&["-tls1_3", "-alpn", "http/1.1"]),
        Client::Typed(&["-tls1_3", "-alpn", "http/1.1"]),
    ),
    cell(
        "lines tls 1.3, h2 offered, none chosen",
        9003,
        Server::Rev(&["-tls1_3"]),
        Client::Typed(&["-tls1_3", "-alpn", "h2,http/1.1"]),
    ),
    cell(
        "lines tls 1.2, h2 offered, http/1.1 chosen",
        9004,
        Server::Rev(&["-tls1_2", "-alpn", "http/1.1"]),
        Client::Typed(&["-tls1_2", "-alpn", "h2,http/1.1"]),
    ),
    cell("go, h2 offered, short answers", 9005, SHORT, go("1.3", PAUSE_MS)),
    cell(
        "go, h2 offered, short answers without a pause",
        9006,
        SHORT,
        go("1.3", 0),
    ),
    cell("go, h2 offered, short answers late", 9007, SLOW, go("1.3", PAUSE_MS)),
    cell(
        "go tls 1.2, h2 offered, short answers",
        9008,
        SHORT,
        go("1.2", PAUSE_MS),
    ),
    cell(
        "curl, h2 offered, short answers",
        9009,
        SHORT,
        curl("--http2", Some("200/m")),
    ),
    cell(
        "curl, h2 offered, short answers without a pause",
        9010,
        SHORT,
        curl("--http2", None),
    ),
    cell("go, h2", 9011, Server::Go, go("1.3", PAUSE_MS)),
    cell("curl, h2", 9012, Server::Go, curl("--http2", Some("200/m"))),
    cell("curl, h2 without a pause", 9013, Server::Go, curl("--http2", None)),
    Cell {
        may_be_unknown: true,
        ..cell(
            "go, no ALPN chosen, short answers without a pause",
            9014,
            Server::Short {
                alpn: None,
                think_ms: 2,
            },
            go("1.3", 0),
        )
    },
];

/// Where Envoy is installed.
pub(super) const ENVOY_CELLS: &[Cell] = &[
    envoy("go, h2 by Envoy", 9020, go("1.3", PAUSE_MS)),
    envoy("go, h2 by Envoy without a pause", 9021, go("1.3", 0)),
    envoy("go tls 1.2, h2 by Envoy", 9022, go("1.2", PAUSE_MS)),
    envoy("curl, h2 by Envoy", 9023, curl("--http2", Some("200/m"))),
    envoy("curl, h2 by Envoy without a pause", 9024, curl("--http2", None)),
    envoy("curl, http/1.1 by Envoy", 9025, curl("--http1.1", Some("200/m"))),
    envoy("curl, http/1.1 by Envoy without a pause", 9026, curl("--http1.1", None)),
    envoy("curl, no ALPN, by Envoy", 9027, curl("--no-alpn", Some("200/m"))),
];

const fn envoy(name: &'static str, port: u16, client: Client) -> Cell {
    Cell {
        may_lack_turns: true,
        ..cell(name, port, Server::Envoy, client)
    }
}

const fn curl(http: &'static str, rate: Option<&'static str>) -> Client {
    Client::Curl { http, rate }
}

const fn go(tls: &'static str, pause_ms: u64) -> Client {
    Client::Go { tls, pause_ms }
}

const fn cell(name: &'static str, port: u16, server: Server, client: Client) -> Cell {
    Cell {
        name,
        server,
        client,
        port,
        may_be_unknown: false,
        may_lack_turns: false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_cell_has_a_port_and_a_name_of_its_own() {
        let all = || CELLS.iter().chain(ENVOY_CELLS);
        let ports: HashSet<u16> = all().map(|cell| cell.port).collect();
        let names: HashSet<&str> = all().map(|cell| cell.name).collect();
        assert_eq!((ports.len(), names.len()), (all().count(), all().count()));
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }
}
