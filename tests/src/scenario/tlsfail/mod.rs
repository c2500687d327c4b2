//! Every client of the matrix against every way to fail, in both versions, with probes in TLS libraries and without: the exact
//! reason, who gave up, whose TLS it was, and the protocol that was agreed on before. A fault has one name.
//!
//! Truth: what the client itself printed, which is checked against the failure first, and the reason that is written in
//! `cells.rs` for each cell, with why. Then the same by programs that live for some milliseconds and were never seen.

mod cells;
mod clients;
mod switches;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;

use self::cells::{AGREED, Client, Failure, expected, protocol};
pub(in crate::scenario) use self::clients::prebuild;
use self::clients::{Programs, Wanted, can_run};
use crate::certificates::Certificates;
use crate::hopline::{Agent, AgentOptions, Metrics, Record, Trace};
use crate::lab::{Lab, Tolerance};
use crate::nginx;
use crate::openssl;
use crate::process::{self, Process};
use crate::router::RouterSettings;
use crate::topology::{Family, Pair};
use crate::verdict::Verdict;

const FIRST_PORT: u16 = 9_000;
const NAME: &str = "refuse.lab.test";
/// Connections by programs that nobody has seen before.
const STRANGERS: usize = 50;
/// One way. The kernel takes some 15 ms (a grace period of RCU) to set the first probe after a while without one: who shakes
/// hands sooner after the first start ever of its program is left to the wire. With this, a stranger lives for 40 ms.
const DELAY_US: u64 = 6_000;
/// Files that nobody maps are let go after so long: it can be waited for.
const RELEASE: Duration = Duration::from_secs(2);

/// Where a failure is served in a version.
fn address(failure: Failure, tls13: bool) -> SocketAddr {
    let at = Failure::ALL.iter().position(|one| *one == failure).unwrap_or_default();
    Family::Ipv4.server(FIRST_PORT + 2 * at as u16 + u16::from(tls13))
}

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let certificates = Certificates::make(lab)?;
    let programs = Programs::copied(lab)?;
    let settings = RouterSettings {
        delay_us: DELAY_US,
        ..RouterSettings::default()
    };
    let pair = Pair::new(lab, &settings)?;
    let servers = serve(lab, &pair, &certificates)?;
    let config = lab.file("tlsfail.yaml");
    let release = RELEASE * lab.patience();
    fs::write(
        &config,
        format!("tls:\n  probes: true\n  release_after: {}s\n", release.as_secs()),
    )?;
    let options = AgentOptions {
        config: Some(&config),
        ..AgentOptions::default()
    };
    let agent = Agent::start(lab, lab.traffic.path(), &options)?;
    let trace = Trace::start_configured(lab, "tlsfail", lab.traffic.path(), Some(&config))?;
    // The same connections as the wire alone shows them.
    let wire = Trace::start(lab, "tlsfail-wire", lab.traffic.path())?;

    let (mut cells, mut libraries) = (Vec::new(), BTreeSet::new());
    for client in Client::ALL {
        if !can_run(client) {
            verdict.skip(client.name(), "not installed");
            continue;
        }
        if lab.short && !client.is_short() {
            continue;
        }
        if lab.tolerance == Tolerance::Vm {
            // The first handshakes of a program are over there before its probes are set.
            fetch(
                lab,
                &pair,
                &certificates,
                &programs,
                (client, Failure::Nothing, true),
                NAME,
            )?;
            std::thread::sleep(Duration::from_secs(1));
        }
        for failure in Failure::ALL {
            for tls13 in [false, true] {
                if lab.short && failure == Failure::Silent && client != Client::Curl {
                    continue;
                }
                let name = cell_name(cells.len());
                let said = fetch(lab, &pair, &certificates, &programs, (client, failure, tls13), &name)?;
                cells.push((client, failure, tls13, said));
            }
        }
        // Before they are let go.
        let targets = agent.api("/api/v1/tls-targets")?;
        let listed = targets["targets"].as_array().into_iter().flatten();
        libraries.extend(listed.filter_map(|target| target["library"].as_str().map(str::to_owned)));
    }
    let strangers = if lab.short { 0 } else { STRANGERS };
    be_strangers(lab, &pair, &certificates, &programs, strangers)?;
    trace.wait_for(cells.len() + strangers)?;
    wire.wait_for(cells.len() + strangers)?;
    let metrics = agent.scrape_drained()?;
    let left = released(lab, &agent)?;
    let (records, seen) = (trace.finish()?, wire.finish()?);
    agent.stop()?;
    switches::compare(lab, verdict, &pair, &certificates, &programs)?;
    drop(servers);

    let (probed, wired) = (by_name(&records), by_name(&seen));
    for (number, (client, failure, tls13, said)) in cells.iter().enumerate() {
        let (name, cell) = (cell_name(number), (*client, *failure, *tls13));
        compare(verdict, cell, true, probed.get(name.as_str()).copied(), said);
        compare(verdict, cell, false, wired.get(name.as_str()).copied(), said);
    }
    if strangers == 0 {
        // The kernel takes its time for the first probe after a pause: on a busy machine some are gone by then.
        verdict.skip("never seen before", "in the long form");
    } else {
        let port = address(Failure::Expired, true).port();
        let strange = finished(&records).filter(|record| record.server_port() == port && sni(record) == Some(NAME));
        compare_strangers(verdict, &strange.collect::<Vec<_>>(), strangers);
    }
    for library in ["openssl", "gnutls", "go"] {
        let known = libraries.contains(library);
        verdict.text(
            format!("target {library}"),
            if known { "listed" } else { "missing" },
            "listed",
        );
    }
    verdict.count("Go files still probed after their last process", left, 0);
    let unjoined = metrics.sum("hopline_tls_facts_unjoined_total", &[]);
    verdict.note("facts of no known connection", unjoined as f64, "");
    count_reasons(verdict, &metrics, &cells, strangers);
    super::compare_losses(verdict, &metrics);
    Ok(())
}

/// The counter by reason beside what each cell with probes must be.
fn count_reasons(
    verdict: &mut Verdict,
    metrics: &Metrics,
    cells: &[(Client, Failure, bool, String)],
    strangers: usize,
) {
    let failed = metrics.sum("hopline_tls_handshake_failures_total", &[("role", "client")]);
    let mut by_reason = BTreeMap::from([("cert_expired", strangers as u64)]);
    for (client, failure, tls13, _) in cells {
        *by_reason
            .entry(expected(*client, *failure, *tls13, true).outcome)
            .or_default() += 1;
    }
    by_reason.remove("ok");
    verdict.count("failures counted", failed, by_reason.values().sum());
    for (reason, count) in by_reason {
        let counted = metrics.sum(
            "hopline_tls_handshake_failures_total",
            &[("role", "client"), ("reason", reason)],
        );
        verdict.count(format!("failures counted as {reason}"), counted, count);
    }
}

/// Records of clients' connections that are over.
fn finished(records: &[Record]) -> impl Iterator<Item = &Record> {
    records
        .iter()
        .filter(|record| record.event == "finished" && record.is_client())
}

fn by_name(records: &[Record]) -> HashMap<&str, &Record> {
    finished(records)
        .filter_map(|record| Some((sni(record)?, record)))
        .collect()
}

/// The name that a cell's client asks for, by which its record is found.
fn cell_name(number: usize) -> String {
    format!("c{number}.lab.test")
}

fn sni(record: &Record) -> Option<&str> {
    record.tls.as_ref()?.sni.as_deref()
}

fn serve(lab: &Lab, pair: &Pair, certificates: &Certificates) -> Result<Vec<Process>> {
    let mut servers = Vec::new();
    for failure in Failure::ALL {
        for tls13 in [false, true] {
            let address = address(failure, tls13);
            let (certificate, chain) = match failure {
                Failure::Expired => ("expired.pem", true),
                Failure::NotYetValid => ("future.pem", true),
                Failure::PrivateRoot => ("direct.pem", false),
                Failure::Plain => {
                    let name = format!("plain-{}", address.port());
                    let at = [address];
                    servers.push(nginx::start(lab, &name, &pair.server, &at)?);
                    continue;
                }
                Failure::WrongName => ("misnamed.pem", true),
                Failure::MissingIntermediate => ("good.pem", false),
                Failure::Closes | Failure::Silent => {
                    let behaviour = if failure == Failure::Closes { "hang-up" } else { "hold" };
                    let words = ["serve", &format!("{address}/{behaviour}")];
                    let mut server = lab.helper(&words, &pair.server, &lab.tools)?;
                    server.wait_for("ready")?;
                    servers.push(server);
                    continue;
                }
                _ => ("good.pem", true),
            };
            let mut options = vec!["-www", "-alpn", AGREED, "-key", "leaf.key", "-cert", certificate];
            options.push(if tls13 { "-tls1_3" } else { "-tls1_2" });
            if chain {
                options.extend(["-cert_chain", "intermediate.pem"]);
            }
            if failure == Failure::ClientCertificate {
                options.extend(["-Verify", "1", "-verify_return_error", "-CAfile", "root.pem"]);
            }
            let options: Vec<String> = options.into_iter().map(str::to_owned).collect();
            servers.push(openssl::serve(
                lab,
                &pair.server,
                &lab.tools,
                certificates,
                address,
                &options,
            )?);
        }
    }
    Ok(servers)
}

fn fetch(
    lab: &Lab,
    pair: &Pair,
    certificates: &Certificates,
    programs: &Programs,
    (client, failure, tls13): (Client, Failure, bool),
    name: &str,
) -> Result<String> {
    // Where there is no common version, the client has the one that the server lacks.
    let version = if tls13 == (failure == Failure::Version) {
        "1.2"
    } else {
        "1.3"
    };
    let wanted = Wanted {
        to: address(failure, tls13),
        name,
        version,
        authority: if matches!(failure, Failure::UnknownAuthority | Failure::PrivateRoot) {
            "stranger.pem"
        } else {
            "root.pem"
        },
    };
    Ok(programs.fetch(lab, &pair.client, certificates, client, &wanted)?.text)
}

/// Go programs, each of a file of its own: exec, connect, refuse and end within some milliseconds.
fn be_strangers(lab: &Lab, pair: &Pair, certificates: &Certificates, programs: &Programs, count: usize) -> Result<()> {
    let to = address(Failure::Expired, true);
    for number in 0..count {
        let program = programs.copy(Client::GoStripped, number)?;
        let mut command = Command::new(program);
        command
            .args([&to.ip().to_string(), &to.port().to_string(), NAME, "1.3", "root.pem"])
            .current_dir(certificates.directory())
            .stdin(Stdio::null());
        openssl::finish(lab, &pair.client, command, &lab.file("strangers.log"))?;
    }
    Ok(())
}

/// Each of them is explained.
fn compare_strangers(verdict: &mut Verdict, records: &[&Record], count: usize) {
    let explained = records
        .iter()
        .filter(|record| outcome_of(record) == "cert_expired")
        .count();
    let mut lives: Vec<u64> = records.iter().map(|record| record.duration_us).collect();
    lives.sort_unstable();
    let median = lives.get(lives.len() / 2).copied().unwrap_or_default();
    verdict.note("never seen before, connection of", median as f64 / 1e3, "ms");
    verdict.count("never seen before, explained", explained as u64, count as u64);
}

/// Waits until no file of Go's is probed any more; gives how many are.
fn released(lab: &Lab, agent: &Agent) -> Result<u64> {
    let mut left = 0;
    process::poll(Duration::from_secs(15) * lab.patience(), || {
        let targets = agent.api("/api/v1/tls-targets")?;
        let of_go = |target: &&serde_json::Value| target["library"] == "go";
        left = targets["targets"]
            .as_array()
            .map_or(0, |targets| targets.iter().filter(of_go).count() as u64);
        Ok(left == 0)
    })?;
    Ok(left)
}

fn outcome_of(record: &Record) -> &str {
    let tls = record.tls.as_ref();
    tls.and_then(|tls| tls.outcome.as_deref()).unwrap_or("null")
}

/// One cell, whose record was found by the name asked for: outcome, who gave up, whose TLS, the protocol agreed on.
fn compare(
    verdict: &mut Verdict,
    (client, failure, tls13): (Client, Failure, bool),
    probes: bool,
    record: Option<&Record>,
    said: &str,
) {
    let version = if tls13 { "1.3" } else { "1.2" };
    let how = if probes { "" } else { ", without probes" };
    let name = format!("{}, {}, {version}{how}", client.name(), failure.name());
    let expected = expected(client, failure, tls13, probes);
    let Some(record) = record else {
        verdict.text(name, "no record", expected.outcome);
        return;
    };
    let tls = record.tls.as_ref();
    let failed_by = tls.and_then(|tls| tls.failed_by.as_deref()).unwrap_or("null");
    let library = tls.and_then(|tls| tls.library.as_deref()).unwrap_or("null");
    let library = library.split(' ').next().unwrap_or_default();
    let wanted_library = if expected.library {
        client.library().name()
    } else {
        "null"
    };
    // A library may have spoken before a failure that it has no part in.
    let library = if expected.library { library } else { "null" };
    let alpn = tls.and_then(|tls| tls.alpn.as_deref()).unwrap_or("null");
    if said.trim().is_empty() && failure != Failure::Silent {
        verdict.trouble(format!("{name}: the client said nothing"));
    }
    verdict.text(
        name,
        format!(
            "{} {failed_by} {library} {alpn} port {}",
            outcome_of(record),
            record.server_port()
        ),
        format!(
            "{} {} {wanted_library} {} port {}",
            expected.outcome,
            expected.failed_by,
            protocol(client, failure, tls13, probes),
            address(failure, tls13).port()
        ),
    );
}
