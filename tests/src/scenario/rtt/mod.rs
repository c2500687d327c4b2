//! Round trips: a path that becomes slow and fast again, and 100 connections of 100 different lengths.
//!
//! Truth: the delay that the router was told, captures on the same side as the record, and `ss` for what the kernel
//! smooths. Events of a spike are in the scenario `spike`.

pub(crate) mod compare;
mod ss;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use self::compare::Tolerance;
use crate::capture::{Capture, RoundTrips};
use crate::hopline::{Agent, AgentOptions, Metrics, Record, Trace};
use crate::lab::{Lab, Tolerance as Strictness};
use crate::router::{DEVICE, RouterSettings};
use crate::topology::{Family, Pair, SERVER4};
use crate::traffic::pulse::pulses;
use crate::verdict::Verdict;

const PORT: u16 = 8_080;
/// Connections of different lengths.
const LENGTHS: u8 = 100;
/// Last byte of the first one's server.
const FIRST_HOST: u8 = 20;
/// What a scrape must show of a change of the path within this time.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
/// An open connection is told of every 5 s.
const REPORTED_WITHIN: Duration = Duration::from_secs(6);
const RTT_COUNT: &str = "hopline_tcp_rtt_seconds_count";
const RTT_BUCKET: &str = "hopline_tcp_rtt_seconds_bucket";

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    lengths(lab, verdict)?;
    step(lab, verdict)
}

/// 2 ms, 5 ms, … 299 ms.
fn length_us(number: u8) -> u64 {
    2_000 + u64::from(number) * 3_000
}

fn host(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 2, FIRST_HOST + number)
}

fn lengths(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let far = |number| (IpAddr::from(host(number)), length_us(number) / 2);
    let settings = RouterSettings {
        further: (0..LENGTHS).map(far).collect(),
        ..RouterSettings::default()
    };
    let pair = Pair::new(lab, &settings)?;
    for number in 0..LENGTHS {
        pair.server.ip(&format!("addr add {}/24 dev {DEVICE}", host(number)))?;
    }
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start(lab, "lengths", lab.traffic.path())?;
    let listen = format!("0.0.0.0:{PORT}/pulse");
    let mut server = lab.helper(&["serve", &listen], &pair.server, &lab.traffic)?;
    server.wait_for("ready")?;
    let at_client = Capture::start(lab, "lengths-client", &pair.client, DEVICE)?;
    let at_server = Capture::start(lab, "lengths-server", &pair.server, DEVICE)?;

    let to: Vec<String> = (0..LENGTHS)
        .map(|number| SocketAddr::from((host(number), PORT)).to_string())
        .collect();
    let seconds = 14 * u64::from(lab.patience()).min(4);
    let milliseconds = (seconds * 1_000).to_string();
    // The router of an emulated machine has less to do.
    let pause = if lab.patience() > 1 { "200" } else { "50" };
    let words = ["pulse", "--pause-ms", pause, "--milliseconds", &milliseconds];
    let words: Vec<&str> = words.into_iter().chain(to.iter().map(String::as_str)).collect();
    let client = lab.helper(&words, &pair.client, &lab.traffic)?;
    // Every connection has been told of by then, and still talks.
    thread::sleep(Duration::from_secs(seconds - 2).saturating_sub(REPORTED_WITHIN));
    let sockets = ss::sockets_during(&pair.client, REPORTED_WITHIN)?;
    let destinations = agent.api("/api/v1/destinations")?;
    let made = pulses(&client.finish()?)?;
    trace.wait_for(2 * made.len())?;
    let records = trace.finish()?;
    let metrics = agent.scrape_drained()?;
    drop(server);
    agent.stop()?;

    for role in ["client", "server"] {
        let of_role = records.iter().filter(|record| record.role == role).count();
        verdict.count(format!("{role} records"), of_role as u64, made.len() as u64);
    }
    let (at_client, at_server) = (
        RoundTrips::read(&at_client.end()?)?,
        RoundTrips::read(&at_server.end()?)?,
    );
    for (role, capture) in [("client", &at_client), ("server", &at_server)] {
        compare_lengths(lab, verdict, role, &records, capture);
    }
    compare_with_ss(lab, verdict, &records, &sockets, &destinations)?;
    super::compare_losses(verdict, &metrics);
    Ok(())
}

fn compare_lengths(lab: &Lab, verdict: &mut Verdict, role: &str, records: &[Record], capture: &RoundTrips) {
    let tolerance = Tolerance {
        part: 0.05,
        least_us: lab.tolerance.of_phase_us(0.0),
    };
    let mut worst = 0.0_f64;
    let mut compared = 0;
    for record in records.iter().filter(|record| record.role == role) {
        let far = if role == "client" { record.remote } else { record.local };
        let name = format!("{role} of {}", far.address);
        let parts = compare::quantiles(verdict, &name, record, capture, &[50], tolerance);
        worst = parts.into_iter().fold(worst, f64::max);
        compared += 1;
    }
    verdict.count(format!("{role} p50 compared"), compared, u64::from(LENGTHS));
    verdict.at_most(
        format!("{role} p50, worst deviation of what is allowed"),
        worst * 100.0,
        100.0,
        "%",
    );
}

/// Smallest and smoothed RTT of the clients' connections, as `ss` saw them while they were open. The smoothed one is of
/// the connection's last report: whatever `ss` has shown since that may have been made is the truth.
fn compare_with_ss(
    lab: &Lab,
    verdict: &mut Verdict,
    records: &[Record],
    sockets: &HashMap<(SocketAddr, SocketAddr), ss::Socket>,
    destinations: &serde_json::Value,
) -> Result<()> {
    let mut worst = [0.0_f64; 2];
    let mut compared = 0;
    for record in records.iter().filter(|record| record.is_client()) {
        let ends: (SocketAddr, SocketAddr) = (record.local.into(), record.remote.into());
        let Some(socket) = sockets.get(&ends) else { continue };
        compared += 1;
        let address = record.remote.address.to_string();
        let smoothed = destinations
            .as_array()
            .or_else(|| destinations["destinations"].as_array())
            .context("destinations of the API")?
            .iter()
            .find(|destination| destination["destination"] == address.as_str() && destination["role"] == "client")
            .and_then(|destination| destination["srtt_us"].as_f64());
        let measured = [
            ("min", record.tcp.rtt_us.min.map(|us| us as f64), socket.min_us),
            ("srtt", smoothed, socket.srtt_us_beside(smoothed)),
        ];
        for ((what, measured, truth), worst) in measured.into_iter().zip(&mut worst) {
            let measured = measured.unwrap_or(f64::NAN);
            // An emulated machine smooths its own pauses in.
            let allowed = match lab.tolerance {
                Strictness::Host => truth * 0.05,
                Strictness::Vm => lab.tolerance.of_phase_us(truth),
            };
            verdict.fold(|verdict| verdict.time_us(format!("{what} of {address}, ss"), measured, truth, allowed));
            *worst = worst.max((measured - truth).abs() / allowed);
        }
    }
    verdict.count("connections in ss", compared, u64::from(LENGTHS));
    for (what, worst) in ["min", "srtt"].into_iter().zip(worst) {
        verdict.at_most(
            format!("{what} beside ss, worst deviation of what is allowed"),
            worst * 100.0,
            100.0,
            "%",
        );
    }
    Ok(())
}

/// Samples in a scrape above and up to a bound.
fn above_and_below(metrics: &Metrics, bound: &str) -> (u64, u64) {
    let labels = [("role", "client")];
    let below = metrics.sum(RTT_BUCKET, &[("role", "client"), ("le", bound)]);
    (metrics.sum(RTT_COUNT, &labels).saturating_sub(below), below)
}

/// One connection over a path of 5 ms that has 80 ms for a while.
fn step(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    const NEAR_US: u64 = 2_500;
    const FAR_US: u64 = 40_000;
    let mut pair = Pair::new(lab, &RouterSettings::default())?;
    pair.move_away(SERVER4.into(), NEAR_US)?;
    let to = Family::Ipv4.server(PORT).to_string();
    let mut server = lab.helper(&["serve", &format!("{to}/pulse")], &pair.server, &lab.traffic)?;
    server.wait_for("ready")?;
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let length = (30_000 * lab.patience()).to_string();
    let words = ["pulse", "--pause-ms", "100", "--milliseconds", &length, &to];
    let client = lab.helper(&words, &pair.client, &lab.traffic)?;
    let (metrics, _) = agent.scrape_until(Duration::from_secs(8), |metrics| {
        metrics.sum(RTT_COUNT, &[("role", "client")]) >= 30
    })?;
    let (above, below) = above_and_below(&metrics, "0.0512");
    ensure!(below >= 30, "the first samples do not show");
    verdict.count("samples above 51.2 ms before the step", above, 0);

    pair.move_away(SERVER4.into(), FAR_US)?;
    let begin = Instant::now();
    let (metrics, _) = agent.scrape_until(2 * SEEN_WITHIN, |metrics| above_and_below(metrics, "0.0512").0 >= 5)?;
    let limit = SEEN_WITHIN.as_secs_f64() * f64::from(lab.patience());
    verdict.at_most("80 ms in /metrics after", begin.elapsed().as_secs_f64(), limit, "s");
    verdict.at_least(
        "samples above 51.2 ms",
        above_and_below(&metrics, "0.0512").0 as f64,
        5.0,
        "",
    );

    thread::sleep(Duration::from_secs(5));
    let (_, before) = above_and_below(&agent.scrape()?, "0.0128");
    pair.move_away(SERVER4.into(), NEAR_US)?;
    let begin = Instant::now();
    let (metrics, _) = agent.scrape_until(2 * SEEN_WITHIN, |metrics| {
        above_and_below(metrics, "0.0128").1 >= before + 5
    })?;
    verdict.at_most("5 ms in /metrics after", begin.elapsed().as_secs_f64(), limit, "s");
    verdict.at_least(
        "samples up to 12.8 ms since",
        above_and_below(&metrics, "0.0128").1.saturating_sub(before) as f64,
        5.0,
        "",
    );
    drop(client);
    drop(server);
    super::compare_losses(verdict, &agent.scrape_drained()?);
    agent.stop()
}
