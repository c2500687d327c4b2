//! Five minutes of the demo's build and of what else the panels show (segments lost, queues that overflow, bytes that are no
//! TLS and no DNS), scraped by a real Prometheus: every query of every panel must have data.
//!
//! Truth for the counts is a capture beside the traffic; `docs/metrics.md` is compared with what the agent exports.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::capture::Capture;
use crate::certificates::Certificates;
use crate::demo::Network;
use crate::demo::job::Job;
use crate::demo::mirrors::{ALL, Mirror};
use crate::hopline::{Agent, AgentOptions};
use crate::lab::Lab;
use crate::monitoring::dashboards::{Query, queries};
use crate::monitoring::{Falsified, Prometheus, exposition, pictures};
use crate::process::Process;
use crate::router::{DEVICE, Fault, PortFault, RouterSettings};
use crate::topology::{Pair, SERVER4};
use crate::tshark;
use crate::verdict::Verdict;

pub(super) const TOOLS: &[&str] = &[
    "ip",
    "nginx",
    "curl",
    "openssl",
    "dnsmasq",
    "unshare",
    "tcpdump",
    "tshark",
    "bash",
    "prometheus",
];

/// The build's processes are declared to use the mirrors alone; the lab's own use something else.
const CONFIG: &str = "groups:\n  mirrors: [\"*.mirror.lab.test\"]\n\
                      declared:\n  - name: lab\n    process: \"lab*\"\n    destinations: [\"group:mirrors\"]\n";
const PULSE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(SERVER4), 8_090);
const FULL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(SERVER4), 8_003);
/// Of a thousand segments with payload, so many vanish before the pulse's server.
const LOST: u32 = 50;
const MINUTES: u64 = 5;
const SHORT_SECONDS: u64 = 110;
/// The longest fetch, and a scrape.
const END: Duration = Duration::from_secs(8);
const SCRAPED: Duration = Duration::from_secs(20);

/// Panels without data in this lab, and why. Where the query keeps trouble alone by a comparison, it must have data without.
const EMPTY: &[(&str, &str)] = &[
    ("Agent health: Lost, by kind", "nothing is lost here"),
    ("Agent health: Folded observations", "the budget has room for all"),
    ("Agent health: Features that are off", "this kernel serves all"),
    (
        "Agent health: Time per run of a kernel program",
        "kernel.bpf_stats_enabled is the machine's and stays off",
    ),
];
/// What needs longer than the short form.
const EMPTY_WHEN_SHORT: &[(&str, &str)] = &[("hopline alerts", "no alert fires so soon")];

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let seconds = lab.seconds(if lab.short { SHORT_SECONDS } else { MINUTES * 60 });
    let network = Network::start(lab, Certificates::make(lab)?)?;
    let lossy = RouterSettings {
        delay_us: 2_000,
        faults: vec![PortFault {
            port: PULSE.port(),
            fault: Fault::Lose { per_mille: LOST },
        }],
        ..RouterSettings::default()
    };
    let pair = Pair::new(lab, &lossy)?;
    let config = lab.file("dashboards.yaml");
    fs::write(&config, CONFIG)?;
    let options = AgentOptions {
        config: Some(&config),
        ..AgentOptions::default()
    };
    let agent = Agent::start(lab, lab.traffic.path(), &options)?;
    // Nobody is notified here: the alerts go to a port where nobody listens.
    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    let prometheus = Prometheus::start(lab, &[Falsified::of(&agent, lab.sabotage)?], nobody)?;
    let capture = Capture::start(lab, "dashboards", &network.pair.client, DEVICE)?;
    let held = others(lab, &network, &pair, seconds)?;
    let mut job = Job::start(lab, &network, "/dev/null")?;

    thread::sleep(Duration::from_secs(seconds));
    verdict.count("the job runs", u64::from(job.runs()?), 1);
    panels(lab, verdict, &prometheus, seconds)?;
    pictures(lab, verdict, &prometheus, seconds)?;
    let (families, complaints) = exposition::compare_with_page(&agent.exposition()?);
    verdict.note("families exported", families as f64, "");
    verdict.text("docs/metrics.md says otherwise of", complaints.join("; "), "");

    job.end()?;
    thread::sleep(END);
    drop(held);
    thread::sleep(SCRAPED);
    let capture = capture.end()?;
    for mirror in ALL {
        let counted = format!(
            "hopline_tcp_connections_total{{destination=\"{}\", role=\"client\"}}",
            mirror.name
        );
        let measured = prometheus.value(&counted)?.max(0.0) as u64;
        let truth = connects(&capture, mirror)?;
        verdict.count(format!("connections to {} (capture)", mirror.name), measured, truth);
    }
    agent.stop()
}

/// Pictures of all dashboards, where there is a browser.
fn pictures(lab: &Lab, verdict: &mut Verdict, prometheus: &Prometheus, seconds: u64) -> Result<()> {
    if let Err(reason) = crate::tools::check(&["chromium"]) {
        verdict.skip("pictures", format!("{reason:#}"));
        return Ok(());
    }
    let made = pictures::draw(lab, prometheus, seconds)?;
    verdict.count("pictures in target/dashboards", made.len() as u64, 3);
    Ok(())
}

/// Connects in a capture: SYNs, each counted once however often it was sent. A port may be used again.
fn connects(capture: &Path, mirror: &Mirror) -> Result<u64> {
    let filter = format!(
        "tcp.flags.syn == 1 && tcp.flags.ack == 0 && ip.dst == {} && tcp.dstport == {}",
        mirror.address, mirror.port
    );
    let fields = ["tcp.srcport", "tcp.seq_raw"];
    let found = tshark::fields(capture, None, &filter, &[], &[], &fields)?;
    Ok(found.lines().collect::<BTreeSet<_>>().len() as u64)
}

/// Every query, and whether it has a value that is a number.
fn panels(lab: &Lab, verdict: &mut Verdict, prometheus: &Prometheus, seconds: u64) -> Result<()> {
    let queries = queries("client", &format!("{}s", seconds.min(300)))?;
    let has_data = |expression: &str| -> Result<bool> {
        Ok(prometheus
            .query(expression)?
            .iter()
            .any(|series| !series.value.is_nan()))
    };
    let mut shown = 0;
    for query in &queries {
        let reason = reason(query, lab.short);
        let found = has_data(&query.expression).with_context(|| query.name.clone())?;
        match (found, reason) {
            (true, _) => shown += 1,
            (false, None) => verdict.count(format!("{} has data", query.name), 0, 1),
            (false, Some(reason)) => {
                verdict.skip(query.name.clone(), reason);
                if let Some(expression) = query.without_comparison() {
                    let could = has_data(expression)?;
                    verdict.count(format!("{} has data to compare", query.name), u64::from(could), 1);
                }
            }
        }
    }
    let empty = queries
        .iter()
        .filter(|query| reason(query, lab.short).is_some())
        .count();
    verdict.note("queries", queries.len() as f64, "");
    verdict.at_least(
        "queries with data",
        f64::from(shown),
        (queries.len() - empty) as f64,
        "",
    );
    Ok(())
}

fn reason(query: &Query, is_short: bool) -> Option<&'static str> {
    let all = EMPTY.iter().chain(EMPTY_WHEN_SHORT.iter().filter(|_| is_short));
    let mut all = all.filter(|(name, _)| query.name.contains(name));
    all.next().map(|(_, reason)| *reason)
}

/// What the build does not do. It goes on until it is dropped.
fn others(lab: &Lab, network: &Network, pair: &Pair, seconds: u64) -> Result<Vec<Process>> {
    let mut held = Vec::new();
    let mut start = |words: &str, netns| -> Result<()> {
        let words: Vec<&str> = words.split(' ').collect();
        let mut process = lab.helper(&words, netns, &lab.traffic)?;
        process.wait_for("ready")?;
        held.push(process);
        Ok(())
    };
    start(&format!("serve {PULSE}/pulse"), &pair.server)?;
    start(
        &format!("stay listen --at {FULL} --count 4 --comm lab-full"),
        &pair.server,
    )?;
    start(
        &format!("stay pile --at {FULL} --count 20 --comm lab-knock"),
        &pair.server,
    )?;
    let milliseconds = ((seconds + 60) * 1_000).to_string();
    // One that stays, and new ones all the time: an undeclared destination is counted by connection.
    let words = [
        "pulse",
        "--pause-ms",
        "50",
        "--milliseconds",
        &milliseconds,
        &PULSE.to_string(),
    ];
    held.push(lab.helper(&words, &pair.client, &lab.traffic)?);
    // A ClientHello whose session id is longer than the message, a message that is not whole, so that nobody answers, and a port
    // where nobody listens.
    let again = format!(
        "while true; do {} internal pulse --milliseconds 900 {PULSE} > /dev/null; \
         printf '\\x16\\x03\\x01\\x00\\x30\\x01\\x00\\x00\\x2c\\x03\\x03%032d\\xffjunkjunk!' 0 > /dev/tcp/{ip}/{port}; \
         {{ printf x; sleep 0.3; }} > /dev/tcp/{ip}/{port}; : > /dev/tcp/{ip}/9; done 2> /dev/null",
        lab.executable().display(),
        ip = PULSE.ip(),
        port = PULSE.port()
    );
    held.push(bash(&again, pair, lab)?);
    let resolver = crate::demo::mirrors::RESOLVER;
    let junk = format!("while true; do printf 'junk' > /dev/udp/{resolver}/53; sleep 1; done");
    held.push(bash(&junk, &network.pair, lab)?);
    Ok(held)
}

fn bash(script: &str, pair: &Pair, lab: &Lab) -> Result<Process> {
    let mut command = Command::new("bash");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null());
    Process::spawn(command, Some(&pair.client), &lab.traffic)
}
