//! A running `hopline trace --json`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::agent::tail;
use super::record::Record;
use super::{END, Fallback, Lookup, START, Sabotage, Spike, lookup, sabotage};
use crate::lab::Lab;
use crate::process::{self, Process};

const STATE_DIR: &str = "--state-dir";

#[derive(Debug)]
pub(crate) struct Trace {
    process: Process,
    output: PathBuf,
    log: PathBuf,
    sabotage: Option<Sabotage>,
    patience: u32,
}

impl Trace {
    /// Starts a trace of `cgroup` and waits until it is attached; `name` tells traces of one lab apart.
    pub(crate) fn start(lab: &Lab, name: &str, cgroup: &Path) -> Result<Self> {
        Self::start_with(lab, name, cgroup, &[])
    }

    /// The same, which tells of lookups too: for [`Self::finish_lookups`].
    pub(crate) fn start_dns(lab: &Lab, name: &str, cgroup: &Path) -> Result<Self> {
        Self::start_with(lab, name, cgroup, &["--dns".as_ref()])
    }

    /// The same with a configuration file.
    pub(crate) fn start_configured(lab: &Lab, name: &str, cgroup: &Path, config: Option<&Path>) -> Result<Self> {
        let config = config.map(|config| ["--config".as_ref(), config.as_os_str()]);
        Self::start_with(lab, name, cgroup, config.as_ref().map_or(&[], |options| options))
    }

    /// The same beside an agent that keeps its history in `state_dir`.
    pub(crate) fn start_at(lab: &Lab, name: &str, cgroup: &Path, state_dir: &Path) -> Result<Self> {
        Self::start_with(lab, name, cgroup, &[STATE_DIR.as_ref(), state_dir.as_os_str()])
    }

    fn start_with(lab: &Lab, name: &str, cgroup: &Path, options: &[&OsStr]) -> Result<Self> {
        let output = lab.file(format!("{name}.jsonl"));
        let log = lab.file(format!("{name}.log"));
        let mut command = lab.hopline(&["trace", "--json"]);
        command
            .args(options)
            .arg("--cgroup")
            .arg(cgroup)
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .stderr(File::create(&log)?);
        if !options.contains(&STATE_DIR.as_ref()) && lab.keeps_history() {
            command.args([STATE_DIR, ""]);
        }
        let process = Process::spawn(command, None, &lab.tools)?;
        let mut trace = Self {
            process,
            output,
            log,
            sabotage: lab.sabotage,
            patience: lab.patience(),
        };
        trace.wait_until_ready()?;
        Ok(trace)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let ready = process::poll(START * self.patience, || {
            if let Some(status) = self.process.ended()? {
                bail!("hopline trace ended with {status}: {}", tail(&self.log));
            }
            Ok(fs::read_to_string(&self.log)?
                .lines()
                .any(|line| line.starts_with("ready:")))
        })?;
        ensure!(ready, "hopline trace is not ready: {}", tail(&self.log));
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How many lines on stderr begin with this.
    pub(crate) fn logged(&self, start: &str) -> Result<u64> {
        let log = fs::read_to_string(&self.log)?;
        Ok(log.lines().filter(|line| line.starts_with(start)).count() as u64)
    }

    /// What it has printed so far.
    pub(crate) fn so_far(&self) -> Result<Vec<Record>> {
        let text = fs::read_to_string(&self.output)?;
        // The last line may still be in the making.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        parse(whole, self.sabotage)
    }

    /// Waits until at least `count` finished records are there, or until no more come.
    pub(crate) fn wait_for(&self, count: usize) -> Result<()> {
        process::poll(Duration::from_secs(15) * self.patience, || {
            Ok(fs::read_to_string(&self.output)?.lines().count() >= count)
        })?;
        // One too many would be as wrong as one too few.
        std::thread::sleep(Duration::from_millis(300) * self.patience);
        Ok(())
    }

    /// Ends the trace as Ctrl-C would and gives all its records.
    pub(crate) fn finish(self) -> Result<Vec<Record>> {
        Ok(self.finish_with_fallbacks()?.0)
    }

    /// The same, and the fallbacks that it told.
    pub(crate) fn finish_with_fallbacks(mut self) -> Result<(Vec<Record>, Vec<Fallback>)> {
        self.end()?;
        let fallbacks = Fallback::read_all(&fs::read_to_string(&self.output)?, self.sabotage)?;
        Ok((read_records(&self.output, self.sabotage)?, fallbacks))
    }

    /// The same for its lookups.
    pub(crate) fn finish_lookups(mut self) -> Result<Vec<Lookup>> {
        self.end()?;
        let lookups = lookup::parse(&fs::read_to_string(&self.output)?)?;
        Ok(sabotage::falsify_lookups(self.sabotage, lookups))
    }

    /// The same for the RTT spikes.
    pub(crate) fn finish_spikes(mut self) -> Result<Vec<Spike>> {
        self.end()?;
        Spike::of_lines(&fs::read_to_string(&self.output)?, self.sabotage)
    }

    fn end(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGINT)?;
        let status = self.process.wait(END * self.patience)?;
        ensure!(
            status.success(),
            "hopline trace ended with {status}: {}",
            tail(&self.log)
        );
        Ok(())
    }

    /// Resident memory now and its peak, in MiB.
    pub(crate) fn memory_mib(&self) -> Result<(f64, f64)> {
        let (now, peak) = self.process.memory()?;
        Ok((now as f64 / 1_048_576.0, peak as f64 / 1_048_576.0))
    }
}

/// All records of a file that hopline wrote.
pub(crate) fn read_records(path: &Path, sabotage: Option<Sabotage>) -> Result<Vec<Record>> {
    parse(&fs::read_to_string(path)?, sabotage)
}

/// What tells of something else than one connection.
fn is_other(line: &str) -> bool {
    ["fallback", "undeclared", "lookup", "rtt_spike", "rtt_spike_over"]
        .iter()
        .any(|kind| line.contains(&format!("\"type\":\"{kind}\"")))
}

fn parse(text: &str, sabotage: Option<Sabotage>) -> Result<Vec<Record>> {
    let records = text
        .lines()
        .filter(|line| !is_other(line))
        .map(|line| serde_json::from_str(line).with_context(|| format!("record `{line}`")));
    Ok(sabotage::falsify_records(sabotage, records.collect::<Result<_>>()?))
}
