//! What this machine has. Looks only; the one thing it makes is a tiny BPF object in a temporary directory.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use super::install;
use super::plan::Machine;
use super::tools::{Purpose, TOOLS};
use crate::process;

/// Debian's compiler; not rustup's proxies.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const BPF_TARGET: &str = "bpfel-unknown-none";

/// The smallest crate that compiles without `core`: the linker can be tried before `core` is built.
const TINY_CRATE: &str = "#![feature(no_core, lang_items)]\n#![no_core]\n#![allow(internal_features)]\n\
    #[lang = \"pointee_sized\"] pub trait PointeeSized {}\n\
    #[lang = \"meta_sized\"] pub trait MetaSized: PointeeSized {}\n\
    #[lang = \"sized\"] pub trait Sized: MetaSized {}\n\
    #[unsafe(no_mangle)] pub extern \"C\" fn probe() {}\n";

/// Looks at everything that `purposes` need.
pub(super) fn machine(purposes: &[Purpose]) -> Machine {
    let mut missing = Vec::new();
    for tool in TOOLS {
        if purposes.contains(&tool.purpose) && process::find(tool.program).is_none() {
            missing.push(*tool);
        }
    }
    let mut machine = Machine {
        root: nix::unistd::geteuid().is_root(),
        apt: process::find("apt-get").is_some(),
        distribution: distribution(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
        rustup: process::find("rustup").is_some(),
        wants_compiler: purposes.contains(&Purpose::Build),
        wants_clippy: purposes.contains(&Purpose::Test),
        lacks_cargo_fuzz: purposes.contains(&Purpose::Fuzz) && process::find("cargo-fuzz").is_none(),
        missing,
        ..Machine::default()
    };
    if machine.wants_compiler {
        look_for_compiler(&mut machine);
    }
    machine
}

fn look_for_compiler(machine: &mut Machine) {
    let toolchains = ask("rustup", &["toolchain", "list"]).unwrap_or_default();
    let names: Vec<&str> = toolchains
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    machine.debian_linked = names.contains(&"debian");
    let has_nightly = names
        .iter()
        .any(|name| *name == "nightly" || name.starts_with("nightly-x86_64"));
    if has_nightly {
        if install::has_rust_source() {
            machine.nightly_llvm = llvm_of(&ask("rustup", &["run", "nightly", "rustc", "-vV"]).unwrap_or_default());
        } else {
            machine.nightly_lacks_source = true;
        }
    }
    if has_core(Path::new(DEBIAN_RUSTC)) {
        machine.debian_llvm = llvm_of(&ask(DEBIAN_RUSTC, &["-vV"]).unwrap_or_default());
    }
    machine.debian_clippy = Path::new("/usr/bin/cargo-clippy").is_file();
    let compiler = if machine.nightly_llvm.is_some() {
        let mut nightly = Command::new("rustup");
        nightly.args(["run", "nightly", "rustc"]);
        Some(nightly)
    } else {
        machine.debian_llvm.is_some().then(|| Command::new(DEBIAN_RUSTC))
    };
    // Without a compiler its LLVM is not known: a linker that is there is tried again after the compiler came.
    machine.linker_works = match compiler {
        Some(mut compiler) => linker_works(&mut compiler).is_ok(),
        None => process::find("bpf-linker").is_some(),
    };
}

/// Lets the compiler emit bitcode for BPF and the linker make an object of it: another LLVM's bitcode is refused.
fn linker_works(compiler: &mut Command) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let [source, bitcode, object] = ["probe.rs", "probe.bc", "probe.o"].map(|name| directory.path().join(name));
    fs::write(&source, TINY_CRATE)?;
    compiler.env("RUSTC_BOOTSTRAP", "1").args([
        "--edition=2024",
        "--crate-type=lib",
        "--emit=llvm-bc",
        "--target",
        BPF_TARGET,
    ]);
    process::output(compiler.arg("-o").arg(&bitcode).arg(&source))?;
    let linker = process::find("bpf-linker").unwrap_or_else(|| "bpf-linker".into());
    process::output(
        Command::new(linker)
            .args(["--emit", "obj", "-o"])
            .arg(&object)
            .arg(&bitcode),
    )?;
    ensure!(object.is_file(), "bpf-linker wrote nothing");
    Ok(())
}

/// True when `rustc` has a prebuilt `core` for BPF.
fn has_core(rustc: &Path) -> bool {
    if !rustc.is_file() {
        return false;
    }
    let directory = process::output(Command::new(rustc).args(["--print", "target-libdir", "--target", BPF_TARGET]));
    let Ok(entries) = directory.map(|path| fs::read_dir(path.trim())) else {
        return false;
    };
    entries.is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

/// What a program printed, if it is there and content.
fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    process::output(Command::new(program).args(arguments)).ok()
}

/// Major version in `rustc -vV`: `LLVM version: 22.1.8`.
fn llvm_of(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

fn distribution(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "this system".to_owned(), |name| name.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_of_llvm_is_read() {
        assert_eq!(
            llvm_of("rustc 1.96.0\nhost: x86_64-unknown-linux-gnu\nLLVM version: 22.1.8\n"),
            Some(22)
        );
        assert_eq!(llvm_of("rustc 1.96.0\n"), None);
    }

    #[test]
    fn the_distribution_has_a_name() {
        assert_eq!(
            distribution("ID=fedora\nPRETTY_NAME=\"Fedora Linux 43\"\n"),
            "Fedora Linux 43"
        );
        assert_eq!(distribution(""), "this system");
    }
}
