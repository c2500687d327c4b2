//! Connections between two marks. A silent socket triggers no hook, so the agent's clock drives this.
use std::collections::HashMap;

use agent_ebpf::{
    connection::{
        CLOSED_BY_LOCAL, CLOSED_BY_REMOTE, CLOSED_BY_RESET_LOCAL, CLOSED_BY_TIMEOUT, ConnectionState, FLAG_LATE,
        ROLE_CLIENT, tcp_state,
    },
    timeline::{PROTOCOL_HTTP1, PROTOCOL_TLS},
};

use super::state::Phase;

/// A goodbye, and the end that follows it, are no further apart than this.
const GOODBYE_NS: u64 = 10_000_000;
/// A client that closes within so many ticks of the kernel's clock after its last payload has not waited for an answer. Ticks
/// are 1 to 10 ms.
const AT_ONCE_TICKS: u32 = 3;

/// The phase in which an open connection is, and since when; `None` when nothing is awaited, as by a client that goes on sending
/// while nothing comes back.
///
/// `answered`: the answer to the request has begun, as far as anybody can tell. A late connect waits since it was first
/// seen: its marks are not known.
pub fn phase(state: &ConnectionState, answered: bool, first_seen_ns: u64) -> Option<(Phase, u64)> {
    if state.closed_ns != 0 {
        return None;
    }
    let (phase, since_ns) = last_phase(state, answered, first_seen_ns)?;
    if !matches!(phase, Phase::Ttfb | Phase::Turn) {
        return Some((phase, since_ns));
    }
    let asked_ns = asked_until(state, since_ns);
    // In HTTP every request has an answer, once all of it is sent.
    let is_one_way = state.is_one_way() && state.timeline.protocol != PROTOCOL_HTTP1;
    let sends_on = asked_ns != since_ns && (state.sends_on(state.reported_ns) || is_one_way);
    (!sends_on).then_some((phase, asked_ns))
}

/// What is known of a connection's protocol beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protocol {
    /// Each request has an answer.
    pub asks: bool,
    /// What is sent later may be no request: that it has no answer proves nothing.
    pub multiplexes: bool,
}

/// For a connection that has ended the phase in which somebody waited when it did, and since when.
///
/// A client that says goodbye, that closes when it has sent all it had, or that goes on sending while nothing comes back has
/// waited for nothing; nor has anybody who writes after the first end.
pub fn wait_at_end(
    state: &ConnectionState,
    answered: bool,
    first_seen_ns: u64,
    protocol: Protocol,
) -> Option<(Phase, u64)> {
    let (phase, since_ns) = last_phase(state, answered, first_seen_ns)?;
    if !matches!(phase, Phase::Ttfb | Phase::Turn) {
        return Some((phase, since_ns));
    }
    let ending_ns = ending_ns(state);
    let asked_ns = asked_until(state, since_ns);
    if since_ns >= ending_ns || protocol.multiplexes && phase == Phase::Turn {
        return None;
    }
    let in_clear = state.timeline.protocol == PROTOCOL_HTTP1;
    let asks = protocol.asks || in_clear;
    if !asks && asked_ns != since_ns && state.is_one_way() {
        return None;
    }
    let is_client = state.role == ROLE_CLIENT;
    let has_waited = match state.closed_by {
        // The kernel has waited for acknowledgements.
        CLOSED_BY_TIMEOUT => true,
        CLOSED_BY_LOCAL | CLOSED_BY_RESET_LOCAL if is_client => {
            client_waited(state, since_ns, ending_ns, asks, in_clear)
        }
        CLOSED_BY_REMOTE if !is_client => client_waited(state, since_ns, ending_ns, asks, in_clear),
        // The server has closed: on a goodbye or an alert, which looks like a request, when that comes right after one.
        _ => {
            let may_be_last_word = phase == Phase::Turn || state.timeline.protocol == PROTOCOL_TLS;
            in_clear || !may_be_last_word || ending_ns - since_ns >= GOODBYE_NS
        }
    };
    has_waited.then_some((phase, asked_ns.min(ending_ns)))
}

/// Whether the client, which closed first, had waited for an answer.
fn client_waited(state: &ConnectionState, since_ns: u64, ending_ns: u64, asks: bool, in_clear: bool) -> bool {
    if in_clear {
        return true;
    }
    // In TLS 1.3 the goodbye looks like a request.
    if ending_ns - since_ns < GOODBYE_NS {
        return false;
    }
    let is_quiet = state.is_quiet != 0 && state.walk_request == state.request_key();
    let knows_last = state.role == ROLE_CLIENT && state.timeline.protocol != PROTOCOL_TLS;
    asks || state.quiet_ticks >= AT_ONCE_TICKS || is_quiet && !knows_last
}

/// When the client had sent the request that began at `since_ns`, as far as that is known: a walk has seen it go on.
fn asked_until(state: &ConnectionState, since_ns: u64) -> u64 {
    if state.walk_request == state.request_key() {
        since_ns.max(state.sent_on_ns)
    } else {
        since_ns
    }
}

/// When the first FIN or RST passed.
fn ending_ns(state: &ConnectionState) -> u64 {
    if state.ending_ns == 0 {
        state.closed_ns
    } else {
        state.ending_ns
    }
}

/// For how long who gave up had waited since `since_ns`, nanoseconds.
pub fn waited_ns(state: &ConnectionState, since_ns: u64) -> u64 {
    ending_ns(state).saturating_sub(since_ns)
}

/// The phase in which a connection is, or was when it ended.
fn last_phase(state: &ConnectionState, answered: bool, first_seen_ns: u64) -> Option<(Phase, u64)> {
    let timeline = &state.timeline;
    if state.role == ROLE_CLIENT && state.established_ns == 0 && timeline.client_hello_ns == 0 {
        if state.flags & FLAG_LATE != 0 {
            return (state.tcp_state == tcp_state::SYN_SENT).then_some((Phase::Tcp, first_seen_ns));
        }
        return (state.syn_ns != 0).then_some((Phase::Tcp, state.syn_ns));
    }
    if timeline.client_hello_ns != 0 && timeline.tls_done_ns == 0 {
        return Some((Phase::Tls, timeline.client_hello_ns));
    }
    if timeline.request_ns != 0 && !answered {
        return Some((Phase::Ttfb, timeline.request_ns));
    }
    // What may have been the answer has come.
    let is_open = timeline.turn_ns != 0 && timeline.doubtful_us == 0;
    is_open.then_some((Phase::Turn, timeline.turn_ns))
}

/// One connection that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The phase in which it waits.
    pub phase: Phase,
    /// Since when, nanoseconds.
    pub since_ns: u64,
    /// It has been reported as stuck in this phase.
    told: bool,
}

/// The open connections that wait, by socket cookie: no more than the table of connections holds.
#[derive(Debug, Default)]
pub struct WaitingList {
    by_cookie: HashMap<u64, Waiting>,
}

impl WaitingList {
    /// What the latest snapshot of a connection says.
    pub fn set(&mut self, cookie: u64, now: Option<(Phase, u64)>) {
        let Some((phase, since_ns)) = now else {
            self.by_cookie.remove(&cookie);
            return;
        };
        let waiting = self.by_cookie.entry(cookie).or_insert(Waiting {
            phase,
            since_ns,
            told: false,
        });
        if (waiting.phase, waiting.since_ns) != (phase, since_ns) {
            *waiting = Waiting {
                phase,
                since_ns,
                told: false,
            };
        }
    }

    /// The connection is over, or nobody follows it any more.
    pub fn remove(&mut self, cookie: u64) {
        self.by_cookie.remove(&cookie);
    }

    /// Those that have waited for `after_ns`, with their cookies.
    pub fn longer_than(&self, after_ns: u64, now_ns: u64) -> impl Iterator<Item = (u64, &Waiting)> {
        self.by_cookie
            .iter()
            .filter(move |(_, waiting)| now_ns.saturating_sub(waiting.since_ns) >= after_ns)
            .map(|(cookie, waiting)| (*cookie, waiting))
    }

    /// Those that have waited for `after_ns`, each once, the longest waiting first: cookie, phase and since when.
    pub fn newly_stuck(&mut self, after_ns: u64, now_ns: u64) -> Vec<(u64, (Phase, u64))> {
        let mut stuck = Vec::new();
        for (cookie, waiting) in &mut self.by_cookie {
            if !waiting.told && now_ns.saturating_sub(waiting.since_ns) >= after_ns {
                waiting.told = true;
                stuck.push((*cookie, (waiting.phase, waiting.since_ns)));
            }
        }
        stuck.sort_unstable_by_key(|(cookie, (_, since_ns))| (*since_ns, *cookie));
        stuck
    }
}

#[cfg(test)]
mod tests {
    use agent_ebpf::{connection::ROLE_SERVER, timeline::Timeline};

    use super::*;

    #[test]
    fn each_phase_begins_with_its_mark() {
        let mut state = ConnectionState {
            role: ROLE_CLIENT,
            ..ConnectionState::default()
        };
        assert_eq!(phase(&state, false, 5), None, "no SYN has left");
        state.syn_ns = 10;
        assert_eq!(phase(&state, false, 5), Some((Phase::Tcp, 10)));
        state.established_ns = 20;
        assert_eq!(phase(&state, false, 5), None, "nothing was asked");
        state.timeline.client_hello_ns = 30;
        assert_eq!(phase(&state, false, 5), Some((Phase::Tls, 30)));
        state.timeline.tls_done_ns = 40;
        assert_eq!(phase(&state, false, 5), None);
        state.timeline.request_ns = 50;
        assert_eq!(phase(&state, false, 5), Some((Phase::Ttfb, 50)));
        assert_eq!(phase(&state, true, 5), None);
        state.timeline.turn_ns = 60;
        assert_eq!(phase(&state, true, 5), Some((Phase::Turn, 60)));
        state.closed_ns = 70;
        assert_eq!(phase(&state, false, 5), None);
        assert_eq!(last_phase(&state, true, 5), Some((Phase::Turn, 60)));
    }

    #[test]
    fn what_is_not_known_is_not_invented() {
        let late = ConnectionState {
            role: ROLE_CLIENT,
            flags: FLAG_LATE,
            tcp_state: tcp_state::SYN_SENT,
            ..ConnectionState::default()
        };
        assert_eq!(phase(&late, false, 5), Some((Phase::Tcp, 5)));
        let open = ConnectionState {
            tcp_state: tcp_state::ESTABLISHED,
            ..late
        };
        assert_eq!(phase(&open, false, 5), None);
        let server = ConnectionState {
            role: ROLE_SERVER,
            syn_ns: 10,
            timeline: Timeline::default(),
            ..ConnectionState::default()
        };
        assert_eq!(phase(&server, false, 5), None, "a server's child waits for nobody");
    }

    #[test]
    fn told_once_for_each_wait() {
        let mut list = WaitingList::default();
        list.set(1, Some((Phase::Tcp, 10)));
        list.set(2, Some((Phase::Tcp, 5)));
        assert_eq!(list.newly_stuck(100, 50), []);
        assert_eq!(
            list.newly_stuck(100, 110),
            [(2, (Phase::Tcp, 5)), (1, (Phase::Tcp, 10))]
        );
        list.set(1, Some((Phase::Tcp, 10)));
        assert_eq!(list.newly_stuck(100, 120), []);
        list.set(1, Some((Phase::Tls, 50)));
        assert_eq!(list.newly_stuck(100, 150), [(1, (Phase::Tls, 50))]);
        list.set(2, None);
        assert_eq!(
            list.longer_than(0, 200).map(|(cookie, _)| cookie).collect::<Vec<_>>(),
            [1]
        );
        list.remove(1);
        assert_eq!(list.longer_than(0, 200).count(), 0);
    }
}
