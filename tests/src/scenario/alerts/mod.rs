//! Every alert that openssl, nginx and their clients send in the clear, and every state of a certificate that TLS 1.2
//! shows: the exact reason, on both sides, and in the counter of failures.
//!
//! Truth: the alert in a capture, and what the client itself printed. Both are checked before hopline is.

mod cases;
mod hellos;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};

use self::cases::{CASES, Case, Client, Sent, Server};
use crate::capture::Capture;
use crate::certificates::Certificates;
use crate::dissect::{DecodeAs, Dissection, dissect};
use crate::hopline::{Agent, AgentOptions, Record, Trace};
use crate::lab::Lab;
use crate::process::Process;
use crate::router::{DEVICE, RouterSettings};
use crate::topology::{Family, Pair};
use crate::traffic::raw::to_digits;
use crate::verdict::Verdict;
use crate::{nginx, openssl};

/// A case's number is added.
const FIRST_PORT: u16 = 9_000;
const FAILURES: &str = "hopline_tls_handshake_failures_total";

fn address(number: usize) -> SocketAddr {
    Family::Ipv4.server(FIRST_PORT + number as u16)
}

fn server_name(number: usize, case: &Case) -> String {
    match case.client {
        Client::Raw(_) => hellos::NAME.to_owned(),
        _ => format!("n{number}.lab.test"),
    }
}

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let certificates = Certificates::make(lab)?;
    let settings = RouterSettings {
        delay_us: 500,
        ..RouterSettings::default()
    };
    let pair = Pair::new(lab, &settings)?;
    let servers = serve(lab, &pair, &certificates)?;

    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start(lab, "alerts", lab.traffic.path())?;
    let capture = Capture::start_long(lab, "alerts", &pair.client, DEVICE)?;
    let mut said = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        said.push(fetch(lab, &pair, &certificates, number, case)?);
    }
    trace.wait_for(2 * CASES.len())?;
    let metrics = agent.scrape_drained()?;
    let records = trace.finish()?;
    drop(servers);
    agent.stop()?;

    let ports: Vec<DecodeAs> = (0..CASES.len())
        .map(|number| DecodeAs {
            port: address(number).port(),
            protocol: "tls",
        })
        .collect();
    // Without keys: an alert that tshark can name was in the clear.
    let capture = dissect(&capture.end()?, None, &ports)?;
    let mut counted: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (number, case) in CASES.iter().enumerate() {
        if let Err(error) = check_case(number, case, &said[number], &capture) {
            verdict.trouble(format!("{error:#}"));
            continue;
        }
        for role in ["client", "server"] {
            let reason = compare(verdict, number, case, role, &records);
            *counted.entry((role, reason)).or_default() += 1;
        }
    }
    for ((role, reason), truth) in counted {
        let measured = metrics.sum(FAILURES, &[("role", role), ("reason", reason)]);
        verdict.count(format!("counted as {reason}, {role}"), measured, truth);
    }
    for role in ["client", "server"] {
        let measured = metrics.sum(FAILURES, &[("role", role)]);
        verdict.count(format!("counted in all, {role}"), measured, CASES.len() as u64);
    }
    super::compare_losses(verdict, &metrics);
    Ok(())
}

fn serve(lab: &Lab, pair: &Pair, certificates: &Certificates) -> Result<Vec<Process>> {
    let mut servers = Vec::new();
    let mut rejecting = String::new();
    let mut rejecting_at = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        let address = address(number);
        match case.server {
            Server::OpenSsl(options) => {
                let own = ["-www", "-key", "leaf.key"];
                let options: Vec<String> = own.iter().chain(options).map(ToString::to_string).collect();
                servers.push(openssl::serve(
                    lab,
                    &pair.server,
                    &lab.traffic,
                    certificates,
                    address,
                    &options,
                )?);
            }
            Server::NginxRejects(protocols) => {
                let server =
                    format!("server {{ listen {address} ssl; ssl_protocols {protocols}; ssl_reject_handshake on; }}\n");
                rejecting.push_str(&server);
                rejecting_at.push(address);
            }
            Server::HangsUp => {
                let mut server = lab.helper(&["serve", &format!("{address}/hang-up")], &pair.server, &lab.traffic)?;
                server.wait_for("ready")?;
                servers.push(server);
            }
        }
    }
    servers.push(nginx::start_servers(
        lab,
        "nginx",
        &pair.server,
        &lab.traffic,
        &rejecting,
        &rejecting_at,
    )?);
    Ok(servers)
}

/// Makes the one connection of a case and gives what its client printed.
fn fetch(lab: &Lab, pair: &Pair, certificates: &Certificates, number: usize, case: &Case) -> Result<String> {
    let (address, name) = (address(number), server_name(number, case));
    let with =
        |own: &[&str], more: &[&str]| -> Vec<String> { own.iter().chain(more).map(ToString::to_string).collect() };
    match case.client {
        Client::OpenSsl(more) => {
            let options = with(&["-servername", &name], more);
            Ok(openssl::fetch(lab, &pair.client, certificates, address, &options, 0)?.text)
        }
        Client::Curl(more) => {
            let port = address.port();
            let resolve = format!("{name}:{port}:{}", address.ip());
            let url = format!("https://{name}:{port}/");
            let options = with(&["--http1.1", "--resolve", &resolve, &url], more);
            Ok(openssl::curl(lab, &pair.client, certificates, None, &options, &name)?.text)
        }
        Client::Raw(hello) => {
            let words = ["raw", "--to", &address.to_string(), "--send", &to_digits(&hello())];
            lab.helper(&words, &pair.client, &lab.traffic)?.finish()
        }
    }
}

/// The capture and the client must agree with the table: else the lab is at fault, not hopline.
fn check_case(number: usize, case: &Case, said: &str, capture: &Dissection) -> Result<()> {
    let found = capture
        .handshakes
        .iter()
        .find(|handshake| handshake.server == address(number));
    let sent = match found
        .with_context(|| format!("{}: no hello captured", case.name))?
        .alert
    {
        None => Sent::Nothing,
        Some(alert) if alert.from_client => Sent::ByClient(alert.description),
        Some(alert) => Sent::ByServer(alert.description),
    };
    ensure!(
        sent == case.sent,
        "{}: the capture has {sent:?}, the table {:?}",
        case.name,
        case.sent
    );
    let said = said.to_lowercase();
    ensure!(
        said.contains(case.says),
        "{}: the client did not say `{}`: {}",
        case.name,
        case.says,
        said.trim()
    );
    Ok(())
}

/// One side of one connection; the reason that the counter must have.
fn compare(verdict: &mut Verdict, number: usize, case: &'static Case, role: &str, records: &[Record]) -> &'static str {
    let name = format!("{}, {role}", case.name);
    let address = address(number);
    let mine: Vec<&Record> = records
        .iter()
        .filter(|record| record.role == role && record.server_port() == address.port() && record.event == "finished")
        .collect();
    let [record] = mine[..] else {
        verdict.count(format!("{name} records"), mine.len() as u64, 1);
        return case.reason;
    };
    let tls = record.tls.as_ref();
    let said = tls.and_then(|tls| tls.outcome.as_deref()).unwrap_or("null");
    // Of a hello that does not add up nothing is believed.
    let server_name = if case.malformed {
        "null".to_owned()
    } else {
        server_name(number, case)
    };
    verdict.text(
        name,
        format!(
            "{} {} {said}",
            record.outcome.as_deref().unwrap_or("null"),
            tls.and_then(|tls| tls.sni.as_deref()).unwrap_or("null")
        ),
        format!("tls {server_name} {}", case.reason),
    );
    case.reason
}
