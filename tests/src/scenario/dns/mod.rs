//! What programs ask of DNS: every query and lookup of three resolvers, by UDP and TCP, IPv4 and IPv6, near and far, with a
//! server that loses, denies, truncates and delays as the names say.
//!
//! The truth is the server's log for queries, the capture at the client for what belongs together and how long it took, and
//! the clients' own word for who asked. Clients and server are watched both: each side counts each query once.

mod astray;
mod clients;
mod compare;
mod search;
mod truth;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use clients::{Client, Owners, Run};

use crate::capture::{self, Capture};
use crate::cgroup::Cgroup;
use crate::hopline::{Agent, AgentOptions, Metrics, Trace};
use crate::lab::Lab;
use crate::nameserver::script::{LOSSY, SURE};
use crate::nameserver::{self, Logged};
use crate::process::Process;
use crate::router::{DEVICE, RouterSettings};
use crate::topology::{Family, Pair};
use crate::verdict::Verdict;

pub(super) const TOOLS: &[&str] = &[
    "ip", "tcpdump", "tshark", "unshare", "mount", "xargs", "getent", "python3", "node", "curl",
];

/// Paths: half of it each way.
const DELAYS_MS: [u64; 2] = [0, 20];
/// A query has no answer after five seconds, and a lookup is over a second later; the agent's clock ticks once a second.
const SETTLED: Duration = Duration::from_secs(9);
/// Names that each client looks up at each place, with loss and without.
const NAMES: usize = 30;
const SHORT_NAMES: usize = 20;
const OTHER_SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 3);

/// One path with a name server at its end.
pub(super) struct Site<'a> {
    lab: &'a Lab,
    /// Where Go's programs and others are.
    programs: &'a Path,
    delay_ms: u64,
    pair: Pair,
    /// IPv4, IPv6.
    addresses: [SocketAddr; 2],
    log: PathBuf,
    /// Ends with this.
    _server: Process,
    _cgroup: Cgroup,
}

impl<'a> Site<'a> {
    fn new(lab: &'a Lab, programs: &'a Path, delay_ms: u64) -> Result<Self> {
        let settings = RouterSettings {
            delay_us: delay_ms * 500,
            ..RouterSettings::default()
        };
        let pair = Pair::new(lab, &settings)?;
        // Answers that nobody hears are told apart by the kernel's refusal, each of them.
        for key in ["net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"] {
            pair.client.sysctl(key, "0")?;
        }
        pair.server.ip(&format!("addr add {OTHER_SERVER}/24 dev {DEVICE}"))?;
        let addresses = [Family::Ipv4, Family::Ipv6].map(|family| family.server(53));
        let log = lab.file(format!("queries-{delay_ms}.jsonl"));
        let listen = addresses.map(|address| format!("--listen={address}"));
        let other = format!("--other={OTHER_SERVER}:53");
        let log_option = format!("--log={}", log.display());
        let words = ["dns", &listen[0], &listen[1], &other, &log_option];
        // Its own, as a container has one: its resolver is not configured as the clients' are.
        let cgroup = lab.traffic.child(&format!("server-{delay_ms}"))?;
        let mut server = lab.helper(&words, &pair.server, &cgroup)?;
        server.wait_for("ready")?;
        Ok(Self {
            lab,
            programs,
            delay_ms,
            pair,
            addresses,
            log,
            _server: server,
            _cgroup: cgroup,
        })
    }
}

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let programs = clients::build(lab.executable())?;
    let sites: Vec<Site<'_>> = DELAYS_MS
        .iter()
        .map(|delay_ms| Site::new(lab, &programs, *delay_ms))
        .collect::<Result<_>>()?;
    resolvers(lab, verdict, &sites)?;
    for site in &sites {
        search::run(site, verdict)?;
    }
    astray::run(&sites[0], verdict)
}

/// Everything that resolvers do.
fn resolvers(lab: &Lab, verdict: &mut Verdict, sites: &[Site<'_>]) -> Result<()> {
    let captures: Vec<Capture> = sites
        .iter()
        .map(|site| Capture::start_dns(lab, &format!("dns-{}", site.delay_ms), &site.pair.client, DEVICE))
        .collect::<Result<_>>()?;
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start_dns(lab, "dns", lab.traffic.path())?;

    let count = if lab.short { SHORT_NAMES } else { NAMES };
    // A process that is gone before anybody can look is known by those of its cgroup: one that stays for a while is the first.
    let first = clients::one(&sites[0], Client::Python, "slow-e-sure-99-first")?;
    first.finish()?;
    let mut owners = wave(verdict, sites, SURE, count)?;
    let sure_log = logged(sites)?;
    let sure_metrics = settled(&agent, &sure_log)?;
    silent(verdict, &agent, &sites[0])?;
    owners.extend(wave(verdict, sites, LOSSY, count)?);

    let log = logged(sites)?;
    let metrics = settled(&agent, &log)?;
    let said = trace.finish_lookups()?;
    let (mut truths, mut unheard) = (Vec::new(), Vec::new());
    for (capture, site) in captures.into_iter().zip(sites) {
        let messages = capture::dns::messages(&capture.end()?)?;
        let queries = messages.heard.iter().filter(|message| !message.is_response).count();
        let at_server = nameserver::read_log(&site.log)?.len();
        ensure!(
            queries == at_server,
            "the path lost queries: {queries}, but {at_server} came"
        );
        let late = truth::late_answers(&messages.heard, clients::timeout(lab));
        ensure!(
            late == 0,
            "{late} answers came as late as clients give up: the machine is too busy"
        );
        truths.push(truth::names(&messages.heard));
        unheard.extend(messages.unheard);
    }
    let resolvers = sites[0].addresses.map(|address| address.ip());
    compare::queries(verdict, &metrics, &log, &unheard, &resolvers);
    compare::lookups(verdict, &sure_metrics, &truths, &sure_log);
    for (site, truth) in sites.iter().zip(&truths) {
        for client in Client::ALL {
            let compared = compare::Compared {
                lab,
                client,
                delay_ms: site.delay_ms,
                names: count,
                resolver: clients::resolver(site, client),
                truth,
                owners: &owners,
            };
            compared.judge(verdict, &said);
        }
    }
    super::compare_losses(verdict, &metrics);
    agent.stop()
}

/// All clients look names up; gives who looked up what.
fn wave(verdict: &mut Verdict, sites: &[Site<'_>], loss: &str, count: usize) -> Result<Owners> {
    let begin = Instant::now();
    let mut runs: Vec<Run> = Vec::new();
    for site in sites {
        for client in Client::ALL {
            let resolver = clients::resolver(site, client).ip();
            runs.push(clients::start(
                site,
                client,
                resolver,
                client.names(site.delay_ms, loss, count),
            )?);
        }
    }
    let mut owners = Owners::new();
    for run in runs {
        owners.extend(run.finish()?);
    }
    verdict.note(format!("{loss} lookups took"), begin.elapsed().as_secs_f64(), "s");
    Ok(owners)
}

fn logged(sites: &[Site<'_>]) -> Result<Vec<Logged>> {
    let logs: Vec<Vec<Logged>> = sites
        .iter()
        .map(|site| nameserver::read_log(&site.log))
        .collect::<Result<_>>()?;
    Ok(logs.concat())
}

/// A scrape after the last query has had its time.
fn settled(agent: &Agent, log: &[Logged]) -> Result<Metrics> {
    let queries = log.len() as u64;
    let waiting = |metrics: &Metrics| metrics.sum("hopline_connections_waiting", &[("phase", "dns")]);
    let has_all = |metrics: &Metrics| {
        metrics.sum("hopline_dns_queries_total", &[("role", "client")]) >= queries && waiting(metrics) == 0
    };
    agent.scrape_until(SETTLED, has_all)?;
    // A lookup is over a second after its last query is.
    std::thread::sleep(Duration::from_millis(2_500));
    agent.scrape_drained()
}

/// A resolver that does not answer is waited for, and no longer once its client gave up.
fn silent(verdict: &mut Verdict, agent: &Agent, site: &Site<'_>) -> Result<()> {
    let destination = site.addresses[0].ip().to_string();
    let waiting = |metrics: &Metrics| {
        let labels = [("phase", "dns"), ("destination", destination.as_str())];
        metrics.sum("hopline_connections_waiting", &labels)
    };
    // What waited before is over by then.
    let (metrics, _) = agent.scrape_until(SETTLED, |metrics| waiting(metrics) == 0)?;
    verdict.count("waiting in dns before", waiting(&metrics), 0);
    let begin = Instant::now();
    let run = clients::one(site, Client::Getent, "silent-e-lossy-0-getent")?;
    // A and AAAA, which leave one after the other.
    let (metrics, _) = agent.scrape_until(Duration::from_secs(4), |metrics| waiting(metrics) > 1)?;
    verdict.count("waiting in dns for a silent resolver", waiting(&metrics), 2);
    verdict.note("waiting in dns after", begin.elapsed().as_secs_f64(), "s");
    run.finish()?;
    let (metrics, _) = agent.scrape_until(SETTLED, |metrics| waiting(metrics) == 0)?;
    verdict.count("waiting in dns after the end", waiting(&metrics), 0);
    Ok(())
}
