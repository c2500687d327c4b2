//! Connects that wait for an answer. A silent socket triggers no hook, so the agent's clock drives this.
//!
//! Knows connects by socket and attempt only; the caller says which of them are over.
use std::collections::VecDeque;

/// One connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Socket cookie.
    pub cookie: u64,
    /// Attempt on this socket.
    pub attempt: u32,
    /// When the SYN left, nanoseconds; for a late socket when it was first seen.
    pub since_ns: u64,
    /// It has been reported as stuck.
    pub told: bool,
}

/// Connects begun lately, and those that have waited for long.
#[derive(Debug, Default)]
pub struct WaitingList {
    /// In the order in which they began; mostly over before anyone looks again.
    young: VecDeque<Waiting>,
    /// Waiting for long enough to be shown.
    shown: Vec<Waiting>,
}

impl WaitingList {
    /// A connect began.
    pub fn begin(&mut self, cookie: u64, attempt: u32, since_ns: u64) {
        self.young.push_back(Waiting {
            cookie,
            attempt,
            since_ns,
            told: false,
        });
    }

    /// Connects begun since the last look: grows until [`Self::tick`] or [`Self::prune`].
    pub fn young(&self) -> usize {
        self.young.len()
    }

    /// Forgets the young ones that are over.
    pub fn prune(&mut self, waits: impl Fn(&Waiting) -> bool) {
        self.young.retain(waits);
    }

    /// Forgets what is over and shows what has waited for `after_ns`.
    pub fn tick(&mut self, now_ns: u64, after_ns: u64, waits: impl Fn(&Waiting) -> bool) {
        self.shown.retain(&waits);
        while let Some(connect) = self.young.front() {
            if now_ns.saturating_sub(connect.since_ns) < after_ns {
                break;
            }
            if waits(connect) {
                self.shown.push(*connect);
            }
            self.young.pop_front();
        }
    }

    /// Those that wait, as of the last tick.
    pub fn shown(&self) -> &[Waiting] {
        &self.shown
    }

    /// Those that wait, as of the last tick.
    pub fn shown_mut(&mut self) -> &mut [Waiting] {
        &mut self.shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_unanswered_are_shown() {
        let mut list = WaitingList::default();
        for (cookie, since_ns) in [(1, 10), (2, 20), (3, 1_000)] {
            list.begin(cookie, 1, since_ns);
        }
        let cookies = |list: &WaitingList| list.shown().iter().map(|waiting| waiting.cookie).collect::<Vec<_>>();
        list.tick(100, 100, |_| true);
        assert_eq!(cookies(&list), [0; 0]);
        list.tick(120, 100, |waiting| waiting.cookie != 1);
        assert_eq!(cookies(&list), [2]);
        assert_eq!(list.young(), 1);
        list.tick(1_100, 100, |waiting| waiting.cookie == 3);
        assert_eq!(cookies(&list), [3]);
        list.tick(1_200, 100, |_| false);
        assert_eq!(cookies(&list), [0; 0]);
    }
}
