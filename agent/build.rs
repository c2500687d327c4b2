//! Builds the kernel object with the first compiler that has `core` for BPF: a nightly with `rust-src`, else Debian's. Then
//! refuses programs whose private stack tasks would share, and writes `stack-sizes.txt` beside the object.

#[path = "build/stack_sizes.rs"]
mod stack_sizes;

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, bail};
use aya_build::{Package, Toolchain, build_ebpf};

fn main() -> anyhow::Result<()> {
    let directory = std::env::var_os("OUT_DIR").context("cargo says where to write")?;
    let object = Path::new(&directory).join("hopline-ebpf");
    if std::env::var_os("CARGO_CFG_FUZZING").is_some() {
        // Fuzz targets load no kernel programs: an empty object saves them a compiler's minutes.
        return fs::write(&object, []).with_context(|| format!("writing {}", object.display()));
    }
    let root_dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent-ebpf");
    let features: &[&str] = if std::env::var_os("CARGO_CFG_DEBUG_ASSERTIONS").is_some() {
        &["log"]
    } else {
        &[]
    };
    let package = Package {
        name: "agent-ebpf",
        root_dir,
        features,
        ..Package::default()
    };
    build_ebpf([package], toolchain()?).context("building the kernel object (is bpf-linker installed?)")?;
    check_stacks(&object)
}

fn check_stacks(object: &Path) -> anyhow::Result<()> {
    let bytes = fs::read(object).with_context(|| format!("reading {}", object.display()))?;
    let programs = stack_sizes::programs(&bytes)?;
    let table = object.with_file_name("stack-sizes.txt");
    fs::write(&table, stack_sizes::table(&programs)).with_context(|| format!("writing {}", table.display()))?;
    programs.iter().try_for_each(stack_sizes::Program::check)
}

/// The compiler for the kernel object; `cargo xtask setup` installs one when there is none.
fn toolchain() -> anyhow::Result<Toolchain<'static>> {
    let components = rustup(&["component", "list", "--installed", "--toolchain", "nightly"]);
    if components.is_some_and(|list| list.lines().any(|line| line == "rust-src")) {
        return Ok(Toolchain::Nightly);
    }
    let toolchains = rustup(&["toolchain", "list"]).unwrap_or_default();
    if toolchains
        .lines()
        .any(|line| line.split_whitespace().next() == Some("debian"))
    {
        return Ok(Toolchain::Custom("debian"));
    }
    bail!("no Rust compiler with `core` for BPF: run `cargo xtask setup`")
}

fn rustup(args: &[&str]) -> Option<String> {
    let output = Command::new("rustup").args(args).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
