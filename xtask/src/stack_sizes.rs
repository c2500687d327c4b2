//! `cargo xtask stack-sizes`: prints the table that the build script of `hopline` makes of the kernel object.

use std::fs;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::setup::{self, Purpose};
use crate::workspace;

/// Print the stack of each kernel program, and whether the kernel gives it a private one.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    consent: setup::Consent,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure_ready(&[Purpose::Build], arguments.consent)?;
    let table = output_directory()?.join("stack-sizes.txt");
    print!(
        "{}",
        fs::read_to_string(&table).with_context(|| format!("reading {}", table.display()))?
    );
    Ok(())
}

/// Where the build script of `hopline` wrote; builds what is not up to date.
fn output_directory() -> Result<PathBuf> {
    let mut cargo = workspace::cargo();
    cargo.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "hopline",
        "--bin",
        "hopline",
    ]);
    let mut cargo = cargo.arg("--message-format=json").stdout(Stdio::piped()).spawn()?;
    let output = cargo.stdout.take().context("stdout is piped")?;
    let mut directory = None;
    for message in serde_json::Deserializer::from_reader(BufReader::new(output)).into_iter::<Value>() {
        let message = message.context("reading cargo's messages")?;
        // `path+file:///…/agent#hopline@0.1.0`
        let is_ours = message["package_id"].as_str().is_some_and(|id| id.contains("/agent#"));
        if is_ours && message["reason"] == "build-script-executed" {
            directory = message["out_dir"].as_str().map(PathBuf::from);
        }
    }
    ensure!(cargo.wait()?.success(), "cargo could not build hopline");
    directory.context("cargo names no build script of hopline")
}
