//! `hopline trace -- curl …` against nginx: exactly curl's connections, and curl's exit code.

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::hopline::{Record, read_records};
use crate::lab::Lab;
use crate::nginx;
use crate::process::Process;
use crate::router::{ALL, Fault, PortFault, RouterSettings};
use crate::topology::{Family, Pair};
use crate::verdict::Verdict;

const NGINX: u16 = 8080;
const CLOSED: u16 = 8081;
const SILENT: u16 = 8082;

/// One run of curl.
struct Run {
    name: &'static str,
    /// curl's arguments before the addresses.
    words: &'static [&'static str],
    port: u16,
    path: &'static str,
    /// How often the address is fetched; each time on a connection of its own.
    times: usize,
    exit: i32,
    outcome: &'static str,
    closed_by: &'static str,
}

const RUNS: [Run; 4] = [
    Run {
        name: "fetched",
        words: &[],
        port: NGINX,
        path: "/",
        times: 3,
        exit: 0,
        outcome: "ok",
        // curl and nginx both close once the answer is through: whoever comes first (scenario failures compares that).
        closed_by: "",
    },
    Run {
        name: "404 with --fail",
        words: &["--fail"],
        port: NGINX,
        path: "/nothing",
        times: 1,
        exit: 22,
        outcome: "ok",
        closed_by: "",
    },
    Run {
        name: "refused",
        words: &[],
        port: CLOSED,
        path: "/",
        times: 1,
        exit: 7,
        outcome: "refused",
        closed_by: "reset_remote",
    },
    Run {
        name: "no answer",
        words: &["--connect-timeout", "1"],
        port: SILENT,
        path: "/",
        times: 1,
        exit: 28,
        outcome: "abandoned",
        closed_by: "local",
    },
];

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let faults = vec![PortFault {
        port: SILENT,
        fault: Fault::SwallowSyn { first: ALL },
    }];
    let pair = Pair::new(
        lab,
        &RouterSettings {
            delay_us: 1_000,
            faults,
            ..RouterSettings::default()
        },
    )?;
    let listen = [Family::Ipv4, Family::Ipv6].map(|family| family.server(NGINX));
    let _nginx = nginx::start(lab, "nginx", &pair.server, &listen)?;
    for family in [Family::Ipv4, Family::Ipv6] {
        for run in &RUNS {
            one(lab, verdict, &pair, family, run)?;
        }
    }
    Ok(())
}

fn one(lab: &Lab, verdict: &mut Verdict, pair: &Pair, family: Family, run: &Run) -> Result<()> {
    let name = format!("{} {}", family.name(), run.name);
    let output = lab.file(format!("{name}.jsonl"));
    let ports = lab.file(format!("{name}.ports"));
    let mut command = lab.hopline(&["trace", "--json", "--output"]);
    command.arg(&output).arg("--");
    // nsenter becomes curl: the same process in the client's namespace.
    command
        .arg("nsenter")
        .arg(format!("--net={}", pair.client.path().display()));
    command
        .args(["curl", "-s", "-g", "-H", "Connection: close", "-w", "%{local_port}\n"])
        .args(run.words);
    for _ in 0..run.times {
        command
            .args(["-o", "/dev/null"])
            .arg(format!("http://{}{}", family.server(run.port), run.path));
    }
    command
        .stdin(Stdio::null())
        .stdout(fs::File::create(&ports)?)
        .stderr(fs::File::create(lab.file("trace.log"))?);
    let status = Process::spawn(command, None, &lab.tools)?.wait(Duration::from_secs(30) * lab.patience())?;
    let code = status.code().context("hopline trace was killed")?;
    verdict.text(format!("{name}: exit code"), code.to_string(), run.exit.to_string());

    let records = read_records(&output, lab.sabotage)?;
    verdict.count(format!("{name}: records"), records.len() as u64, run.times as u64);
    let right = |record: &&Record| {
        record.is_client()
            && record.process.comm.as_deref() == Some("curl")
            && SocketAddr::from(record.remote) == family.server(run.port)
            && record.destination.port == run.port
            && record.outcome.as_deref() == Some(run.outcome)
            && (run.closed_by.is_empty() || record.tcp.closed_by.as_deref() == Some(run.closed_by))
    };
    verdict.count(
        format!("{name}: records as curl's"),
        records.iter().filter(right).count() as u64,
        run.times as u64,
    );
    if run.outcome == "ok" {
        let mut seen: Vec<String> = records.iter().map(|record| record.local.port.to_string()).collect();
        let text = fs::read_to_string(&ports)?;
        let mut truth: Vec<&str> = text.lines().collect();
        seen.sort_unstable();
        truth.sort_unstable();
        verdict.text(format!("{name}: local ports"), seen.join(" "), truth.join(" "));
    }
    Ok(())
}
