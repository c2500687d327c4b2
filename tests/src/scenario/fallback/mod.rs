//! `go mod download` over two mirrors of a group, of which the first lacks the module, refuses or hangs: every attempt has
//! its record with its owner, and going on to the second is told exactly once, and only where it happened.
//!
//! Truth: the connections in a capture at the client, and the process id that the shell printed. Mirrors have an address
//! each and a port for every case, so connections are known by where they went; names are resolved by a dnsmasq of the lab's.

mod cases;
mod module;
mod typed;

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use self::cases::{CASES, Call, Case, Server};
use crate::capture::{Capture, Conversations};
use crate::certificates::Certificates;
use crate::hopline::{Agent, AgentOptions, Fallback, Record, Trace};
use crate::lab::Lab;
use crate::names::Names;
use crate::nginx;
use crate::process::Process;
use crate::router::{DEVICE, RouterSettings};
use crate::topology::Pair;
use crate::verdict::Verdict;

pub(super) const TOOLS: &[&str] = &["ip", "tcpdump", "openssl", "nginx", "dnsmasq", "unshare", "curl", "go"];

const A: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 11);
const B: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 12);
/// Of the mirrors that have no name: who was ever resolved to has one, whoever calls it.
const UNNAMED: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 2, 21), Ipv4Addr::new(10, 99, 2, 22)];
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 53);
const GROUP: &str = "mirrors";
/// A case's number is added.
const FIRST_PORT: u16 = 9_000;
const COUNTER: &str = "hopline_fallbacks_total";
/// The longest case is Go's patience with a silent handshake, 10 s.
const LIMIT: Duration = Duration::from_secs(40);
const DELAY_US: u64 = 2_000;
/// The same to mirror a, so that who asks both at once still waits for it when b is asked.
const FAR_US: u64 = 20_000;

/// One of the two mirrors of a case.
struct Mirror {
    host: String,
    address: SocketAddr,
}

fn mirrors(number: usize, case: &Case) -> [Mirror; 2] {
    let addresses = if case.by_address { UNNAMED } else { [A, B] };
    [("a", addresses[0]), ("b", addresses[1])].map(|(letter, ip)| Mirror {
        host: if case.by_address {
            ip.to_string()
        } else {
            format!("{letter}{number}.mirror.lab.test")
        },
        address: SocketAddr::from((ip, FIRST_PORT + number as u16)),
    })
}

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let certificates = Certificates::make(lab)?;
    let pair = Pair::new(
        lab,
        &RouterSettings {
            delay_us: DELAY_US,
            further: vec![(A.into(), FAR_US)],
            ..RouterSettings::default()
        },
    )?;
    for address in [A, B, RESOLVER].into_iter().chain(UNNAMED) {
        pair.server.ip(&format!("addr add {address}/24 dev {DEVICE}"))?;
    }
    let known = CASES.iter().enumerate().filter(|(_, case)| !case.by_address);
    let of_case = known.flat_map(|(number, case)| mirrors(number, case));
    let options: Vec<String> = of_case
        .map(|mirror| format!("address=/{}/{}", mirror.host, mirror.address.ip()))
        .collect();
    let resolver = Names::start(lab, &pair.server, &lab.tools, RESOLVER, &options)?;
    let _servers = serve(lab, &pair, &certificates)?;

    let config = lab.file("fallback.yaml");
    fs::write(
        &config,
        format!("groups:\n  {GROUP}: [\"*.mirror.lab.test\", \"10.99.2.20/30\"]\n"),
    )?;
    let options = AgentOptions {
        config: Some(&config),
        ..AgentOptions::default()
    };
    let agent = Agent::start(lab, lab.traffic.path(), &options)?;
    let trace = Trace::start_configured(lab, "fallback", lab.traffic.path(), Some(&config))?;
    let capture = Capture::start(lab, "fallback", &pair.client, DEVICE)?;
    let mut pids = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        pids.push(call(lab, &pair, &resolver, &certificates, number, case).with_context(|| case.name)?);
    }
    // A connection is judged two seconds after it was opened.
    let expected = CASES.iter().filter(|case| case.is_fallback()).count() as u64;
    let (_, after) = agent.scrape_until(Duration::from_secs(5), |metrics| metrics.sum(COUNTER, &[]) >= expected)?;
    verdict.note("all fallbacks counted after", after.as_secs_f64(), "s");
    let metrics = agent.scrape_drained()?;
    let (records, fallbacks) = trace.finish_with_fallbacks()?;
    let truth = capture.finish()?;
    for (number, case) in CASES.iter().enumerate() {
        let attempts = Attempts {
            case,
            mirrors: mirrors(number, case),
            pid: pids[number],
            records: &records,
        };
        attempts.compare(lab, verdict, &truth);
        attempts.compare_fallback(verdict, &fallbacks);
        let [a, b] = &attempts.mirrors;
        let labels = [("group", GROUP), ("from", a.host.as_str()), ("to", b.host.as_str())];
        verdict.count(
            format!("{}: fallbacks counted", case.name),
            metrics.sum(COUNTER, &labels),
            case.is_fallback().into(),
        );
    }
    verdict.count("fallbacks told in all", fallbacks.len() as u64, expected);
    verdict.count("fallbacks counted in all", metrics.sum(COUNTER, &[]), expected);
    super::compare_losses(verdict, &metrics);
    agent.stop()?;
    let site = typed::Site {
        lab,
        pair: &pair,
        names: &resolver,
        certificates: &certificates,
        config: &config,
    };
    for (number, case) in CASES.iter().enumerate() {
        if let Call::Go(separator) = case.call {
            typed::run(&site, verdict, number, case, separator)?;
        }
    }
    Ok(())
}

/// Everything at both addresses that is not silent is one nginx.
fn serve(lab: &Lab, pair: &Pair, certificates: &Certificates) -> Result<Vec<Process>> {
    let tree = lab.file("proxy");
    module::publish(&tree)?;
    let mut servers = Vec::new();
    let mut silent = vec!["serve".to_owned()];
    for (number, case) in CASES.iter().enumerate() {
        let [a, b] = mirrors(number, case).map(|mirror| mirror.address);
        for (address, server) in [(a, case.a), (b, Server::Module)] {
            let pages = match server {
                Server::Module => format!("root {};", tree.display()),
                Server::Missing => "return 404;".to_owned(),
                Server::Silent => {
                    silent.push(format!("{address}/hold"));
                    continue;
                }
                Server::Nobody => continue,
            };
            let tls = if case.is_tls() {
                let [chain, key] = ["good-chain.pem", "leaf.key"].map(|name| certificates.file(name));
                format!(
                    "ssl_certificate {}; ssl_certificate_key {};",
                    chain.display(),
                    key.display()
                )
            } else {
                String::new()
            };
            let ssl = if tls.is_empty() { "" } else { " ssl" };
            servers.push(format!(
                "server {{ listen {address}{ssl}; {tls} location / {{ {pages} }} }}\n"
            ));
        }
    }
    let probe = [SocketAddr::from((B, FIRST_PORT))];
    let nginx = nginx::start_servers(lab, "mirrors", &pair.server, &lab.tools, &servers.concat(), &probe)?;
    let words: Vec<&str> = silent.iter().map(String::as_str).collect();
    let mut holder = lab.helper(&words, &pair.server, &lab.tools)?;
    holder.wait_for("ready")?;
    Ok(vec![nginx, holder])
}

/// Runs one build step below a shell; the process id of the client.
fn call(lab: &Lab, pair: &Pair, names: &Names, certificates: &Certificates, number: usize, case: &Case) -> Result<u32> {
    let job = lab.file(format!("job-{number}"));
    fs::create_dir_all(&job)?;
    let urls = urls(number, case);
    let mut command = names.command("sh");
    surroundings(&mut command, certificates, &job);
    // The shell says who the client is: a truth about owners that is not hopline's.
    command.args(["-c", "\"$@\" & echo $!; wait $!", "sh"]);
    match case.call {
        Call::Go(separator) => {
            prepare(&job, case)?;
            command.args(["go", "mod", "download"]);
            command.arg(format!("{}@{}", module::MODULE, module::VERSION));
            command.env("GOPROXY", urls.join(&separator.to_string()));
        }
        Call::Parallel => {
            command.args(["curl", "-s", "--parallel", "--parallel-immediate"]);
            for url in &urls {
                command.args([
                    "-o",
                    "/dev/null",
                    &format!("{url}/{}/@v/{}.mod", module::MODULE, module::VERSION),
                ]);
            }
        }
    }
    let log = job.join("log");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&log)?);
    let mut shell = Process::spawn(command, Some(&pair.client), &lab.traffic)?;
    let pid = shell.line()?.parse()?;
    let status = shell.wait(LIMIT * lab.patience())?;
    ensure!(
        status.success(),
        "ended with {status}: {}",
        fs::read_to_string(log)?.trim()
    );
    Ok(pid)
}

fn urls(number: usize, case: &Case) -> [String; 2] {
    mirrors(number, case).map(|mirror| format!("{}://{}:{}", case.scheme, mirror.host, mirror.address.port()))
}

/// What a Go program of the job is told: nothing but its mirrors is to be asked, and nothing kept elsewhere.
fn surroundings(command: &mut Command, certificates: &Certificates, job: &Path) {
    for (key, directory) in [
        ("HOME", "."),
        ("GOPATH", "go"),
        ("GOMODCACHE", "modules"),
        ("GOCACHE", "cache"),
    ] {
        command.env(key, job.join(directory));
    }
    for (key, value) in [
        ("GOSUMDB", "off"),
        ("GOFLAGS", "-mod=mod"),
        ("GOTOOLCHAIN", "local"),
        ("GOENV", "off"),
    ] {
        command.env(key, value);
    }
    command
        .env("SSL_CERT_FILE", certificates.file("root.pem"))
        .current_dir(job);
}

/// A module that needs the published one. Where each try costs seconds, all but the zip is known already.
fn prepare(job: &Path, case: &Case) -> Result<()> {
    fs::write(job.join("go.mod"), "module build.test/job\n\ngo 1.21\n")?;
    if case.is_stuck() {
        module::know_all_but_the_zip(&job.join("modules"))?;
    }
    Ok(())
}

/// What hopline said of one case.
struct Attempts<'a> {
    case: &'a Case,
    mirrors: [Mirror; 2],
    /// The client's.
    pid: u32,
    records: &'a [Record],
}

impl Attempts<'_> {
    fn name(&self, what: &str) -> String {
        format!("{}: {what}", self.case.name)
    }

    fn client(&self) -> (&'static str, &'static str) {
        match self.case.call {
            Call::Go(_) => ("go", "sh"),
            Call::Parallel => ("curl", "sh"),
        }
    }

    fn is_owned(&self, process: &crate::hopline::Owner) -> bool {
        let (comm, parent) = self.client();
        process.pid == Some(self.pid)
            && process.comm.as_deref() == Some(comm)
            && process.ancestry.first().map(String::as_str) == Some(parent)
    }

    fn compare(&self, lab: &Lab, verdict: &mut Verdict, truth: &Conversations) {
        let case = self.case;
        for (letter, mirror) in ["a", "b"].into_iter().zip(&self.mirrors) {
            let is_a = letter == "a";
            let conversations: Vec<_> = truth.to(mirror.address).collect();
            let count = conversations.len() as u64;
            if is_a {
                verdict.at_least(self.name("connections captured to a"), count as f64, 1.0, "");
            } else {
                verdict.count(self.name("b was called"), (count > 0).into(), case.reaches_b().into());
            }
            let to = |record: &&Record| record.is_client() && SocketAddr::from(record.remote) == mirror.address;
            let records: Vec<_> = self.records.iter().filter(to).collect();
            let finished: Vec<_> = records.iter().filter(|record| record.event == "finished").collect();
            verdict.count(self.name(&format!("records of {letter}")), finished.len() as u64, count);
            let owned = finished.iter().filter(|record| self.is_owned(&record.process)).count() as u64;
            verdict.count(
                self.name(&format!("{letter}: owned by its process below the shell")),
                owned,
                count,
            );
            let right = |record: &&&&Record| {
                let (outcome, is_answered) = if is_a {
                    (case.outcome_of_a(), case.is_answered_by_a())
                } else {
                    ("ok", true)
                };
                record.outcome.as_deref() == Some(outcome)
                    && record.phases_us.tls.is_some() == (is_answered && case.is_tls())
                    && record.phases_us.ttfb.is_some() == is_answered
                    && record.destination.group == GROUP
            };
            let as_expected = finished.iter().filter(right).count() as u64;
            verdict.count(
                self.name(&format!("{letter}: outcome, phases, group")),
                as_expected,
                count,
            );
            // Who was refused has said no name on the wire: only DNS knows it.
            let named = finished
                .iter()
                .filter(|record| record.destination.host == mirror.host)
                .count() as u64;
            verdict.count(self.name(&format!("{letter}: named {}", mirror.host)), named, count);
            for (client, conversation) in &conversations {
                let of_it = |record: &&&&Record| SocketAddr::from(record.local) == *client;
                if let (Some(true_us), Some(record)) = (conversation.client_tcp_us(), finished.iter().find(of_it))
                    && !(is_a && case.a == Server::Nobody)
                {
                    let measured = record.phases_us.tcp.map_or(f64::NAN, |us| us as f64);
                    let tolerance_us = lab.tolerance_us(DELAY_US * 2);
                    let name = self.name(&format!("{letter}: tcp"));
                    verdict.fold(|verdict| verdict.time_us(name, measured, true_us, tolerance_us));
                }
            }
            if case.a == Server::Missing && is_a && !case.is_tls() {
                let missing = |record: &&&&Record| record.http.as_ref().and_then(|http| http.status) == Some(404);
                verdict.count(
                    self.name("a: status 404"),
                    finished.iter().filter(missing).count() as u64,
                    count,
                );
            }
            if is_a && case.is_stuck() {
                let stuck = |record: &&&Record| {
                    record.event == "stuck"
                        && record.waiting.as_deref() == Some("tls")
                        && self.is_owned(&record.process)
                };
                verdict.count(
                    self.name("a: STUCK in tls, with its process"),
                    records.iter().filter(stuck).count() as u64,
                    count,
                );
            }
        }
    }

    fn compare_fallback(&self, verdict: &mut Verdict, fallbacks: &[Fallback]) {
        let [a, b] = &self.mirrors;
        let of_case: Vec<_> = fallbacks
            .iter()
            .filter(|fallback| {
                [&fallback.from, &fallback.to]
                    .iter()
                    .any(|host| **host == a.host || **host == b.host)
            })
            .collect();
        let told = of_case.iter().map(|fallback| {
            let owned = if self.is_owned(&fallback.process) {
                ""
            } else {
                ", by whom?"
            };
            format!(
                "{} {} > {} {}{owned}",
                fallback.group, fallback.from, fallback.to, fallback.reason
            )
        });
        let reasons = self.case.reasons;
        // Of several that may be told, the one that was.
        let reason = reasons
            .iter()
            .find(|reason| of_case.iter().any(|fallback| fallback.reason == **reason));
        let expected = reason
            .or(reasons.first())
            .map(|reason| format!("{GROUP} {} > {} {reason}", a.host, b.host));
        verdict.text(
            self.name("fallback"),
            told.collect::<Vec<_>>().join("; "),
            expected.unwrap_or_default(),
        );
    }
}
