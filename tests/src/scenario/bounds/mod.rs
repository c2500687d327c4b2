//! Every table of one agent full at the same time, by traffic alone, within the memory limit that hopline is shipped with:
//! it is not ended for want of memory, and what found no room was counted. Then agents with little memory (`small`).
//!
//! Truth: what the kernel charges to the agent's own cgroup, maps and rings included, and the generators' own counts.

mod fillers;
mod parts;
mod small;

use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::hopline::{Agent, AgentOptions, Metrics};
use crate::lab::{Lab, Tolerance};
use crate::memory_cgroup::MemoryCgroup;
use crate::verdict::Verdict;
use fillers::{Fillers, Sizes};
use parts::Parts;

/// The limit in `deploy/`.
const SHIPPED_BYTES: u64 = 512 << 20;
/// hopline's default.
const CONNECTIONS: u64 = 80_000;
const ENTRIES: &str = "hopline_table_entries";
const LIMIT: &str = "hopline_table_limit";
/// Tables that real traffic fills here, and how full they must be at the end, in percent. No cgroup gets more than its share
/// of the tables of DNS, so that several make them almost full.
const FULL: &[(&str, f64)] = &[
    ("connections", 100.0),
    ("listeners", 100.0),
    ("listener_owners", 100.0),
    ("cgroups", 100.0),
    ("hello_facts", 100.0),
    ("dns_names", 99.0),
    // These end after five seconds, which a busy machine may take to be read.
    ("dns_queries", 40.0),
    ("dns_lookups", 60.0),
    ("pod_bytes", 95.0),
    ("destinations", 90.0),
    ("destination_candidates", 90.0),
    ("unreused_singles", 80.0),
];

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    small::run(lab, verdict)?;
    let memory = MemoryCgroup::create("whole", SHIPPED_BYTES)?;
    let sizes = if lab.short || lab.tolerance == Tolerance::Vm {
        Sizes::SHORT
    } else {
        Sizes::WHOLE
    };
    let mut fillers = Fillers::new(lab, sizes)?;
    let options = AgentOptions {
        config: Some(&fillers.config),
        memory: memory.as_ref(),
        ..AgentOptions::default()
    };
    let agent = Agent::start(lab, lab.traffic.path(), &options)?;
    let mut parts = Parts::new(&agent, memory.as_ref());
    parts.measure("the agent alone", verdict)?;
    fillers.pods(&agent)?;
    parts.measure("pods", verdict)?;
    fillers.cgroups(lab)?;
    parts.measure("cgroups", verdict)?;
    fillers.listeners(lab)?;
    parts.measure("listeners", verdict)?;
    fillers.processes(lab)?;
    parts.measure("processes", verdict)?;
    fillers.lookups(lab)?;
    parts.measure("names of addresses", verdict)?;
    fillers.connections(lab)?;
    let tracked = CONNECTIONS.min(2 * u64::from(sizes.pairs));
    let (metrics, _) = agent.scrape_until(Duration::from_mins(1), |metrics| {
        entries(metrics, "connections") >= tracked
    })?;
    verdict.count("connections in the table", entries(&metrics, "connections"), tracked);
    parts.measure("connections", verdict)?;
    for _ in 0..sizes.rounds {
        fillers.rounds()?;
        thread::sleep(Duration::from_secs(2));
    }
    parts.measure("their round trips", verdict)?;
    fillers.hosts(lab)?;
    parts.measure("hosts that come and go", verdict)?;
    let streams = parts::slow_streams(&agent)?;
    // Queries wait for five seconds: what is said of all tables at once is said meanwhile.
    fillers.queries()?;
    let metrics = agent.scrape()?;
    fillers.queries()?;
    parts::scrape_at_once(&agent, sizes.scrapers)?;
    parts.measure("queries and scrapers", verdict)?;
    drop(streams);
    tables(lab, &metrics, verdict);
    parts.finish(SHIPPED_BYTES, verdict)?;
    agent.stop()
}

fn entries(metrics: &Metrics, table: &str) -> u64 {
    metrics.sum(ENTRIES, &[("table", table)])
}

/// Every table, in the agent's own words.
fn tables(lab: &Lab, metrics: &Metrics, verdict: &mut Verdict) {
    let all = metrics.values(ENTRIES, "table");
    verdict.at_least("tables that are shown", all.len() as f64, 30.0, "");
    for table in all {
        let (now, limit) = (entries(metrics, table), metrics.sum(LIMIT, &[("table", table)]));
        let percent = 100.0 * now as f64 / limit as f64;
        let name = format!("{table}, {now} of {limit}");
        let wanted = FULL.iter().find(|(full, _)| *full == table);
        verdict.fold(|verdict| verdict.at_most(format!("{table} within its bound"), now as f64, limit as f64, ""));
        match wanted.filter(|_| !lab.short && lab.tolerance == Tolerance::Host) {
            Some((_, least)) => verdict.at_least(name, percent, *least, "%"),
            None => verdict.note(name, percent, "%"),
        }
    }
}
