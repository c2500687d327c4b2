//! `cargo xtask bench replay`: how many events one core applies, and what 100 000 open connections cost in memory.
//!
//! The recording is made by hand (the agent's example `recording`), so that it is the same everywhere. Time is that of
//! the processor, not of the clock: other programs may be at work.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::{build, process, workspace};

/// What the figures should be.
const EVENTS_PER_SECOND: f64 = 500_000.0;
const RESIDENT_MIB: f64 = 120.0;
/// The same work takes longer when others use the caches or the processor's other half; nothing makes it take less.
const TRIES: usize = 5;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Connections that stay open.
    #[arg(long, default_value_t = 100_000)]
    open: u64,
    /// How often each of them is told of, with its RTT samples.
    #[arg(long, default_value_t = 3)]
    rounds: u64,
    /// Connections that end at once.
    #[arg(long, default_value_t = 300_000)]
    closes: u64,
}

/// Makes a recording, replays it and prints both figures; fails when one misses its aim.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let hopline = build::agent()?;
    let directory = tempfile::tempdir_in(workspace::target())?;
    let numbers = |open, rounds, closes| [open, rounds, closes].map(|number: u64| number.to_string());
    let all = directory.path().join("all");
    let events = make(&all, &numbers(arguments.open, arguments.rounds, arguments.closes))?;
    let mut tries = Vec::new();
    for _ in 0..TRIES {
        tries.push(replay(&hopline, &all)?.0);
    }
    tries.sort_by(f64::total_cmp);
    let none = directory.path().join("none");
    make(&none, &numbers(1, 1, 1))?;
    let (start, _) = replay(&hopline, &none)?;
    let seconds = tries[0] - start;
    let rate = events as f64 / seconds;
    println!(
        "{events} events in {seconds:.2} s of one core, the longest of {TRIES} times {:.2} s: {rate:.0} events/s (at least {EVENTS_PER_SECOND:.0})",
        tries[TRIES - 1] - start
    );
    let open = directory.path().join("open");
    make(&open, &numbers(arguments.open, arguments.rounds, 0))?;
    let (_, resident) = replay(&hopline, &open)?;
    println!(
        "{} open connections: {resident:.1} MiB resident at the most (at most {RESIDENT_MIB:.0})",
        arguments.open
    );
    ensure!(rate >= EVENTS_PER_SECOND, "too few events a second");
    ensure!(resident <= RESIDENT_MIB, "too much memory");
    Ok(())
}

/// How many events the recording has.
fn make(file: &Path, numbers: &[String]) -> Result<u64> {
    let mut command = workspace::cargo();
    command.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "hopline",
        "--example",
        "recording",
        "--",
    ]);
    let output = process::output(command.arg(file).args(numbers))?;
    output.trim().parse().context("number of events")
}

/// Seconds of processor time, and MiB at the peak.
fn replay(hopline: &Path, file: &Path) -> Result<(f64, f64)> {
    let before = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let totals = file.with_extension("totals");
    let mut child = Command::new(hopline)
        .arg("replay")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&totals)?)
        .spawn()
        .context("starting hopline replay")?;
    let mut resident = 0.0_f64;
    let status = loop {
        resident = resident.max(peak_mib(child.id()).unwrap_or_default());
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    ensure!(status.success(), "hopline replay ended with {status}");
    let after = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let spent = |usage: &nix::sys::resource::Usage| seconds(usage.user_time()) + seconds(usage.system_time());
    Ok((spent(&after) - spent(&before), resident))
}

fn seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}

/// `VmHWM` of a process that runs.
fn peak_mib(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1_024.0)
}
