//! How a connection went, and why a connect failed: closed sets that are label values, and pure functions that tell them.
use agent_ebpf::connection::{
    CLOSED_BY_LOCAL, CLOSED_BY_REMOTE, CLOSED_BY_RESET_LOCAL, CLOSED_BY_RESET_REMOTE, CLOSED_BY_TIMEOUT,
    ConnectionState,
};
use serde::Serialize;

use super::state::{Phase, received_bytes, was_opened};

/// Why a connect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConnectError {
    /// A RST, or ICMP "port unreachable".
    Refused,
    /// Reset in the middle.
    Reset,
    /// Nobody answered: the kernel gave up.
    Timeout,
    /// Nobody answered: the program gave up.
    Abandoned,
    /// No route, or ICMP "network" or "host unreachable".
    Unreachable,
    /// ICMP "administratively prohibited", or a policy of this host.
    Prohibited,
    /// No free local port: no SYN left.
    NoPort,
    /// Anything else.
    Other,
}

impl ConnectError {
    /// Every error, in the order of `self as usize`.
    pub const ALL: [Self; 8] = [
        Self::Refused,
        Self::Reset,
        Self::Timeout,
        Self::Abandoned,
        Self::Unreachable,
        Self::Prohibited,
        Self::NoPort,
        Self::Other,
    ];

    /// Every way in which a connect can end, in the order of [`Self::index`]: `None` is success.
    pub fn or_success() -> impl Iterator<Item = Option<Self>> {
        [None].into_iter().chain(Self::ALL.map(Some))
    }

    /// The place of a connect's end among [`Self::or_success`].
    pub fn index(error: Option<Self>) -> usize {
        error.map_or(0, |error| 1 + error as usize)
    }

    /// The value of the label `error`.
    pub fn name(self) -> &'static str {
        Outcome::from(self).name()
    }
}

/// How a connection went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was answered, or nothing was asked.
    Ok,
    /// A request left, and no byte of an answer came before one side closed.
    Unanswered,
    /// See [`ConnectError::Refused`].
    Refused,
    /// Reset by the peer before it had answered.
    Reset,
    /// The kernel gave up: nobody acknowledged.
    Timeout,
    /// The program gave up connecting.
    Abandoned,
    /// No route, or a router said so.
    Unreachable,
    /// See [`ConnectError::Prohibited`].
    Prohibited,
    /// No free local port: no SYN left.
    NoPort,
    /// The TLS handshake failed.
    Tls,
    /// Anything else.
    Other,
}

impl Outcome {
    /// Every outcome, in the order of `self as usize`.
    pub const ALL: [Self; 11] = [
        Self::Ok,
        Self::Unanswered,
        Self::Refused,
        Self::Reset,
        Self::Timeout,
        Self::Abandoned,
        Self::Unreachable,
        Self::Prohibited,
        Self::NoPort,
        Self::Tls,
        Self::Other,
    ];

    /// The value in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unanswered => "unanswered",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Abandoned => "abandoned",
            Self::Unreachable => "unreachable",
            Self::Prohibited => "prohibited",
            Self::NoPort => "no_port",
            Self::Tls => "tls",
            Self::Other => "other",
        }
    }
}

impl From<ConnectError> for Outcome {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Refused => Self::Refused,
            ConnectError::Reset => Self::Reset,
            ConnectError::Timeout => Self::Timeout,
            ConnectError::Abandoned => Self::Abandoned,
            ConnectError::Unreachable => Self::Unreachable,
            ConnectError::Prohibited => Self::Prohibited,
            ConnectError::NoPort => Self::NoPort,
            ConnectError::Other => Self::Other,
        }
    }
}

/// Why the connect of a connection that has ended failed; `None` when it did not.
pub fn connect_error(state: &ConnectionState) -> Option<ConnectError> {
    if was_opened(state) {
        return None;
    }
    Some(match i32::from(state.error) {
        0 if state.closed_by == CLOSED_BY_LOCAL => ConnectError::Abandoned,
        libc::EADDRNOTAVAIL if state.syn_ns == 0 => ConnectError::NoPort,
        error => named(error),
    })
}

/// How a connection that has ended went, by TCP alone: the error that broke it before the peer said anything, since it was of no use
/// to its owner then.
pub fn transport_outcome(state: &ConnectionState) -> Outcome {
    if let Some(error) = connect_error(state) {
        return error.into();
    }
    if state.error == 0 || received_bytes(state) > 0 {
        return Outcome::Ok;
    }
    match named(state.error.into()) {
        // Not an error of the network: what happened after the opening is in `closed_by`.
        ConnectError::Other => Outcome::Ok,
        error => error.into(),
    }
}

/// How a connection that has ended went. `waited`: the phase in which it waited at its end; `is_tls_failed`: its TLS handshake failed.
pub fn outcome(state: &ConnectionState, waited: Option<Phase>, is_tls_failed: bool) -> Outcome {
    if !was_opened(state) {
        return transport_outcome(state);
    }
    if is_tls_failed {
        return Outcome::Tls;
    }
    if !matches!(waited, Some(Phase::Ttfb | Phase::Turn)) {
        return transport_outcome(state);
    }
    match state.closed_by {
        CLOSED_BY_LOCAL | CLOSED_BY_REMOTE | CLOSED_BY_RESET_LOCAL => Outcome::Unanswered,
        CLOSED_BY_RESET_REMOTE => Outcome::Reset,
        CLOSED_BY_TIMEOUT => match named(state.error.into()) {
            ConnectError::Other => Outcome::Timeout,
            error => error.into(),
        },
        _ => transport_outcome(state),
    }
}

fn named(error: i32) -> ConnectError {
    match error {
        libc::ECONNREFUSED => ConnectError::Refused,
        libc::ETIMEDOUT => ConnectError::Timeout,
        // EPIPE: the RST came after the peer's FIN.
        libc::ECONNRESET | libc::EPIPE => ConnectError::Reset,
        libc::EHOSTUNREACH
        | libc::ENETUNREACH
        | libc::EHOSTDOWN
        | libc::ENETDOWN
        | libc::ENONET
        | libc::ENOPROTOOPT => ConnectError::Unreachable,
        // ICMP's prohibitions, and before a SYN a route or a policy of this host.
        libc::EACCES | libc::EPERM => ConnectError::Prohibited,
        _ => ConnectError::Other,
    }
}

#[cfg(test)]
mod tests {
    use agent_ebpf::connection::{CLOSED_BY_NOBODY, FLAG_FOUND_CONNECTING, FLAG_LATE, TcpCounters};

    use super::*;

    fn state(established_ns: u64, error: i32, closed_by: u8) -> ConnectionState {
        ConnectionState {
            syn_ns: 1,
            established_ns,
            error: error as u16,
            closed_by,
            ..ConnectionState::default()
        }
    }

    #[test]
    fn why_connects_fail() {
        let check = |error, closed_by, expected| {
            let state = state(0, error, closed_by);
            assert_eq!(connect_error(&state), Some(expected), "errno {error}");
            assert_eq!(outcome(&state, Some(Phase::Tcp), false), expected.into());
        };
        check(0, CLOSED_BY_LOCAL, ConnectError::Abandoned);
        check(0, CLOSED_BY_NOBODY, ConnectError::Other);
        check(libc::ECONNREFUSED, CLOSED_BY_NOBODY, ConnectError::Refused);
        check(libc::ETIMEDOUT, CLOSED_BY_TIMEOUT, ConnectError::Timeout);
        check(libc::EHOSTUNREACH, CLOSED_BY_NOBODY, ConnectError::Unreachable);
        check(libc::EACCES, CLOSED_BY_NOBODY, ConnectError::Prohibited);
        check(libc::ECONNABORTED, CLOSED_BY_NOBODY, ConnectError::Other);
        let late = |flags| ConnectionState {
            flags,
            ..state(0, 0, CLOSED_BY_LOCAL)
        };
        assert_eq!(connect_error(&late(FLAG_LATE)), None);
        assert_eq!(
            connect_error(&late(FLAG_LATE | FLAG_FOUND_CONNECTING)),
            Some(ConnectError::Abandoned)
        );
    }

    #[test]
    fn each_end_of_an_open_request() {
        let check = |error, closed_by, waited, is_tls_failed, expected| {
            let mut state = state(2, error, closed_by);
            state.counters = TcpCounters {
                bytes_received: 100,
                ..TcpCounters::default()
            };
            let said = outcome(&state, waited, is_tls_failed);
            assert_eq!(said, expected, "errno {error}, closed by {closed_by}, {waited:?}");
        };
        for waited in [Some(Phase::Ttfb), Some(Phase::Turn)] {
            check(0, CLOSED_BY_LOCAL, waited, false, Outcome::Unanswered);
            check(0, CLOSED_BY_REMOTE, waited, false, Outcome::Unanswered);
            check(0, CLOSED_BY_RESET_LOCAL, waited, false, Outcome::Unanswered);
            check(libc::ECONNRESET, CLOSED_BY_RESET_REMOTE, waited, false, Outcome::Reset);
            check(libc::ETIMEDOUT, CLOSED_BY_TIMEOUT, waited, false, Outcome::Timeout);
            check(
                libc::EHOSTUNREACH,
                CLOSED_BY_TIMEOUT,
                waited,
                false,
                Outcome::Unreachable,
            );
            check(0, CLOSED_BY_LOCAL, waited, true, Outcome::Tls);
        }
        check(libc::ECONNRESET, CLOSED_BY_RESET_REMOTE, None, false, Outcome::Ok);
        check(0, CLOSED_BY_LOCAL, None, false, Outcome::Ok);
        check(
            libc::ECONNRESET,
            CLOSED_BY_RESET_REMOTE,
            Some(Phase::Tls),
            true,
            Outcome::Tls,
        );
        let silent = state(2, libc::ECONNRESET, CLOSED_BY_RESET_REMOTE);
        assert_eq!(outcome(&silent, None, false), Outcome::Reset);
    }

    #[test]
    fn every_end_of_a_connect_has_its_place() {
        for (index, error) in ConnectError::or_success().enumerate() {
            assert_eq!(ConnectError::index(error), index);
        }
    }
}
