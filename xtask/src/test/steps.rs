//! The steps of `test`: what each calls and how long it may take. They share nothing, so any subset can run.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;

use super::judged::judged;
use super::summary::Outcome;
use super::{check, sabotage, scenario};
use crate::{process, vm, workspace};

/// One named step.
pub(super) struct Step {
    pub(super) name: String,
    pub(super) run: Box<dyn FnOnce() -> Outcome>,
}

const COMPILE: Duration = Duration::from_mins(20);
/// How long the demo is shown, and may take.
const DEMO: &str = "15s";
const DEMO_LIMIT: Duration = Duration::from_mins(5);

/// Scenarios that are too loud for an emulated machine, or need what it has not, with the options that make them short.
const HERE_ONLY: &[(&str, &[&str])] = &[
    ("close-storm", &["--short"]),
    ("bounds", &["--short"]),
    ("hostile", &["--seconds", "6"]),
    ("idle", &["--short"]),
    ("busy", &["--short"]),
    ("kube-api", &["--short"]),
    ("pods", &["--short"]),
    ("probe-budget", &["--seconds", "30"]),
    ("programs", &["--short"]),
    ("proxy-chain", &["--short"]),
    // In VMs this name stands for the boots that end under a running agent.
    ("safe-mode", &[]),
    ("starve", &["--short"]),
    ("tls-safety", &["--short"]),
];

/// What people deploy: each skips, with the reason, what a missing tool would check.
const DEPLOYED: &[&[&str]] = &[
    &["alerts-check", "--sabotage"],
    &["dashboards-check"],
    &["deploy-check"],
    &["image"],
];

/// Kernels of the VM steps.
const KERNELS: &[&str] = &["6.1", "6.12"];
/// A kernel under emulation runs all scenarios in about a quarter of an hour.
const VM: Duration = Duration::from_mins(40);

/// All steps in order: quick ones first.
pub(super) fn all(hopline: &Path, lab: &Path, vm: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut add = |name: String, run: Box<dyn FnOnce() -> Outcome>| steps.push(Step { name, run });

    add("format".to_owned(), Box::new(|| cargo(&["fmt", "--all", "--check"])));
    add("tidy".to_owned(), Box::new(|| myself(&["tidy"], COMPILE)));
    let lints = ["clippy", "--all-targets", "--", "--deny", "warnings"];
    add("clippy".to_owned(), Box::new(move || cargo(&lints)));
    add(
        "clippy of the kernel object".to_owned(),
        Box::new(clippy_of_kernel_object),
    );
    add("unit and integration tests".to_owned(), Box::new(|| cargo(&["test"])));
    add(
        "tests of the shared types".to_owned(),
        Box::new(|| cargo(&["test", "--package", "agent-ebpf", "--lib"])),
    );
    for words in DEPLOYED {
        add(words.join(" "), Box::new(|| myself(words, COMPILE)));
    }

    let command = {
        let (hopline, lab) = (hopline.to_owned(), lab.to_owned());
        move |words: &[&str]| {
            let mut command = Command::new(&lab);
            command.env("HOPLINE_BIN", &hopline).args(words).stdin(Stdio::null());
            command
        }
    };
    for (name, options) in scenarios() {
        let mut command = command(&[name]);
        command.args(*options);
        add(
            format!("lab {name}"),
            Box::new(move || as_root(|| judged(|| scenario::must_pass(&mut command)))),
        );
    }
    add(
        "lab, falsified: each must fail".to_owned(),
        Box::new(move || as_root(|| sabotage::all_must_fail(&command))),
    );
    add(
        "demo and exposition format".to_owned(),
        Box::new(|| as_root(|| judged(demo))),
    );
    for kernel in KERNELS {
        add(format!("vm {kernel}"), Box::new(move || kernel_in_vm(kernel, vm)));
    }
    steps
}

/// Every scenario that runs here, with its options.
pub(super) fn scenarios() -> impl Iterator<Item = &'static (&'static str, &'static [&'static str])> {
    vm::SCENARIOS.iter().chain(HERE_ONLY)
}

fn cargo(words: &[&str]) -> Outcome {
    check(workspace::cargo().args(words).stdin(Stdio::null()), COMPILE)
}

/// Another subcommand, as a user would call it.
fn myself(words: &[&str], limit: Duration) -> Outcome {
    match std::env::current_exe() {
        Ok(executable) => check(Command::new(executable).args(words).stdin(Stdio::null()), limit),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// Namespaces, cgroups and kernel programs are made by root alone.
fn as_root(run: impl FnOnce() -> Outcome) -> Outcome {
    if nix::unistd::geteuid().is_root() {
        run()
    } else {
        Outcome::Skipped("needs root".to_owned())
    }
}

/// Lints with the compiler that builds the kernel object: only that one has `core` for BPF.
fn clippy_of_kernel_object() -> Outcome {
    let has_clippy = |words: &[&str]| process::output(Command::new("rustup").args(words)).is_ok();
    let debian = ["run", "debian", "cargo", "clippy", "--version"];
    if !has_clippy(&debian) {
        return Outcome::Skipped(
            "lints are those of Debian's compiler for BPF, which is not here or has no clippy (rust-web-clippy)"
                .to_owned(),
        );
    }
    let mut command = Command::new("rustup");
    command
        .current_dir(workspace::root())
        .args(["run", "debian", "cargo", "clippy", "--package", "agent-ebpf"]);
    command.args([
        "--bin",
        "hopline-ebpf",
        "--target",
        "bpfel-unknown-none",
        "--release",
        "--target-dir",
    ]);
    command
        .arg(workspace::target().join("kernel-clippy"))
        .args(["--", "--deny", "warnings"]);
    check(command.stdin(Stdio::null()), COMPILE)
}

/// The demo for a while, then promtool over what /metrics gave.
fn demo() -> Outcome {
    match demo_exposition() {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

fn demo_exposition() -> Result<Outcome> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("metrics");
    let mut demo = Command::new(std::env::current_exe()?);
    demo.args([
        "run",
        "--demo",
        "--yes",
        "--for",
        DEMO,
        "--listen",
        "127.0.0.1:19737",
        "--save-metrics",
    ])
    .arg(&file);
    let outcome = check(demo.stdin(Stdio::null()), DEMO_LIMIT);
    if outcome != Outcome::Passed {
        return Ok(outcome);
    }
    let Some(promtool) = process::find("promtool") else {
        return Ok(Outcome::Failed("promtool is not there".to_owned()));
    };
    let mut lint = Command::new(promtool);
    Ok(check(
        lint.args(["check", "metrics"]).stdin(File::open(&file)?),
        Duration::from_secs(30),
    ))
}

/// Boots a kernel when that needs no download, or downloads are asked for.
fn kernel_in_vm(kernel: &str, asked: bool) -> Outcome {
    if !asked && !vm::are_cached(&[kernel]) {
        return Outcome::Skipped("its kernel is not cached: `cargo xtask test --vm` downloads it (100 MB)".to_owned());
    }
    as_root(|| myself(&["vm", kernel], VM))
}
