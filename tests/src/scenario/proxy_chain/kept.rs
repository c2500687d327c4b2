//! Clients and a proxy that keep their connections: legs of later exchanges against the capture.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{DELAY_MS, JUDGED, PROXY, Stage, UPSTREAM, haproxy_with, labels, target};
use crate::capture::exchange::Exchange;
use crate::hopline::{Metrics, Record};
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::Process;
use crate::verdict::Verdict;

/// What clients ask for, and the proxy hands on.
const HOST: &str = "shop.lab.test";
/// Targets of requests one after the other on one connection; each is one of its own.
const IN_TURN: std::ops::Range<u64> = 20..40;
/// The same of a client that stays: its last answer comes after its first exchanges were judged.
const STAYS: [u64; 5] = [41, 42, 43, 44, 10_000];
/// Targets of requests on many connections at a time, and how many of those.
const AT_ONCE: std::ops::Range<u64> = 100..250;
const CONNECTIONS: &str = "50";

const KEEPING: &str = "  http-reuse always\n  default-server pool-purge-delay 60s\n";

pub(super) fn haproxy(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let name = "haproxy, kept";
    let stage = Stage::start(lab, "kept", "think-on", haproxy_with(lab, "kept", KEEPING)?)?;
    fetch(lab, &stage.netns, &IN_TURN.collect::<Vec<_>>(), false)?;
    let mut asked = IN_TURN.count() as u64;
    let mut before = None;
    if !lab.short {
        fetch(lab, &stage.netns, &STAYS, false)?;
        asked += STAYS.len() as u64;
        std::thread::sleep(JUDGED * lab.patience());
        before = Some(stage.agent.scrape()?);
    }
    let in_turn = asked;
    fetch(lab, &stage.netns, &AT_ONCE.collect::<Vec<_>>(), true)?;
    asked += AT_ONCE.count() as u64;
    // Connections to the upstream stay, and are told of within six seconds.
    std::thread::sleep(JUDGED * lab.patience());
    let (_, truth, metrics, records) = stage.end(lab)?;
    let upstream: Vec<&Exchange> = truth.iter().filter(|one| one.server == UPSTREAM).collect();
    verdict.count(
        format!("{name}: exchanges with the upstream"),
        upstream.len() as u64,
        asked,
    );
    let connections = upstream.iter().filter(|one| one.is_first).count();
    verdict.at_most(
        format!("{name}: connections to the upstream"),
        connections as f64,
        asked as f64 / 2.0,
        "",
    );
    if let Some(before) = before {
        durations(lab, verdict, name, &before, &truth, in_turn);
    }
    let of = |result| metrics.sum("hopline_chain_links_total", &[("result", result)]);
    verdict.at_least(format!("{name}: links"), of("linked") as f64, in_turn as f64, "");
    verdict.count(
        format!("{name}: links and what is in doubt"),
        of("linked") + of("ambiguous") + of("unproven"),
        asked,
    );
    chains(lab, verdict, name, &records, &truth);
    Ok(())
}

/// Of requests in turn all are linked: each leg's mean is the capture's.
fn durations(lab: &Lab, verdict: &mut Verdict, name: &str, metrics: &Metrics, truth: &[Exchange], in_turn: u64) {
    let linked = metrics.sum("hopline_chain_links_total", &[("result", "linked")]);
    verdict.count(format!("{name}: links of requests in turn"), linked, in_turn);
    let mean_us = |server: SocketAddr| {
        let of_server = truth.iter().filter(|one| one.server == server).take(in_turn as usize);
        let sum_us: f64 = of_server.map(|one| leg_us(one, server == UPSTREAM)).sum();
        sum_us / in_turn as f64
    };
    let (whole_us, upstream_us) = (mean_us(PROXY), mean_us(UPSTREAM));
    for (leg, truth_us) in [
        ("client_proxy", whole_us),
        ("proxy", whole_us - upstream_us),
        ("proxy_upstream", upstream_us),
    ] {
        let labels = labels(leg, HOST);
        let counted = metrics.sum("hopline_leg_duration_seconds_count", &labels);
        verdict.count(format!("{name}: durations of leg {leg}"), counted, in_turn);
        let sum_us = metrics.value("hopline_leg_duration_seconds_sum", &labels) * 1e6;
        verdict.time_us(
            format!("{name}: their mean"),
            sum_us / counted as f64,
            truth_us,
            // The slow one would hide what the others are off.
            lab.tolerance.least_us(),
        );
    }
}

/// From the request to the answer; a first exchange with an upstream begins with `connect`.
fn leg_us(exchange: &Exchange, is_upstream: bool) -> f64 {
    let begun_ns = if is_upstream {
        exchange.opened_ns
    } else {
        exchange.request_ns
    };
    exchange.answer_ns.saturating_sub(begun_ns) as f64 / 1e3
}

/// Each chain in a record is one of two exchanges for the same target.
fn chains(lab: &Lab, verdict: &mut Verdict, name: &str, records: &[Record], truth: &[Exchange]) {
    let by_id: HashMap<&str, &Record> = records.iter().map(|record| (record.id.as_str(), record)).collect();
    let between = |ends: (SocketAddr, SocketAddr)| truth.iter().filter(move |one| (one.client, one.server) == ends);
    let (mut right, mut later, mut wrong) = (0, 0, 0);
    for record in records.iter().filter(|record| record.role == "server") {
        let Some(chain) = &record.chain else { continue };
        let Some(other) = by_id.get(chain.other.as_str()) else {
            wrong += 1;
            continue;
        };
        let is_near =
            |measured: u64, truth_us: f64| (measured as f64 - truth_us).abs() <= lab.tolerance.of_phase_us(truth_us);
        let pair = between(record.addresses()).find_map(|inbound| {
            let mut outbound = between(other.addresses()).filter(|one| one.target == inbound.target);
            let outbound = outbound.next()?;
            let (whole_us, leg_us) = (leg_us(inbound, false), leg_us(outbound, true));
            let is_it = is_near(chain.client_proxy_us, whole_us)
                && is_near(chain.proxy_upstream_us, leg_us)
                && is_near(chain.proxy_us, whole_us - leg_us)
                && chain.proxy_us >= (DELAY_MS - 1) * 1_000;
            is_it.then_some((inbound, outbound))
        });
        match pair {
            None => wrong += 1,
            Some((inbound, outbound)) => {
                right += 1;
                later += u64::from(!inbound.is_first || !outbound.is_first);
            }
        }
    }
    verdict.count(format!("{name}: wrong links"), wrong, 0);
    verdict.at_least(format!("{name}: chains in records"), f64::from(right), 1.0, "");
    if !lab.short {
        verdict.at_least(
            format!("{name}: those of exchanges after a first one"),
            later as f64,
            1.0,
            "",
        );
    }
}

/// One after the other on one connection, or on many that are used again.
fn fetch(lab: &Lab, netns: &NetNs, targets: &[u64], at_once: bool) -> Result<()> {
    let mut command = Command::new("curl");
    let host = format!("Host: {HOST}");
    command.args(["--silent", "--show-error", "--fail", "--http1.1", "--header", &host]);
    if at_once {
        command.args(["--parallel", "--parallel-max", CONNECTIONS]);
    }
    command.args(targets.iter().map(|ms| format!("http://{PROXY}{}", target(*ms))));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut curl = Process::spawn(command, Some(netns), &lab.tools)?;
    let status = curl.wait(Duration::from_mins(1) * lab.patience())?;
    ensure!(status.success(), "curl ended with {status}");
    Ok(())
}
