//! How a connection that has ended went: what is counted of it once, and what its record says.
use agent_ebpf::connection::ConnectionState;

use super::talk;
use crate::{
    aggregate::{DestinationId, Ended, GaveUp, Series},
    connection::{ClosedBy, Outcome, Phase, outcome, wait_at_end, waited_ns, was_opened},
    protocol::facts::Facts,
};

/// The end of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conclusion {
    pub(super) outcome: Outcome,
    /// The phase in which somebody waited at the end, and for how long, nanoseconds.
    waited: Option<(Phase, u64)>,
    ended: Ended,
    closed_by: Option<ClosedBy>,
}

impl Conclusion {
    /// Of its last snapshot. `is_answered`: its first request; `is_tls_failed`: its handshake failed.
    pub(super) fn of(
        state: &ConnectionState,
        is_answered: bool,
        first_seen_ns: u64,
        facts: Option<&Facts>,
        is_tls_failed: bool,
    ) -> Self {
        let waited = wait_at_end(state, is_answered, first_seen_ns, talk::protocol(state, facts));
        let phase = waited.map(|(phase, _)| phase);
        Self {
            outcome: outcome(state, phase, is_tls_failed),
            waited: waited.map(|(phase, since_ns)| (phase, waited_ns(state, since_ns))),
            ended: match phase {
                _ if !was_opened(state) => Ended::Tcp,
                Some(Phase::Dns | Phase::Tcp) => Ended::Tcp,
                Some(Phase::Tls) => Ended::Tls,
                Some(Phase::Ttfb) => Ended::Ttfb,
                Some(Phase::Turn) => Ended::Turn,
                None => Ended::Established,
            },
            closed_by: ClosedBy::of(state),
        }
    }

    /// Of a request that was not answered: in which phase, and for how long who gave up had waited, nanoseconds.
    pub(super) fn unanswered(&self) -> Option<(Phase, u64)> {
        self.waited.filter(|_| self.outcome == Outcome::Unanswered)
    }

    /// Counts it.
    pub(super) fn count(&self, series: &mut Series, destination: DestinationId, now_ns: u64) {
        series.ended(destination, self.ended, self.closed_by, self.outcome, now_ns);
        if let Some((_, waited_ns)) = self.unanswered() {
            series.unanswered(destination, GaveUp::of(self.closed_by), waited_ns, now_ns);
        }
    }
}
