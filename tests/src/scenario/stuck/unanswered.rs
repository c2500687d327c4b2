//! Requests that are never answered: who gave up, and how long it had waited. Beside them senders who await nothing.
//!
//! Truth: the time-outs that the programs are given, and when curl had sent its request.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::hopline::{Agent, AgentOptions, Record, Trace};
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::Process;
use crate::router::RouterSettings;
use crate::topology::{Family, Pair};
use crate::traffic::server::HANGS_UP_AFTER;
use crate::verdict::Verdict;

const SILENT: u16 = 8_201;
const HANGS_UP: u16 = 8_202;
const SYSLOG: u16 = 8_203;
const UPLOAD: u16 = 8_204;
const AT_ONCE: u16 = 8_205;
/// Clients of each server.
const CLIENTS: usize = 3;
/// When curl gives up.
const PATIENCE_S: u64 = 3;
/// A line a second for so long: a sender that waited would be stuck.
const LINES: u64 = 12;
/// Size of the upload and its speed: it takes ten seconds, after which nothing comes.
const UPLOAD_BYTES: usize = 2_000_000;
const UPLOAD_RATE: &str = "200000";
const UPLOAD_S: u64 = 16;
/// Programs take their time from their last byte to their end, and back.
const TOLERANCE_US: f64 = 150_000.0;

pub(super) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let pair = Pair::new(lab, &RouterSettings::default())?;
    let _server = serve(lab, &pair)?;
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start(lab, "unanswered", lab.traffic.path())?;
    let curl = |port: u16, more: &[&str]| curl(lab, &pair.client, port, more);
    let patience = PATIENCE_S.to_string();
    let mut asking = Vec::new();
    for _ in 0..CLIENTS {
        asking.push((curl(SILENT, &["--max-time", &patience])?, 28, "local"));
        asking.push((curl(HANGS_UP, &["--max-time", "9"])?, 52, "remote"));
    }
    let file = lab.file("upload");
    std::fs::write(&file, vec![b'x'; UPLOAD_BYTES])?;
    let file = file.display().to_string();
    let upload_s = UPLOAD_S.to_string();
    let words = [
        "-T",
        &file,
        "-H",
        "Expect:",
        "--limit-rate",
        UPLOAD_RATE,
        "--max-time",
        &upload_s,
    ];
    let mut uploading = curl(UPLOAD, &words)?;
    let lines = format!(
        "for i in $(seq {LINES}); do echo line $i; sleep 1; done | exec logger -T -n {} -P {SYSLOG}",
        server(SYSLOG)
    );
    let mut syslog = shell(lab, &pair.client, &lines)?;
    let once = format!("echo once | exec logger -T -n {} -P {AT_ONCE}", server(AT_ONCE));
    shell(lab, &pair.client, &once)?.finish()?;

    let mut waits = Vec::new();
    for (client, code, by) in &mut asking {
        let status = client.wait(Duration::from_secs(12) * lab.patience())?;
        ensure!(
            status.code() == Some(*code),
            "curl was to end with {code}, not with {status}"
        );
        waits.push((client.pid(), *by));
    }
    // A part of the upload is done, and so is a part of the lines: nobody waits, as two looks at them have shown.
    let waiting = |metrics: &crate::hopline::Metrics| metrics.sum("hopline_connections_waiting", &[]);
    let (metrics, _) = agent.scrape_until(Duration::from_secs(4), |metrics| waiting(metrics) == 0)?;
    verdict.count("waiting while they send", waiting(&metrics), 0);
    uploading.wait(Duration::from_secs(UPLOAD_S + 5) * lab.patience())?;
    syslog.wait(Duration::from_secs(LINES + 5) * lab.patience())?;
    trace.wait_for(waits.len() + 3)?;
    let metrics = agent.scrape_drained()?;
    let records = trace.finish()?;
    compare(verdict, &records, &waits);
    let of = |port: u16, event: &str| -> Vec<&Record> {
        let is_of = |record: &&Record| record.event == event && record.server_port() == port;
        records.iter().filter(is_of).collect()
    };
    for (name, port) in [("syslog", SYSLOG), ("one message", AT_ONCE)] {
        let ended: Vec<String> = of(port, "finished").into_iter().map(said).collect();
        verdict.text(format!("{name}, outcome"), ended.join("; "), "ok, waiting in nothing");
        verdict.count(format!("{name}, STUCK"), of(port, "stuck").len() as u64, 0);
    }
    let ended: Vec<String> = of(UPLOAD, "finished").into_iter().map(said).collect();
    verdict.text("upload, outcome", ended.join("; "), "unanswered, waiting in ttfb");
    let waited_us = of(UPLOAD, "finished").iter().find_map(|record| record.waiting_us);
    // The walk, once a second, has seen when it was done.
    let rest_us = (UPLOAD_S * 1_000_000) as f64 - UPLOAD_BYTES as f64 * 1e6 / UPLOAD_RATE.parse::<f64>()?;
    let waited_us = waited_us.context("the upload has not waited")? as f64;
    verdict.time_us("upload, waited once it was sent", waited_us, rest_us, 1_500_000.0);
    compare_metrics(verdict, &metrics);
    agent.stop()
}

/// The wait of each client that asked, beside what it was given.
fn compare(verdict: &mut Verdict, records: &[Record], waits: &[(u32, &str)]) {
    for (name, by, truth_s) in [
        ("the client gives up", "local", PATIENCE_S),
        ("the server closes", "remote", HANGS_UP_AFTER.as_secs()),
    ] {
        for (pid, _) in waits.iter().filter(|(_, who)| *who == by) {
            let of = |record: &&Record| record.event == "finished" && record.process.pid == Some(*pid);
            let mine: Vec<&Record> = records.iter().filter(of).collect();
            let told: Vec<String> = mine.iter().map(|record| said(record)).collect();
            verdict.text(
                format!("{name}, outcome"),
                told.join("; "),
                "unanswered, waiting in ttfb",
            );
            let closed_by = mine.first().and_then(|record| record.tcp.closed_by.as_deref());
            verdict.text(format!("{name}, closed by"), closed_by.unwrap_or("nobody"), by);
            let schema = mine.first().map_or(0, |record| record.schema);
            verdict.count(format!("{name}, schema"), schema.into(), 2);
            let basis = mine.first().map_or("none", |record| record.role_basis.as_str());
            verdict.text(format!("{name}, role basis"), basis, "observed");
            let waited_us = mine.first().and_then(|record| record.waiting_us).unwrap_or_default();
            let truth_us = (truth_s * 1_000_000) as f64;
            verdict.time_us(format!("{name}, waited"), waited_us as f64, truth_us, TOLERANCE_US);
        }
    }
}

fn compare_metrics(verdict: &mut Verdict, metrics: &crate::hopline::Metrics) {
    const WAITS: &str = "hopline_unanswered_wait_seconds";
    for (by, count) in [("local", CLIENTS + 1), ("remote", CLIENTS)] {
        let counted = metrics.sum(&format!("{WAITS}_count"), &[("closed_by", by)]);
        verdict.count(format!("counted as unanswered, closed by {by}"), counted, count as u64);
    }
    let port = SILENT.to_string();
    let seconds = metrics.value(
        &format!("{WAITS}_sum"),
        &[("closed_by", "local"), ("destination_port", &port)],
    );
    let truth_us = (CLIENTS as u64 * PATIENCE_S * 1_000_000) as f64;
    let tolerance_us = TOLERANCE_US * CLIENTS as f64;
    verdict.time_us(
        "seconds counted, closed by local",
        seconds * 1e6,
        truth_us,
        tolerance_us,
    );
    let failed = metrics.sum("hopline_tcp_connections_total", &[("role", "client")])
        - metrics.sum("hopline_tcp_connections_total", &[("role", "client"), ("error", "")]);
    verdict.count("unanswered ones counted as failed connects", failed, 0);
}

fn said(record: &Record) -> String {
    format!(
        "{}, waiting in {}",
        record.outcome.as_deref().unwrap_or("null"),
        record.waiting.as_deref().unwrap_or("nothing")
    )
}

fn server(port: u16) -> std::net::IpAddr {
    Family::Ipv4.server(port).ip()
}

fn serve(lab: &Lab, pair: &Pair) -> Result<Process> {
    let listen = [
        (SILENT, "drain"),
        (HANGS_UP, "hang-up-later"),
        (SYSLOG, "drain"),
        (UPLOAD, "drain"),
        (AT_ONCE, "drain"),
    ];
    let listen = listen.map(|(port, behaviour)| format!("{}/{behaviour}", Family::Ipv4.server(port)));
    let words = ["serve"].into_iter().chain(listen.iter().map(String::as_str));
    let words: Vec<&str> = words.chain(["--acceptors", "4"]).collect();
    let mut server = lab.helper(&words, &pair.server, &lab.tools)?;
    server.wait_for("ready")?;
    Ok(server)
}

fn curl(lab: &Lab, netns: &NetNs, port: u16, more: &[&str]) -> Result<Process> {
    let mut command = Command::new("curl");
    command
        .args(["-s", "-o", "/dev/null"])
        .args(more)
        .arg(format!("http://{}/", Family::Ipv4.server(port)))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Process::spawn(command, Some(netns), &lab.traffic)
}

fn shell(lab: &Lab, netns: &NetNs, script: &str) -> Result<Process> {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
    Process::spawn(command, Some(netns), &lab.traffic)
}
