//! A hundred thousand hosts in five minutes: time series stay within the budget, memory stays flat, and nothing is
//! forgotten: what the series say and what left with expired ones is what was done.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::hopline::{Agent, AgentOptions, Metrics};
use crate::lab::{Lab, Tolerance};
use crate::topology::busy_loopback;
use crate::traffic::hosts::{Asked, BUSY};
use crate::verdict::Verdict;

const TARGET: &str = "127.0.0.1:8080";
/// The long form.
const SECONDS: u64 = 300;
const HOSTS: u64 = 100_000;
/// hopline's default.
const BUDGET: u64 = 20_000;
/// From then on memory is to be flat; a third of the run where that is less.
const WARM_S: u64 = 60;
/// The contract's bound with 1 000 destinations: of a short run, when it is warm and has seen about twice as many.
const CONTRACT_MIB: f64 = 40.0;
/// With hosts that come and go all the time, tables of names and of what has ended are fuller than that.
const MOST_MIB: f64 = 44.0;
/// What "flat" allows: an allocator's noise.
const GROWTH_MIB: f64 = 2.0;
const CONNECTIONS: &str = "hopline_tcp_connections_total";

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let seconds = lab.seconds(SECONDS);
    // Emulation has a tenth of the pace.
    let divisor = if lab.tolerance == Tolerance::Vm { 10 } else { 1 };
    let hosts = HOSTS * seconds / SECONDS / divisor;
    let netns = busy_loopback()?;
    let words = ["serve", &format!("{TARGET}/http"), "--acceptors", "4"];
    let mut server = lab.helper(&words, &netns, &lab.tools)?;
    server.wait_for("ready")?;
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;

    let words = [
        "hosts",
        "--to",
        TARGET,
        "--count",
        &hosts.to_string(),
        "--seconds",
        &seconds.to_string(),
    ];
    let began = Instant::now();
    let mut generator = lab.helper(&words, &netns, &lab.traffic)?;
    let warm = Duration::from_secs(WARM_S.min(seconds / 3));
    let mut most_series = 0;
    let mut scrapes = 0;
    let mut when_warm = None;
    let mut highest = 0.0_f64;
    while generator.ended()?.is_none() {
        most_series = most_series.max(agent.scrape()?.series());
        scrapes += 1;
        let (now, _) = agent.memory_mib()?;
        if began.elapsed() >= warm {
            when_warm.get_or_insert(now);
            highest = highest.max(now);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    let asked: Asked = serde_json::from_str(&generator.finish()?)?;
    let elapsed = began.elapsed().as_secs_f64();
    let metrics = agent.scrape_drained()?;
    let (end, peak) = agent.memory_mib()?;

    verdict.note("different hosts", (asked.http + asked.tls) as f64, "");
    verdict.note("connections per second", asked.connections() as f64 / elapsed, "1/s");
    verdict.note("scrapes on the way", f64::from(scrapes), "");
    let most_series = most_series.max(metrics.series());
    verdict.at_most("time series at any scrape", most_series as f64, BUDGET as f64, "");
    let when_warm = when_warm.unwrap_or(f64::NAN);
    let row = format!("resident memory after {} s", warm.as_secs());
    if seconds < 2 * WARM_S {
        verdict.at_most(row, when_warm, CONTRACT_MIB, "MiB");
    } else {
        verdict.note(row, when_warm, "MiB");
    }
    // Tables are as full as they get after a minute: only a long run can tell whether memory is flat.
    let bound = if seconds >= 2 * WARM_S {
        when_warm + GROWTH_MIB
    } else {
        MOST_MIB
    };
    verdict.at_most("resident memory, highest afterwards", highest.max(end), bound, "MiB");
    verdict.note("resident memory, peak since the start", peak, "MiB");
    compare_names(verdict, &metrics, asked);
    compare_sums(verdict, &agent, &metrics, asked)?;
    super::compare_losses(verdict, &metrics);
    agent.stop()
}

/// The busiest keeps its name; others are folded, but not all.
fn compare_names(verdict: &mut Verdict, metrics: &Metrics, asked: Asked) {
    let of = |destination: &str| metrics.sum(CONNECTIONS, &[("role", "client"), ("destination", destination)]);
    verdict.count("connections of the busiest, by its name", of(BUSY), asked.busy);
    let destinations = metrics.values(CONNECTIONS, "destination");
    let named = destinations.iter().filter(|name| name.ends_with(".lab.test")).count();
    verdict.at_least("hosts with a name", named as f64, 50.0, "");
    verdict.at_least("connections folded", of("other") as f64, 1.0, "");
}

/// Series + expired = truth, by family.
fn compare_sums(verdict: &mut Verdict, agent: &Agent, metrics: &Metrics, asked: Asked) -> Result<()> {
    let totals = agent.totals()?;
    let requests = asked.http + asked.busy;
    for (family, sample, truth) in [
        (CONNECTIONS, CONNECTIONS, asked.connections()),
        ("hopline_http_responses_total", "hopline_http_responses_total", requests),
        (
            "hopline_ttfb_duration_seconds",
            "hopline_ttfb_duration_seconds_count",
            requests,
        ),
        (
            "hopline_tls_handshake_failures_total",
            "hopline_tls_handshake_failures_total",
            asked.tls,
        ),
    ] {
        // Only clients are watched, and not every family has a role.
        let series = metrics.sum(sample, &[]);
        let told = totals.family(family);
        verdict.count(
            format!("{family}: series + expired"),
            series + told.map_or(0, |told| told.expired),
            truth,
        );
        verdict.count(
            format!("{family}: live in the totals"),
            told.map_or(0, |told| told.live),
            truth - told.map_or(0, |told| told.expired),
        );
    }
    Ok(())
}
