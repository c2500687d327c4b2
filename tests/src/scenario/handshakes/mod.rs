//! Every way to shake hands, on a path that loses, repeats, reorders and forges: names, version, suite and the `tls` phase.
//!
//! Truth: a capture on the same side, decrypted with the clients' keys, which must show what the case is named after.

mod bulk;
mod cases;
mod go;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use self::cases::{CASES, Case, Client, Server};
use crate::capture::Capture;
use crate::certificates::Certificates;
use crate::dissect::{DecodeAs, Dissection, Handshake, dissect};
use crate::hopline::{Agent, AgentOptions, Record, Tls, Trace};
use crate::lab::{Lab, Tolerance};
use crate::process::Process;
use crate::router::{DEVICE, Fault, PayloadEvent, PortFault, RouterSettings};
use crate::topology::{Family, Pair};
use crate::traffic::relay::Preamble;
use crate::verdict::Verdict;
use crate::{nginx, openssl};

/// A case's number is added.
const FIRST_PORT: u16 = 9_000;
/// Servers behind fronts are on the loopback, this far above.
const BEHIND: u16 = 500;
/// Each way: phases are then those of a path, and within a millisecond or a twentieth of the truth.
const DELAY_US: u64 = 1_000;

/// What the clients of all cases need.
struct Place<'a> {
    lab: &'a Lab,
    pair: &'a Pair,
    certificates: &'a Certificates,
    /// Secrets of all handshakes, for tshark.
    keys: PathBuf,
    /// The program in Go, where this machine can build it.
    go: Option<PathBuf>,
}

fn address(number: usize, case: &Case) -> SocketAddr {
    let family = if case.ipv6 { Family::Ipv6 } else { Family::Ipv4 };
    family.server(FIRST_PORT + number as u16)
}

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let certificates = Certificates::make(lab)?;
    let go = go::build(lab)?;
    let cases: Vec<(usize, &Case)> = CASES
        .iter()
        .enumerate()
        .filter(|(_, case)| go.is_some() || !matches!(case.client, Client::Go))
        .collect();
    if go.is_none() {
        verdict.skip("hello with a post-quantum key share", "no Go of 1.24 or later here");
    }
    // Emulation takes seconds for what is milliseconds here.
    let connections = if lab.tolerance == Tolerance::Vm { 2 } else { 4 };

    let faults = cases.iter().filter_map(|(number, case)| {
        Some(PortFault {
            port: address(*number, case).port(),
            fault: case.fault?,
        })
    });
    let settings = RouterSettings {
        delay_us: DELAY_US,
        faults: faults.collect(),
        ..RouterSettings::default()
    };
    let pair = Pair::new(lab, &settings)?;
    for netns in [&pair.client, &pair.server] {
        netns.sysctl("net.ipv4.tcp_fastopen", "3")?;
    }
    let mut servers = Vec::new();
    for (number, case) in &cases {
        servers.extend(serve(lab, &pair, &certificates, address(*number, case), case)?);
    }
    servers.push(serve_by_nginx(lab, &pair, &certificates, &cases)?);

    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start(lab, "handshakes", lab.traffic.path())?;
    let at_client = Capture::start_long(lab, "client", &pair.client, DEVICE)?;
    let at_server = Capture::start_long(lab, "server", &pair.server, DEVICE)?;
    let place = Place {
        lab,
        pair: &pair,
        certificates: &certificates,
        keys: lab.file("keys"),
        go,
    };
    for (number, case) in &cases {
        for connection in 0..connections {
            fetch(&place, address(*number, case), case, connection)?;
        }
    }
    trace.wait_for(2 * connections * cases.len())?;
    let metrics = agent.scrape_drained()?;
    let records = trace.finish()?;
    drop(servers);

    let ports: Vec<DecodeAs> = cases.iter().map(|(number, case)| decode_as(*number, case)).collect();
    let at_client = dissect(&at_client.end()?, Some(&place.keys), &ports)?;
    let at_server = dissect(&at_server.end()?, Some(&place.keys), &ports)?;
    let mut far = Far::default();
    for (number, case) in &cases {
        let address = address(*number, case);
        if let Err(error) = check_case(case, address, connections, &at_client) {
            verdict.trouble(format!("{error:#}"));
            continue;
        }
        for (role, capture) in [("client", &at_client), ("server", &at_server)] {
            let handshakes = to(capture, address);
            far.add(compare(
                verdict,
                &format!("{}, {role}", case.name),
                role,
                (lab.tolerance, lab.tolerance_us(2 * DELAY_US)),
                &handshakes,
                &records,
            ));
        }
    }
    far.judge(verdict, lab.tolerance);
    let forging = cases.iter().filter(|(_, case)| forges(case)).count();
    let forged = at_client.forged + at_server.forged;
    ensure!(
        forged == (forging * connections) as u64,
        "{forged} forged segments arrived, {connections} in each of {forging} cases were sent"
    );
    compare_counts(verdict, &metrics, &at_client);
    agent.stop()?;
    bulk::run(lab, verdict, &certificates)
}

fn forges(case: &Case) -> bool {
    matches!(
        case.fault,
        Some(Fault::AtPayload {
            event: PayloadEvent::Forge { .. },
            ..
        })
    )
}

fn decode_as(number: usize, case: &Case) -> DecodeAs {
    let protocol = match case.server {
        Server::OpenSsl(_) | Server::Nginx(_) => "tls",
        Server::Late(Preamble::Connect) => "http",
        Server::Late(Preamble::Smtp) => "smtp",
        Server::Late(Preamble::Postgres) => "pgsql",
    };
    DecodeAs {
        port: address(number, case).port(),
        protocol,
    }
}

/// Starts what one case needs; nginx serves its cases together.
fn serve(
    lab: &Lab,
    pair: &Pair,
    certificates: &Certificates,
    address: SocketAddr,
    case: &Case,
) -> Result<Vec<Process>> {
    let own = [
        "-www",
        "-cert",
        "good.pem",
        "-cert_chain",
        "intermediate.pem",
        "-key",
        "leaf.key",
    ];
    let options = |more: &[&str]| own.iter().chain(more).map(ToString::to_string).collect::<Vec<_>>();
    let start = |cgroup, address, more: &[&str]| {
        openssl::serve(lab, &pair.server, cgroup, certificates, address, &options(more))
    };
    match case.server {
        Server::Nginx(_) => Ok(Vec::new()),
        Server::OpenSsl(more) => Ok(vec![start(&lab.traffic, address, more)?]),
        Server::Late(preamble) => {
            let behind = SocketAddr::from(([127, 0, 0, 1], address.port() + BEHIND));
            let server = start(&lab.tools, behind, &["-tls1_3"])?;
            let (listen, to) = (address.to_string(), behind.to_string());
            let words = ["relay", "--listen", &listen, "--to", &to, "--speak", preamble.word()];
            let mut front = lab.helper(&words, &pair.server, &lab.traffic)?;
            front.wait_for("ready")?;
            Ok(vec![front, server])
        }
    }
}

fn serve_by_nginx(lab: &Lab, pair: &Pair, certificates: &Certificates, cases: &[(usize, &Case)]) -> Result<Process> {
    let mut servers = String::new();
    let mut addresses = Vec::new();
    for (number, case) in cases {
        let Server::Nginx(options) = case.server else { continue };
        let address = address(*number, case);
        let (chain, key) = (certificates.file("good-chain.pem"), certificates.file("leaf.key"));
        let server = format!(
            "server {{ listen {address} ssl {options}; ssl_protocols TLSv1.3; ssl_certificate {}; \
             ssl_certificate_key {}; }}\n",
            chain.display(),
            key.display()
        );
        servers.push_str(&server);
        addresses.push(address);
    }
    nginx::start_servers(lab, "nginx", &pair.server, &lab.traffic, &servers, &addresses)
}

/// Each connection has a name of its own, so that a name in a wrong place shows.
fn server_name(address: SocketAddr, connection: usize) -> String {
    format!("c{connection}-{}.lab.test", address.port())
}

/// Makes one connection of a case. Whether it went as the case is named shows in the capture.
fn fetch(place: &Place<'_>, address: SocketAddr, case: &Case, connection: usize) -> Result<()> {
    let Place {
        lab,
        pair,
        certificates,
        keys,
        go,
    } = place;
    let name = server_name(address, connection);
    let keys_text = keys.to_str().context("temporary directory")?;
    let own = ["-servername", &name, "-CAfile", "root.pem", "-keylogfile", keys_text];
    let session = format!("session-{}", address.port());
    let s_client = |more: &[&str]| {
        let options: Vec<String> = own.iter().chain(more).map(ToString::to_string).collect();
        openssl::fetch(lab, &pair.client, certificates, address, &options, connection)
    };
    let curl = |more: &[&str]| {
        // tshark takes what follows CONNECT for TLS when it is to this port.
        let port = if matches!(case.client, Client::Proxied) {
            443
        } else {
            address.port()
        };
        let url = format!("https://{name}:{port}/");
        let resolve = format!("{name}:{port}:{}", address.ip());
        let own = ["--cacert", "root.pem", "--http1.1", "--resolve", &resolve, &url];
        let options: Vec<String> = own.iter().chain(more).map(ToString::to_string).collect();
        let log = format!("{}-{connection}", address.port());
        openssl::curl(lab, &pair.client, certificates, Some(keys), &options, &log)
    };
    let said = match case.client {
        Client::OpenSsl(more) => s_client(more)?,
        Client::Resuming(more) => {
            let mut words = more.to_vec();
            words.extend(["-sess_out", &session]);
            if connection > 0 {
                words.extend(["-sess_in", &session]);
            }
            s_client(&words)?
        }
        Client::Curl(more) => curl(more)?,
        Client::Proxied => curl(&["--proxy", &format!("http://{address}")])?,
        Client::Packed => openssl::mutual(lab, &pair.client, certificates, address, &name, keys)?,
        Client::Go => go::fetch(lab, &pair.client, go.as_deref().context("Go")?, address, &name, keys)?,
    };
    let answered = said.text.contains("HTTP/1.") || said.text.contains("200 ");
    ensure!(
        answered,
        "{}: the client got no answer: {}",
        case.name,
        said.text.trim()
    );
    Ok(())
}

fn to(capture: &Dissection, address: SocketAddr) -> Vec<&Handshake> {
    let matching = |handshake: &&Handshake| handshake.server == address;
    capture.handshakes.iter().filter(matching).collect()
}

/// The capture must show what the case is named after: else the lab is at fault, not hopline.
fn check_case(case: &Case, address: SocketAddr, connections: usize, capture: &Dissection) -> Result<()> {
    let handshakes = to(capture, address);
    let name = case.name;
    ensure!(
        handshakes.len() == connections,
        "{name}: {} handshakes captured",
        handshakes.len()
    );
    for (connection, handshake) in handshakes.iter().enumerate() {
        let first = connection == 0;
        let resumed = !first && matches!(case.client, Client::Resuming(_));
        let as_named = handshake.version() == Some(case.version)
            && handshake.cipher().as_deref() == Some(case.cipher)
            && handshake.resumed() == Some(resumed)
            && handshake.client_hellos == case.hellos
            && (handshake.hello_segments > 1) == case.two_segments
            && handshake.hello_in_syn == (case.in_syn && !first)
            && handshake.server_name == Some(server_name(address, connection));
        ensure!(
            as_named,
            "{name}: connection {connection} went otherwise: {handshake:?}"
        );
    }
    Ok(())
}

/// How many times were farther from the truth than is allowed.
#[derive(Clone, Copy, Debug, Default)]
struct Far {
    far: usize,
    all: usize,
}

impl Far {
    fn add(&mut self, other: Self) {
        self.far += other.far;
        self.all += other.all;
    }

    /// A machine that others share stops now and then between the capture's clock and the kernel program's.
    fn judge(self, verdict: &mut Verdict, tolerance: Tolerance) {
        const MOST: f64 = 0.03;
        let (what, far) = ("times farther than is allowed", self.far as f64);
        match tolerance {
            Tolerance::Host => verdict.at_most(what, far, (self.all as f64 * MOST).floor(), ""),
            Tolerance::Vm => verdict.note(what, far, ""),
        }
    }
}

/// Every connection by itself: the words must be the same, and no time may be off but one of a case.
fn compare(
    verdict: &mut Verdict,
    name: &str,
    role: &str,
    (tolerance, tolerance_us): (Tolerance, f64),
    handshakes: &[&Handshake],
    records: &[Record],
) -> Far {
    let mut found = 0;
    let mut right = 0;
    let mut wrong = None;
    let mut times = Vec::new();
    for handshake in handshakes {
        let ends = (handshake.client, handshake.server);
        let mut mine = records
            .iter()
            .filter(|record| record.role == role && record.event == "finished" && record.addresses() == ends);
        let Some(record) = mine.next() else { continue };
        found += 1;
        let (said, is) = (measured(record), truth(handshake));
        if said == is {
            right += 1;
        } else {
            wrong.get_or_insert((said, is));
        }
        let time = record.phases_us.tls.map_or(f64::NAN, |time| time as f64);
        let true_time = handshake.tls_us().unwrap_or(f64::NAN);
        times.push((time, true_time));
    }
    let all = handshakes.len() as u64;
    verdict.count(format!("{name}: records"), found, all);
    verdict.count(format!("{name}: version, suite, name, resumed, outcome"), right, all);
    if let Some((said, is)) = wrong {
        verdict.text(format!("{name}: a wrong one"), said, is);
    }
    // Nothing measured is the worst of all.
    times.sort_by(|(a, true_a), (b, true_b)| (a - true_a).abs().total_cmp(&(b - true_b).abs()));
    let (what, judged) = match tolerance {
        Tolerance::Host => ("farthest but one", times.len().saturating_sub(2)),
        // Between device and socket an emulated machine loses time more often.
        Tolerance::Vm => ("middle", times.len().saturating_sub(1) / 2),
    };
    let (time, true_time) = times.get(judged).copied().unwrap_or((f64::NAN, f64::NAN));
    let allowed_us = |true_time: f64| tolerance_us.max(true_time * 0.05);
    verdict.time_us(format!("{name}: tls, {what}"), time, true_time, allowed_us(true_time));
    let is_near = |(time, true_time): &&(f64, f64)| (time - true_time).abs() <= allowed_us(*true_time);
    Far {
        far: times.len() - times.iter().filter(is_near).count(),
        all: times.len(),
    }
}

fn measured(record: &Record) -> String {
    let Some(tls) = &record.tls else {
        return "no TLS".to_owned();
    };
    let Tls {
        version,
        cipher,
        sni,
        resumed,
        outcome,
        alpn: _,
        failed_by: _,
        library: _,
    } = tls;
    let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "null".to_owned());
    let resumed = resumed.map_or_else(|| "null".to_owned(), |resumed| resumed.to_string());
    format!(
        "{} {} {} resumed {resumed}, {}",
        word(version),
        word(cipher),
        word(sni),
        word(outcome)
    )
}

/// The same line as the capture has it.
fn truth(handshake: &Handshake) -> String {
    format!(
        "{} {} {} resumed {}, ok",
        handshake.version().unwrap_or("null"),
        handshake.cipher().as_deref().unwrap_or("null"),
        handshake.server_name.as_deref().unwrap_or("null"),
        handshake.resumed().unwrap_or_default()
    )
}

/// The counters hold both ends of every connection, and of fronts' own connections nothing: those are not watched.
fn compare_counts(verdict: &mut Verdict, metrics: &crate::hopline::Metrics, capture: &Dissection) {
    const HANDSHAKES: &str = "hopline_tls_handshakes_total";
    let mut truth: BTreeMap<(&str, bool), u64> = BTreeMap::new();
    for handshake in &capture.handshakes {
        let kind = (
            handshake.version().unwrap_or_default(),
            handshake.resumed().unwrap_or_default(),
        );
        *truth.entry(kind).or_default() += 1;
    }
    for ((version, resumed), count) in truth {
        let resumed = resumed.to_string();
        let labels = [("role", "server"), ("tls_version", version), ("resumed", &resumed)];
        verdict.count(
            format!("counted, TLS {version}, resumed {resumed}, server"),
            metrics.sum(HANDSHAKES, &labels),
            count,
        );
    }
    super::compare_losses(verdict, metrics);
}

/// Where a file of the lab is, as a word for a program.
fn word(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dissect::example;
    use crate::hopline::{Sabotage, falsify_records, record};

    fn passes(sabotage: Option<Sabotage>) -> bool {
        let handshakes = [example("10.0.0.1:1000", "10.0.0.2:443", "a", 1_000)];
        let records = vec![
            record("client", "a"),
            record("server", "a"),
            record("client", "b"),
            record("server", "b"),
        ];
        let mut verdict = Verdict::new("x");
        let falsified = falsify_records(sabotage, records);
        compare(
            &mut verdict,
            "x",
            "client",
            (Tolerance::Host, 1_000.0),
            &handshakes.each_ref(),
            &falsified[..1],
        );
        verdict.passed()
    }

    #[test]
    fn every_falsification_shows() {
        assert!(passes(None));
        for sabotage in [Sabotage::Shift, Sabotage::Drop, Sabotage::Swap] {
            assert!(!passes(Some(sabotage)), "{sabotage:?}");
        }
    }
}
