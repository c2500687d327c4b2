//! Sockets that stay where they should not: what hopline shows of them equals what `ss` and `nstat` say in the same
//! namespaces, and names their processes.

mod cells;
mod truth;

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::hopline::{Agent, AgentOptions, Metrics, Trace};
use crate::lab::Lab;
use crate::verdict::Verdict;
use cells::{CLOSE_WAIT, Cells, DEAD, DRIPPING, HALF_OPEN, Names, PORTS, SILENT, UNREUSED};
use truth::STATES;

/// Held clients are told after 10 s; a look and a sweep come every 5 s.
const SHOWN_WITHIN: Duration = Duration::from_secs(25);

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let places = cells::Places::new(lab)?;
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start(lab, "states", lab.traffic.path())?;
    let mut cells = Cells::start(lab, &places)?;
    who_does_not_reuse(lab, &agent, verdict)?;

    let all_there = |metrics: &Metrics| {
        idle(metrics, "silent") >= SILENT
            && idle(metrics, "dripping") >= DRIPPING
            && active(metrics, "syn_received") >= HALF_OPEN
            && metrics.sum("hopline_tcp_connections_unreused_total", &[]) >= UNREUSED
    };
    let (metrics, after) = agent.scrape_until(SHOWN_WITHIN, all_there)?;
    verdict.note("all shown after", after.as_secs_f64(), "s");
    for (state, of_ss) in STATES {
        // What changes while both look is looked at again.
        let mut pair = (active(&metrics, state), places.count(of_ss)?);
        crate::process::poll(Duration::from_secs(7) * lab.patience(), || {
            pair = (active(&agent.scrape()?, state), places.count(of_ss)?);
            Ok(pair.0 == pair.1)
        })?;
        verdict.count(format!("sockets in {state} (ss)"), pair.0, pair.1);
    }
    let (silent, dripping) = places.held()?;
    verdict.count("silent clients (ss)", idle(&metrics, "silent"), silent);
    verdict.count("dripping clients (ss)", idle(&metrics, "dripping"), dripping);
    verdict.count("silent clients (generator)", silent, SILENT);
    verdict.count("dripping clients (generator)", dripping, DRIPPING);
    verdict.count("close_wait (generator)", active(&metrics, "close_wait"), CLOSE_WAIT);

    ports(&metrics, &places, verdict)?;
    let unreused = [("process", Names::CHURN)];
    let count = metrics.sum("hopline_tcp_connections_unreused_total", &unreused);
    verdict.count("connections without reuse", count, UNREUSED);
    let all = metrics.sum("hopline_tcp_connections_unreused_total", &[]);
    verdict.count("none of others", all, UNREUSED);
    dead_writes(lab, &places, &agent, trace, &mut cells, verdict)?;
    processes(&agent.sockets()?, verdict);
    queue(lab, &places, &agent, &mut cells, verdict)?;
    let metrics = agent.scrape_drained()?;
    super::compare_losses(verdict, &metrics);
    let unattributed = metrics.sum("hopline_sockets_unattributed", &[]);
    verdict.count("sockets that belong to nobody", unattributed, 0);
    for (result, expected) in [("namespace_partial", 0), ("namespace_vanished", 0)] {
        let sweeps = metrics.sum("hopline_socket_sweeps_total", &[("result", result)]);
        verdict.count(format!("sweeps: {result}"), sweeps, expected);
    }
    agent.stop()
}

fn active(metrics: &Metrics, state: &str) -> u64 {
    metrics.sum("hopline_tcp_connections_active", &[("state", state)])
}

fn idle(metrics: &Metrics, kind: &str) -> u64 {
    let port = cells::PORT_OF_HELD.to_string();
    let labels = [("role", "server"), ("destination_port", port.as_str()), ("kind", kind)];
    metrics.sum("hopline_tcp_connections_idle", &labels)
}

/// All ports of the range are used up, and the connects that found none are counted.
fn ports(metrics: &Metrics, places: &cells::Places, verdict: &mut Verdict) -> Result<()> {
    let port = cells::PORT_OF_PORTS.to_string();
    let labels = [("destination_port", port.as_str())];
    let used = metrics.value("hopline_ephemeral_ports_used_ratio", &labels) * PORTS as f64;
    verdict.count("ports used (ss)", used.round() as u64, places.ports_used()?);
    verdict.count("ports there", PORTS, places.ports_used()?);
    let labels = [("destination_port", port.as_str()), ("error", "no_port")];
    let refused = metrics.sum("hopline_tcp_connections_total", &labels);
    verdict.count("connects without a port", refused, cells::WITHOUT_PORT);
    Ok(())
}

/// Writes after the server's end, by counter and record; how long nothing had passed, by the client's own clock.
fn dead_writes(
    lab: &Lab,
    places: &cells::Places,
    agent: &Agent,
    trace: Trace,
    cells: &mut Cells,
    verdict: &mut Verdict,
) -> Result<()> {
    const REPORT_US: f64 = 1_200_000.0;
    const WRITES: &str = "hopline_tcp_writes_after_close_total";
    let made = cells.dead_writes()?;
    let (metrics, _) = agent.scrape_until(Duration::from_secs(5), |metrics| metrics.sum(WRITES, &[]) >= DEAD)?;
    let counted = metrics.sum(WRITES, &[("role", "client")]);
    verdict.count("writes on dead connections", counted, made.len() as u64);
    // A RST that ends CLOSE_WAIT is counted here, and nothing else was reset in this namespace.
    let resets = crate::topology::kernel_counter(&places.dead, "TcpEstabResets")?;
    verdict.count("writes on dead connections (nstat)", counted, resets);
    let records = trace.finish()?;
    for write in &made {
        let of_it = |record: &&crate::hopline::Record| record.local.port == write.port && record.role == "client";
        let record = records
            .iter()
            .filter(of_it)
            .find(|record| record.tcp.idle_before_us.is_some());
        let idle_us = record.and_then(|record| record.tcp.idle_before_us);
        let measured = idle_us.map_or(f64::NAN, |idle_us| idle_us as f64);
        // What moved is reported once a second: that much less than it was, and no more.
        let truth = write.idle_us as f64;
        verdict.at_least(
            "idle before the write (client)",
            measured,
            truth - REPORT_US * f64::from(lab.patience().min(2)),
            "us",
        );
        verdict.at_most(
            "idle before the write (client)",
            measured,
            truth + lab.tolerance.of_phase_us(truth),
            "us",
        );
        let comm = record.and_then(|record| record.process.comm.clone());
        verdict.text("its process", comm.unwrap_or_default(), Names::DEAD);
    }
    let others = records
        .iter()
        .filter(|record| record.tcp.idle_before_us.is_some())
        .count();
    verdict.count(
        "records of writes on dead connections",
        others as u64,
        made.len() as u64,
    );
    Ok(())
}

/// The API names who has what.
fn processes(sockets: &Value, verdict: &mut Verdict) {
    let entries = |list: &str| sockets[list].as_array().cloned().unwrap_or_default();
    for (what, port, comm, count) in [
        ("close_wait", cells::PORT_OF_CLOSING, Names::LEAK, CLOSE_WAIT),
        ("silent", cells::PORT_OF_HELD, Names::SERVER, SILENT),
        ("dripping", cells::PORT_OF_HELD, Names::SERVER, DRIPPING),
    ] {
        let of_it = |entry: &Value| entry["what"] == what && entry["port"] == port && entry["process"]["comm"] == comm;
        let connections: u64 = entries("staying")
            .iter()
            .filter(|entry| of_it(entry))
            .filter_map(|entry| entry["connections"].as_u64())
            .sum();
        verdict.count(format!("{what} of {comm}"), connections, count);
    }
    let named = |list: &str, comm: &str, process: fn(&Value) -> &Value| {
        entries(list)
            .iter()
            .filter(|entry| process(entry)["comm"] == comm)
            .count() as u64
    };
    verdict.count(
        "full listener named",
        named("listeners", Names::FULL, |entry| &entry["process"]),
        1,
    );
    verdict.count(
        "user of all ports named",
        named("ports", Names::PORTS, |entry| &entry["processes"][0]),
        1,
    );
}

/// The API names it, for a minute after the last of its connections: looked at before anything else.
fn who_does_not_reuse(lab: &Lab, agent: &Agent, verdict: &mut Verdict) -> Result<()> {
    let mut named = 0;
    crate::process::poll(SHOWN_WITHIN * lab.patience(), || {
        let sockets = agent.sockets()?;
        let of_it = |entry: &&Value| entry["process"]["comm"] == Names::CHURN && entry["connections"] == UNREUSED;
        named = sockets["unreused"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(of_it)
            .count() as u64;
        Ok(named > 0)
    })?;
    verdict.count("who does not reuse named", named, 1);
    Ok(())
}

/// The queue that nobody empties, once nobody knocks any more.
fn queue(lab: &Lab, places: &cells::Places, agent: &Agent, cells: &mut Cells, verdict: &mut Verdict) -> Result<()> {
    const OVERFLOWS: &str = "hopline_listen_queue_overflows_total";
    cells.stop_knocking()?;
    let port = cells::PORT_OF_FULL.to_string();
    let labels = [("destination_port", port.as_str()), ("role", "server")];
    let (mut metrics, mut truth) = (agent.scrape()?, 0);
    crate::process::poll(Duration::from_secs(7) * lab.patience(), || {
        metrics = agent.scrape()?;
        truth = crate::topology::kernel_counter(&places.busy, "TcpExtListenOverflows")?;
        Ok(metrics.sum(OVERFLOWS, &labels) == truth)
    })?;
    let (depth, limit) = places.queue()?;
    verdict.count(
        "accept queue (ss)",
        metrics.sum("hopline_listen_queue_depth", &labels),
        depth,
    );
    verdict.count(
        "its limit (ss)",
        metrics.sum("hopline_listen_queue_limit", &labels),
        limit,
    );
    verdict.count("overflows (nstat)", metrics.sum(OVERFLOWS, &labels), truth);
    verdict.count("overflows of all listeners", metrics.sum(OVERFLOWS, &[]), truth);
    verdict.at_least("overflows", truth as f64, 1.0, "");
    Ok(())
}
