//! The matrix: which client meets which server, with what. Pure.

use std::ops::RangeInclusive;

/// Ports of all cells.
pub(super) const PORTS: RangeInclusive<u16> = 9000..=9499;
/// Ports of one server.
pub(super) const PORTS_EACH: u16 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    Curl,
    Go,
    Python,
    Node,
    Java,
    Gnutls,
    Openssl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    Nginx,
    Go,
    Node,
    Python,
    Jdk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tls {
    V12,
    V13,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Http {
    V1,
    V2,
}

/// One combination.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) client: Client,
    pub(super) server: Server,
    pub(super) tls: Tls,
    pub(super) http: Http,
    /// How long the server waits before it answers.
    pub(super) think_ms: u64,
    /// Of no other cell on the same path.
    pub(super) port: u16,
}

impl Client {
    const ALL: [Self; 7] = [
        Self::Curl,
        Self::Go,
        Self::Python,
        Self::Node,
        Self::Java,
        Self::Gnutls,
        Self::Openssl,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Go => "go",
            Self::Python => "python",
            Self::Node => "node",
            Self::Java => "java",
            Self::Gnutls => "gnutls-cli",
            Self::Openssl => "s_client",
        }
    }

    fn speaks(self, http: Http) -> bool {
        http == Http::V1 || !matches!(self, Self::Python | Self::Gnutls | Self::Openssl)
    }
}

impl Server {
    pub(super) const ALL: [Self; 5] = [Self::Nginx, Self::Go, Self::Node, Self::Python, Self::Jdk];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Go => "go",
            Self::Node => "node",
            Self::Python => "python",
            Self::Jdk => "jdk",
        }
    }

    fn speaks(self, http: Http) -> bool {
        http == Http::V1 || !matches!(self, Self::Python | Self::Jdk)
    }

    /// Its first port; it listens on [`PORTS_EACH`].
    pub(super) fn first_port(self) -> u16 {
        PORTS.start() + self as u16 * PORTS_EACH
    }

    /// Whether this client is tried with it.
    fn meets(self, client: Client) -> bool {
        match self {
            Self::Nginx => client != Client::Java,
            Self::Go => matches!(client, Client::Java | Client::Curl | Client::Go),
            Self::Node | Self::Python | Self::Jdk => matches!(client, Client::Curl | Client::Go),
        }
    }
}

impl Tls {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V12 => "1.2",
            Self::V13 => "1.3",
        }
    }
}

impl Http {
    /// Major version.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V1 => "1",
            Self::V2 => "2",
        }
    }

    /// Protocol name of RFC 7301.
    pub(super) fn alpn(self) -> &'static str {
        match self {
            Self::V1 => "http/1.1",
            Self::V2 => "h2",
        }
    }
}

impl Cell {
    pub(super) fn name(&self, delay_ms: u64) -> String {
        format!(
            "{}>{} tls {} h{} think {} delay {delay_ms}",
            self.client.name(),
            self.server.name(),
            self.tls.name(),
            self.http.name(),
            self.think_ms
        )
    }

    /// Protocol that both agree on; `None` where the client or the server does without ALPN.
    pub(super) fn alpn(&self) -> Option<&'static str> {
        let without = matches!(self.client, Client::Java) && self.http == Http::V1 || self.server == Server::Jdk;
        (!without).then(|| self.http.alpn())
    }
}

/// How many of the cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    All,
    /// Without what differs in think time or maker of the client alone.
    Short,
    /// Of each client and server one cell with each version of TLS, for machines on which a program starts for seconds.
    Least,
}

impl Choice {
    fn takes(self, cell: &Cell) -> bool {
        let is_second_maker = cell.server != Server::Nginx && cell.client == Client::Curl;
        match self {
            Self::All => true,
            Self::Short => !is_second_maker && (cell.tls, cell.think_ms) != (Tls::V12, 0),
            Self::Least => {
                let newest = if cell.client.speaks(Http::V2) && cell.server.speaks(Http::V2) {
                    Http::V2
                } else {
                    Http::V1
                };
                let wanted = [(Tls::V12, Http::V1, 50), (Tls::V13, newest, 0)];
                !is_second_maker && wanted.contains(&(cell.tls, cell.http, cell.think_ms))
            }
        }
    }
}

/// The cells of one path.
pub(super) fn all(choice: Choice) -> Vec<Cell> {
    let mut cells = Vec::new();
    for server in Server::ALL {
        let mut port = server.first_port();
        for client in Client::ALL {
            for (tls, think_ms) in [(Tls::V12, 0), (Tls::V12, 50), (Tls::V13, 0), (Tls::V13, 50)] {
                for http in [Http::V1, Http::V2] {
                    let cell = Cell {
                        client,
                        server,
                        tls,
                        http,
                        think_ms,
                        port,
                    };
                    if server.meets(client) && server.speaks(http) && client.speaks(http) && choice.takes(&cell) {
                        cells.push(cell);
                        port += 1;
                    }
                }
            }
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_client_and_server_has_every_version_that_it_speaks() {
        for (choice, count) in [(Choice::All, 92), (Choice::Short, 51), (Choice::Least, 22)] {
            let cells = all(choice);
            assert_eq!(cells.len(), count);
            let ports: HashSet<u16> = cells.iter().map(|cell| cell.port).collect();
            assert_eq!(ports.len(), count, "a port of its own each");
            for tls in [Tls::V12, Tls::V13] {
                for http in [Http::V1, Http::V2] {
                    if choice == Choice::Least && (tls == Tls::V12) == (http == Http::V2) {
                        continue;
                    }
                    let has = |wanted: &dyn Fn(&Cell) -> bool| {
                        cells
                            .iter()
                            .any(|cell| cell.tls == tls && cell.http == http && wanted(cell))
                    };
                    for client in Client::ALL {
                        assert_eq!(
                            has(&|cell| cell.client == client),
                            client.speaks(http),
                            "{choice:?} {client:?}"
                        );
                    }
                    for server in Server::ALL {
                        assert_eq!(has(&|cell| cell.server == server), server.speaks(http));
                    }
                }
            }
        }
    }
}
