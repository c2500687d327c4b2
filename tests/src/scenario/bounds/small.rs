//! Agents with little memory: one that has just enough makes its tables smaller, says so and counts right; one that has not
//! says what it needs. None is ended by the kernel.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::hopline::{Agent, AgentOptions};
use crate::lab::{Lab, Tolerance};
use crate::memory_cgroup::MemoryCgroup;
use crate::netns::NetNs;
use crate::process::{self, Process};
use crate::scenario::flood;
use crate::topology::busy_loopback;
use crate::verdict::Verdict;

const MIB: u64 = 1 << 20;
/// The least that hopline starts with, and what is asked for more often.
const ENOUGH_MIB: [u64; 2] = [64, 56];
const TOO_LITTLE_MIB: u64 = 24;
const SECONDS: u64 = 3;
/// Processes that hold pairs of sockets: 39 000 of them take 47 MiB of kernel memory when all are watched.
const FILLERS: u32 = 3;
const PAIRS_EACH: u32 = 6_500;

pub(super) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    for mib in ENOUGH_MIB {
        let Some(memory) = MemoryCgroup::create(&mib.to_string(), mib * MIB)? else {
            verdict.skip(
                "agents with little memory",
                "this machine has no memory controller to use",
            );
            return Ok(());
        };
        enough(lab, mib, &memory, verdict)?;
    }
    too_little(lab, verdict)
}

/// It observes every connection of a flood, though its rings and tables are small.
fn enough(lab: &Lab, mib: u64, memory: &MemoryCgroup, verdict: &mut Verdict) -> Result<()> {
    let rate = if lab.tolerance == Tolerance::Vm { 50 } else { 1_000 };
    let netns = busy_loopback()?;
    let mut server = lab.helper(&["serve", "0.0.0.0:8080/sink"], &netns, &lab.tools)?;
    server.wait_for("ready")?;
    let options = AgentOptions {
        memory: Some(memory),
        ..AgentOptions::default()
    };
    let agent = Agent::start(lab, lab.traffic.path(), &options)?;
    let at_start = memory.peak()?;
    let made = flood::finish(flood::start(lab, &netns, &lab.traffic, &flood::LOUD, rate, SECONDS)?)?;
    let metrics = agent.scrape_drained()?;
    let counted = metrics.sum("hopline_tcp_connections_total", &[("role", "client")]);
    verdict.count(format!("{mib} MiB: connects counted"), counted, made.total());
    let said = agent.logged(&format!("limits: memory limit {mib} MiB: ring "))?;
    verdict.count(format!("{mib} MiB: lines that say what is smaller"), said, 1);
    let limit = metrics.sum("hopline_table_limit", &[("table", "connections")]);
    verdict.at_most(format!("{mib} MiB: connections followed"), limit as f64, 10_000.0, "");
    let held = too_many_sockets(lab, &netns)?;
    let refused = || -> Result<u64> {
        let metrics = agent.scrape()?;
        Ok(metrics.sum("hopline_events_lost_total", &[("kind", "socket_refused")]))
    };
    let least = held.sockets / 4;
    process::poll(Duration::from_secs(10), || Ok(refused()? >= least))?;
    let name = format!("{mib} MiB: of {} sockets not watched", held.sockets);
    verdict.at_least(name, refused()? as f64, least as f64, "");
    drop(held);
    let said = "new sockets are watched again";
    process::poll(Duration::from_secs(20), || Ok(agent.logged(said)? > 0))?;
    verdict.count(format!("{mib} MiB: lines that they are again"), agent.logged(said)?, 1);
    let in_mib = |bytes: u64| bytes as f64 / MIB as f64;
    verdict.at_most(
        format!("{mib} MiB: charged at the start"),
        in_mib(at_start),
        mib as f64,
        "MiB",
    );
    verdict.note(format!("{mib} MiB: charged at most"), in_mib(memory.peak()?), "MiB");
    agent.stop()?;
    verdict.count(format!("{mib} MiB: ended for want of memory"), memory.killed()?, 0);
    Ok(())
}

/// Connections over loopback that stay open, both ends of them in the watched cgroup.
struct Held {
    sockets: u64,
    _fillers: Vec<Process>,
}

/// More than an agent with little memory can keep a state for.
fn too_many_sockets(lab: &Lab, netns: &NetNs) -> Result<Held> {
    let fillers = (0..FILLERS).map(|number| {
        let (count, first) = (PAIRS_EACH.to_string(), (number * PAIRS_EACH).to_string());
        let words = ["fill", "connections", "--count", &count, "--first", &first];
        let mut filler = lab.helper(&words, netns, &lab.traffic)?;
        filler.wait_for("ready")?;
        Ok(filler)
    });
    Ok(Held {
        sockets: u64::from(2 * FILLERS * PAIRS_EACH),
        _fillers: fillers.collect::<Result<_>>()?,
    })
}

fn too_little(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let memory = MemoryCgroup::create("little", TOO_LITTLE_MIB * MIB)?.context("a cgroup as before")?;
    let mut command = lab.hopline(&["agent", "--listen", "127.0.0.1:0", "--cgroup"]);
    command.arg(lab.traffic.path()).args(["--state-dir", ""]);
    let output = memory.inside(&command).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("hopline: ")).collect();
    let status = output
        .status
        .code()
        .map_or_else(|| output.status.to_string(), |code| code.to_string());
    verdict.text("24 MiB: exit code", status, "1");
    let wanted = "hopline: hopline needs a memory limit of 56 MiB or more, but ";
    let said = lines
        .iter()
        .filter(|line| line.starts_with(wanted) && line.ends_with("allows 24 MiB"));
    verdict.count("24 MiB: sentences that say what is needed", said.count() as u64, 1);
    verdict.count("24 MiB: lines that it printed", text.lines().count() as u64, 1);
    verdict.count("24 MiB: ended for want of memory", memory.killed()?, 0);
    Ok(())
}
