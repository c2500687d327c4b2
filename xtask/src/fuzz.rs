//! `cargo xtask fuzz`: each fuzz target of the agent for a while; a crash ends it. The corpora stay in the cache.
//!
//! `test` does without the sanitizer, whose build takes minutes: `agent/tests/fuzz_targets.rs` calls the same targets.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::setup::{self, Purpose};
use crate::{process, workspace};

/// Fuzz every parser of bytes that others send.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Time for each target.
    #[arg(long = "for", value_name = "DURATION", default_value = "60s")]
    duration: humantime::Duration,
    /// Only this target.
    target: Option<String>,
    #[command(flatten)]
    consent: setup::Consent,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let targets: Vec<String> = targets()?
        .into_iter()
        .filter(|name| arguments.target.as_ref().is_none_or(|wanted| wanted == name))
        .collect();
    ensure!(
        !targets.is_empty(),
        "no such fuzz target; there are: {}",
        self::targets()?.join(", ")
    );
    setup::ensure_ready(&[Purpose::Fuzz], arguments.consent)?;
    for target in &targets {
        println!("fuzz: {target} for {}", arguments.duration);
        fuzz(target, *arguments.duration)?;
    }
    println!("fuzz: {} targets, no crash", targets.len());
    Ok(())
}

/// Names of the targets: the files in `agent/fuzz/fuzz_targets`.
pub(crate) fn targets() -> Result<Vec<String>> {
    let directory = workspace::root().join("agent/fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Lets a stable compiler take the sanitizer's flags. A wrapper, not a variable for all: with `RUSTC_BOOTSTRAP=1` in its
/// environment aya-build would take Debian's compiler for a nightly and build `core` itself.
const WRAPPER: &str = "#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec \"$@\"\n";

fn fuzz(target: &str, duration: Duration) -> Result<()> {
    let corpus = workspace::cache("fuzz").join(target);
    fs::create_dir_all(&corpus)?;
    let wrapper = workspace::cache("fuzz").join("rustc-wrapper");
    fs::write(&wrapper, WRAPPER)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    let mut command = workspace::cargo();
    command
        .current_dir(workspace::root().join("agent"))
        .env("RUSTC_WRAPPER", wrapper);
    command
        .args(["fuzz", "run", "--target-dir"])
        .arg(workspace::target().join("fuzz"));
    command.arg(target).arg(&corpus);
    command
        .arg("--")
        .arg(format!("-max_total_time={}", duration.as_secs()))
        .arg("-print_final_stats=1");
    process::run(&mut command).with_context(|| format!("fuzz target {target}"))
}
