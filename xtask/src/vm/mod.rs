//! `cargo xtask vm`: boots Debian's kernels under QEMU (emulated, so no KVM is needed) and runs hopline and the lab there.
//!
//! `kernel` fetches and unpacks (`suite`: from where), `initramfs` packs the few modules that reach this machine's file
//! system, `jobs` reads what is asked for, `guest` writes what the machine does, `machine` runs it and reads its console,
//! `console` knows what must not be there. Times inside mean nothing; orders, counts and injected delays do, hence
//! `--tolerance vm`. Only here hopline watches a whole node.
//!
//! A job may take several boots. It is a function of the guest's script (`guest::PREPARE`, exported there, and named in
//! [`FUNCTIONS`]) that calls `again`: that ends the machine at once, as a power failure would, and the next boot goes on with the same
//! job. `$VM_BOOT` counts from 1, and `$VM_STATE` is a directory that lasts from boot to boot, as all of `/vm-results`
//! does; everything else that a boot wrote is gone. `second_boot` is the example and the test: `cargo xtask vm 6.12 -- second_boot`.

mod console;
mod guest;
mod initramfs;
mod jobs;
mod kernel;
mod machine;
mod preempt;
mod report;
mod suite;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::setup::{self, Purpose};
use crate::{build, process, workspace};
use jobs::{Job, Jobs};
use machine::{Boot, End, Ended};
use preempt::Preempt;

pub(crate) use kernel::are_cached;

/// Boot other kernels and run hopline and the lab there.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Series: 5.10, 6.1, 6.12, 6.16 to 6.19 and 7.0 to 7.3, from the suite of Debian that has them.\n\n\
    Examples:\n  cargo xtask vm\n  cargo xtask vm 6.1 6.12 -- connect failures\n  \
    cargo xtask vm 5.10 7.3 -- doctor\n  \
    cargo xtask vm 6.18 7.2 --preempt lazy -- close-storm --minutes 5 connect rtt\n  \
    HOPLINE_BIN=/tmp/old-hopline cargo xtask vm 7.2 --preempt full -- close-storm --minutes 30"
)]
pub(crate) struct Arguments {
    /// Kernel series.
    #[arg(value_name = "VERSION", default_values = ["6.1", "6.12"])]
    versions: Vec<String>,
    /// Scenarios of the lab, each followed by options of its own, or other jobs (an unknown name lists all); without any,
    /// all that fit an emulated machine.
    #[arg(last = true, value_name = "SCENARIO [OPTIONS]")]
    scenarios: Vec<String>,
    /// Preemption of the kernel; a kernel without this mode fails.
    #[arg(long, value_name = "MODE")]
    preempt: Option<Preempt>,
    /// Give up on a boot after this time, and the minutes that its scenarios are asked to last.
    #[arg(long, default_value = "40m")]
    limit: humantime::Duration,
    #[command(flatten)]
    consent: setup::Consent,
}

/// Every scenario with the options that make it short: what `test` runs here, and what fits an emulated machine.
pub(crate) const SCENARIOS: &[(&str, &[&str])] = &[
    ("connect", &[]),
    ("failures", &[]),
    ("stuck", &[]),
    ("states", &[]),
    ("handshakes", &[]),
    ("alerts", &[]),
    ("trace", &[]),
    ("fallback", &[]),
    ("compare", &["--short"]),
    ("existing", &[]),
    ("rtt", &[]),
    ("retransmits", &[]),
    ("overflow", &[]),
    ("degrade", &[]),
    ("churn", &[]),
    ("flood", &["--seconds", "10"]),
    ("spike", &[]),
    ("replay", &["--seconds", "5"]),
    ("budget", &["--seconds", "20"]),
    ("timeline", &["--short"]),
    ("names", &["--short"]),
    ("dns", &["--short"]),
    ("path", &["--short"]),
    ("ecmp", &[]),
    ("route-change", &["--short"]),
    ("tlsfail", &["--short"]),
    ("preempt-race", &["--seconds", "5"]),
];

/// Scenarios that run here by name alone: long ones, for a kernel or a mode of it.
pub(crate) const VM_ONLY: &[(&str, &[&str])] = &[("close-storm", &["--minutes", "1"]), ("programs", &["--short"])];

/// Jobs that are functions of the guest's script; true for those that run unless others are named.
const FUNCTIONS: &[(&str, bool)] = &[("whole_node", true), ("safe-mode", true), ("second_boot", false)];

/// Boots that one run of a kernel may take, those that a job asks for included.
const MOST_BOOTS: u32 = 8;
/// Boots that may die before the guest's script begins. Emulated kernels do now and then: with two processors, 7.2 once in
/// seven boots took an int3 in `set_next_task_fair` at 1.5 s, while it patched its own code.
const MOST_STILLBORN: u32 = 3;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure_ready(
        &[Purpose::Build, Purpose::Lab, Purpose::Stacks, Purpose::Vm],
        arguments.consent,
    )?;
    let list = jobs::asked_for(&arguments.scenarios)?;
    let jobs = Jobs {
        hopline: build::agent_under_test()?,
        lab: build::lab_and_programs()?,
        list,
    };
    let minutes: u64 = jobs.list.iter().map(Job::minutes).sum();
    let limit = *arguments.limit + Duration::from_mins(minutes);
    let mut failed = 0;
    for version in &arguments.versions {
        failed += matrix_cell(version, arguments.preempt, &jobs, limit).with_context(|| format!("kernel {version}"))?;
    }
    if failed > 0 {
        bail!("{failed} checks failed");
    }
    Ok(())
}

/// Runs all jobs on one kernel, in as many boots as they take; prints the results and says how many failed.
fn matrix_cell(version: &str, preempt: Option<Preempt>, jobs: &Jobs, limit: Duration) -> Result<usize> {
    let kernel = kernel::fetch(version)?;
    let name = match preempt {
        Some(mode) => format!("{}-{mode}", kernel.release),
        None => kernel.release.clone(),
    };
    println!("vm: Linux {name} (emulated)");
    let directory = workspace::cache("vm").join("results").join(&name);
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    let initramfs = initramfs::pack(&kernel, &directory)?;
    let mut failed = 0;
    for number in 1.. {
        guest::write(jobs, &kernel, preempt, &directory, number)?;
        let ended = boot(&Boot {
            kernel: &kernel,
            initramfs: &initramfs,
            directory: &directory,
            console: match number {
                1 => "console.log".to_owned(),
                _ => format!("console-{number}.log"),
            },
            words: preempt.map(|mode| format!("preempt={mode}")),
            limit,
        })?;
        if let (Some(mode), Some(offered)) = (preempt, left_in(&directory, guest::REFUSED)?) {
            println!(
                "FAIL {name}: this kernel has no preempt={mode}, but: {}",
                offered.trim()
            );
            return Ok(1);
        }
        let goes_on = left_in(&directory, guest::AGAIN)?.is_some();
        if let Some(complaint) = complaint(&ended, limit, goes_on) {
            println!("FAIL {name} kernel: {complaint}; console: {}", ended.console.display());
            failed += 1;
        }
        if !goes_on {
            break;
        }
        ensure!(number < MOST_BOOTS, "{MOST_BOOTS} boots were not enough");
    }
    Ok(failed + report::print(&name, jobs, &directory))
}

/// Boots, again when the machine dies before the guest's script begins: no program of ours is loaded by then.
fn boot(boot: &Boot<'_>) -> Result<Ended> {
    let mut tries = 1;
    loop {
        let ended = machine::run(boot)?;
        if ended.is_up || ended.end != End::Early || tries == MOST_STILLBORN {
            return Ok(ended);
        }
        let kept = format!("{}.stillborn-{tries}", ended.console.display());
        fs::rename(&ended.console, &kept)?;
        let fault = ended.faults.first().map_or("no word of why", String::as_str);
        println!(
            "vm: the machine died before user space, which is not counted: {fault}; booting again; console: {kept}"
        );
        tries += 1;
    }
}

/// What is wrong with how a boot ended, however its jobs went.
fn complaint(ended: &Ended, limit: Duration, goes_on: bool) -> Option<String> {
    if let Some((first, others)) = ended.faults.split_first() {
        let more = if others.is_empty() {
            String::new()
        } else {
            format!(" (and {} lines more)", others.len())
        };
        return Some(format!("{first}{more}"));
    }
    match ended.end {
        End::Late => Some(format!("not done within {} s", limit.as_secs())),
        End::Early if !goes_on => Some("the machine ended early".to_owned()),
        End::Early | End::Done => None,
    }
}

/// What the guest left in this file of its results, which is removed: it is about one boot.
fn left_in(directory: &Path, name: &str) -> Result<Option<String>> {
    let file = directory.join(name);
    if !file.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&file)?;
    fs::remove_file(&file)?;
    Ok(Some(text))
}

/// The tool, where `setup` saw it.
fn tool(name: &str) -> Result<PathBuf> {
    process::find(name).with_context(|| format!("{name} is not installed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(end: End, faults: &[&str], goes_on: bool, expected: Option<&str>) {
        let ended = Ended {
            end,
            is_up: true,
            faults: faults.iter().map(ToString::to_string).collect(),
            console: PathBuf::new(),
        };
        assert_eq!(complaint(&ended, Duration::from_secs(9), goes_on).as_deref(), expected);
    }

    #[test]
    fn a_fault_fails_however_the_boot_ended() {
        check(End::Done, &[], false, None);
        check(End::Done, &["BUG: a"], false, Some("BUG: a"));
        check(
            End::Early,
            &["BUG: a", "Oops", "Kernel panic"],
            false,
            Some("BUG: a (and 2 lines more)"),
        );
        check(End::Early, &[], false, Some("the machine ended early"));
        check(End::Late, &[], false, Some("not done within 9 s"));
    }

    #[test]
    fn a_boot_that_a_job_ended_is_no_failure_but_what_its_kernel_said_is() {
        check(End::Early, &[], true, None);
        check(End::Early, &["BUG: a"], true, Some("BUG: a"));
    }
}
