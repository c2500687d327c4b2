//! `hopline path` through routers with delay, loss, silence and a rate: every hop against the capture, mtr and traceroute.

mod others;

use std::net::SocketAddr;

use anyhow::Result;

use crate::capture::Capture;
use crate::capture::path::{Probes, router};
use crate::hopline::{PathHop, PathRecord, PathRun, Trace};
use crate::lab::Lab;
use crate::router::{DEVICE, Hop, RouterSettings};
use crate::tools;
use crate::topology::{Family, Pair};
use crate::verdict::{Verdict, percentile};

pub(crate) const TOOLS: &[&str] = &["ip", "tcpdump", "ss", "mtr", "traceroute"];

const PORT: u16 = 8080;
/// What each router's link adds to a round trip, milliseconds.
const DELAYS_MS: [u64; 5] = [1, 5, 2, 40, 3];
/// The router before which one of ten packets vanishes.
const LOSSY: u8 = 3;
/// Routers that say nothing, and little.
const SILENT: u8 = 2;
const LAZY: u8 = 4;
/// How far loss may be off, at so many probes.
const LOSS_WITHIN: f64 = 0.03;
const LOSS_PROBES: f64 = 200.0;
/// How long a client talks.
const TALK: std::time::Duration = std::time::Duration::from_millis(300);
const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// Five routers with these delays.
pub(super) fn routers() -> Vec<Hop> {
    let hop = |(number, ms): (u8, u64)| Hop {
        number,
        delay_us: ms * 1_000,
        ..Hop::default()
    };
    (1..).zip(DELAYS_MS).map(hop).collect()
}

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let mut pair = Pair::new(
        lab,
        &RouterSettings {
            routes: vec![routers()],
            ..RouterSettings::default()
        },
    )?;
    let listen = FAMILIES.map(|family| format!("{}/echo", family.server(PORT)));
    let words: Vec<&str> = ["serve"].into_iter().chain(listen.iter().map(String::as_str)).collect();
    let mut server = lab.helper(&words, &pair.server, &lab.tools)?;
    server.wait_for("ready")?;
    // First without loss: what other programs see can be compared only there.
    others::compare(lab, verdict, &pair)?;
    connections(lab, verdict, &pair)?;
    lossy(lab, verdict, &mut pair)?;
    silent_and_lazy(lab, verdict, &mut pair)?;
    echo(lab, verdict, &mut pair)?;
    closed(lab, verdict, &pair)?;
    let half_open = pair
        .server
        .run(|| tools::output_of(std::process::Command::new("ss").args(["-H", "-n", "-t", "state", "syn-recv"])))?;
    verdict.count(
        "half-open connections left at the server",
        half_open.lines().count() as u64,
        0,
    );
    Ok(())
}

fn start(lab: &Lab, pair: &Pair, family: Family, words: &[&str]) -> Result<PathRun> {
    start_to(lab, pair, family.server(PORT), words)
}

pub(super) fn start_to(lab: &Lab, pair: &Pair, to: SocketAddr, words: &[&str]) -> Result<PathRun> {
    let to = to.to_string();
    let words: Vec<&str> = [to.as_str()].into_iter().chain(words.iter().copied()).collect();
    PathRun::start(lab, &pair.client, &words)
}

/// What connections get has passed as many routers as there are, and the record says so.
fn connections(lab: &Lab, verdict: &mut Verdict, pair: &Pair) -> Result<()> {
    let trace = Trace::start(lab, "connections", lab.traffic.path())?;
    for family in FAMILIES {
        let to = family.server(PORT).to_string();
        let mut talk = lab.helper(&["talk", "--to", &to, "--comm", "lab-talk"], &pair.client, &lab.traffic)?;
        talk.line()?;
        std::thread::sleep(TALK * lab.patience());
        talk.finish()?;
    }
    trace.wait_for(FAMILIES.len())?;
    let records = trace.finish()?;
    verdict.count("connections", records.len() as u64, FAMILIES.len() as u64);
    for record in records {
        let name = format!("{}: routers by the TTL of what a connection got", record.family);
        let hops = record.tcp.hops.map_or_else(|| "-".to_owned(), |hops| hops.to_string());
        verdict.text(name, hops, DELAYS_MS.len().to_string());
    }
    Ok(())
}

/// One of ten packets vanishes before the third router.
fn lossy(lab: &Lab, verdict: &mut Verdict, pair: &mut Pair) -> Result<()> {
    let mut route = routers();
    route[usize::from(LOSSY) - 1].lose_per_mille = 100;
    pair.reroute(&[route])?;
    let rounds = if lab.short { "50" } else { "200" };
    let capture = Capture::start_path(lab, "path", &pair.client, DEVICE)?;
    let runs = [
        start(lab, pair, Family::Ipv4, &["--count", rounds, "--interval", "100ms"])?,
        start(lab, pair, Family::Ipv6, &["--count", rounds, "--interval", "100ms"])?,
    ];
    let paths = runs.into_iter().map(PathRun::finish).collect::<Result<Vec<_>>>()?;
    let file = capture.end()?;
    let truth = Probes::read(&file, DELAYS_MS.len() as u8 + 1)?;
    for (family, path) in FAMILIES.into_iter().zip(&paths) {
        let name = family.name();
        compare_ends(verdict, name, path, "syn_ack");
        for number in 1..=6 {
            compare_hop(lab, verdict, family, path, &truth, number, rounds.parse()?);
        }
        if let Some(step) = &path.step {
            verdict.text(
                format!("{name}: most latency comes up between"),
                format!("{} and {}", step.from_hop, step.to_hop),
                "3 and 4",
            );
            let truth_us = (DELAYS_MS[3] * 1_000) as f64;
            verdict.time_us(
                format!("{name}: so much"),
                step.added_us as f64,
                truth_us,
                lab.tolerance.of_phase_us(truth_us) * 2.0,
            );
        }
        let ports = truth
            .sent
            .iter()
            .filter(|probe| probe.destination.is_ipv4() == (family == Family::Ipv4));
        let other = ports.filter(|probe| probe.source_port != path.source_port).count();
        verdict.count(format!("{name}: probes from another port"), other as u64, 0);
    }
    verdict.note("SYN-ACKs that reached the client", truth.syn_acks as f64, "");
    verdict.note("ACKs of a server that had not heard a RST", truth.challenges as f64, "");
    let of_tracer = resets_of_lost(&truth);
    verdict.count(
        "RSTs: one for each SYN-ACK and challenge, one for each SYN without an answer",
        truth.resets,
        truth.syn_acks + truth.challenges + of_tracer,
    );
    Ok(())
}

/// SYNs that could reach the server and have no answer in the capture: the tracer takes those back itself.
fn resets_of_lost(truth: &Probes) -> u64 {
    let lost =
        |probe: &&crate::capture::path::Probe| usize::from(probe.ttl) > DELAYS_MS.len() && probe.answer.is_none();
    truth.sent.iter().filter(lost).count() as u64
}

fn compare_ends(verdict: &mut Verdict, name: &str, path: &PathRecord, end: &str) {
    verdict.count(format!("{name}: reached"), u64::from(path.reached), 1);
    verdict.text(
        format!("{name}: the destination's answer"),
        path.end.as_deref().unwrap_or("-"),
        end,
    );
    verdict.count(format!("{name}: hops"), path.hops.len() as u64, 6);
}

/// Address of the hop of this number, which may be the server.
fn address_of(family: Family, number: u8) -> std::net::IpAddr {
    if usize::from(number) > DELAYS_MS.len() {
        family.server(PORT).ip()
    } else {
        router(number, family == Family::Ipv4)
    }
}

fn hop(path: &PathRecord, number: u8) -> Option<&PathHop> {
    path.hops.iter().find(|hop| hop.number == number)
}

/// What the routers' delays make of a round trip to this hop, microseconds.
pub(super) fn configured_us(number: u8) -> f64 {
    (DELAYS_MS.iter().take(number.into()).sum::<u64>() * 1_000) as f64
}

fn compare_hop(
    lab: &Lab,
    verdict: &mut Verdict,
    family: Family,
    path: &PathRecord,
    truth: &Probes,
    number: u8,
    rounds: u64,
) {
    let name = format!("{} hop {number}", family.name());
    let hop = hop(path, number);
    let shown = hop
        .and_then(|hop| hop.address)
        .map_or_else(|| "-".to_owned(), |address| address.to_string());
    verdict.text(
        format!("{name}: address"),
        shown,
        address_of(family, number).to_string(),
    );
    let probes: Vec<_> = truth.of_hop(family == Family::Ipv4, number).collect();
    let mut times_us: Vec<f64> = probes
        .iter()
        .filter_map(|probe| Some(probe.answer?.round_trip_us))
        .collect();
    let rtt = hop.and_then(|hop| hop.rtt_us);
    let measured = |of: fn(&crate::hopline::PathRtt) -> u64| rtt.as_ref().map_or(f64::NAN, |rtt| of(rtt) as f64);
    let least = times_us.iter().copied().fold(f64::NAN, f64::min);
    let [p50, p95] = [50, 95].map(|percent| percentile(&mut times_us, percent));
    for (what, measured, truth_us) in [
        ("min", measured(|rtt| rtt.min), least),
        ("p50", measured(|rtt| rtt.p50), p50),
        ("p95", measured(|rtt| rtt.p95), p95),
    ] {
        let tolerance_us = lab.tolerance.of_phase_us(truth_us);
        verdict.time_us(format!("{name}: {what}"), measured, truth_us, tolerance_us);
    }
    // The routers' own settings are a second truth: the capture could be wrong in the same way. They may be late, never early.
    let configured = configured_us(number);
    verdict.time_us(
        format!("{name}: min as configured"),
        measured(|rtt| rtt.min),
        configured,
        lab.tolerance.of_phase_us(configured),
    );
    let answered = probes.iter().filter(|probe| probe.answer.is_some()).count();
    let lost = 1.0 - answered as f64 / probes.len() as f64;
    let measured = hop.and_then(|hop| hop.unanswered).unwrap_or(f64::NAN);
    ratio(verdict, format!("{name}: unanswered"), measured, lost, LOSS_WITHIN);
    let configured = if number >= LOSSY { 0.1 } else { 0.0 };
    ratio(
        verdict,
        format!("{name}: loss as configured"),
        hop.and_then(|hop| hop.loss).unwrap_or(f64::NAN),
        configured,
        // Routers lose at random: what few probes meet is as much further off.
        LOSS_WITHIN * (LOSS_PROBES / probes.len() as f64).sqrt().max(1.0),
    );
    let ttl = probes
        .iter()
        .find_map(|probe| Some(probe.answer?.ttl))
        .unwrap_or_default();
    verdict.count(
        format!("{name}: TTL of its answers"),
        hop.and_then(|hop| hop.answer_ttl).unwrap_or_default().into(),
        ttl.into(),
    );
    // The search may need more than one probe for a hop whose answer got lost, no more.
    let sent = hop.map_or(0, |hop| hop.probes);
    verdict.at_least(format!("{name}: probes"), sent as f64, rounds as f64 - 1.0, "");
}

/// In thousandths, so that three points are 30.
fn ratio(verdict: &mut Verdict, name: String, measured: f64, truth: f64, within: f64) {
    verdict.at_most(
        name,
        ((measured - truth) * 1_000.0).abs(),
        within * 1_000.0,
        "per mille off",
    );
}

/// One router says nothing, another only once a second: neither is loss of the path.
fn silent_and_lazy(lab: &Lab, verdict: &mut Verdict, pair: &mut Pair) -> Result<()> {
    let mut route = routers();
    route[usize::from(SILENT) - 1].is_silent = true;
    route[usize::from(LAZY) - 1].answers_a_second = 1;
    pair.reroute(&[route])?;
    let runs = FAMILIES.map(|family| start(lab, pair, family, &["--count", "60", "--interval", "100ms"]));
    for (family, run) in FAMILIES.into_iter().zip(runs) {
        let path = run?.finish()?;
        let name = format!("{}, silent and lazy routers", family.name());
        compare_ends(verdict, &name, &path, "syn_ack");
        let silent = hop(&path, SILENT);
        let is_unknown =
            silent.is_some_and(|hop| hop.address.is_none() && hop.rtt_us.is_none() && hop.answer_ttl.is_none());
        verdict.count(format!("{name}: the silent one is unknown"), u64::from(is_unknown), 1);
        let lazy = hop(&path, LAZY);
        let unanswered = lazy.and_then(|hop| hop.unanswered).unwrap_or(f64::NAN);
        verdict.at_least(format!("{name}: unanswered by the lazy one"), unanswered, 0.7, "");
        for number in 1..=6 {
            let loss = hop(&path, number).and_then(|hop| hop.loss).unwrap_or(f64::NAN);
            verdict.at_most(format!("{name}: loss at hop {number}"), loss, 0.0, "");
        }
        for number in [1, 3, 4, 5, 6] {
            let shown = hop(&path, number).and_then(|hop| hop.address);
            let truth = address_of(family, number).to_string();
            verdict.text(
                format!("{name}: address of hop {number}"),
                shown.map_or_else(String::new, |address| address.to_string()),
                truth,
            );
        }
    }
    Ok(())
}

/// ICMP echo instead of TCP finds the same.
fn echo(lab: &Lab, verdict: &mut Verdict, pair: &mut Pair) -> Result<()> {
    pair.reroute(&[routers()])?;
    let runs = FAMILIES.map(|family| start(lab, pair, family, &["--count", "10", "--interval", "100ms", "--icmp"]));
    for (family, run) in FAMILIES.into_iter().zip(runs) {
        let path = run?.finish()?;
        let name = format!("{}, echo", family.name());
        compare_ends(verdict, &name, &path, "echo");
        for number in 1..=6 {
            let hop = hop(&path, number);
            let shown = hop.and_then(|hop| hop.address);
            let truth = address_of(family, number).to_string();
            verdict.text(
                format!("{name}: address of hop {number}"),
                shown.map_or_else(String::new, |address| address.to_string()),
                truth,
            );
            let least = hop.and_then(|hop| hop.rtt_us).map_or(f64::NAN, |rtt| rtt.min as f64);
            let configured = configured_us(number);
            verdict.time_us(
                format!("{name}: least of hop {number}"),
                least,
                configured,
                lab.tolerance.of_phase_us(configured),
            );
        }
    }
    Ok(())
}

/// Where nobody listens the RST is the answer.
fn closed(lab: &Lab, verdict: &mut Verdict, pair: &Pair) -> Result<()> {
    for family in FAMILIES {
        let path = start_to(lab, pair, family.server(9), &["--count", "3", "--interval", "100ms"])?.finish()?;
        compare_ends(verdict, &format!("{}, closed port", family.name()), &path, "reset");
    }
    Ok(())
}
