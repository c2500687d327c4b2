//! Thousands of processes that live for one connection: none missed, each with its owner, name and ancestors.

use std::collections::{HashMap, HashSet};
use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::hopline::{Agent, AgentOptions, Record, Trace};
use crate::lab::{Lab, Tolerance};
use crate::topology::busy_loopback;
use crate::traffic::churn::{SPAWNER, Spawned};
use crate::verdict::{Verdict, percentile};

const TARGET: &str = "127.0.0.1:8080";
/// Longest list of ancestors in a record.
const ANCESTORS: usize = 8;
const MEMORY_MIB: f64 = 40.0;

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    // Emulation starts some fifty processes a second.
    let count = if lab.tolerance == Tolerance::Vm { 1_000 } else { 20_000 };
    let netns = busy_loopback()?;
    let mut server = lab.helper(
        &["serve", &format!("{TARGET}/drain"), "--acceptors", "4"],
        &netns,
        &lab.tools,
    )?;
    server.wait_for("ready")?;
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start(lab, "churn", lab.traffic.path())?;

    let links = lab.file("links");
    fs::create_dir(&links)?;
    let links = links.to_str().context("temporary directory")?;
    let started = std::time::Instant::now();
    let words = ["churn", "--to", TARGET, "--count", &count.to_string(), "--links", links];
    let output = lab.helper(&words, &netns, &lab.traffic)?.finish()?;
    let elapsed = started.elapsed().as_secs_f64();
    let spawned: Vec<Spawned> = output.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(spawned.iter().all(|child| child.port != 0), "a child could not connect");

    trace.wait_for(spawned.len())?;
    let metrics = agent.scrape_drained()?;
    let (now, peak) = agent.memory_mib()?;
    let trace_peak = trace.memory_mib()?.1;
    let records = trace.finish()?;
    agent.stop()?;

    verdict.note("processes per second", spawned.len() as f64 / elapsed, "1/s");
    let mut lives: Vec<f64> = spawned.iter().map(|child| child.lived_us as f64 / 1_000.0).collect();
    // A few take longer on a machine that others use too; they do not make the rest long-lived.
    let p90 = percentile(&mut lives, 90);
    if lab.tolerance == Tolerance::Host {
        verdict.at_most("life of a process, p90", p90, 50.0, "ms");
    } else {
        verdict.note("life of a process, p90", p90, "ms");
    }
    let truth = spawned.len() as u64;
    verdict.count(
        "connections counted",
        metrics.sum("hopline_tcp_connections_total", &[("role", "client"), ("error", "")]),
        truth,
    );
    super::compare_losses(verdict, &metrics);
    compare_records(verdict, &records, &spawned)?;
    verdict.at_most("resident memory after", now, MEMORY_MIB, "MiB");
    verdict.note("resident memory, peak", peak, "MiB");
    verdict.note("resident memory of trace, peak", trace_peak, "MiB");
    Ok(())
}

fn compare_records(verdict: &mut Verdict, records: &[Record], spawned: &[Spawned]) -> Result<()> {
    let truth = spawned.len() as u64;
    let mut by_port: HashMap<u16, Vec<&Spawned>> = HashMap::new();
    for child in spawned {
        by_port.entry(child.port).or_default().push(child);
    }
    let expected = ancestry()?;
    let mut seen: HashSet<&str> = HashSet::new();
    let (mut pid_right, mut comm_right, mut ancestry_right) = (0, 0, 0);
    for record in records {
        // A port may have been used twice: then either owner is one of the two.
        let candidates = by_port.get(&record.local.port).map_or(&[][..], Vec::as_slice);
        let owner = candidates.iter().find(|child| record.process.pid == Some(child.pid));
        pid_right += u64::from(owner.is_some());
        if let Some(owner) = owner {
            comm_right += u64::from(record.process.comm.as_deref() == Some(owner.comm.as_str()));
            seen.insert(&owner.comm);
        }
        ancestry_right += u64::from(record.process.ancestry == expected);
    }
    verdict.count("records", records.len() as u64, truth);
    verdict.count("different processes seen", seen.len() as u64, truth);
    verdict.count("records with the right pid", pid_right, truth);
    verdict.count("records with the right comm", comm_right, truth);
    verdict.count("records with the right ancestry", ancestry_right, truth);
    if let Some(wrong) = records.iter().find(|record| record.process.ancestry != expected) {
        verdict.text("an ancestry", wrong.process.ancestry.join(" < "), expected.join(" < "));
    }
    Ok(())
}

/// Names of a child's ancestors, the nearest first: the spawner, this lab, and who started it.
fn ancestry() -> Result<Vec<String>> {
    let mut names = vec![SPAWNER.to_owned()];
    let mut pid = std::process::id();
    while pid != 0 && names.len() < ANCESTORS {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        names.push(field("Name:").context("Name")?.to_owned());
        pid = field("PPid:").context("PPid")?.parse()?;
    }
    Ok(names)
}
