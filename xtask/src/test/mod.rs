//! `cargo xtask test`: everything that CI checks, as steps that each pass, fail or are skipped with a reason.
//!
//! A failed step does not stop the others. The last line, `N passed, M failed, K skipped`, counts steps.

mod judged;
mod processors;
mod sabotage;
mod scenario;
mod steps;
mod summary;

use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::setup::{self, Purpose};
use crate::{build, process};

use summary::{Outcome, Summary};

/// Set up, then format, lint, test, and run the lab in short form.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  CI=true cargo xtask test\n  cargo xtask test --only lab\n  cargo xtask test --vm")]
pub(crate) struct Arguments {
    /// Only steps whose name contains this.
    #[arg(long, value_name = "PART")]
    only: Option<String>,
    /// Download kernels for the VM steps when they are not cached.
    #[arg(long)]
    vm: bool,
    #[command(flatten)]
    consent: setup::Consent,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let begin = Instant::now();
    setup::ensure_ready(
        &[Purpose::Build, Purpose::Lab, Purpose::Stacks, Purpose::Test],
        arguments.consent,
    )?;
    let hopline = build::agent().context("building hopline")?;
    let lab = build::lab().context("building the lab")?;
    let mut summary = Summary::default();
    for step in steps::all(&hopline, &lab, arguments.vm) {
        if arguments
            .only
            .as_ref()
            .is_some_and(|part| !step.name.contains(part.as_str()))
        {
            continue;
        }
        println!("\n=== {}", step.name);
        let begin = Instant::now();
        let outcome = (step.run)();
        let seconds = begin.elapsed().as_secs_f64();
        match &outcome {
            Outcome::Passed => println!("=== {}: passed ({seconds:.1} s)", step.name),
            Outcome::PassedAgain(reason) => {
                println!(
                    "=== {}: passed on a later run ({seconds:.1} s), the first: {reason}",
                    step.name
                );
            }
            Outcome::Failed(reason) => println!("=== {}: FAILED ({seconds:.1} s): {reason}", step.name),
            Outcome::Skipped(reason) => println!("=== {}: skipped: {reason}", step.name),
        }
        summary.add(step.name, outcome, seconds);
    }
    println!("\n{summary}");
    if summary.failed() > 0 {
        bail!(
            "{} steps failed ({:.0} s)",
            summary.failed(),
            begin.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

/// Passed when the command ends with 0.
fn check(command: &mut std::process::Command, limit: std::time::Duration) -> Outcome {
    match process::run_for(command, limit) {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(status.to_string()),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}
