//! One file per scenario: what it starts, what must come out. Each gets a [`Lab`] and fills a [`Verdict`].

mod connect;

use anyhow::{Context as _, Result};

use crate::lab::Lab;
use crate::verdict::Verdict;

/// A scenario by name.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    about: &'static str,
    /// Programs that must be installed.
    pub(crate) tools: &'static [&'static str],
    pub(crate) run: fn(&Lab, &mut Verdict) -> Result<()>,
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "connect",
        about: "times of the tcp phase against a capture: 0, 20, 100 ms, IPv4 and IPv6, both roles",
        tools: &["ip", "tcpdump"],
        run: connect::run,
    },
];

pub(crate) fn find(name: &str) -> Result<&'static Scenario> {
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    found.with_context(|| format!("no scenario `{name}`; see lab --list"))
}

pub(crate) fn list() {
    for scenario in SCENARIOS {
        println!("{:10}  {}", scenario.name, scenario.about);
    }
}
