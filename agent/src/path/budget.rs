//! How many probes may leave: for the whole agent, to one destination, and to one router on the way. Pure.
//!
//! Every bound holds for any stretch of time, not on average: routers count by the second.
use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

const SECOND_NS: u64 = 1_000_000_000;
const MINUTE_NS: u64 = 60 * SECOND_NS;
/// What a probe may be late between here and the device: a stretch is taken for so much longer.
const SLACK_NS: u64 = 20_000_000;
/// Routers and destinations that are remembered; what was quiet for a minute leaves first.
const MOST_WINDOWS: usize = 4_096;

/// Most probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In a minute, of the whole agent; a sixtieth of it, rounded up, in a second.
    pub per_minute: u32,
    /// In a minute, to one destination.
    pub destination_per_minute: u32,
    /// In a minute, to one router; a sixtieth of it, rounded up, in a second.
    pub router_per_minute: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_minute: 600,
            destination_per_minute: 120,
            router_per_minute: 60,
        }
    }
}

/// What left of late.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    agent: Window,
    destinations: HashMap<IpAddr, Window>,
    routers: HashMap<IpAddr, Window>,
}

impl Budget {
    /// Nothing has left yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            agent: Window::default(),
            destinations: HashMap::new(),
            routers: HashMap::new(),
        }
    }

    /// From when on a probe may leave: `now_ns` when it may at once.
    pub fn free_at(&self, destination: IpAddr, router: Option<IpAddr>, now_ns: u64) -> u64 {
        let Limits {
            per_minute,
            destination_per_minute,
            router_per_minute,
        } = self.limits;
        let to_destination = self.destinations.get(&destination);
        let to_router = router.and_then(|router| self.routers.get(&router));
        [
            self.agent.free_at(per_minute, MINUTE_NS),
            self.agent.free_at(a_second(per_minute), SECOND_NS),
            to_destination.map_or(0, |window| window.free_at(destination_per_minute, MINUTE_NS)),
            to_router.map_or(0, |window| window.free_at(router_per_minute, MINUTE_NS)),
            to_router.map_or(0, |window| window.free_at(a_second(router_per_minute), SECOND_NS)),
        ]
        .into_iter()
        .fold(now_ns, u64::max)
    }

    /// A probe has left.
    pub fn sent(&mut self, destination: IpAddr, router: Option<IpAddr>, at_ns: u64) {
        self.agent.push(at_ns, self.limits.per_minute);
        let most = self.limits.destination_per_minute;
        window(&mut self.destinations, destination, at_ns).push(at_ns, most);
        if let Some(router) = router {
            self.answered(router, at_ns);
        }
    }

    /// A router answered a probe that was sent before it was known whose it would be.
    pub fn answered(&mut self, router: IpAddr, at_ns: u64) {
        window(&mut self.routers, router, at_ns).push(at_ns, self.limits.router_per_minute);
    }
}

fn a_second(per_minute: u32) -> u32 {
    per_minute.div_ceil(60)
}

fn window(windows: &mut HashMap<IpAddr, Window>, address: IpAddr, now_ns: u64) -> &mut Window {
    if windows.len() >= MOST_WINDOWS && !windows.contains_key(&address) {
        windows.retain(|_, window| window.last_ns() + MINUTE_NS > now_ns);
        // All of them busy cannot be: the agent itself has not sent so much.
        if windows.len() >= MOST_WINDOWS {
            windows.clear();
        }
    }
    windows.entry(address).or_default()
}

/// Times of the last probes.
#[derive(Debug, Default)]
struct Window(VecDeque<u64>);

impl Window {
    /// When fewer than `most` will be in the stretch before.
    fn free_at(&self, most: u32, stretch_ns: u64) -> u64 {
        let Some(at) = self.0.len().checked_sub(most.max(1) as usize) else {
            return 0;
        };
        self.0.get(at).map_or(0, |sent_ns| sent_ns + stretch_ns + SLACK_NS)
    }

    fn push(&mut self, at_ns: u64, most: u32) {
        while self.0.len() >= most.max(1) as usize {
            self.0.pop_front();
        }
        self.0.push_back(at_ns);
    }

    fn last_ns(&self) -> u64 {
        self.0.back().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whoever asks how often for whom: no stretch of a second or a minute has more.
        #[test]
        fn no_stretch_has_more(asked in proptest::collection::vec((0_u8..4, 0_u8..3, 0_u64..400), 1..2_000)) {
            let limits = Limits { per_minute: 300, destination_per_minute: 100, router_per_minute: 60 };
            let mut budget = Budget::new(limits);
            let mut sent: Vec<(u64, IpAddr, IpAddr)> = Vec::new();
            let mut now_ns = SECOND_NS;
            for (destination, router, pause_ms) in asked {
                now_ns += pause_ms * 1_000_000;
                let (destination, router) = ([10, 0, 0, destination].into(), [10, 1, 0, router].into());
                if budget.free_at(destination, Some(router), now_ns) <= now_ns {
                    budget.sent(destination, Some(router), now_ns);
                    sent.push((now_ns, destination, router));
                }
            }
            for (at, (began_ns, destination, router)) in sent.iter().enumerate() {
                let within = |stretch_ns: u64| sent[at..].iter().take_while(move |probe| probe.0 < began_ns + stretch_ns);
                prop_assert!(within(SECOND_NS).count() <= 5);
                prop_assert!(within(MINUTE_NS).count() <= 300);
                prop_assert!(within(MINUTE_NS).filter(|probe| probe.1 == *destination).count() <= 100);
                prop_assert!(within(SECOND_NS).filter(|probe| probe.2 == *router).count() <= 1);
            }
        }
    }

    #[test]
    fn what_is_free_is_sent_at_once() {
        let mut budget = Budget::new(Limits::default());
        let to: IpAddr = [10, 0, 0, 1].into();
        for _ in 0..10 {
            assert_eq!(budget.free_at(to, None, 5), 5);
            budget.sent(to, None, 5);
        }
        assert_eq!(budget.free_at(to, None, 5), 5 + SECOND_NS + SLACK_NS);
    }
}
