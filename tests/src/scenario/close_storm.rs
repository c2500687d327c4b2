//! Connections that end in masses while the agent looks at those that stay open: it lives, answers, counts every one, and
//! still reports what stays open afterwards. Kernels 7.0 to 7.3 do not survive `iter/bpf_sk_storage_map` under this load.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::hopline::{Agent, AgentOptions, Metrics};
use crate::lab::{Lab, Tolerance};
use crate::process::Process;
use crate::topology::busy_loopback;
use crate::traffic::storm::Stormed;
use crate::verdict::Verdict;

const SECONDS: u64 = 60;
const SECONDS_SHORT: u64 = 8;
const THREADS: &str = "8";
const HELD: &str = "1500";
const PORT: &str = "8080";
const HELD_PORT: &str = "8081";
/// Of the storm.
const LISTENERS: u64 = 2;
/// On a machine that others use too, and on an emulated one, which makes fewer: as many as it can, as with 100 the build that
/// walks by `iter/bpf_sk_storage_map` survived 20 minutes.
const PER_SECOND: &str = "8000";
const PER_SECOND_EMULATED: &str = "6000";
/// A scrape is made this often, and answered within the limit.
const EVERY: Duration = Duration::from_secs(1);
const ANSWER_LIMIT_S: f64 = 5.0;
/// Connections that stay open after the storm, and how soon the agent knows: the walk comes every second.
const STAYING: u64 = 5;
const STAYING_PORT: &str = "8082";
const STAYING_LIMIT: Duration = Duration::from_secs(5);

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let netns = busy_loopback()?;
    // Not watched: the other ends of these are no connections of the scope. Before the storm, which takes any port for its own.
    let listen = format!("127.0.0.1:{STAYING_PORT}/hold");
    let mut server = lab.helper(&["serve", &listen], &netns, &lab.tools)?;
    server.wait_for("ready")?;
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let seconds = lab.seconds(if lab.short { SECONDS_SHORT } else { SECONDS });
    let rate = match lab.tolerance {
        Tolerance::Host => PER_SECOND,
        Tolerance::Vm => PER_SECOND_EMULATED,
    };
    let words = ["storm", "--threads", THREADS, "--port", PORT, "--rate", rate];
    let seconds = seconds.to_string();
    let held = ["--held", HELD, "--held-port", HELD_PORT, "--seconds", &seconds];
    let storm = lab.helper(&[&words[..], &held[..]].concat(), &netns, &lab.traffic)?;
    let stormed = scrape_through(lab, verdict, &agent, storm)?;

    let to = format!("127.0.0.1:{STAYING_PORT}");
    let count = STAYING.to_string();
    let words = ["connect", "--to", &to, "--count", &count, "--end", "hold"];
    let mut staying = lab.helper(&words, &netns, &lab.traffic)?;
    while staying.line()? != "ready" {}
    let open = |metrics: &Metrics| open(metrics, STAYING_PORT);
    let (metrics, after) = agent.scrape_until(STAYING_LIMIT, |metrics| open(metrics) == STAYING)?;
    verdict.count("open after the storm", open(&metrics), STAYING);
    verdict.note("reported as open after", after.as_secs_f64(), "s");
    staying.finish()?;

    let metrics = agent.scrape_drained()?;
    let (now, peak) = agent.memory_mib()?;
    agent.stop()?;
    drop(server);
    compare_counts(verdict, &metrics, &stormed);
    verdict.note("agent's resident memory", now, "MiB");
    verdict.note("agent's resident memory, peak", peak, "MiB");
    Ok(())
}

/// Scrapes until the storm is over: the agent answers all the time, and knows of connections that are held.
fn scrape_through(lab: &Lab, verdict: &mut Verdict, agent: &Agent, mut storm: Process) -> Result<Stormed> {
    let (mut scrapes, mut longest, mut held) = (0, Duration::ZERO, 0);
    while storm.ended()?.is_none() {
        let asked = Instant::now();
        let metrics = agent.scrape().context("during the storm")?;
        longest = longest.max(asked.elapsed());
        held = held.max(open(&metrics, HELD_PORT));
        scrapes += 1;
        std::thread::sleep(EVERY);
    }
    let stormed: Stormed = serde_json::from_str(&storm.finish()?).context("a storm's count")?;
    ensure!(
        stormed.failed.is_empty(),
        "connects of the storm failed, by errno: {:?}",
        stormed.failed
    );
    verdict.note("connects per second", stormed.total() as f64 / stormed.seconds, "1/s");
    verdict.at_least("rounds of held connections", stormed.rounds as f64, 2.0, "");
    verdict.note("scrapes during the storm", f64::from(scrapes), "");
    let limit = ANSWER_LIMIT_S * f64::from(lab.patience());
    verdict.at_most("longest scrape", longest.as_secs_f64(), limit, "s");
    verdict.at_least("held connections, reported as open", held as f64, 1.0, "");
    Ok(stormed)
}

/// Connections of clients that are open now, by the port of their server.
fn open(metrics: &Metrics, port: &str) -> u64 {
    let labels = [("role", "client"), ("state", "established"), ("destination_port", port)];
    metrics.sum("hopline_tcp_connections_active", &labels)
}

/// Every connection is counted, or its loss is.
fn compare_counts(verdict: &mut Verdict, metrics: &Metrics, stormed: &Stormed) {
    const LOST: &str = "hopline_events_lost_total";
    let close = [("kind", "connection_close")];
    let counted = metrics.sum("hopline_tcp_connections_total", &[("role", "client")]);
    let received = metrics.sum("hopline_events_total", &close);
    let attempted = metrics.sum("hopline_events_attempted_total", &close);
    let lost = metrics.sum(LOST, &close);
    // Programs that were not run: each may have been one that sees a close.
    let skipped = metrics.sum(LOST, &[("kind", "program_skipped")]);
    let made = stormed.total() + STAYING;
    // Of those that stayed open one end is watched. Listeners close as well.
    let ends = 2 * stormed.connected + STAYING + LISTENERS;
    exact_unless_lost(verdict, "connections counted", counted, made, lost + skipped);
    exact_unless_lost(verdict, "connection_close: attempted", attempted, ends, skipped);
    verdict.count(
        "connection_close: received + lost = attempted",
        received + lost,
        attempted,
    );
    for kind in metrics.values(LOST, "kind") {
        let lost = metrics.sum(LOST, &[("kind", kind)]);
        if lost > 0 {
            verdict.note(format!("events lost of kind {kind}"), lost as f64, "");
        }
    }
}

/// At most what was lost, and counted so, may lack.
fn exact_unless_lost(verdict: &mut Verdict, name: &str, counted: u64, truth: u64, lost: u64) {
    if lost == 0 {
        verdict.count(name, counted, truth);
    } else {
        verdict.at_most(name, counted as f64, truth as f64, "");
        verdict.at_least(format!("{name}, or lost"), (counted + lost) as f64, truth as f64, "");
    }
}
