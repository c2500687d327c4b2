//! Ten thousand connects a second: hopline's totals are the generator's own. Then one cgroup floods and another, quiet
//! one keeps all its records.

use anyhow::{Context as _, Result, ensure};

use crate::cgroup::Cgroup;
use crate::hopline::{Agent, AgentOptions, Metrics, Trace};
use crate::lab::{Lab, Tolerance};
use crate::netns::NetNs;
use crate::process::Process;
use crate::topology::busy_loopback;
use crate::traffic::flood::Flooded;
use crate::verdict::Verdict;

/// Where floods go: a few destinations, so that source ports are plenty.
pub(super) const LOUD: [&str; 4] = ["127.0.0.1:8080", "127.0.0.2:8080", "127.0.0.3:8080", "127.0.0.4:8080"];
/// The long form, in seconds.
const SECONDS: u64 = 60;
const QUIET: &str = "127.0.0.1:8081";
const QUIET_PER_SECOND: u64 = 200;
const PROCESSES: u64 = 2;

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let netns = busy_loopback()?;
    // Not watched: what is counted is the flood alone.
    let mut server = lab.helper(
        &["serve", "0.0.0.0:8080/sink", "0.0.0.0:8081/sink", "--acceptors", "2"],
        &netns,
        &lab.tools,
    )?;
    server.wait_for("ready")?;
    steady(lab, verdict, &netns)?;
    two_cgroups(lab, verdict, &netns)
}

/// Starts a flood of `rate` connects a second; 0 for as fast as it goes.
pub(super) fn start(
    lab: &Lab,
    netns: &NetNs,
    cgroup: &Cgroup,
    to: &[&str],
    rate: u64,
    seconds: u64,
) -> Result<Process> {
    let (rate, seconds) = (rate.to_string(), seconds.to_string());
    let words: Vec<&str> = ["flood", "--rate", &rate, "--seconds", &seconds]
        .into_iter()
        .chain(to.iter().copied())
        .collect();
    lab.helper(&words, netns, cgroup)
}

pub(super) fn finish(flood: Process) -> Result<Flooded> {
    let flooded: Flooded = serde_json::from_str(&flood.finish()?).context("a flood's count")?;
    ensure!(
        flooded.failed.is_empty(),
        "connects of the flood failed, by errno: {:?}",
        flooded.failed
    );
    Ok(flooded)
}

fn counted(metrics: &Metrics, port: &str) -> u64 {
    metrics.sum(
        "hopline_tcp_connections_total",
        &[("role", "client"), ("destination_port", port)],
    )
}

/// One scope, a steady rate.
fn steady(lab: &Lab, verdict: &mut Verdict, netns: &NetNs) -> Result<()> {
    let per_second = if lab.tolerance == Tolerance::Vm { 200 } else { 10_000 };
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let floods: Vec<Process> = (0..PROCESSES)
        .map(|_| {
            start(
                lab,
                netns,
                &lab.traffic,
                &LOUD,
                per_second / PROCESSES,
                lab.seconds(SECONDS),
            )
        })
        .collect::<Result<_>>()?;
    let mut made = 0;
    let mut rate = 0.0;
    for flood in floods {
        let flooded = finish(flood)?;
        made += flooded.total();
        rate += flooded.total() as f64 / flooded.seconds;
    }
    let cpu = agent.cpu_percent()?;
    let metrics = agent.scrape_drained()?;
    let (now, peak) = agent.memory_mib()?;
    agent.stop()?;

    verdict.at_least("connects per second", rate, per_second as f64 * 0.95, "1/s");
    let good = [("role", "client"), ("error", "")];
    verdict.count(
        "connects counted",
        metrics.sum("hopline_tcp_connections_total", &good),
        made,
    );
    verdict.count(
        "connects counted, any outcome",
        metrics.sum("hopline_tcp_connections_total", &[("role", "client")]),
        made,
    );
    super::compare_losses(verdict, &metrics);
    verdict.note("agent's processor share", cpu, "%");
    verdict.note("agent's resident memory", now, "MiB");
    verdict.note("agent's resident memory, peak", peak, "MiB");
    Ok(())
}

/// Two scopes in one agent: one as loud as it can be.
fn two_cgroups(lab: &Lab, verdict: &mut Verdict, netns: &NetNs) -> Result<()> {
    let seconds = (lab.seconds(SECONDS) / 4).max(3);
    let loud = lab.traffic.child("loud")?;
    let quiet = lab.traffic.child("quiet")?;
    // So small that the loud one alone is more than it holds between two looks of the reader.
    let options = AgentOptions {
        ring_bytes: Some(1 << 18),
        // What the reader leaves in the ring between two looks has room in half of it.
        share: Some(2_000),
        ..AgentOptions::default()
    };
    let agent = Agent::start(lab, lab.traffic.path(), &options)?;
    let trace = Trace::start(lab, "quiet", quiet.path())?;
    let noise: Vec<Process> = (0..PROCESSES)
        .map(|_| start(lab, netns, &loud, &LOUD, 0, seconds))
        .collect::<Result<_>>()?;
    let calm = finish(start(lab, netns, &quiet, &[QUIET], QUIET_PER_SECOND, seconds)?)?;
    let mut made = 0;
    for flood in noise {
        made += finish(flood)?.total();
    }
    trace.wait_for(calm.total() as usize)?;
    let metrics = agent.scrape_drained()?;
    let records = trace.finish()?;
    agent.stop()?;

    verdict.note("loud connects per second", made as f64 / seconds as f64, "1/s");
    verdict.count(
        "quiet connects counted beside the flood",
        counted(&metrics, "8081"),
        calm.total(),
    );
    verdict.count("quiet records", records.len() as u64, calm.total());
    verdict.note(
        "loud connects not counted",
        made.saturating_sub(counted(&metrics, "8080")) as f64,
        "",
    );
    let lost = metrics.sum("hopline_events_lost_total", &[]);
    let name = "events of the loud one lost, counted";
    match lab.tolerance {
        Tolerance::Host => verdict.at_least(name, lost as f64, 1.0, ""),
        // An emulated machine is not loud enough.
        Tolerance::Vm => verdict.note(name, lost as f64, ""),
    }
    Ok(())
}
