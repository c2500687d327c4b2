//! Which destination is traced next: those in trouble first, then those with the most traffic, each in its turn. Pure.
use std::{collections::HashMap, net::IpAddr, str::FromStr};

/// From the end of a trace to the next of a destination in trouble, nanoseconds.
const TROUBLE_EVERY_NS: u64 = 10_000_000_000;
/// Destinations whose turns and ports are remembered.
const MOST_ENTRIES: usize = 1_024;

/// An address that is talked to, as seen from a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Inode number of the namespace; 0: unknown, that of the node.
    pub netns: u32,
}

/// A target that somebody would like to have traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What is traced.
    pub target: Target,
    /// What it is called.
    pub host: String,
    /// It has an RTT spike.
    pub is_troubled: bool,
}

/// A network, such as `10.0.0.0/8`; an address is one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 4),
            IpAddr::V6(address) => (address.to_bits(), 6),
        };
        let ((own, family), (other, other_family)) = (bits(self.address), bits(address.to_canonical()));
        let shift = 128 - u32::from(self.prefix);
        family == other_family && (own ^ other).checked_shr(shift).unwrap_or_default() == 0
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no address and no network, such as 10.0.0.0/8");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().ok().filter(|prefix| *prefix <= most).ok_or_else(wrong)?,
            None => most,
        };
        Ok(Self { address, prefix })
    }
}

/// When a target's turn is.
#[derive(Clone, Copy, Debug)]
struct Turn {
    due_ns: u64,
    is_running: bool,
    is_troubled: bool,
    /// Own port of the last trace: the next takes it again, so that it goes the same way.
    source_port: Option<u16>,
}

/// The order of traces.
#[derive(Debug)]
pub struct Plan {
    every_ns: u64,
    exclude: Vec<Network>,
    candidates: Vec<Candidate>,
    turns: HashMap<Target, Turn>,
    random: u64,
}

impl Plan {
    /// Nothing to do yet. Whoever is in `exclude` is never traced.
    pub fn new(every_ns: u64, exclude: Vec<Network>, seed: u64) -> Self {
        Self {
            every_ns,
            exclude,
            candidates: Vec::new(),
            turns: HashMap::new(),
            random: seed,
        }
    }

    /// Whom to trace from now on, the most important first.
    pub fn update(&mut self, candidates: Vec<Candidate>, now_ns: u64) {
        self.candidates = candidates;
        let exclude = &self.exclude;
        let is_wanted = |candidate: &Candidate| {
            let address = candidate.target.address;
            let is_somewhere = !address.is_loopback() && !address.is_unspecified() && !address.is_multicast();
            is_somewhere && !exclude.iter().any(|network| network.contains(address))
        };
        self.candidates.retain(is_wanted);
        for at in 0..self.candidates.len() {
            let Candidate {
                target, is_troubled, ..
            } = self.candidates[at];
            if let Some(turn) = self.turns.get_mut(&target) {
                if is_troubled && !turn.is_troubled {
                    turn.due_ns = now_ns;
                }
                turn.is_troubled = is_troubled;
            } else if self.turns.len() < MOST_ENTRIES || self.forget() {
                // Those that come together do not go together.
                let later_ns = if is_troubled { 0 } else { self.up_to(self.every_ns / 4) };
                let turn = Turn {
                    due_ns: now_ns + later_ns,
                    is_running: false,
                    is_troubled,
                    source_port: None,
                };
                self.turns.insert(target, turn);
            }
        }
    }

    /// Whose turn it is, with the port to take; it is running from now on.
    pub fn next(&mut self, now_ns: u64) -> Option<(Candidate, Option<u16>)> {
        let turns = &mut self.turns;
        let mut is_due = |candidate: &&Candidate| {
            let turn = turns.get(&candidate.target);
            turn.is_some_and(|turn| !turn.is_running && turn.due_ns <= now_ns)
        };
        let troubled = self
            .candidates
            .iter()
            .filter(|candidate| candidate.is_troubled)
            .find(&mut is_due);
        let found = troubled.or_else(|| self.candidates.iter().find(is_due))?.clone();
        let turn = self.turns.get_mut(&found.target)?;
        turn.is_running = true;
        Some((found, turn.source_port))
    }

    /// A trace has ended.
    pub fn done(&mut self, target: Target, source_port: Option<u16>, now_ns: u64) {
        let is_troubled = |candidate: &Candidate| candidate.target == target && candidate.is_troubled;
        let every_ns = if self.candidates.iter().any(is_troubled) {
            TROUBLE_EVERY_NS.min(self.every_ns)
        } else {
            // A fifth sooner or later.
            self.every_ns - self.every_ns / 5 + self.up_to(self.every_ns * 2 / 5)
        };
        if let Some(turn) = self.turns.get_mut(&target) {
            turn.is_running = false;
            turn.due_ns = now_ns + every_ns;
            turn.source_port = source_port.or(turn.source_port);
        }
    }

    /// Makes room: those that nobody wants any more, and that do not run.
    fn forget(&mut self) -> bool {
        let candidates = &self.candidates;
        self.turns
            .retain(|target, turn| turn.is_running || candidates.iter().any(|candidate| candidate.target == *target));
        self.turns.len() < MOST_ENTRIES
    }

    fn up_to(&mut self, most: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % most.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn candidate(last: u8, is_troubled: bool) -> Candidate {
        Candidate {
            target: Target {
                address: [10, 0, 0, last].into(),
                port: 443,
                netns: 1,
            },
            host: format!("host-{last}"),
            is_troubled,
        }
    }

    #[test]
    fn trouble_comes_first_and_everybody_in_turn() {
        let mut plan = Plan::new(60 * SECOND, vec!["10.0.0.9".parse().expect("an address")], 1);
        plan.update(
            vec![candidate(1, false), candidate(2, true), candidate(9, true)],
            SECOND,
        );
        let (first, port) = plan.next(SECOND).expect("one in trouble");
        assert_eq!((first.host.as_str(), port), ("host-2", None));
        // The calm one within a quarter of the time, the excluded one never.
        let second = plan.next(17 * SECOND).expect("the other").0;
        assert_eq!(second.host, "host-1");
        assert!(plan.next(1_000 * SECOND).is_none());
        plan.done(first.target, Some(7), 20 * SECOND);
        plan.done(second.target, Some(8), 20 * SECOND);
        assert!(plan.next(29 * SECOND).is_none());
        let (again, port) = plan.next(30 * SECOND).expect("trouble is looked at more often");
        assert_eq!((again.target, port), (first.target, Some(7)));
        assert!(plan.next(67 * SECOND).is_none());
        assert_eq!(plan.next(93 * SECOND).map(|(_, port)| port), Some(Some(8)));
    }

    #[test]
    fn bounded() {
        let mut plan = Plan::new(SECOND, Vec::new(), 1);
        for round in 0..40_u8 {
            let candidates = (0..=255).map(|last| Candidate {
                target: Target {
                    address: [10, 0, round, last].into(),
                    ..candidate(1, false).target
                },
                ..candidate(1, false)
            });
            plan.update(candidates.collect(), SECOND);
        }
        assert!(plan.turns.len() <= MOST_ENTRIES);
    }

    #[test]
    fn networks() {
        let check = |network: &str, address: &str, expected: bool| {
            let network: Network = network.parse().expect("a network");
            assert_eq!(
                network.contains(address.parse().expect("an address")),
                expected,
                "{network} {address}"
            );
        };
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("10.0.0.1", "10.0.0.1", true);
        check("10.0.0.1", "10.0.0.2", false);
        check("0.0.0.0/0", "1.2.3.4", true);
        check("0.0.0.0/0", "::1", false);
        check("::/0", "fd00::1", true);
        check("fd00::/16", "fd00:1::1", true);
        check("10.0.0.0/8", "::ffff:10.1.1.1", true);
        for wrong in ["", "10.0.0.0/33", "::/129", "name", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
