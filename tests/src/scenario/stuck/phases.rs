//! Servers that fall silent once they have a connection: waiting in `tls` or `ttfb`, each with its own process.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::certificates::Certificates;
use crate::hopline::{Agent, AgentOptions, Metrics, Record, Trace};
use crate::lab::Lab;
use crate::openssl;
use crate::process::{self, Process};
use crate::router::RouterSettings;
use crate::topology::{Family, Pair};
use crate::verdict::Verdict;

/// After `STUCK` was due; then the clients give up.
const PATIENCE_S: u64 = 12;
/// What curl says by its exit code when it gave up.
const TIMED_OUT: i32 = 28;

/// One way to be silent.
struct Case {
    name: &'static str,
    port: u16,
    scheme: &'static str,
    /// Behaviour of the lab's server, or options of `openssl s_server` that takes a request and says nothing.
    server: Server,
    phase: &'static str,
}

enum Server {
    Lab(&'static str),
    OpenSsl(&'static str),
}

impl Case {
    /// One after the other is all that `s_server` can do.
    fn clients(&self) -> usize {
        match self.server {
            Server::Lab(_) => 2,
            Server::OpenSsl(_) => 1,
        }
    }
}

const CASES: [Case; 5] = [
    Case {
        name: "silent after accept",
        port: 8_101,
        scheme: "https",
        server: Server::Lab("hold"),
        phase: "tls",
    },
    Case {
        name: "silent after ClientHello",
        port: 8_102,
        scheme: "https",
        server: Server::Lab("drain"),
        phase: "tls",
    },
    Case {
        name: "silent after the request",
        port: 8_103,
        scheme: "http",
        server: Server::Lab("drain"),
        phase: "ttfb",
    },
    Case {
        name: "silent after the request, TLS 1.3",
        port: 8_104,
        scheme: "https",
        server: Server::OpenSsl("-tls1_3"),
        phase: "ttfb",
    },
    Case {
        name: "silent after the request, TLS 1.2",
        port: 8_105,
        scheme: "https",
        server: Server::OpenSsl("-tls1_2"),
        phase: "ttfb",
    },
];

pub(super) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let certificates = Certificates::make(lab)?;
    let pair = Pair::new(lab, &RouterSettings::default())?;
    let _servers = serve(lab, &pair, &certificates)?;
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start(lab, "phases", lab.traffic.path())?;

    let began = Instant::now();
    let mut clients: Vec<(&Case, Process)> = Vec::new();
    for case in &CASES {
        for number in 0..case.clients() {
            clients.push((case, ask(lab, &pair, &certificates, case, number)?));
        }
    }
    let of_phase = |phase: &str| {
        let cases = CASES.iter().filter(|case| case.phase == phase);
        cases.map(Case::clients).sum::<usize>() as u64
    };
    let waiting = |metrics: &Metrics, phase| metrics.sum("hopline_connections_waiting", &[("phase", phase)]);
    let phases = ["tls", "ttfb"];
    let all_wait = |metrics: &Metrics| phases.iter().all(|phase| waiting(metrics, phase) == of_phase(phase));
    let (metrics, _) = agent.scrape_until(Duration::from_secs(5), all_wait)?;
    for phase in phases {
        verdict.count(format!("waiting in {phase}"), waiting(&metrics, phase), of_phase(phase));
    }
    verdict.note("waiting in tls and ttfb after", began.elapsed().as_secs_f64(), "s");

    // `STUCK` comes after 5 s; the agent's clock ticks once a second.
    let stuck = || -> Result<Vec<Record>> {
        let records = trace.so_far()?.into_iter();
        Ok(records.filter(|record| record.event == "stuck").collect())
    };
    process::poll(Duration::from_secs(6) * lab.patience(), || {
        Ok(stuck()?.len() >= clients.len())
    })?;
    compare_stuck(verdict, &stuck()?, &clients);

    for (case, mut client) in clients {
        let status = client.wait(Duration::from_secs(PATIENCE_S + 5) * lab.patience())?;
        ensure!(
            status.code() == Some(TIMED_OUT),
            "{}: curl was to give up, but ended with {status}",
            case.name
        );
    }
    let none_waits = |metrics: &Metrics| phases.iter().all(|phase| waiting(metrics, phase) == 0);
    let (metrics, _) = agent.scrape_until(Duration::from_secs(3), none_waits)?;
    for phase in phases {
        verdict.count(format!("waiting in {phase} after the end"), waiting(&metrics, phase), 0);
    }
    let metrics = agent.scrape_drained()?;
    for phase in phases {
        // Who comes first is a race: curl says goodbye within TLS, and the server may close on that before curl does.
        let labels = [("role", "client"), ("phase", phase)];
        verdict.count(
            format!("ended in {phase}"),
            metrics.sum("hopline_connections_ended_total", &labels),
            of_phase(phase),
        );
    }
    trace.finish()?;
    agent.stop()
}

fn serve(lab: &Lab, pair: &Pair, certificates: &Certificates) -> Result<Vec<Process>> {
    let mut servers = Vec::new();
    for case in &CASES {
        let address = Family::Ipv4.server(case.port);
        servers.push(match case.server {
            Server::Lab(behaviour) => {
                let listen = format!("{address}/{behaviour}");
                // Each connection needs a thread that reads it.
                let words = ["serve", &listen, "--acceptors", "4"];
                let mut server = lab.helper(&words, &pair.server, &lab.tools)?;
                server.wait_for("ready")?;
                server
            }
            Server::OpenSsl(version) => {
                let options = ["-cert", "good.pem", "-key", "leaf.key", version].map(str::to_owned);
                openssl::serve(lab, &pair.server, &lab.tools, certificates, address, &options)?
            }
        });
    }
    Ok(servers)
}

/// One curl that will get no answer.
fn ask(lab: &Lab, pair: &Pair, certificates: &Certificates, case: &Case, number: usize) -> Result<Process> {
    let name = format!("c{number}.lab.test");
    let mut command = Command::new("curl");
    command
        .args(["-s", "-k", "--http1.1", "--max-time", &PATIENCE_S.to_string()])
        .arg("--resolve")
        .arg(format!("{name}:{}:{}", case.port, Family::Ipv4.server(case.port).ip()))
        .arg(format!("{}://{name}:{}/", case.scheme, case.port))
        .current_dir(certificates.directory())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Process::spawn(command, Some(&pair.client), &lab.traffic)
}

/// Every client has its record, which names its phase and its process.
fn compare_stuck(verdict: &mut Verdict, stuck: &[Record], clients: &[(&Case, Process)]) {
    verdict.count("STUCK records of phases", stuck.len() as u64, clients.len() as u64);
    for case in &CASES {
        let right = |record: &&Record| {
            let of_case = |(other, client): &&(&Case, Process)| {
                other.port == case.port && record.process.pid == Some(client.pid())
            };
            record.server_port() == case.port
                && record.waiting.as_deref() == Some(case.phase)
                && record.outcome.is_none()
                && record.process.comm.as_deref() == Some("curl")
                && clients.iter().any(|client| of_case(&client))
        };
        verdict.count(
            format!("{}: STUCK in {}, with its process", case.name, case.phase),
            stuck.iter().filter(right).count() as u64,
            case.clients() as u64,
        );
    }
}
