//! Strangers against the agent's own HTTP server: 20 000 half-open requests from 200 addresses, heads without end, readers
//! that take nothing, first with 128 descriptors beyond loopback, then on loopback with event readers as well.
//!
//! Truth: the scrapes of others, timed by the lab; the kernel's own count of connections that were opened.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::hopline::{Agent, AgentOptions, Metrics, Place, timed_get};
use crate::lab::Lab;
use crate::memory_cgroup::MemoryCgroup;
use crate::netns::NetNs;
use crate::process::{self, Process};
use crate::topology::{busy_loopback, kernel_counter};
use crate::traffic::starve::Starved;
use crate::verdict::Verdict;

/// Seconds of each attack, long and short.
const BEYOND_S: [u64; 2] = [60, 12];
const LOCAL_S: [u64; 2] = [40, 14];
const PORT: u16 = 9737;
/// Where the agent is asked beyond loopback.
const AGENT: Ipv4Addr = Ipv4Addr::new(10, 98, 255, 1);
/// Who scrapes it from elsewhere.
const SCRAPER: Ipv4Addr = Ipv4Addr::new(10, 98, 254, 1);
/// The first of those who attack.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
const ATTACKER_LOCAL: Ipv4Addr = Ipv4Addr::new(127, 98, 0, 1);
const ADDRESSES: u32 = 200;
/// A scrape may take so long, whatever is going on.
const SCRAPE_MS: f64 = 1_000.0;
/// Descriptors of a container that was given few.
const DESCRIPTORS: u64 = 128;
const MEMORY_MIB: u64 = 96;
/// Resident memory is to be back in so long, but for a tenth or this.
const BACK: Duration = Duration::from_mins(1);
const SLACK_MIB: f64 = 4.0;
/// Connections that are opened amid the attack, for the walk to find.
const HELD: u64 = 20;
const SERVER: &str = "127.0.0.1:8080";

/// One kind of attack: how, connections at once, connects a second, and what is asked for.
type Attack = (&'static str, u32, u32, &'static str);

const BEYOND: &[Attack] = &[
    ("half", 10_000, 1_500, "/metrics"),
    ("half", 10_000, 1_500, "/metrics"),
    ("long", 200, 100, "/metrics"),
    ("drip", 500, 200, "/metrics"),
    ("read", 1_000, 200, "/metrics"),
];
const LOCAL: &[Attack] = &[
    ("half", 2_000, 1_000, "/metrics"),
    ("long", 200, 100, "/metrics"),
    ("read", 2_000, 300, "/api/v1/connections"),
];

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let stage = Stage::new(lab)?;
    too_few_descriptors(lab, verdict)?;
    let memory = MemoryCgroup::create("starved", MEMORY_MIB << 20)?;
    let place = Place {
        netns: &stage.netns,
        listen: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT),
        descriptors: Some(DESCRIPTORS),
    };
    let options = AgentOptions {
        place: Some(place),
        memory: memory.as_ref(),
        ..AgentOptions::default()
    };
    let part = Part {
        name: "128 descriptors",
        attacks: BEYOND,
        to: AGENT,
        from: ATTACKER,
        scrapers: &[(Some(SCRAPER), AGENT), (None, Ipv4Addr::LOCALHOST)],
        seconds: BEYOND_S[usize::from(lab.short)],
    };
    let metrics = stage.attack(verdict, &part, &options)?;
    judge_memory(verdict, memory.as_ref())?;
    let row = |what: &str| format!("{}: {what}", part.name);
    verdict.count(
        row("descriptors refused"),
        metrics.sum("hopline_agent_http_accept_errors_total", &[]),
        0,
    );
    ended(verdict, &row, &metrics, &["evicted"]);
    drop(memory);

    let place = Place {
        netns: &stage.netns,
        listen: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT),
        descriptors: None,
    };
    let options = AgentOptions {
        place: Some(place),
        ..AgentOptions::default()
    };
    let part = Part {
        name: "loopback",
        attacks: LOCAL,
        to: Ipv4Addr::LOCALHOST,
        from: ATTACKER_LOCAL,
        scrapers: &[(None, Ipv4Addr::LOCALHOST)],
        seconds: LOCAL_S[usize::from(lab.short)],
    };
    let metrics = stage.attack(verdict, &part, &options)?;
    let row = |what: &str| format!("{}: {what}", part.name);
    ended(verdict, &row, &metrics, &["evicted", "malformed"]);
    let refused = metrics.sum("hopline_agent_http_requests_refused_total", &[("reason", "streams")]);
    verdict.at_least(row("event readers refused"), refused as f64, 1.0, "");
    Ok(())
}

/// Each of these ways to end was taken, and counted.
fn ended(verdict: &mut Verdict, row: &impl Fn(&str) -> String, metrics: &Metrics, ways: &[&str]) {
    for way in ways {
        let count = metrics.sum("hopline_agent_http_connections_total", &[("result", way)]);
        verdict.at_least(row(&format!("connections ended: {way}")), count as f64, 1.0, "");
    }
}

fn judge_memory(verdict: &mut Verdict, memory: Option<&MemoryCgroup>) -> Result<()> {
    let Some(memory) = memory else {
        verdict.skip("memory limit", "this kernel limits no memory of cgroups");
        return Ok(());
    };
    let row = format!("most memory of its {}", memory.version());
    verdict.at_most(
        row,
        memory.peak()? as f64 / f64::from(1 << 20),
        MEMORY_MIB as f64,
        "MiB",
    );
    verdict.count("processes killed for want of memory", memory.killed()?, 0);
    Ok(())
}

/// With too few descriptors it does not start and names the number; with that number it does.
fn too_few_descriptors(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let started_with = |descriptors| -> Result<(bool, String)> {
        let mut command: Command = lab.hopline(&["agent", "--listen", "127.0.0.1:0", "--state-dir=", "--cgroup"]);
        command
            .arg(lab.traffic.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let log = lab.file(format!("descriptors-{descriptors}.log"));
        command.stderr(std::fs::File::create(&log)?);
        process::limit_descriptors(&mut command, descriptors);
        let mut agent = Process::spawn(command, None, &lab.tools)?;
        let mut text = String::new();
        process::poll(Duration::from_secs(30), || {
            text = std::fs::read_to_string(&log)?;
            Ok(agent.ended()?.is_some() || text.contains("attached"))
        })?;
        Ok((text.contains("attached"), text))
    };
    let (started, text) = started_with(64)?;
    ensure!(!started, "the agent starts with 64 descriptors");
    let needed = text.split(' ').find_map(|word| word.parse::<u64>().ok());
    let needed = needed.with_context(|| format!("no number in: {text}"))?;
    verdict.count(
        "lines that say how many descriptors it needs",
        text.lines().count() as u64,
        1,
    );
    verdict.at_most(
        "descriptors without which it does not start",
        needed as f64,
        DESCRIPTORS as f64,
        "",
    );
    verdict.count("starts with one less", u64::from(started_with(needed - 1)?.0), 0);
    verdict.count("starts with as many", u64::from(started_with(needed)?.0), 1);
    Ok(())
}

/// Where all of it happens.
struct Stage<'a> {
    lab: &'a Lab,
    /// Of the agent's server and those who attack it.
    netns: NetNs,
    /// Of what the agent watches.
    watched: NetNs,
    _server: Process,
}

/// One attack, and who must not notice.
struct Part<'a> {
    name: &'static str,
    attacks: &'a [Attack],
    to: Ipv4Addr,
    from: Ipv4Addr,
    /// From where to where.
    scrapers: &'a [(Option<Ipv4Addr>, Ipv4Addr)],
    seconds: u64,
}

impl<'a> Stage<'a> {
    fn new(lab: &'a Lab) -> Result<Self> {
        let netns = busy_loopback()?;
        for address in [AGENT, SCRAPER] {
            netns.ip(&format!("addr add {address}/32 dev lo"))?;
        }
        for number in 0..ADDRESSES {
            let address = Ipv4Addr::from_bits(ATTACKER.to_bits() + number);
            netns.ip(&format!("addr add {address}/32 dev lo"))?;
        }
        let watched = busy_loopback()?;
        let mut server = lab.helper(&["serve", &format!("{SERVER}/echo")], &watched, &lab.tools)?;
        server.wait_for("ready")?;
        Ok(Self {
            lab,
            netns,
            watched,
            _server: server,
        })
    }

    fn attack(&self, verdict: &mut Verdict, part: &Part<'_>, options: &AgentOptions<'_>) -> Result<Metrics> {
        let opened = || kernel_counter(&self.netns, "TcpPassiveOpens");
        let row = |what: &str| format!("{}: {what}", part.name);
        let before = opened()?;
        let mut agent = Agent::start(self.lab, self.lab.traffic.path(), options)?;
        let ask = SocketAddr::new(part.to.into(), PORT);
        // What a first scrape allocates stays.
        for _ in 0..10 {
            timed_get(&self.netns, None, ask, "/metrics")?;
        }
        let (calm_mib, _) = agent.memory_mib()?;
        agent.process().forget_peak()?;
        let attackers: Vec<Process> = (part.attacks.iter())
            .map(|attack| self.attacker(part, *attack))
            .collect::<Result<_>>()?;
        let (scrapes, held) = self.meanwhile(part, &agent)?;
        let cpu = agent.cpu_percent()?;
        let mut starved = Starved::default();
        for attacker in attackers {
            let counts: Starved = serde_json::from_str(&attacker.finish()?).context("an attacker's counts")?;
            starved.begun += counts.begun;
            starved.ended += counts.ended;
            starved.most += counts.most;
        }
        let is_alive = agent.is_alive()?;
        let (_, peak_mib) = agent.memory_mib()?;
        let allowed = (calm_mib * 1.1).max(calm_mib + SLACK_MIB);
        let mut after_mib = f64::NAN;
        let end = Instant::now();
        process::poll(BACK, || {
            after_mib = agent.memory_mib()?.0;
            Ok(after_mib <= allowed)
        })?;
        let back = end.elapsed().as_secs_f64();
        // What the kernel still holds for a connection that nobody has accepted comes first.
        let metrics = self.netns.run(|| agent.scrape_drained())?;
        let counted = metrics.sum("hopline_agent_http_connections_total", &[])
            + metrics.sum("hopline_agent_http_open_connections", &[]);
        let truth = opened()? - before;

        verdict.note(row("connects begun"), starved.begun as f64, "");
        verdict.note(row("connections that attackers held at most"), starved.most as f64, "");
        verdict.note(row("agent's processor share"), cpu, "%");
        verdict.count(row("agents alive"), u64::from(is_alive), 1);
        judge_scrapes(verdict, &row, &scrapes);
        verdict.count(row("connections opened meanwhile, seen by the walk"), held, HELD);
        verdict.count(row("connections to the server, counted"), counted, truth);
        verdict.note(row("resident memory before"), calm_mib, "MiB");
        verdict.note(row("resident memory, peak"), peak_mib, "MiB");
        verdict.at_most(row("resident memory afterwards"), after_mib, allowed, "MiB");
        verdict.note(row("back after"), back, "s");
        agent.stop()?;
        Ok(metrics)
    }

    fn attacker(&self, part: &Part<'_>, (way, count, rate, path): Attack) -> Result<Process> {
        let words = [
            "starve",
            way,
            "--to",
            &format!("{}:{PORT}", part.to),
            "--from",
            &part.from.to_string(),
            "--addresses",
            &ADDRESSES.to_string(),
            "--count",
            &count.to_string(),
            "--rate",
            &rate.to_string(),
            "--path",
            path,
        ];
        self.lab.helper(&words, &self.netns, &self.lab.tools)
    }

    /// Scrapes every second from everywhere, and looks whether what opens in the middle is seen.
    fn meanwhile(&self, part: &Part<'_>, agent: &Agent) -> Result<(Vec<Scrape>, u64)> {
        let over = AtomicBool::new(false);
        let half = Duration::from_secs(part.seconds) / 2;
        thread::scope(|scope| {
            let scrapers: Vec<_> = (part.scrapers.iter())
                .map(|(from, to)| scope.spawn(|| self.scrape_every_second(*from, *to, &over)))
                .collect();
            let held = self.held(agent, half);
            over.store(true, Ordering::Relaxed);
            let mut seen = Vec::new();
            for scraper in scrapers {
                seen.extend(scraper.join().expect("a scraper reports its trouble"));
            }
            Ok((seen, held?))
        })
    }

    fn scrape_every_second(&self, from: Option<Ipv4Addr>, to: Ipv4Addr, over: &AtomicBool) -> Vec<Scrape> {
        let mut scrapes = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let got = timed_get(&self.netns, from, SocketAddr::new(IpAddr::V4(to), PORT), "/metrics");
            scrapes.push(Scrape {
                is_local: from.is_none(),
                ms: got
                    .map(|took| took.as_secs_f64() * 1e3)
                    .map_err(|error| format!("{error:#}")),
            });
            thread::sleep(Duration::from_secs(1).saturating_sub(begin.elapsed()));
        }
        scrapes
    }

    /// Connections of the scope that open amid the attack, as far as a scrape before its end shows them.
    fn held(&self, agent: &Agent, half: Duration) -> Result<u64> {
        // Records, for those who ask for a stream of them.
        let seconds = (half * 2).as_secs().to_string();
        let words = ["flood", "--rate", "300", "--seconds", &seconds, SERVER];
        let flood = self.lab.helper(&words, &self.watched, &self.lab.traffic)?;
        thread::sleep(half);
        let count = HELD.to_string();
        let words = [
            "connect",
            "--to",
            SERVER,
            "--count",
            &count,
            "--exchange",
            "100",
            "--end",
            "hold",
        ];
        let mut client = self.lab.helper(&words, &self.watched, &self.lab.traffic)?;
        while client.line()? != "ready" {}
        thread::sleep(half);
        let metrics = self.netns.run(|| agent.scrape())?;
        drop(flood);
        Ok(metrics.sum(
            "hopline_tcp_connections_active",
            &[("role", "client"), ("state", "established")],
        ))
    }
}

/// One scrape while the attack went on: how long it took, or why it failed.
struct Scrape {
    is_local: bool,
    ms: Result<f64, String>,
}

fn judge_scrapes(verdict: &mut Verdict, row: &impl Fn(&str) -> String, scrapes: &[Scrape]) {
    for (is_local, from) in [(false, "another address"), (true, "loopback")] {
        let of_it = || scrapes.iter().filter(|scrape| scrape.is_local == is_local);
        if of_it().next().is_none() {
            continue;
        }
        let times = || of_it().filter_map(|scrape| scrape.ms.as_ref().ok().copied());
        for trouble in of_it().filter_map(|scrape| scrape.ms.as_ref().err()) {
            verdict.trouble(row(&format!("a scrape from {from}: {trouble}")));
        }
        verdict.count(
            row(&format!("scrapes from {from} that were answered")),
            times().count() as u64,
            of_it().count() as u64,
        );
        let slowest = times().fold(0.0, f64::max);
        verdict.at_most(row(&format!("slowest scrape from {from}")), slowest, SCRAPE_MS, "ms");
    }
}
