//! `cargo xtask run`: builds hopline, starts the agent and prints its table of destinations every two seconds.
//!
//! With `--demo` the agent sees only a small network that the lab makes (`lab demo`), so it shows something at once and
//! nothing else of the machine. What is printed is read from /metrics, as Prometheus would.

use std::fs;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::Running;
use crate::setup::{self, Purpose};
use crate::{build, http, metrics};

/// Build hopline and show the connections of this node, or of a demo network.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask run --demo --for 30s --yes\n  sudo -E cargo xtask run -- --cgroup /sys/fs/cgroup/system.slice"
)]
pub(crate) struct Arguments {
    /// Watch a small network of the demo's own instead of the whole node.
    #[arg(long)]
    demo: bool,
    /// End after this time; else on Ctrl-C.
    #[arg(long = "for", value_name = "DURATION")]
    duration: Option<humantime::Duration>,
    /// Where the agent answers.
    #[arg(long, default_value = "127.0.0.1:9737")]
    listen: SocketAddr,
    /// Write the last answer of /metrics to this file.
    #[arg(long, value_name = "FILE")]
    save_metrics: Option<PathBuf>,
    #[command(flatten)]
    consent: setup::Consent,
    /// More arguments for `hopline agent`.
    #[arg(last = true)]
    agent: Vec<String>,
}

/// Time between two tables.
const REFRESH: Duration = Duration::from_secs(2);
/// Printed with the table.
const COLUMNS: &str = "TCP MEAN: time from SYN to established; WAITING: connects unanswered for over 1 s; \
    RETRANS: segments sent again; SENT, RECEIVED: bytes.";
/// The agent attaches within a second; an emulated machine takes longer.
const ATTACH_LIMIT: Duration = Duration::from_secs(30);
/// The demo's end is a few dozen processes to kill and two namespaces to remove.
const DEMO_END_LIMIT: Duration = Duration::from_secs(15);
/// The longest the demo's traffic runs, should nobody end it.
const DEMO_LIMIT: Duration = Duration::from_hours(24);

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let purposes: &[Purpose] = if arguments.demo {
        &[Purpose::Build, Purpose::Lab]
    } else {
        &[Purpose::Build]
    };
    setup::ensure_ready(purposes, arguments.consent)?;
    ensure!(
        nix::unistd::geteuid().is_root(),
        "loading kernel programs needs root: sudo -E cargo xtask run"
    );
    let hopline = build::agent()?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut demo = arguments
        .demo
        .then(|| Demo::start(arguments.duration.map_or(DEMO_LIMIT, Into::into)))
        .transpose()?;
    match &demo {
        Some(demo) => println!("{}", demo.legend),
        None => println!("hopline watches every TCP connection of this node; it changes none. Ctrl-C ends it."),
    }
    let cgroup = demo.as_ref().map(|demo| demo.cgroup.as_path());
    let mut agent = Agent::start(&hopline, arguments.listen, cgroup, &arguments.agent)?;
    if let Some(demo) = &mut demo {
        demo.begin()?;
    }
    let legend = demo.as_ref().map_or_else(String::new, |demo| demo.legend.clone());
    let exposition = watch(&mut agent, arguments.duration.map(Into::into), &legend, &stop)?;
    if let Some(file) = &arguments.save_metrics {
        fs::write(file, &exposition).with_context(|| format!("writing {}", file.display()))?;
    }
    if let Some(demo) = &mut demo {
        demo.finish()?;
    }
    let status = agent.running.stop()?;
    ensure!(status.success(), "the agent ended with {status}");
    let samples = metrics::parse(&exposition);
    println!(
        "\nAt the end:\n{}\n{COLUMNS}\n{legend}",
        metrics::destinations(&samples)
    );
    println!(
        "{} connections seen; metrics were at http://{}/metrics",
        metrics::connections(&samples),
        arguments.listen
    );
    ensure!(
        !arguments.demo || metrics::connections(&samples) > 0,
        "the demo's connections were not seen"
    );
    Ok(())
}

/// Prints the table until time is up or a signal comes; gives the last exposition.
fn watch(agent: &mut Agent, duration: Option<Duration>, legend: &str, stop: &AtomicBool) -> Result<String> {
    let begin = Instant::now();
    let deadline = duration.map(|duration| begin + duration);
    let mut next = begin + REFRESH;
    loop {
        if let Some(status) = agent.running.wait_for(Duration::from_millis(100))? {
            bail!("the agent ended with {status}");
        }
        let now = Instant::now();
        if stop.load(Ordering::Relaxed) || deadline.is_some_and(|deadline| now >= deadline) {
            return http::get(agent.address, "/metrics");
        }
        if now >= next {
            next = now + REFRESH;
            let table = metrics::destinations(&metrics::parse(&http::get(agent.address, "/metrics")?));
            let title = format!(
                "After {} s; http://{}/metrics",
                begin.elapsed().as_secs(),
                agent.address
            );
            if std::io::stdout().is_terminal() {
                // The table stays in place, and the legend in sight.
                print!("\x1b[H\x1b[2J{title}\n\n{table}\n{COLUMNS}\n{legend}");
            } else {
                print!("\n{title}\n{table}");
            }
            std::io::stdout().flush()?;
        }
    }
}

/// A running `hopline agent`.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) running: Running,
    address: SocketAddr,
}

impl Agent {
    /// Starts the agent and waits until its programs are attached.
    pub(crate) fn start(hopline: &Path, listen: SocketAddr, cgroup: Option<&Path>, more: &[String]) -> Result<Self> {
        let mut command = Command::new(hopline);
        command
            .args(["agent", "--listen", &listen.to_string()])
            .stdin(Stdio::null());
        if let Some(cgroup) = cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        // Ctrl-C is for xtask, which asks for a last answer before it ends the agent.
        let mut running = Running::start(command.args(more).process_group(0))?;
        let deadline = Instant::now() + ATTACH_LIMIT;
        while let Err(error) = http::get(listen, "/readyz") {
            if let Some(status) = running.wait_for(Duration::from_millis(50))? {
                bail!("the agent did not start ({status})");
            }
            if Instant::now() > deadline {
                return Err(error.context(format!("the agent was not ready within {} s", ATTACH_LIMIT.as_secs())));
            }
        }
        Ok(Self {
            running,
            address: listen,
        })
    }
}

/// The lab's demo network: destinations that answer, refuse, swallow and delay, and clients that call them.
#[derive(Debug)]
struct Demo {
    cgroup: PathBuf,
    /// What each address is, a line each.
    legend: String,
    /// A line on its stdin starts the traffic; closing that ends everything.
    running: Running,
}

impl Demo {
    /// Makes the network. `lab demo` prints the legend and `cgroup PATH` once it stands, and waits for a line before it
    /// sends anything.
    fn start(duration: Duration) -> Result<Self> {
        let mut command = Command::new(build::lab()?);
        command
            .arg("demo")
            .arg("--seconds")
            .arg((duration.as_secs() + 5).to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut running = Running::start(&mut command)?;
        let stdout = running.child.stdout.take().context("stdout is piped")?;
        let mut legend = String::from("\n");
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            if let Some(path) = line.strip_prefix("cgroup ") {
                return Ok(Self {
                    cgroup: path.into(),
                    legend,
                    running,
                });
            }
            legend.push_str(&line);
            legend.push('\n');
        }
        bail!("the demo network could not be made")
    }

    /// Starts the traffic.
    fn begin(&mut self) -> Result<()> {
        let stdin = self.running.child.stdin.as_mut().context("stdin is piped")?;
        stdin.write_all(b"go\n").context("starting the demo's traffic")
    }

    /// Ends the traffic and has the network removed; says when it went wrong on the way.
    fn finish(&mut self) -> Result<()> {
        drop(self.running.child.stdin.take());
        match self.running.wait_for(DEMO_END_LIMIT)? {
            Some(status) => ensure!(status.success(), "the demo network ended with {status}"),
            None => bail!("the demo network did not end within {} s", DEMO_END_LIMIT.as_secs()),
        }
        Ok(())
    }
}
