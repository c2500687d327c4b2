//! `cargo xtask build`: set-up, then a release build of the agent (its build script makes the kernel object) and of the lab.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::setup::{self, Purpose};
use crate::{process, workspace};

/// Build hopline for release; installs the BPF compiler when there is none.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    consent: setup::Consent,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure_ready(&[Purpose::Build], arguments.consent)?;
    println!("built {}", agent()?.display());
    Ok(())
}

/// Builds the agent and says where it is.
pub(crate) fn agent() -> Result<PathBuf> {
    release("hopline", "hopline")
}

/// The hopline that `HOPLINE_BIN` names, an older one perhaps; else builds it.
pub(crate) fn agent_under_test() -> Result<PathBuf> {
    let Some(named) = std::env::var_os("HOPLINE_BIN") else {
        return agent();
    };
    let file = std::path::absolute(named)?;
    ensure!(file.is_file(), "HOPLINE_BIN: {} is no file", file.display());
    println!("hopline is {} (HOPLINE_BIN)", file.display());
    Ok(file)
}

/// Builds the lab and says where it is.
pub(crate) fn lab() -> Result<PathBuf> {
    release("lab", "lab")
}

/// Builds the lab and the programs of other languages that it starts, for a machine that is to run it without compilers.
pub(crate) fn lab_and_programs() -> Result<PathBuf> {
    let lab = lab()?;
    process::run(Command::new(&lab).args(["internal", "programs"]))?;
    Ok(lab)
}

fn release(package: &str, binary: &str) -> Result<PathBuf> {
    process::run(workspace::cargo().args(["build", "--quiet", "--release", "--package", package, "--bin", binary]))?;
    let file = workspace::target().join("release").join(binary);
    ensure!(file.is_file(), "cargo did not put {binary} at {}", file.display());
    Ok(file)
}
