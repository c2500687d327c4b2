//! `cargo xtask run`: builds hopline, starts the agent and prints its table of destinations every two seconds.
//!
//! With `--demo` the agent sees only a small network that the lab makes (`lab demo`), so it shows something at once and
//! nothing else of the machine. What is printed is read from the agent's HTTP interface.

mod demo;
mod history;
mod hops;
mod summary;
mod table;

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

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
    /// End after this time; else on Ctrl-C, and the demo after five minutes.
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
const COLUMNS: &str =
    "p50, p95: since the start; WAITING: now, for over 1 s, by phase; FAILED: by reason; <-: a server.";
/// The agent attaches within a second; an emulated machine takes longer.
const ATTACH_LIMIT: Duration = Duration::from_secs(30);

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
    let duration = arguments.duration.map(Into::into);
    let exposition = if arguments.demo {
        watch_demo(arguments, &hopline, duration.unwrap_or(demo::USUAL), &stop)?
    } else {
        watch_node(arguments, &hopline, duration, &stop)?
    };
    if let Some(file) = &arguments.save_metrics {
        fs::write(file, &exposition).with_context(|| format!("writing {}", file.display()))?;
    }
    let connections = metrics::connections(&metrics::parse(&exposition));
    println!(
        "{connections} connections seen; metrics were at http://{}/metrics",
        arguments.listen
    );
    ensure!(
        !arguments.demo || connections > 0,
        "the demo's connections were not seen"
    );
    Ok(())
}

/// The demo's network alone; the last exposition.
fn watch_demo(arguments: &Arguments, hopline: &Path, duration: Duration, stop: &AtomicBool) -> Result<String> {
    let demo = demo::Demo::start(duration)?;
    println!("{}", demo.legend);
    let mut more = vec!["--config".to_owned(), demo.config.display().to_string()];
    more.extend(arguments.agent.iter().cloned());
    let mut agent = Agent::start(hopline, arguments.listen, Some(&demo.cgroup), &more)?;
    let nobody_there = arguments.consent.yes || !std::io::stdin().is_terminal();
    let exposition = demo::show(demo, hopline, &mut agent, duration, nobody_there, stop)?;
    agent.stop()?;
    Ok(exposition)
}

/// The whole node, or what the user's own arguments say; the last exposition.
fn watch_node(arguments: &Arguments, hopline: &Path, duration: Option<Duration>, stop: &AtomicBool) -> Result<String> {
    println!("hopline watches every TCP connection of this node; it changes none. Ctrl-C ends it.");
    let mut agent = Agent::start(hopline, arguments.listen, None, &arguments.agent)?;
    let table = watch(&mut agent, duration, stop)?;
    let exposition = http::get(agent.address, "/metrics")?;
    agent.stop()?;
    println!("\nAt the end:\n{table}\n{COLUMNS}");
    Ok(exposition)
}

/// Prints the table until time is up or a signal comes; gives the last one.
fn watch(agent: &mut Agent, duration: Option<Duration>, stop: &AtomicBool) -> Result<String> {
    let begin = Instant::now();
    let deadline = duration.map(|duration| begin + duration);
    let mut next = begin + REFRESH;
    loop {
        if let Some(status) = agent.running.wait_for(Duration::from_millis(100))? {
            bail!("the agent ended with {status}");
        }
        let now = Instant::now();
        let table = || {
            let rows = table::of_agent(&agent.destinations()?);
            anyhow::Ok(table::render("DESTINATION", &rows, false))
        };
        if stop.load(Ordering::Relaxed) || deadline.is_some_and(|deadline| now >= deadline) {
            return table();
        }
        if now >= next {
            next = now + REFRESH;
            let table = table()?;
            let title = format!(
                "After {} s; http://{}/metrics",
                begin.elapsed().as_secs(),
                agent.address
            );
            if std::io::stdout().is_terminal() {
                print!("\x1b[H\x1b[2J{title}\n\n{table}\n{COLUMNS}\n");
            } else {
                print!("\n{title}\n{table}");
            }
            std::io::stdout().flush()?;
        }
    }
}

/// Whether this build keeps a history, which is to be switched off: `HOPLINE_BIN` may be an older one.
fn keeps_history(hopline: &Path) -> bool {
    let asked = Command::new(hopline)
        .args(["agent", "--state-dir=", "--print-config"])
        .output();
    asked.is_ok_and(|asked| asked.status.success())
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
        if keeps_history(hopline) {
            command.arg("--state-dir=");
        }
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

    /// `/api/v1/destinations`.
    fn destinations(&self) -> Result<Value> {
        Ok(serde_json::from_str(&http::get(self.address, "/api/v1/destinations")?)?)
    }

    /// Ends it; its exit must be clean.
    fn stop(mut self) -> Result<()> {
        let status = self.running.stop()?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }
}
