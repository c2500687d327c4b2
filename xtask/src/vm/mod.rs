//! `cargo xtask vm`: boots Debian's kernels under QEMU (emulated, so no KVM is needed) and runs hopline and the lab there.
//!
//! `kernel` fetches and unpacks, `initramfs` packs the few modules that reach this machine's file system, `guest` writes
//! what the machine does, `machine` runs it and reads its console. Times inside mean nothing; orders, counts and
//! injected delays do, hence `--tolerance vm`. Only here hopline watches a whole node.

mod guest;
mod initramfs;
mod kernel;
mod machine;
mod report;

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::setup::{self, Purpose};
use crate::{build, process, workspace};

pub(crate) use kernel::are_cached;

/// Boot other kernels and run hopline and the lab there.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask vm\n  cargo xtask vm 6.1\n  cargo xtask vm 6.1 6.12 -- connect failures"
)]
pub(crate) struct Arguments {
    /// Kernel series.
    #[arg(value_name = "VERSION", default_values = ["6.1", "6.12"])]
    versions: Vec<String>,
    /// Scenarios of the lab; all that fit an emulated machine when none is named.
    #[arg(last = true, value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// Give up on a kernel after this time.
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
];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure_ready(
        &[Purpose::Build, Purpose::Lab, Purpose::Stacks, Purpose::Vm],
        arguments.consent,
    )?;
    let jobs = guest::Jobs {
        hopline: build::agent()?,
        lab: build::lab_and_programs()?,
        scenarios: scenarios(&arguments.scenarios)?,
    };
    let mut failed = 0;
    for version in &arguments.versions {
        failed += boot(version, &jobs, *arguments.limit).with_context(|| format!("kernel {version}"))?;
    }
    if failed > 0 {
        bail!("{failed} checks failed");
    }
    Ok(())
}

/// Boots one kernel, prints its results and says how many failed.
fn boot(version: &str, jobs: &guest::Jobs, limit: Duration) -> Result<usize> {
    let kernel = kernel::fetch(version)?;
    println!("vm: Linux {} (emulated)", kernel.release);
    let directory = workspace::cache("vm").join("results").join(&kernel.release);
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    let initramfs = initramfs::pack(&kernel, &directory)?;
    guest::write(jobs, &kernel, &directory)?;
    machine::run(&kernel, &initramfs, &directory, limit)?;
    Ok(report::print(&kernel.release, jobs, &directory))
}

/// The named scenarios, or all.
fn scenarios(names: &[String]) -> Result<Vec<(&'static str, &'static [&'static str])>> {
    let known = || SCENARIOS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    for name in names {
        ensure!(
            SCENARIOS.iter().any(|(known, _)| known == name),
            "no scenario {name} for the VMs; there are: {}",
            known()
        );
    }
    let is_wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    Ok(SCENARIOS.iter().copied().filter(|(name, _)| is_wanted(name)).collect())
}

/// The tool, where `setup` saw it.
fn tool(name: &str) -> Result<std::path::PathBuf> {
    process::find(name).with_context(|| format!("{name} is not installed"))
}
