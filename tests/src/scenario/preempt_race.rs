//! Probes that preempt each other: what a library says is counted for its own connection, each time.
//!
//! Truth: the calls that the threads made, and the kernel's own machine code: a program that tasks may preempt in uses no
//! private stack (from 6.13 on, a76ab5731e32). With one, a few calls of a million are counted for the wrong thread, and only
//! where the kernel was booted with `preempt=full`; the machine code tells everywhere.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::hopline::{Agent, AgentOptions};
use crate::jited;
use crate::lab::Lab;
use crate::process;
use crate::topology::busy_loopback;
use crate::traffic::race::race;
use crate::verdict::Verdict;

const SECONDS: u64 = 40;
const PROBED: Duration = Duration::from_secs(10);
/// Fewer say nothing: with shared stacks it is a few of a million.
const LEAST_CALLS: f64 = 10_000.0;

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let netns = busy_loopback()?;
    let options = AgentOptions {
        tls_probes: true,
        ..AgentOptions::default()
    };
    let agent = Agent::start(lab, lab.traffic.path(), &options)?;
    compare_stacks(verdict, &agent)?;

    let seconds = lab.seconds(SECONDS).to_string();
    let mut threads = lab.helper(&["race", "--seconds", &seconds], &netns, &lab.traffic)?;
    threads.wait_for("ready")?;
    let is_probed = process::poll(PROBED * lab.patience(), || {
        let targets = agent.api("/api/v1/tls-targets")?;
        let libraries = targets["targets"].as_array().into_iter().flatten();
        Ok(libraries
            .map(|target| &target["library"])
            .any(|library| library == "openssl"))
    })?;
    ensure!(is_probed, "libcrypto is not probed");
    let before = agent.scrape()?;
    threads.say("go\n")?;
    let made = race(&threads.line()?)?;
    threads.finish()?;
    let after = agent.scrape_drained()?;
    agent.stop()?;

    let more = |name: &str, labels: &[(&str, &str)]| after.sum(name, labels).saturating_sub(before.sum(name, labels));
    let facts = [("kind", "tls_fact")];
    let unjoined = more("hopline_tls_facts_unjoined_total", &[]);
    let attempted = more("hopline_events_attempted_total", &facts);
    let command_line = fs::read_to_string("/proc/cmdline")?;
    let is_full = command_line.split_whitespace().any(|word| word == "preempt=full");
    verdict.note("booted with preempt=full", f64::from(u8::from(is_full)), "");
    let calls = made.of_no_handshake + made.of_a_handshake;
    verdict.at_least("calls", calls as f64, LEAST_CALLS, "");
    verdict.count(
        "said by threads that read of no handshake",
        unjoined,
        made.of_no_handshake,
    );
    verdict.count("said by threads in the middle of one", attempted, made.of_a_handshake);
    verdict.count(
        "of these: applied + lost",
        more("hopline_events_total", &facts) + more("hopline_events_lost_total", &facts),
        attempted,
    );
    Ok(())
}

/// The kernel's machine code of every program that the agent holds.
fn compare_stacks(verdict: &mut Verdict, agent: &Agent) -> Result<()> {
    let programs = jited::held_by(agent.process().pid())?;
    let unguarded: Vec<_> = programs.iter().filter(|program| program.is_unguarded()).collect();
    verdict.at_least(
        "programs that may be preempted, or are of such a type",
        unguarded.len() as f64,
        1.0,
        "",
    );
    if !jited::kernel_gives_private_stacks()? {
        verdict.skip("private stacks", "this kernel gives none");
        return Ok(());
    }
    for program in &unguarded {
        let word = if program.has_private_stack {
            "private"
        } else {
            "the kernel's"
        };
        verdict.text(format!("stack of {}", program.name), word, "the kernel's");
    }
    Ok(())
}
