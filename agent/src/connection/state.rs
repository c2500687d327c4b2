//! What the kernel's snapshot of a socket means: role, RFC 9293 state, endpoints, who closed.
//!
//! Pure functions on [`ConnectionState`]; the closed sets here are the label values of the metrics.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use agent_ebpf::connection::{
    CLOSED_BY_LOCAL, CLOSED_BY_REMOTE, CLOSED_BY_RESET_LOCAL, CLOSED_BY_RESET_REMOTE, CLOSED_BY_TIMEOUT,
    ConnectionState, FLAG_FIN_RECEIVED, FLAG_FOUND_CONNECTING, FLAG_LATE, ROLE_CLIENT, ROLE_SERVER, tcp_state,
};
use serde::Serialize;

/// Which side of the connection the observed socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Called `connect`.
    Client,
    /// Came out of a listener.
    Server,
}

impl Role {
    /// Every role, in the order of `self as usize`.
    pub const ALL: [Self; 2] = [Self::Client, Self::Server];

    /// The role of a connection; `None` for a listener and for numbers that are no role.
    pub fn of(state: &ConnectionState) -> Option<Self> {
        match state.role {
            ROLE_CLIENT => Some(Self::Client),
            ROLE_SERVER => Some(Self::Server),
            _ => None,
        }
    }

    /// The label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// A stretch between two marks in which a connection can wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// From the query to the answer.
    Dns,
    /// From the SYN to ESTABLISHED.
    Tcp,
    /// From the `ClientHello` to both Finished.
    Tls,
    /// From the request to its answer's first byte.
    Ttfb,
    /// The same for any later exchange.
    Turn,
}

impl Phase {
    /// Every phase, in the order of `self as usize`.
    pub const ALL: [Self; 5] = [Self::Dns, Self::Tcp, Self::Tls, Self::Ttfb, Self::Turn];

    /// The label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ttfb => "ttfb",
            Self::Turn => "turn",
        }
    }
}

/// How the role of a connection is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleBasis {
    /// hopline saw who called `connect`, or whose listener took it.
    Observed,
    /// Opened before hopline, and something listens on its local port: the server.
    Inferred,
    /// Opened before hopline, and nothing listens on its local port: the client, unless its listener has closed since.
    Guessed,
}

impl RoleBasis {
    /// Of a snapshot.
    pub fn of(state: &ConnectionState) -> Self {
        // One that was found while its SYN had no answer was seen to be established.
        if state.flags & FLAG_LATE == 0 || state.established_ns != 0 {
            Self::Observed
        } else if state.role == ROLE_SERVER {
            Self::Inferred
        } else {
            Self::Guessed
        }
    }
}

/// Who ended an open connection, or gave up an unanswered connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosedBy {
    /// This side's FIN came first, or its owner gave up.
    Local,
    /// The peer's FIN came first.
    Remote,
    /// This side sent a RST.
    ResetLocal,
    /// The peer sent a RST.
    ResetRemote,
    /// Retransmissions or keep-alives were given up.
    Timeout,
}

impl ClosedBy {
    /// Every value, in the order of `self as usize`.
    pub const ALL: [Self; 5] = [
        Self::Local,
        Self::Remote,
        Self::ResetLocal,
        Self::ResetRemote,
        Self::Timeout,
    ];

    /// Every value, and nobody.
    pub fn or_nobody() -> impl Iterator<Item = Option<Self>> {
        Self::ALL.into_iter().map(Some).chain([None])
    }

    /// Who closed; `None` while nobody has, and for a connect that never left.
    pub fn of(state: &ConnectionState) -> Option<Self> {
        match state.closed_by {
            CLOSED_BY_LOCAL => Some(Self::Local),
            CLOSED_BY_REMOTE => Some(Self::Remote),
            CLOSED_BY_RESET_LOCAL => Some(Self::ResetLocal),
            CLOSED_BY_RESET_REMOTE => Some(Self::ResetRemote),
            CLOSED_BY_TIMEOUT => Some(Self::Timeout),
            _ => None,
        }
    }

    /// The label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
            Self::ResetLocal => "reset_local",
            Self::ResetRemote => "reset_remote",
            Self::Timeout => "timeout",
        }
    }
}

/// RFC 9293 states, in the kernel's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TcpState {
    /// Both sides may send.
    Established,
    /// The SYN left.
    SynSent,
    /// A SYN came, the final ACK has not.
    SynReceived,
    /// This side's FIN left.
    FinWait1,
    /// This side's FIN is acknowledged.
    FinWait2,
    /// Both closed, old segments may still arrive.
    TimeWait,
    /// The peer's FIN came, this side has not closed.
    CloseWait,
    /// The peer's FIN came, this side's left.
    LastAck,
    /// Both FINs crossed.
    Closing,
    /// Waits for SYNs: a listener, no connection.
    Listen,
}

impl TcpState {
    /// Every state, in the order of `self as usize`.
    pub const ALL: [Self; 10] = [
        Self::Established,
        Self::SynSent,
        Self::SynReceived,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::CloseWait,
        Self::LastAck,
        Self::Closing,
        Self::Listen,
    ];

    /// The state in the kernel's numbering; `None` for CLOSE and numbers that are no state.
    pub fn of(kernel: u8) -> Option<Self> {
        Some(match kernel {
            tcp_state::ESTABLISHED => Self::Established,
            tcp_state::SYN_SENT => Self::SynSent,
            tcp_state::SYN_RECV => Self::SynReceived,
            tcp_state::FIN_WAIT1 => Self::FinWait1,
            tcp_state::FIN_WAIT2 => Self::FinWait2,
            tcp_state::TIME_WAIT => Self::TimeWait,
            tcp_state::CLOSE_WAIT => Self::CloseWait,
            tcp_state::LAST_ACK => Self::LastAck,
            tcp_state::CLOSING => Self::Closing,
            tcp_state::LISTEN => Self::Listen,
            _ => return None,
        })
    }

    /// The label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::FinWait1 => "fin_wait1",
            Self::FinWait2 => "fin_wait2",
            Self::TimeWait => "time_wait",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::Closing => "closing",
            Self::Listen => "listen",
        }
    }
}

/// An address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address; a v4-mapped one as IPv4.
    pub address: IpAddr,
    /// The port, host byte order.
    pub port: u16,
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        Self::new(endpoint.address, endpoint.port)
    }
}

/// Both ends of a connection, and what the process asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// This side.
    pub local: Endpoint,
    /// The other side, as on the wire.
    pub remote: Endpoint,
    /// What the process asked for, when that was not the remote end: something between translated it.
    pub asked: Option<Endpoint>,
}

impl Endpoints {
    /// Reads them out of a snapshot. An address of all zeros was not asked for: the kernel takes it as loopback.
    pub fn of(state: &ConnectionState) -> Self {
        let endpoint = |address: &[u8; 16], port: [u8; 2]| Endpoint {
            address: address_of(state.family, address),
            port: u16::from_be_bytes(port),
        };
        let remote = endpoint(&state.remote_address, state.remote_port);
        let asked = endpoint(&state.asked_address, state.asked_port);
        let asked = (!asked.address.is_unspecified() && asked.port != 0 && asked != remote).then_some(asked);
        Self {
            local: endpoint(&state.local_address, state.local_port),
            remote,
            asked,
        }
    }

    /// What the process wanted to reach.
    pub fn wanted(&self) -> Endpoint {
        self.asked.unwrap_or(self.remote)
    }
}

fn address_of(family: u16, bytes: &[u8; 16]) -> IpAddr {
    if i32::from(family) == libc::AF_INET {
        IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
    } else {
        Ipv6Addr::from(*bytes).to_canonical()
    }
}

/// Routers that a packet has passed, by the TTL that it arrived with: it began with the smallest usual one that is not below.
pub fn routers_by_ttl(ttl: u8) -> Option<u8> {
    const USUAL: [u8; 3] = [64, 128, 255];
    let first = USUAL.into_iter().find(|first| *first >= ttl)?;
    (ttl != 0).then(|| first - ttl)
}

/// Payload bytes that left, each counted once.
pub fn sent_bytes(state: &ConnectionState) -> u64 {
    state
        .counters
        .bytes_sent
        .saturating_sub(state.counters.bytes_retransmitted)
}

/// Payload bytes that arrived: the kernel counts the peer's FIN as one.
pub fn received_bytes(state: &ConnectionState) -> u64 {
    let fin = u64::from(state.flags & FLAG_FIN_RECEIVED != 0);
    state.counters.bytes_received.saturating_sub(fin)
}

/// Whether the connection was established, as far as it was followed: of one from before the start, which was not, its connect was
/// seen to end.
pub fn was_opened(state: &ConnectionState) -> bool {
    state.established_ns != 0 || state.flags & FLAG_LATE != 0 && state.flags & FLAG_FOUND_CONNECTING == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routers_are_what_the_ttl_lacks() {
        let cases = [
            (0, None),
            (1, Some(63)),
            (59, Some(5)),
            (64, Some(0)),
            (65, Some(63)),
            (128, Some(0)),
            (129, Some(126)),
            (250, Some(5)),
            (255, Some(0)),
        ];
        for (ttl, routers) in cases {
            assert_eq!(routers_by_ttl(ttl), routers, "{ttl}");
        }
    }
}
