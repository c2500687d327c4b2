//! A path that becomes slow for a while: one RTT spike, in time, with the right evidence, and over in time.
//!
//! Two clients talk over the path whose delay goes 5 → 80 → 5 ms, a third one over one that stays at 5 ms. Truth is what the
//! clients' own clocks say of each exchange, and their process and port.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::hopline::{Agent, AgentOptions, Spike, Trace};
use crate::lab::Lab;
use crate::process::Process;
use crate::router::RouterSettings;
use crate::topology::{Family, Pair, SERVER4};
use crate::traffic::talk::times_us;
use crate::verdict::{Verdict, percentile};

const PORT: u16 = 8080;
/// The path's delay each way, and what is added to it for a while, microseconds.
const DELAY_US: u64 = 5_000;
const MORE_US: u64 = 75_000;
/// Path delay alone rises here: nothing is lost, so retransmissions are not asked for.
const CONFIG: &str = "rtt_spike: {retransmits_above: none, rtt_delta_above: 50ms}\n";
/// How long the path is calm before; a baseline needs some samples.
const CALM: Duration = Duration::from_secs(14);
/// How long it stays slow after the spike was told.
const SLOW: Duration = Duration::from_secs(6);
/// What is waited for after the end, that something might be told which is none.
const AFTER: Duration = Duration::from_secs(5);
/// The limits of the issue.
const RAISED_WITHIN: Duration = Duration::from_secs(10);
const OVER_WITHIN: Duration = Duration::from_secs(15);

/// A client and what it is known by.
struct Client {
    process: Process,
    pid: u32,
    port: u16,
}

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let mut pair = Pair::new(
        lab,
        &RouterSettings {
            delay_us: DELAY_US,
            ..RouterSettings::default()
        },
    )?;
    // Not watched: the server's side of the connections would be a destination of its own.
    let listen = [Family::Ipv4, Family::Ipv6].map(|family| format!("{}/echo", family.server(PORT)));
    let words: Vec<&str> = ["serve"].into_iter().chain(listen.iter().map(String::as_str)).collect();
    let mut server = lab.helper(&words, &pair.server, &lab.tools)?;
    server.wait_for("ready")?;
    let config = lab.file("spike.yaml");
    std::fs::write(&config, CONFIG)?;
    let recording = lab.file("spike.hopline");
    let options = AgentOptions {
        config: Some(&config),
        record: Some(&recording),
        ..AgentOptions::default()
    };
    let agent = Agent::start(lab, lab.traffic.path(), &options)?;
    let trace = Trace::start_configured(lab, "spike", lab.traffic.path(), Some(&config))?;
    let slow = [
        talk(lab, &pair, Family::Ipv4, "lab-spike-a")?,
        talk(lab, &pair, Family::Ipv4, "lab-spike-b")?,
    ];
    let calm = talk(lab, &pair, Family::Ipv6, "lab-calm")?;

    std::thread::sleep(CALM);
    verdict.count("events before the step", agent.spikes()?.len() as u64, 0);
    pair.move_away(SERVER4.into(), MORE_US)?;
    let raised = wait_for(&agent, "rtt_spike", RAISED_WITHIN * lab.patience())?;
    verdict.at_most(
        "raised after the step within",
        raised.as_secs_f64(),
        limit(lab, RAISED_WITHIN),
        "s",
    );
    std::thread::sleep(SLOW);
    let rule = [("rule", "rtt_spike"), ("destination", "10.99.2.2")];
    verdict.count(
        "hopline_rule_active while slow",
        agent.scrape()?.sum("hopline_rule_active", &rule),
        1,
    );
    let table = agent.top_once(lab)?;
    let marked = table.lines().filter(|line| line.starts_with('!')).collect::<Vec<_>>();
    let shown = marked.len() == 1 && marked[0].contains("10.99.2.2:8080") && marked[0].contains("rtt spike");
    verdict.count("rows that `top --once` marks, rightly", u64::from(shown), 1);

    pair.move_away(SERVER4.into(), 0)?;
    let over = wait_for(&agent, "rtt_spike_over", OVER_WITHIN * lab.patience())?;
    verdict.at_most(
        "over after the end within",
        over.as_secs_f64(),
        limit(lab, OVER_WITHIN),
        "s",
    );
    std::thread::sleep(AFTER);
    let spikes = agent.spikes()?;
    verdict.count(
        "hopline_rule_active afterwards",
        agent.scrape()?.sum("hopline_rule_active", &rule),
        0,
    );
    agent.stop()?;
    verdict.count(
        "events in `trace --json`",
        trace.finish_spikes()?.len() as u64,
        spikes.len() as u64,
    );
    let in_short = |spikes: &[Spike]| spikes.iter().map(Spike::in_short).collect::<Vec<_>>().join("; ");
    let replayed = Spike::of_replay(lab, &recording, &config)?;
    verdict.count("events that a replay tells", replayed.len() as u64, spikes.len() as u64);
    let same = u64::from(in_short(&replayed) == in_short(&spikes));
    verdict.count("and they are the same", same, 1);
    let mut times = Vec::new();
    let known = slow.each_ref().map(|client| (client.pid, client.port));
    for client in slow {
        times.extend(times_us(&client.process.finish()?)?);
    }
    let calm_times = times_us(&calm.process.finish()?)?;
    drop(server);
    verdict.note(
        "exchanges timed by the clients",
        (times.len() + calm_times.len()) as f64,
        "",
    );
    let of = |kind: &str| spikes.iter().filter(|spike| spike.r#type == kind).collect::<Vec<_>>();
    let (begun, ended) = (of("rtt_spike"), of("rtt_spike_over"));
    verdict.count("rtt_spike", begun.len() as u64, 1);
    verdict.count("rtt_spike_over", ended.len() as u64, 1);
    if let Some(spike) = begun.first() {
        compare(lab, verdict, spike, &known, &times);
    }
    if let (Some(spike), Some(end)) = (begun.first(), ended.first()) {
        compare_end(verdict, spike, end, &known);
        let (_, slow) = medians(&times);
        compare_path(lab, verdict, spike);
        verdict.time_us("highest median", end.peak_us as f64, slow, slow * 0.05);
    }
    Ok(())
}

fn limit(lab: &Lab, limit: Duration) -> f64 {
    (limit * lab.patience()).as_secs_f64()
}

fn talk(lab: &Lab, pair: &Pair, family: Family, comm: &str) -> Result<Client> {
    let to = family.server(PORT).to_string();
    let mut process = lab.helper(&["talk", "--to", &to, "--comm", comm], &pair.client, &lab.traffic)?;
    let port = process.line()?.parse().context("a port")?;
    let pid = process.pid();
    Ok(Client { process, pid, port })
}

/// How long it took until there was an event of this kind; a little more than the limit when there was none.
fn wait_for(agent: &Agent, kind: &str, limit: Duration) -> Result<Duration> {
    let from = Instant::now();
    while from.elapsed() <= limit && !agent.spikes()?.iter().any(|spike| spike.r#type == kind) {
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(from.elapsed())
}

/// The spike's event names the hop where the latency begins: the server itself, which is what moved away.
fn compare_path(lab: &Lab, verdict: &mut Verdict, spike: &Spike) {
    let Some(path) = &spike.path else {
        verdict.trouble("the spike's event has no path");
        return;
    };
    let hops = path
        .path
        .hops
        .iter()
        .map(|hop| hop.address.map_or_else(String::new, |address| address.to_string()));
    verdict.text(
        "hops in the event",
        hops.collect::<Vec<_>>().join(" "),
        "10.99.0.1 10.99.2.2",
    );
    let step = path.step.as_ref();
    let between = step.map_or_else(String::new, |step| format!("{} and {}", step.from_hop, step.to_hop));
    verdict.text("latency begins between hops", between, "1 and 2");
    let added_us = step.map_or(f64::NAN, |step| step.added_us as f64);
    // The router before it answers after one way through the delay, the server after two.
    let truth_us = (2 * MORE_US + DELAY_US) as f64;
    verdict.time_us(
        "latency that the path adds",
        added_us,
        truth_us,
        lab.tolerance.of_phase_us(truth_us),
    );
    verdict.count(
        "it is said in a sentence",
        u64::from(path.text.contains("between hop 1 10.99.0.1 and hop 2 10.99.2.2")),
        1,
    );
}

/// The evidence of a spike beside what is known of the clients.
fn compare(lab: &Lab, verdict: &mut Verdict, spike: &Spike, known: &[(u32, u16); 2], times_us: &[u64]) {
    verdict.text(
        "destination",
        format!("{}:{}", spike.destination.host, spike.destination.port),
        "10.99.2.2:8080",
    );
    let (calm, slow) = medians(times_us);
    let window = spike.window;
    let measured =
        |of: fn(&crate::hopline::SpikeWindow) -> u64| window.as_ref().map_or(f64::NAN, |window| of(window) as f64);
    // It may still hold the end of the calm before.
    let first = measured(|window| window.p50_us);
    verdict.at_least("first window's median", first, calm + 50_000.0, "us");
    verdict.at_most("first window's median", first, slow * 1.05, "us");
    let tolerance_us = lab.tolerance.of_phase_us(calm);
    verdict.time_us("baseline", measured(|window| window.baseline_us), calm, tolerance_us);
    verdict.at_least("samples in the window", measured(|window| window.samples), 3.0, "");
    let mut shown: Vec<String> = spike
        .connections
        .iter()
        .map(|one| {
            format!(
                "{} {} {}",
                one.process.pid.unwrap_or_default(),
                one.local.port,
                one.remote.port
            )
        })
        .collect();
    let mut expected: Vec<String> = known.iter().map(|(pid, port)| format!("{pid} {port} {PORT}")).collect();
    shown.sort();
    expected.sort();
    verdict.text(
        "worst connections: process, ports",
        shown.join(", "),
        expected.join(", "),
    );
}

/// What the clients' exchanges usually took while the path was calm, and while it was slow.
fn medians(times_us: &[u64]) -> (f64, f64) {
    let (slow, calm): (Vec<u64>, Vec<u64>) = times_us.iter().partition(|us| **us >= DELAY_US + MORE_US);
    let [calm, slow] = [calm, slow].map(|times_us| {
        let mut times_us: Vec<f64> = times_us.into_iter().map(|us| us as f64).collect();
        percentile(&mut times_us, 50)
    });
    (calm, slow)
}

/// The end of a spike beside its beginning, and all that were affected.
fn compare_end(verdict: &mut Verdict, spike: &Spike, end: &Spike, known: &[(u32, u16); 2]) {
    verdict.text("the end is that of the beginning", &end.id, &spike.id);
    // At the beginning one of the two may not have told yet.
    verdict.count("connections affected", end.connections_affected, known.len() as u64);
    let sorted = |pids: &mut dyn Iterator<Item = u32>| {
        let mut pids: Vec<u32> = pids.collect();
        pids.sort_unstable();
        format!("{pids:?}")
    };
    let shown = sorted(&mut end.processes.iter().filter_map(|process| process.pid));
    verdict.text("processes", shown, sorted(&mut known.iter().map(|(pid, _)| *pid)));
    verdict.text("why it is over", end.over.as_deref().unwrap_or("-"), "calm");
}
