//! A router gains latency, then the route moves: the agent tells both within two traces, and names the hop.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::path::{configured_us, routers};
use crate::capture::path::router;
use crate::hopline::{Agent, AgentOptions, PathEvent};
use crate::lab::Lab;
use crate::router::{Hop, RouterSettings};
use crate::topology::{Family, Pair};
use crate::verdict::Verdict;

const PORT: u16 = 8080;
/// What the fourth router gains, milliseconds.
const GAIN_MS: u64 = 70;
const CONFIG: &str = "\
paths:
  trace: all
  every: 2s
  probes_per_minute: 6000
  destination_probes_per_minute: 6000
  router_probes_per_minute: 6000
rtt_spike: {retransmits_above: none, rtt_delta_above: 10s}
";
/// Every two seconds, a fifth later at most, and what a trace itself takes.
const CYCLE: Duration = Duration::from_millis(2_400 + 1_500);
/// Two after the one under way when it happened.
const TOLD_WITHIN: u64 = 3;
/// Traces after which hopline knows what is usual, and one more.
const USUAL: u64 = 4;
/// However starved this machine is.
const GIVE_UP: Duration = Duration::from_secs(30);
/// Traces of a path that only jitters.
const QUIET: Duration = Duration::from_secs(20);
/// Router that takes the place of the second, with another behind it.
const DETOUR: u8 = 22;

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let jittery: Vec<Hop> = routers()
        .into_iter()
        .map(|hop| Hop {
            jitter_us: 1_000,
            ..hop
        })
        .collect();
    let settings = RouterSettings {
        routes: vec![jittery.clone()],
        ..RouterSettings::default()
    };
    let mut pair = Pair::new(lab, &settings)?;
    let server = Family::Ipv4.server(PORT);
    let mut serving = lab.helper(&["serve", &format!("{server}/echo")], &pair.server, &lab.tools)?;
    serving.wait_for("ready")?;
    let config = lab.file("route-change.yaml");
    std::fs::write(&config, CONFIG)?;
    let options = AgentOptions {
        config: Some(&config),
        ..AgentOptions::default()
    };
    let agent = Agent::start(lab, lab.traffic.path(), &options)?;
    let to = server.to_string();
    let mut talk = lab.helper(&["talk", "--to", &to, "--comm", "lab-talk"], &pair.client, &lab.traffic)?;
    talk.line()?;

    let (begin, quiet) = (Instant::now(), if lab.short { QUIET / 2 } else { QUIET });
    count_traces(&agent, |so_far| {
        let is_known = so_far >= USUAL && begin.elapsed() > quiet;
        Ok(is_known.then_some(()))
    })?;
    verdict.count("events while nothing changes", agent.path_events()?.len() as u64, 0);
    let labels = [("destination", "10.99.2.2"), ("hop", "4")];
    let shown_us = agent.scrape()?.value("hopline_path_hop_rtt_seconds", &labels) * 1e6;
    // Each of four links jitters by a millisecond each way at most.
    verdict.time_us(
        "hop 4 in the metrics",
        shown_us,
        configured_us(4) + 4_000.0,
        lab.tolerance.beside_us(4_500.0),
    );

    let paths = agent.api("/api/v1/paths")?;
    let measured = &paths["paths"][0]["connections"];
    let connections = &measured["rtt_us"]["p50"];
    // What the kernel measured on the connection, without a probe.
    verdict.time_us(
        "the destination by its connection",
        connections.as_f64().unwrap_or(f64::NAN),
        configured_us(5) + 5_000.0,
        lab.tolerance.beside_us(5_500.0),
    );

    verdict.text(
        "routers by what it got",
        measured["hops"].to_string(),
        jittery.len().to_string(),
    );

    let mut slower = jittery.clone();
    slower[3].delay_us += GAIN_MS * 1_000;
    pair.reroute(&[slower.clone()])?;
    let (after, event) = wait_for(&agent, "path_slower")?;
    verdict.at_most("latency told after", after as f64, TOLD_WITHIN as f64, "traces");
    if let Some(event) = event {
        compare_slower(lab, verdict, &event);
    }

    let mut moved = slower;
    moved[1].number = DETOUR;
    moved.insert(
        2,
        Hop {
            number: DETOUR + 1,
            delay_us: 1_000,
            ..Hop::default()
        },
    );
    pair.reroute(&[moved.clone()])?;
    let (after, event) = wait_for(&agent, "path_changed")?;
    verdict.at_most("route told after", after as f64, TOLD_WITHIN as f64, "traces");
    if let Some(event) = event {
        compare_moved(verdict, &event, &jittery, &moved);
    }
    std::thread::sleep(CYCLE * 2);
    let metrics = agent.scrape()?;
    let labels = [("destination", "10.99.2.2")];
    verdict.count(
        "hopline_path_changes_total",
        metrics.sum("hopline_path_changes_total", &labels),
        1,
    );
    verdict.count("events in all", agent.path_events()?.len() as u64, 2);
    agent.stop()?;
    talk.finish()?;
    Ok(())
}

fn compare_moved(verdict: &mut Verdict, event: &PathEvent, before: &[Hop], after: &[Hop]) {
    let listed = |hops: &[Hop]| {
        let routers = hops.iter().map(|hop| router(hop.number, true).to_string());
        routers.chain(["10.99.2.2".to_owned()]).collect::<Vec<_>>().join(" ")
    };
    let or_none =
        |address: &Option<std::net::IpAddr>| address.map_or_else(|| "?".to_owned(), |address| address.to_string());
    let was = event.before.iter().flatten().map(or_none).collect::<Vec<_>>().join(" ");
    verdict.text("the route before", was, listed(before));
    let now = event
        .path
        .hops
        .iter()
        .map(|hop| or_none(&hop.address))
        .collect::<Vec<_>>()
        .join(" ");
    verdict.text("and now", now, listed(after));
}

fn compare_slower(lab: &Lab, verdict: &mut Verdict, event: &PathEvent) {
    verdict.text(
        "destination",
        format!("{}:{}", event.destination.host, event.destination.port),
        "10.99.2.2:8080",
    );
    let Some(step) = &event.step else {
        verdict.trouble("the event names no hop");
        return;
    };
    let address = |address: Option<std::net::IpAddr>| address.map_or_else(String::new, |address| address.to_string());
    verdict.text(
        "latency begins between",
        format!(
            "{} {} and {} {}",
            step.from_hop,
            address(step.from),
            step.to_hop,
            address(step.to)
        ),
        format!("3 {} and 4 {}", router(3, true), router(4, true)),
    );
    // Each way of eight links jitters, and three probes have a median.
    verdict.time_us(
        "latency added",
        step.added_us as f64,
        GAIN_MS as f64 * 1e3,
        lab.tolerance.beside_us(5_000.0),
    );
    let says = event
        .text
        .contains("between hop 3 10.99.0.3 and hop 4 10.99.0.4, since ");
    verdict.count("it is said in a sentence", u64::from(says), 1);
}

/// How many traces it took until there was an event of this kind, and the event.
fn wait_for(agent: &Agent, kind: &str) -> Result<(u64, Option<PathEvent>)> {
    count_traces(agent, |_| {
        let events = agent.path_events()?;
        Ok(events.into_iter().find(|event| event.r#type == kind))
    })
}

/// Counts the traces of the one destination until `done`, asked with the count so far, has something; not for ever.
fn count_traces<T>(agent: &Agent, mut done: impl FnMut(u64) -> Result<Option<T>>) -> Result<(u64, Option<T>)> {
    let last = || Ok::<_, anyhow::Error>(agent.api("/api/v1/paths")?["paths"][0]["traced_ns"].as_u64());
    let begin = Instant::now();
    let (mut count, mut at) = (0, last()?);
    loop {
        let found = done(count)?;
        if found.is_some() || begin.elapsed() > GIVE_UP {
            return Ok((count, found));
        }
        std::thread::sleep(Duration::from_millis(50));
        let now = last()?;
        count += u64::from(now != at);
        at = now;
    }
}
