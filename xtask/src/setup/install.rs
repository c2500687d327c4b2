//! Carries out one step of the plan. Changes the machine, so nothing but `setup` calls it, after it was agreed to.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::plan::{LINKER_VERSION, Step};
use crate::{process, workspace};

/// Adding a component is a download of 3 MB; a proxy that refuses it may do so by silence.
const COMPONENT_LIMIT: Duration = Duration::from_mins(1);
/// A slow mirror, or another apt that holds the lock.
const PACKAGES_LIMIT: Duration = Duration::from_mins(15);
const COMPILE_LIMIT: Duration = Duration::from_mins(15);
/// Debian asks this file whether a package may start its service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Does `step`.
pub(super) fn perform(step: &Step) -> Result<()> {
    match step {
        Step::AddRustSource => {
            add_rust_source();
            Ok(())
        }
        Step::Packages(packages) => install_packages(packages),
        Step::LinkDebian => process::run(Command::new("rustup").args(["toolchain", "link", "debian", "/usr"])),
        Step::Linker { llvm } => install_linker(*llvm),
        Step::CargoFuzz => install_by_cargo(&["cargo-fuzz"], None),
    }
}

/// True when the nightly has `rust-src`, asked in the words that `agent/build.rs` uses.
pub(super) fn has_rust_source() -> bool {
    let list = ["component", "list", "--installed", "--toolchain", "nightly"];
    process::output(Command::new("rustup").args(list)).is_ok_and(|list| list.lines().any(|line| line == "rust-src"))
}

/// Not having it is no failure: Debian's packages are the other way.
fn add_rust_source() {
    let mut command = Command::new("rustup");
    command
        .args(["component", "add", "rust-src", "--toolchain", "nightly"])
        .stdin(Stdio::null());
    let added = process::run_for(&mut command, COMPONENT_LIMIT).is_ok_and(|status| status.success());
    if !added || !has_rust_source() {
        println!("setup: rust-src cannot be had here: going on with Debian's compiler");
    }
}

fn install_packages(packages: &[String]) -> Result<()> {
    let _quiet = NoServices::new()?;
    let mut update = apt_get();
    let updated = process::run_for(update.args(["-qq", "update"]), PACKAGES_LIMIT)?;
    ensure!(updated.success(), "apt-get update failed");
    let mut install = apt_get();
    install
        .args(["install", "-qq", "-y", "--no-install-recommends"])
        .args(packages);
    ensure!(
        process::run_for(&mut install, PACKAGES_LIMIT)?.success(),
        "apt-get could not install all of: {} (Debian 12 and later have them)",
        packages.join(" ")
    );
    let services: Vec<&str> = ["nginx", "prometheus"]
        .into_iter()
        .filter(|service| packages.iter().any(|package| package.starts_with(service)))
        .collect();
    if !services.is_empty() && process::find("systemctl").is_some() {
        // Not at the next boot either.
        process::output(Command::new("systemctl").args(["--quiet", "disable"]).args(services))?;
    }
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

fn install_linker(llvm: u32) -> Result<()> {
    let feature = format!("llvm-{llvm}");
    let arguments = [
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--no-default-features",
        "--features",
        &feature,
    ];
    install_by_cargo(&arguments, Some(&format!("/usr/lib/llvm-{llvm}")))
}

fn install_by_cargo(arguments: &[&str], llvm: Option<&str>) -> Result<()> {
    let mut command = workspace::cargo();
    // `--force`: a linker that is there but built against another LLVM must go.
    command
        .args(["install", "--force", "--locked"])
        .args(arguments)
        .stdin(Stdio::null());
    command.envs(llvm.map(|prefix| ("LLVM_PREFIX", prefix)));
    ensure!(
        process::run_for(&mut command, COMPILE_LIMIT)?.success(),
        "cargo install {} failed",
        arguments.join(" ")
    );
    Ok(())
}

/// While it lives, packages do not start their services: the lab runs nginx itself, and nobody asked for a Prometheus.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn new() -> Result<Self> {
        let ours = !Path::new(POLICY).exists();
        if ours {
            fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("writing {POLICY}"))?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours && fs::remove_file(POLICY).is_err() {
            eprintln!("setup: remove {POLICY}: it keeps packages from starting services");
        }
    }
}
