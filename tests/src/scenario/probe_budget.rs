//! Five thousand destinations, one of them in trouble: never more probes than the budget has, and the right ones traced.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::capture::Capture;
use crate::capture::path::{Probe, Probes};
use crate::hopline::{Agent, AgentOptions};
use crate::lab::Lab;
use crate::router::{DEVICE, Hop, RouterSettings};
use crate::tools;
use crate::topology::Pair;
use crate::traffic::many::{BUSY, address};
use crate::verdict::Verdict;

const PORT: u16 = 8080;
const DESTINATIONS: u32 = 5_000;
const SECONDS: u64 = 60;
/// The budget, per minute; a sixtieth of it in a second. It is spent in full.
const AGENT: u32 = 600;
const DESTINATION: u32 = 100;
const ROUTER: u32 = 240;
const ROUTERS: u8 = 2;
/// Number of the address that gets into trouble: not one of the busy ones.
const TROUBLED: u32 = 6_000;
const MORE_US: u64 = 100_000;
/// Traces at a time, by default; each counts its probes when it ends, three to each hop.
const TRACES: u32 = 8;
const UNDER_WAY: f64 = (TRACES * 3 * 3) as f64;

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let hop = |number| Hop {
        number,
        delay_us: 1_000,
        ..Hop::default()
    };
    let settings = RouterSettings {
        routes: vec![(1..=ROUTERS).map(hop).collect()],
        ..RouterSettings::default()
    };
    let mut pair = Pair::new(lab, &settings)?;
    pair.client.ip(&format!("route add 10.98.0.0/16 dev {DEVICE}"))?;
    pair.server.ip("route add local 10.98.0.0/16 dev lo")?;
    let mut server = lab.helper(
        &[
            "serve",
            &format!("0.0.0.0:{PORT}/sink"),
            &format!("0.0.0.0:{}/echo", PORT + 1),
        ],
        &pair.server,
        &lab.tools,
    )?;
    server.wait_for("ready")?;
    let config = lab.file("probe-budget.yaml");
    std::fs::write(
        &config,
        format!(
            "paths:\n  trace: all\n  destinations: 20\n  every: 5s\n  probes_per_minute: {AGENT}\n  \
             destination_probes_per_minute: {DESTINATION}\n  router_probes_per_minute: {ROUTER}\n  \
             exclude: [\"{}\"]\nrtt_spike: {{retransmits_above: none, rtt_delta_above: 50ms}}\n",
            address(0)
        ),
    )?;
    let capture = Capture::start_path(lab, "budget", &pair.client, DEVICE)?;
    let options = AgentOptions {
        config: Some(&config),
        ..AgentOptions::default()
    };
    let agent = Agent::start(lab, lab.traffic.path(), &options)?;
    let to = format!("{}:{}", address(TROUBLED), PORT + 1);
    let mut talk = lab.helper(&["talk", "--to", &to, "--comm", "lab-talk"], &pair.client, &lab.traffic)?;
    talk.line()?;
    let seconds = lab.seconds(SECONDS);
    let words = [
        "many",
        "--port",
        &PORT.to_string(),
        "--count",
        &DESTINATIONS.to_string(),
        "--seconds",
        &seconds.to_string(),
    ];
    let many = lab.helper(&words, &pair.client, &lab.traffic)?;
    let begun = Instant::now();
    let mut backlogs = Vec::new();
    let mut has_moved = false;
    while begun.elapsed() < Duration::from_secs(seconds) {
        if !has_moved && begun.elapsed() > Duration::from_secs(seconds / 2) {
            has_moved = true;
            pair.move_away(address(TROUBLED).into(), MORE_US)?;
        }
        backlogs.push(backlog(&pair)?);
        std::thread::sleep(Duration::from_millis(100));
    }
    let made: u64 = many.finish()?.trim().parse()?;
    verdict.count("connections of the clients", made, u64::from(2 * DESTINATIONS));
    let sent = agent.scrape()?.sum("hopline_path_probes_total", &[("result", "sent")]);
    agent.stop()?;
    talk.finish()?;
    let truth = Probes::read(&capture.end()?, ROUTERS + 1)?;
    // The kernel's own SYNs have a TTL that no probe gets to.
    let probes: Vec<Probe> = truth.sent.into_iter().filter(|probe| probe.ttl <= 30).collect();
    verdict.at_least(
        "probes in the capture",
        probes.len() as f64,
        f64::from(AGENT) * seconds as f64 / 60.0 * 0.3,
        "",
    );
    verdict.at_most(
        "of which the agent does not know",
        probes.len() as f64 - sent as f64,
        UNDER_WAY,
        "",
    );
    verdict.at_least(
        "of its own, in the capture",
        probes.len() as f64,
        sent as f64 * 0.999,
        "",
    );
    compare_budget(verdict, &probes);
    compare_choice(verdict, &probes);
    let most = most_half_open(&probes, &backlogs);
    verdict.note("looks at the server's backlog", backlogs.len() as f64, "");
    verdict.at_most("half-open connections of ours at a destination", most as f64, 1.0, "");
    Ok(())
}

/// The most that one destination had of ours at a time.
fn most_half_open(probes: &[Probe], backlogs: &[Vec<(String, u16)>]) -> u64 {
    let ports: HashSet<u16> = probes.iter().map(|probe| probe.source_port).collect();
    let mut most = 0;
    for backlog in backlogs {
        let mut by_destination: HashMap<&str, u64> = HashMap::new();
        for (destination, port) in backlog {
            if ports.contains(port) {
                *by_destination.entry(destination).or_default() += 1;
            }
        }
        most = most.max(by_destination.values().copied().max().unwrap_or_default());
    }
    most
}

/// Half-open connections at the server: where, and from which port.
fn backlog(pair: &Pair) -> Result<Vec<(String, u16)>> {
    let list = ["-H", "-n", "-t", "state", "syn-recv"];
    let text = pair.server.run(|| tools::output_of(Command::new("ss").args(list)))?;
    let half_open = |line: &str| {
        let mut words = line.split_whitespace().skip(2);
        let (local, peer) = (words.next()?, words.next()?);
        Some((local.to_owned(), peer.rsplit_once(':')?.1.parse().ok()?))
    };
    Ok(text.lines().filter_map(half_open).collect())
}

fn compare_budget(verdict: &mut Verdict, probes: &[Probe]) {
    let most = |stretch: Duration, is_meant: &dyn Fn(&Probe) -> bool| -> f64 {
        let times: Vec<u64> = probes
            .iter()
            .filter(|probe| is_meant(probe))
            .map(|probe| probe.sent_ns)
            .collect();
        let within = |at: usize| {
            times[at..]
                .iter()
                .take_while(|ns| **ns < times[at] + stretch.as_nanos() as u64)
                .count()
        };
        (0..times.len()).map(within).max().unwrap_or_default() as f64
    };
    let (second, minute) = (Duration::from_secs(1), Duration::from_mins(1));
    verdict.at_most(
        "probes in any second",
        most(second, &|_| true),
        f64::from(AGENT / 60),
        "",
    );
    verdict.at_most("probes in any minute", most(minute, &|_| true), f64::from(AGENT), "");
    let destinations: HashSet<IpAddr> = probes.iter().map(|probe| probe.destination).collect();
    let to_one = destinations
        .iter()
        .map(|one| most(minute, &|probe| probe.destination == *one));
    verdict.at_most(
        "probes to one destination in any minute",
        to_one.fold(0.0, f64::max),
        f64::from(DESTINATION),
        "",
    );
    for number in 1..=ROUTERS {
        let name = format!("probes to router {number} in any second");
        // Whose a probe is is not known before its answer: one of each trace at a time may be too many.
        verdict.at_most(
            name,
            most(second, &|probe| probe.ttl == number),
            f64::from(ROUTER / 60 + TRACES),
            "",
        );
    }
}

fn compare_choice(verdict: &mut Verdict, probes: &[Probe]) {
    let traced: HashSet<IpAddr> = probes.iter().map(|probe| probe.destination).collect();
    let busy = (1..BUSY).filter(|number| traced.contains(&address(*number).into()));
    verdict.count(
        "busy destinations that were traced",
        busy.count() as u64,
        u64::from(BUSY) - 1,
    );
    verdict.count(
        "the troubled one was",
        u64::from(traced.contains(&address(TROUBLED).into())),
        1,
    );
    verdict.count(
        "the excluded one was",
        u64::from(traced.contains(&address(0).into())),
        0,
    );
}
