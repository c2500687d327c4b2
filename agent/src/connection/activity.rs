//! When payload last moved on a connection, as its reports tell: clients that stay silent or drip, writes after the
//! peer's end.
//!
//! The walk over open connections reports what has moved once a second, so times here are late by a second at most.
use agent_ebpf::connection::{CLOSED_BY_REMOTE, ConnectionState, TcpCounters, tcp_state};

use super::state::{Role, received_bytes, sent_bytes};

/// A client that has said nothing for this long after the opening is silent; one that goes on for this long without
/// having asked for anything drips.
const HELD_AFTER_NS: u64 = 10_000_000_000;
/// Reports that must have brought payload before a client drips.
const DRIPS: u32 = 3;
/// More than this is no drip.
const DRIP_BYTES_PER_SECOND: u64 = 16;

/// How a client holds a server's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Idle {
    /// It has connected and sent nothing.
    Silent,
    /// It sends a few bytes now and then, to which the server has nothing to answer.
    Dripping,
}

impl Idle {
    /// The label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Dripping => "dripping",
        }
    }
}

/// What the reports of one connection told of its payload.
#[derive(Clone, Debug)]
pub struct Activity {
    sent: u64,
    received: u64,
    /// The last report with new payload, and the one before.
    moved_ns: [u64; 2],
    /// What had been sent when the peer's end was first seen; [`u64::MAX`] before.
    sent_at_end: u64,
    /// Of a server's connections alone.
    drips: Option<Box<Drips>>,
}

/// Since this side last sent: when that was, how much had come by then, and reports that brought more.
#[derive(Clone, Copy, Debug, Default)]
struct Drips {
    since_ns: u64,
    received_by_then: u64,
    count: u32,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            sent: 0,
            received: 0,
            moved_ns: [0; 2],
            sent_at_end: u64::MAX,
            drips: None,
        }
    }
}

impl Activity {
    /// A snapshot of an open connection.
    pub fn seen(&mut self, state: &ConnectionState, now_ns: u64) {
        if state.counters == TcpCounters::default() {
            // Told of its turns by a program that does not look at the socket.
            return;
        }
        let (sent, received) = (sent_bytes(state), payload_received(state));
        if sent > self.sent || received > self.received {
            self.moved_ns = [self.moved_ns[1], now_ns];
        }
        if Role::of(state) == Some(Role::Server) {
            let is_first = self.drips.is_none();
            let drips = self.drips.get_or_insert_default();
            if sent > self.sent || is_first {
                **drips = Drips {
                    since_ns: now_ns,
                    received_by_then: received,
                    count: 0,
                };
            } else if received > self.received {
                drips.count = drips.count.saturating_add(1);
            }
        }
        (self.sent, self.received) = (self.sent.max(sent), self.received.max(received));
        if has_peers_end(state) && self.sent_at_end == u64::MAX {
            self.sent_at_end = sent;
        }
    }

    /// How a client holds this connection, if it does.
    pub fn idle(&self, state: &ConnectionState, first_seen_ns: u64, now_ns: u64) -> Option<Idle> {
        let drips = self.drips.as_deref()?;
        if state.tcp_state != tcp_state::ESTABLISHED {
            return None;
        }
        let opened_ns = match state.established_ns {
            0 => first_seen_ns,
            established_ns => established_ns,
        };
        if self.received == 0 {
            return (now_ns.saturating_sub(opened_ns) >= HELD_AFTER_NS).then_some(Idle::Silent);
        }
        let since_ns = match self.sent {
            0 => opened_ns,
            _ => drips.since_ns,
        };
        let dripped = match self.sent {
            0 => self.received,
            _ => self.received.saturating_sub(drips.received_by_then),
        };
        let held_ns = now_ns.saturating_sub(since_ns);
        // One that has ended its drip and waits is silent in its way, but nobody can tell that from a request.
        let goes_on = now_ns.saturating_sub(self.moved_ns[1]) < HELD_AFTER_NS;
        let is_slow = dripped <= held_ns / 1_000_000_000 * DRIP_BYTES_PER_SECOND;
        (held_ns >= HELD_AFTER_NS && drips.count >= DRIPS && goes_on && is_slow).then_some(Idle::Dripping)
    }

    /// For a connection that has ended: this side wrote after the peer had closed, and was told so by a RST. Gives how long
    /// nothing had passed before that write, nanoseconds: up to a second less than it was, never more.
    pub fn wrote_after_end(&self, state: &ConnectionState, is_answered: bool) -> Option<u64> {
        let reset = matches!(i32::from(state.error), libc::EPIPE | libc::ECONNRESET);
        if state.closed_by != CLOSED_BY_REMOTE || !reset {
            return None;
        }
        let timeline = &state.timeline;
        let unanswered_ns = match (timeline.turn_ns, is_answered) {
            (0, false) => timeline.request_ns,
            (turn_ns, _) => turn_ns,
        };
        // A RST after the peer's end may answer a keep-alive probe, or this side's own end.
        let wrote = match self.sent_at_end {
            u64::MAX => unanswered_ns != 0,
            sent_at_end => sent_bytes(state) > sent_at_end,
        };
        if !wrote {
            return None;
        }
        let wrote_ns = if unanswered_ns == 0 {
            state.closed_ns
        } else {
            unanswered_ns
        };
        let marks = [
            state.established_ns,
            timeline.tls_done_ns,
            timeline.first_byte_ns,
            self.moved_ns[0],
            self.moved_ns[1],
        ];
        let before_ns = marks.into_iter().filter(|mark| *mark < wrote_ns).max();
        Some(before_ns.filter(|mark| *mark != 0).map_or(0, |mark| wrote_ns - mark))
    }
}

fn has_peers_end(state: &ConnectionState) -> bool {
    matches!(
        state.tcp_state,
        tcp_state::CLOSE_WAIT | tcp_state::LAST_ACK | tcp_state::CLOSING | tcp_state::TIME_WAIT
    )
}

/// Without the peer's end, which the kernel counts as a byte; its flag is set in the last snapshot alone.
fn payload_received(state: &ConnectionState) -> u64 {
    received_bytes(state).saturating_sub(u64::from(has_peers_end(state)))
}

#[cfg(test)]
mod tests {
    use agent_ebpf::connection::{CLOSED_BY_LOCAL, ROLE_CLIENT, ROLE_SERVER};

    use super::*;

    const S: u64 = 1_000_000_000;

    fn state(role: u8, sent: u64, received: u64) -> ConnectionState {
        ConnectionState {
            role,
            tcp_state: tcp_state::ESTABLISHED,
            established_ns: S,
            counters: TcpCounters {
                bytes_sent: sent,
                bytes_received: received,
                segments_received: 1,
                ..TcpCounters::default()
            },
            ..ConnectionState::default()
        }
    }

    /// Reports of (second, sent, received), and what the client is at the end.
    fn check(role: u8, reports: &[(u64, u64, u64)], at_s: u64, expected: Option<Idle>) {
        let mut activity = Activity::default();
        let mut last = ConnectionState::default();
        for (second, sent, received) in reports {
            last = state(role, *sent, *received);
            activity.seen(&last, second * S);
        }
        assert_eq!(activity.idle(&last, S, at_s * S), expected, "{role} {reports:?} {at_s}");
    }

    #[test]
    fn silent_clients() {
        check(ROLE_SERVER, &[(1, 0, 0)], 10, None);
        check(ROLE_SERVER, &[(1, 0, 0)], 11, Some(Idle::Silent));
        // Servers that greet are held too.
        check(ROLE_SERVER, &[(1, 50, 0)], 11, Some(Idle::Silent));
        check(ROLE_SERVER, &[(1, 0, 1)], 60, None);
        check(ROLE_CLIENT, &[(1, 0, 0)], 60, None);
    }

    #[test]
    fn dripping_clients() {
        let drip = |sent: u64, bytes: u64| -> Vec<_> { (1..12).map(|second| (second, sent, second * bytes)).collect() };
        check(ROLE_SERVER, &drip(0, 1), 12, Some(Idle::Dripping));
        check(ROLE_SERVER, &drip(0, 1), 10, None);
        check(ROLE_SERVER, &drip(9, 1), 12, Some(Idle::Dripping));
        check(ROLE_CLIENT, &drip(0, 1), 12, None);
        // An upload is slow, but no drip; what ended is none any more.
        check(ROLE_SERVER, &drip(0, 1_000), 12, None);
        check(ROLE_SERVER, &drip(0, 1), 22, None);
        // Each is answered.
        let answered: Vec<_> = (1..12).map(|second| (second, second, second)).collect();
        check(ROLE_SERVER, &answered, 12, None);
        // One request that waits for its answer.
        check(ROLE_SERVER, &[(1, 0, 100)], 12, None);
    }

    #[test]
    fn writes_after_the_peers_end() {
        let mut activity = Activity::default();
        activity.seen(&state(ROLE_CLIENT, 10, 10), 2 * S);
        let mut ended = state(ROLE_CLIENT, 20, 11);
        ended.closed_by = CLOSED_BY_REMOTE;
        ended.error = libc::EPIPE as u16;
        ended.closed_ns = 70 * S;
        ended.timeline.request_ns = S;
        ended.timeline.turn_ns = 62 * S;
        // The end was not seen before the write: the open turn tells.
        assert_eq!(activity.wrote_after_end(&ended, true), Some(60 * S));
        let mut closing = state(ROLE_CLIENT, 10, 11);
        closing.tcp_state = tcp_state::CLOSE_WAIT;
        activity.seen(&closing, 32 * S);
        assert_eq!(
            activity.wrote_after_end(&ended, true),
            Some(60 * S),
            "the peer's end is no payload"
        );
        // A keep-alive probe was reset, nobody wrote.
        let probed = ConnectionState {
            counters: closing.counters,
            ..ended
        };
        assert_eq!(activity.wrote_after_end(&probed, true), None);
        for other in [
            ConnectionState { error: 0, ..ended },
            ConnectionState {
                closed_by: CLOSED_BY_LOCAL,
                ..ended
            },
        ] {
            assert_eq!(activity.wrote_after_end(&other, true), None);
        }
    }

    #[test]
    fn the_first_request_may_be_the_one() {
        let mut ended = state(ROLE_CLIENT, 20, 1);
        ended.closed_by = CLOSED_BY_REMOTE;
        ended.error = libc::ECONNRESET as u16;
        ended.timeline.request_ns = 31 * S;
        assert_eq!(Activity::default().wrote_after_end(&ended, false), Some(30 * S));
        assert_eq!(Activity::default().wrote_after_end(&ended, true), None);
    }
}
