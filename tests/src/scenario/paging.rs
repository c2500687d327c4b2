//! What people are told of: three agents, each with a scope of its own, see a mirror become 200 ms slower; a real Prometheus
//! and a real Alertmanager with the files of `deploy/prometheus` make one notification of it, and one when it is over.
//!
//! Truth is what curl says of each fetch. The calm before lasts as long as the rule's baseline needs, the end as long as
//! Alertmanager's `group_interval`: about ten minutes. `--short` ends once the trouble was told.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::certificates::Certificates;
use crate::cgroup::Cgroup;
use crate::hopline::{Agent, AgentOptions};
use crate::lab::Lab;
use crate::monitoring::{Alertmanager, Falsified, Notification, Prometheus, Webhook};
use crate::nginx;
use crate::process::Process;
use crate::router::{DEVICE, RouterSettings};
use crate::topology::Pair;
use crate::verdict::{Verdict, percentile};

pub(super) const TOOLS: &[&str] = &[
    "ip",
    "nginx",
    "curl",
    "openssl",
    "prometheus",
    "prometheus-alertmanager",
];

const MIRRORS: [(&str, Ipv4Addr); 3] = [
    ("one.mirror.lab.test", Ipv4Addr::new(10, 99, 2, 21)),
    ("two.mirror.lab.test", Ipv4Addr::new(10, 99, 2, 22)),
    ("three.mirror.lab.test", Ipv4Addr::new(10, 99, 2, 23)),
];
const SLOW: usize = 0;
const SCOPES: [&str; 3] = ["a", "b", "c"];
const CONFIG: &str = "groups:\n  mirrors: [\"*.mirror.lab.test\"]\n";

/// Each way: of the path, and what is added to it before one mirror.
const DELAY_US: u64 = 5_000;
const ADDED_US: u64 = 100_000;
/// Two minutes until a baseline counts, two scrapes and an evaluation before it begins; some to spare.
const CALM: Duration = Duration::from_secs(195);
/// The limit.
const TOLD_WITHIN: Duration = Duration::from_mins(1);
/// How long the trouble goes on after it was told, so that something else could be told of it.
const GOES_ON: Duration = Duration::from_secs(45);
/// The rule's window, `group_interval` of Alertmanager, scrapes and evaluations.
const OVER_WITHIN: Duration = Duration::from_mins(7);
/// A scrape and what it needs.
const SCRAPED: Duration = Duration::from_secs(20);

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let settings = RouterSettings {
        delay_us: DELAY_US,
        ..RouterSettings::default()
    };
    let mut pair = Pair::new(lab, &settings)?;
    let certificates = Certificates::make(lab)?;
    let _nginx = serve(lab, &pair, &certificates)?;
    let config = lab.file("paging.yaml");
    fs::write(&config, CONFIG)?;
    let options = AgentOptions {
        config: Some(&config),
        ..AgentOptions::default()
    };
    let mut scopes = Vec::new();
    for name in SCOPES {
        let cgroup = lab.traffic.child(name)?;
        scopes.push((Agent::start(lab, cgroup.path(), &options)?, cgroup));
    }
    let scraped: Result<Vec<_>> = scopes
        .iter()
        .map(|(agent, _)| Falsified::of(agent, lab.sabotage))
        .collect();
    let webhook = Webhook::start()?;
    let alertmanager = Alertmanager::start(lab, webhook.address)?;
    let prometheus = Prometheus::start(lab, &scraped?, alertmanager.address)?;
    let jobs: Result<Vec<Job>> = SCOPES
        .iter()
        .zip(&scopes)
        .map(|(name, (_, cgroup))| Job::start(lab, &pair, &certificates, name, cgroup))
        .collect();
    let jobs = jobs?;

    thread::sleep(CALM);
    let early = webhook.rest();
    verdict.count("notifications in the calm", early.len() as u64, 0);
    let calm = compare_calm(lab, verdict, &prometheus, &jobs)?;

    let (slow, address) = MIRRORS[SLOW];
    pair.move_away(address.into(), ADDED_US)?;
    let step = Instant::now();
    let told = webhook.next(TOLD_WITHIN * 2);
    let took = told
        .as_ref()
        .map_or(f64::INFINITY, |told| (told.at - step).as_secs_f64());
    verdict.at_most("told after the step within", took, TOLD_WITHIN.as_secs_f64(), "s");
    let expected = format!("page: HoplineRttSpike {slow}:443");
    let shown = |told: &Option<Notification>| told.as_ref().map_or("nothing".to_owned(), Notification::in_short);
    verdict.text("notification", shown(&told), format!("firing {expected}"));
    if let Some(alert) = told.as_ref().and_then(|told| told.posted.alerts.first()) {
        compare_alert(verdict, alert, slow);
    }
    thread::sleep(GOES_ON);
    let seen = format!(
        "histogram_quantile(0.99, sum by (instance, le) (rate(hopline_tcp_rtt_seconds_bucket{{destination=\"{slow}\"}}[1m]))) > 0.1"
    );
    verdict.count("agents that see it", prometheus.query(&seen)?.len() as u64, 3);
    verdict.count("notifications beside it", webhook.rest().len() as u64, 0);

    if lab.short {
        verdict.skip("the end", "--short ends once the trouble was told");
    } else {
        pair.move_away(address.into(), 0)?;
        let over = webhook.next(OVER_WITHIN);
        verdict.text("notification at the end", shown(&over), format!("resolved {expected}"));
        if let Some(over) = &over {
            verdict.note("told that it is over after", (over.at - step).as_secs_f64(), "s");
        }
        verdict.count("notifications beside that", webhook.rest().len() as u64, 0);
    }
    compare_end(verdict, &prometheus, jobs, calm, lab)?;
    for (agent, _cgroup) in scopes {
        agent.stop()?;
    }
    Ok(())
}

/// One nginx is all mirrors, each at an address of its own.
fn serve(lab: &Lab, pair: &Pair, certificates: &Certificates) -> Result<Process> {
    let [chain, key] = ["good-chain.pem", "leaf.key"].map(|name| certificates.file(name));
    let mut servers = Vec::new();
    for (_, address) in MIRRORS {
        pair.server.ip(&format!("addr add {address}/24 dev {DEVICE}"))?;
        servers.push(format!(
            "server {{ listen {address}:443 ssl; ssl_protocols TLSv1.3; ssl_certificate {}; ssl_certificate_key {}; \
             location / {{ return 200 \"package\\n\"; }} }}\n",
            chain.display(),
            key.display()
        ));
    }
    let probe = MIRRORS.map(|(_, address)| (address, 443).into());
    nginx::start_servers(lab, "mirrors", &pair.server, &lab.tools, &servers.concat(), &probe)
}

/// Fetches from all mirrors, over and over; what curl says of each fetch goes to a file of its own.
struct Job {
    process: Process,
    go: PathBuf,
    log: PathBuf,
}

/// Of one fetch: which mirror, and when its connection stood.
struct Fetch {
    mirror: usize,
    connect_us: f64,
}

impl Job {
    fn start(lab: &Lab, pair: &Pair, certificates: &Certificates, name: &str, cgroup: &Cgroup) -> Result<Self> {
        let [go, log] = ["go", "log"].map(|file| lab.file(format!("paging-{name}.{file}")));
        fs::write(&go, "")?;
        // Each mirror has a loop of its own: a slow one must not make the others idle.
        let mut script = vec!["exec 2>&1\n".to_owned()];
        for (number, (mirror, address)) in MIRRORS.iter().enumerate() {
            script.push(format!(
                "while [ -e {go} ]; do curl -s -o /dev/null -m 10 --cacert {root} --resolve {mirror}:443:{address} \
                 -w '{number} %{{http_code}} %{{time_connect}}\\n' https://{mirror}/; sleep 0.4; done &\n",
                go = go.display(),
                root = certificates.file("root.pem").display(),
            ));
        }
        script.push("wait\n".to_owned());
        let mut command = Command::new("sh");
        command
            .args(["-c", &script.concat()])
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log)?);
        let process = Process::spawn(command, Some(&pair.client), cgroup)?;
        Ok(Self { process, go, log })
    }

    /// What was fetched so far.
    fn fetches(&self) -> Result<Vec<Fetch>> {
        let text = fs::read_to_string(&self.log)?;
        let lines = text.lines().map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [mirror, "200", seconds] = fields[..] else {
                anyhow::bail!("curl said `{line}`");
            };
            Ok(Fetch {
                mirror: mirror.parse()?,
                connect_us: seconds.parse::<f64>()? * 1e6,
            })
        });
        lines.collect::<Result<_>>().context("reading what curl said")
    }

    /// The fetches under way come to their end, no others begin.
    fn end(&mut self) -> Result<()> {
        fs::remove_file(&self.go)?;
        let status = self.process.wait(Duration::from_secs(20))?;
        ensure!(status.success(), "a job ended with {status}");
        Ok(())
    }
}

/// The median of what curl says of the fetches from the mirror that will be slow.
fn compare_calm(lab: &Lab, verdict: &mut Verdict, prometheus: &Prometheus, jobs: &[Job]) -> Result<f64> {
    let mut times_us = Vec::new();
    for job in jobs {
        times_us.extend(job.fetches()?.iter().map(|fetch| fetch.connect_us));
    }
    let truth_us = percentile(&mut times_us, 50);
    let mean = "sum(hopline_tcp_handshake_duration_seconds_sum) / sum(hopline_tcp_handshake_duration_seconds_count)";
    verdict.time_us(
        "mean handshake in the calm (curl's median)",
        prometheus.value(mean)? * 1e6,
        truth_us,
        lab.tolerance.of_phase_us(truth_us),
    );
    let up = prometheus.value("sum(up{job=\"hopline\"})")?;
    verdict.count("agents that Prometheus scrapes", up as u64, SCOPES.len() as u64);
    let firing = prometheus.query("max_over_time(ALERTS{alertstate=\"firing\"}[30m])")?;
    verdict.count("alerts that fired in the calm", firing.len() as u64, 0);
    Ok(truth_us)
}

fn compare_alert(verdict: &mut Verdict, alert: &crate::monitoring::Alert, slow: &str) {
    let labels: Vec<String> = alert
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    // No node, pod or instance among them: the external labels are the shipped configuration's.
    let shown = labels.iter().filter(|label| !label.starts_with("hopline_"));
    verdict.text(
        "its labels",
        shown.cloned().collect::<Vec<_>>().join(" "),
        format!("alertname=HoplineRttSpike destination={slow} destination_port=443 group=mirrors severity=critical"),
    );
    let annotation = |name: &str| alert.annotations.get(name).map_or("", String::as_str);
    let names_it = annotation("summary").contains(slow) && annotation("dashboard_url").contains(slow);
    verdict.count("summary and link name it", u64::from(names_it), 1);
    let runbook = annotation("runbook_url").ends_with("/docs/runbooks/HoplineRttSpike.md");
    verdict.count("the runbook is its own", u64::from(runbook), 1);
}

/// What Prometheus knows of the whole run, beside what curl does.
fn compare_end(verdict: &mut Verdict, prometheus: &Prometheus, jobs: Vec<Job>, calm_us: f64, lab: &Lab) -> Result<()> {
    let fired =
        prometheus.query("count by (alertname, destination) (max_over_time(ALERTS{alertstate=\"firing\"}[30m]))")?;
    let fired: Vec<String> = fired
        .iter()
        .map(|series| format!("{} {}", series.label("alertname"), series.label("destination")))
        .collect();
    verdict.text(
        "all that fired",
        fired.join(", "),
        format!("HoplineRttSpike {}", MIRRORS[SLOW].0),
    );
    let mut fetches = Vec::new();
    for mut job in jobs {
        job.end()?;
        fetches.extend(job.fetches()?);
    }
    thread::sleep(SCRAPED);
    for (number, (mirror, _)) in MIRRORS.iter().enumerate() {
        let counted = format!("hopline_tcp_connections_total{{destination=\"{mirror}\", role=\"client\", error=\"\"}}");
        let truth = fetches.iter().filter(|fetch| fetch.mirror == number).count();
        let measured = prometheus.value(&counted)?;
        verdict.count(
            format!("connections to {mirror} (curl)"),
            measured.max(0.0) as u64,
            truth as u64,
        );
    }
    let mut slow_us: Vec<f64> = fetches
        .iter()
        .filter(|fetch| fetch.mirror == SLOW && fetch.connect_us > calm_us + ADDED_US as f64)
        .map(|fetch| fetch.connect_us)
        .collect();
    verdict.at_least("fetches while slow", slow_us.len() as f64, 20.0, "");
    let added_us = 2.0 * ADDED_US as f64;
    verdict.time_us(
        "what curl says was added",
        percentile(&mut slow_us, 50) - calm_us,
        added_us,
        lab.tolerance.of_phase_us(added_us),
    );
    Ok(())
}
