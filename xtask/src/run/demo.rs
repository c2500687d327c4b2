//! `run --demo`: the build that hangs. Starts the lab's network and its job, shows the mirrors phase by phase with what
//! hangs below, moves one mirror away at a key, and ends with hopline's figures beside those of the packet capture.

use std::io::{BufRead as _, BufReader, IsTerminal as _, Lines, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::history::History;
use super::hops::{Router, Traces};
use super::summary::{self, Truth};
use super::{Agent, table};
use crate::process::Running;
use crate::{build, http};

/// How long the job runs when nobody says.
pub(super) const USUAL: Duration = Duration::from_mins(5);
/// Time between two tables: in place on a terminal, one below the other else.
const REDRAW: Duration = Duration::from_secs(1);
const REPRINT: Duration = Duration::from_secs(5);
/// The demo's end is a capture to read, a few processes to kill and two namespaces to remove.
const END_LIMIT: Duration = Duration::from_mins(1);
/// By then every mirror's path has been traced.
const TRACED_BY: Duration = Duration::from_secs(10);
/// Pressed when nobody is there to press it.
const KEY: &str = "d";
const COLUMNS: &str =
    "p50, p95: of the last 10 s; ! and red: slower than it was; WAITING: now, by phase; FAILED: by reason.";

/// The lab's demo network and its job.
#[derive(Debug)]
pub(super) struct Demo {
    pub(super) cgroup: PathBuf,
    /// Groups for the agent.
    pub(super) config: PathBuf,
    /// What each mirror is, a line each.
    pub(super) legend: String,
    /// The routers on the way to all of them, the first one first.
    routers: Vec<Router>,
    /// A line on its stdin starts the job; closing that ends everything.
    running: Running,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Demo {
    /// Makes the network. `lab demo` waits for a line before anything is sent.
    pub(super) fn start(duration: Duration) -> Result<Self> {
        let mut command = Command::new(build::lab()?);
        command
            .arg("demo")
            .arg("--seconds")
            .arg((duration.as_secs() + 30).to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut running = Running::start(&mut command)?;
        let stdout = running.child.stdout.take().context("stdout is piped")?;
        let mut stdout = BufReader::new(stdout).lines();
        let (mut legend, mut config, mut routers) = (String::new(), None, Vec::new());
        for line in stdout.by_ref() {
            let line = line?;
            if let Some(path) = line.strip_prefix("config ") {
                config = Some(PathBuf::from(path));
            } else if let Some(router) = line.strip_prefix("router ") {
                routers.push(Router::read(router).with_context(|| format!("`{line}` is no router"))?);
            } else if let Some(path) = line.strip_prefix("cgroup ") {
                return Ok(Self {
                    cgroup: path.into(),
                    config: config.context("the lab names no configuration")?,
                    legend,
                    routers,
                    running,
                    stdout,
                });
            } else {
                legend.push_str(&line);
                legend.push('\n');
            }
        }
        bail!("the demo network could not be made")
    }

    /// `host:port` of each mirror: what the legend's lines begin with.
    fn mirrors(&self) -> Vec<String> {
        let lines = self.legend.lines().filter_map(|line| line.strip_prefix("  "));
        lines
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect()
    }

    /// `go` starts the job, `slow` moves the first mirror away.
    fn say(&mut self, word: &str) -> Result<()> {
        let stdin = self.running.child.stdin.as_mut().context("stdin is piped")?;
        writeln!(stdin, "{word}").context("talking to the demo network")
    }

    /// Ends the job, reads the truth, and has the network removed; says when it went wrong on the way.
    fn finish(mut self) -> Result<Truth> {
        drop(self.running.child.stdin.take());
        let mut truth = Truth::default();
        for line in self.stdout {
            truth.add(&line?);
        }
        match self.running.wait_for(END_LIMIT)? {
            Some(status) => ensure!(status.success(), "the demo network ended with {status}"),
            None => bail!("the demo network did not end within {} s", END_LIMIT.as_secs()),
        }
        Ok(truth)
    }
}

/// Shows the job until time is up or a signal comes; the last exposition.
pub(super) fn show(
    mut demo: Demo,
    hopline: &Path,
    agent: &mut Agent,
    duration: Duration,
    nobody_there: bool,
    stop: &AtomicBool,
) -> Result<String> {
    let events = http::events(agent.address, "/api/v1/connections")?;
    let is_terminal = std::io::stdout().is_terminal();
    let mirrors = demo.mirrors();
    let legend = std::mem::take(&mut demo.legend);
    demo.say("go")?;
    let keys = (!nobody_there).then(lines_of_stdin);
    let begin = Instant::now();
    let routers = std::mem::take(&mut demo.routers);
    let (mut history, mut moved, mut told) = (History::default(), None, 0);
    let mut traces = Traces::default();
    let refresh = if is_terminal { REDRAW } else { REPRINT };
    let mut next = begin + refresh;
    while !stop.load(Ordering::Relaxed) && begin.elapsed() < duration {
        if let Some(status) = agent.running.wait_for(Duration::from_millis(100))? {
            bail!("the agent ended with {status}");
        }
        let now = Instant::now();
        hear(&events, &mut history, now);
        let pressed = keys.as_ref().map_or(begin.elapsed() >= duration / 2, |keys| {
            keys.try_iter().any(|key| key.trim() == KEY)
        });
        if pressed && moved.is_none() {
            demo.say("slow")?;
            moved = Some(now);
        }
        if !is_terminal {
            told = print_new_lines(&history, told);
        }
        if now < next {
            continue;
        }
        next = now + refresh;
        traces.add(
            &serde_json::from_str(&http::get(agent.address, "/api/v1/paths")?)?,
            &mirrors[0],
        );
        let rows = history.rows(&mirrors, &table::of_agent(&agent.destinations()?), now);
        let table = table::render("MIRROR", &rows, is_terminal);
        let title = format!(
            "After {} s of {}; http://{}/metrics; {}",
            begin.elapsed().as_secs(),
            duration.as_secs(),
            agent.address,
            match (moved, &keys) {
                (Some(moved), _) => format!(
                    "{} is 200 ms further away since {} s",
                    mirrors[0],
                    moved.elapsed().as_secs()
                ),
                (None, Some(_)) => format!("{KEY} and Enter: {} moves 200 ms away", mirrors[0]),
                (None, None) => format!("{} moves 200 ms away at half time", mirrors[0]),
            }
        );
        if is_terminal {
            let lines = history.lines.join("\n");
            let path = path(hopline, agent, &mirrors[0])?;
            print!("\x1b[H\x1b[2J{title}\n\n{table}\n{lines}\n\n{COLUMNS}\n{legend}\n{path}");
        } else {
            print!("\n{title}\n{table}");
        }
        std::io::stdout().flush()?;
    }
    let exposition = http::get(agent.address, "/metrics")?;
    let rows = history.rows(&mirrors, &table::of_agent(&agent.destinations()?), Instant::now());
    let path = path(hopline, agent, &mirrors[0])?;
    let elapsed = begin.elapsed();
    let truth = demo.finish()?;
    hear(&events, &mut history, Instant::now());
    println!(
        "\nAt the end:\n{}\n{COLUMNS}\n{legend}",
        table::render("MIRROR", &rows, is_terminal)
    );
    println!("hopline path {} --agent http://{}\n{path}", mirrors[0], agent.address);
    println!("{}", summary::compare(&history, &truth));
    if traces.count() > 0 {
        println!("{}", traces.compare(&routers)?);
    } else {
        ensure!(elapsed < TRACED_BY, "the path to {} was not traced", mirrors[0]);
    }
    Ok(exposition)
}

/// What `hopline path` says of the way to `destination` by now; before the first trace, that there is none.
fn path(hopline: &Path, agent: &Agent, destination: &str) -> Result<String> {
    let mut command = Command::new(hopline);
    let url = format!("http://{}", agent.address);
    let output = command.args(["path", destination, "--agent", &url]).output()?;
    let said = if output.status.success() {
        output.stdout
    } else {
        output.stderr
    };
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn hear(events: &Receiver<Value>, history: &mut History, now: Instant) {
    for event in events.try_iter() {
        history.add(&event, now);
    }
}

/// Prints what hangs as it comes; how many lines there are by now.
fn print_new_lines(history: &History, told: usize) -> usize {
    let new = history.lines_seen - told;
    for line in &history.lines[history.lines.len().saturating_sub(new)..] {
        println!("{line}");
    }
    history.lines_seen
}

/// One message per line.
fn lines_of_stdin() -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
