//! From what a machine has to what must be installed, or done by hand. Pure: no program is called, no file is read.

use std::fmt::{self, Display, Formatter};

use super::tools::{BPF_CLIPPY_PACKAGE, BPF_COMPILER_PACKAGES, Tool, linker_packages};

/// The version of bpf-linker that this workspace is built with.
pub(super) const LINKER_VERSION: &str = "0.13.0";
/// LLVM of Debian's rustc-web 1.96, until it is installed and can be asked.
const DEBIAN_LLVM: u32 = 22;
/// Versions of LLVM that bpf-linker 0.13.0 can be built with.
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// What `probe` found.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about a machine")]
pub(super) struct Machine {
    /// Packages can be installed by this user.
    pub(super) root: bool,
    /// `apt-get` is there.
    pub(super) apt: bool,
    /// `PRETTY_NAME` of os-release.
    pub(super) distribution: String,
    /// `rustup` is there.
    pub(super) rustup: bool,
    /// The kernel object must be buildable.
    pub(super) wants_compiler: bool,
    /// Lints of the kernel object are wanted.
    pub(super) wants_clippy: bool,
    /// LLVM of a nightly that has `rust-src`.
    pub(super) nightly_llvm: Option<u32>,
    /// A nightly is there, but without `rust-src`.
    pub(super) nightly_lacks_source: bool,
    /// `rust-src` was asked for in this run, and refused.
    pub(super) source_refused: bool,
    /// LLVM of `/usr/bin/rustc`, when that has `core` for BPF.
    pub(super) debian_llvm: Option<u32>,
    /// Rustup knows `/usr` as toolchain `debian`.
    pub(super) debian_linked: bool,
    /// Debian's compiler has its clippy.
    pub(super) debian_clippy: bool,
    /// bpf-linker links what the compiler in use emits.
    pub(super) linker_works: bool,
    /// `cargo fuzz` is wanted and missing.
    pub(super) lacks_cargo_fuzz: bool,
    /// Tools of the purposes that are missing.
    pub(super) missing: Vec<Tool>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// `rustup component add rust-src --toolchain nightly`; may be refused.
    AddRustSource,
    /// `apt-get install`.
    Packages(Vec<String>),
    /// `rustup toolchain link debian /usr`.
    LinkDebian,
    /// `cargo install bpf-linker` against this LLVM.
    Linker { llvm: u32 },
    /// `cargo install cargo-fuzz`.
    CargoFuzz,
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddRustSource => f.write_str("add rust-src to the nightly toolchain"),
            Self::Packages(packages) => write!(f, "install packages: {}", packages.join(" ")),
            Self::LinkDebian => f.write_str("link Debian's Rust to rustup as toolchain `debian`"),
            Self::Linker { llvm } => write!(
                f,
                "install bpf-linker {LINKER_VERSION} (LLVM {llvm}; compiles for a minute)"
            ),
            Self::CargoFuzz => f.write_str("install cargo-fuzz"),
        }
    }
}

/// Steps in order, and what only the user can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) by_hand: Vec<String>,
}

/// Decides for `machine`.
pub(super) fn make(machine: &Machine) -> Plan {
    let mut plan = Plan::default();
    let mut packages: Vec<String> = Vec::new();
    for tool in &machine.missing {
        if !packages.iter().any(|package| package == tool.package) {
            packages.push(tool.package.to_owned());
        }
    }
    let mut after = Vec::new();
    if machine.wants_compiler {
        compiler(machine, &mut plan, &mut packages, &mut after);
    }
    if machine.lacks_cargo_fuzz {
        after.push(Step::CargoFuzz);
    }
    if !packages.is_empty() {
        match obstacle(machine) {
            None => plan.steps.push(Step::Packages(packages)),
            Some(why) => plan.by_hand.push(format!("{why}: {}", packages.join(" "))),
        }
    }
    plan.steps.extend(after);
    plan
}

/// The compiler with `core` for BPF, and a linker that understands its LLVM.
fn compiler(machine: &Machine, plan: &mut Plan, packages: &mut Vec<String>, after: &mut Vec<Step>) {
    if !machine.rustup {
        plan.by_hand
            .push("rustup, with a stable toolchain of at least 1.95 (https://rustup.rs)".to_owned());
    }
    if machine.nightly_lacks_source && machine.debian_llvm.is_none() && !machine.source_refused {
        // What else is needed depends on whether this works: the next plan tells.
        after.push(Step::AddRustSource);
        return;
    }
    let llvm = if let Some(llvm) = machine.nightly_llvm {
        llvm
    } else {
        if machine.debian_llvm.is_none() {
            packages.extend(BPF_COMPILER_PACKAGES.iter().map(ToString::to_string));
        }
        if !machine.debian_linked {
            after.push(Step::LinkDebian);
        }
        if machine.wants_clippy && !machine.debian_clippy {
            packages.push(BPF_CLIPPY_PACKAGE.to_owned());
        }
        machine.debian_llvm.unwrap_or(DEBIAN_LLVM)
    };
    if machine.linker_works {
        return;
    }
    if LINKER_LLVM.contains(&llvm) {
        packages.extend(linker_packages(llvm));
        after.push(Step::Linker { llvm });
    } else {
        plan.by_hand.push(format!(
            "a bpf-linker for the compiler's LLVM {llvm} ({LINKER_VERSION} takes {LINKER_LLVM:?})"
        ));
    }
}

/// Why packages cannot be installed here.
fn obstacle(machine: &Machine) -> Option<String> {
    if !machine.apt {
        let name = &machine.distribution;
        return Some(format!(
            "no apt on {name}: install the equivalents of these Debian packages"
        ));
    }
    (!machine.root).then(|| "not root: run `cargo xtask setup` as root, or have these packages installed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::tools::{Purpose, TOOLS};

    /// Root on Debian with rustup and nothing else.
    fn bare() -> Machine {
        Machine {
            root: true,
            apt: true,
            distribution: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            rustup: true,
            wants_compiler: true,
            ..Machine::default()
        }
    }

    fn ready() -> Machine {
        Machine {
            debian_llvm: Some(22),
            debian_linked: true,
            debian_clippy: true,
            linker_works: true,
            ..bare()
        }
    }

    fn check(machine: &Machine, expected: &[&str]) {
        let plan = make(machine);
        let lines: Vec<String> = plan
            .steps
            .iter()
            .map(ToString::to_string)
            .chain(plan.by_hand.iter().map(|line| format!("! {line}")))
            .collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_machine_that_has_all_needs_nothing() {
        check(&ready(), &[]);
        check(
            &Machine {
                root: false,
                apt: false,
                ..ready()
            },
            &[],
        );
    }

    #[test]
    fn a_bare_debian_gets_compiler_and_linker() {
        check(
            &bare(),
            &[
                "install packages: rustc-web cargo-web libstd-rust-web-dev-bpf llvm-22-dev libpolly-22-dev zlib1g-dev libzstd-dev g++",
                "link Debian's Rust to rustup as toolchain `debian`",
                "install bpf-linker 0.13.0 (LLVM 22; compiles for a minute)",
            ],
        );
    }

    #[test]
    fn a_nightly_is_tried_first_and_its_llvm_decides() {
        let refused = make(&Machine {
            nightly_lacks_source: true,
            source_refused: true,
            ..bare()
        });
        assert_eq!(refused, make(&bare()));
        check(
            &Machine {
                nightly_lacks_source: true,
                ..ready()
            },
            &[],
        );
        check(
            &Machine {
                nightly_lacks_source: true,
                ..bare()
            },
            &["add rust-src to the nightly toolchain"],
        );
        check(
            &Machine {
                nightly_llvm: Some(22),
                linker_works: true,
                ..bare()
            },
            &[],
        );
        check(
            &Machine {
                nightly_llvm: Some(23),
                ..bare()
            },
            &[
                "install packages: llvm-23-dev libpolly-23-dev zlib1g-dev libzstd-dev g++",
                "install bpf-linker 0.13.0 (LLVM 23; compiles for a minute)",
            ],
        );
        check(
            &Machine {
                nightly_llvm: Some(30),
                ..bare()
            },
            &["! a bpf-linker for the compiler's LLVM 30 (0.13.0 takes 21..=23)"],
        );
    }

    #[test]
    fn what_cannot_be_installed_is_named() {
        let tcpdump = vec![TOOLS[2]];
        check(
            &Machine {
                root: false,
                missing: tcpdump.clone(),
                ..ready()
            },
            &["! not root: run `cargo xtask setup` as root, or have these packages installed: tcpdump"],
        );
        check(
            &Machine {
                apt: false,
                distribution: "Fedora Linux 43".to_owned(),
                missing: tcpdump,
                ..ready()
            },
            &["! no apt on Fedora Linux 43: install the equivalents of these Debian packages: tcpdump"],
        );
        check(
            &Machine {
                rustup: false,
                ..ready()
            },
            &["! rustup, with a stable toolchain of at least 1.95 (https://rustup.rs)"],
        );
    }

    #[test]
    fn a_package_with_two_tools_is_installed_once() {
        let missing = TOOLS
            .iter()
            .copied()
            .filter(|tool| tool.purpose == Purpose::Lab)
            .collect();
        check(
            &Machine { missing, ..ready() },
            &[
                "install packages: iproute2 tcpdump nginx-light curl util-linux openssl tshark dnsmasq-base haproxy mtr-tiny traceroute nftables",
            ],
        );
    }

    #[test]
    fn lints_of_the_kernel_object_need_a_clippy() {
        check(
            &Machine {
                wants_clippy: true,
                debian_clippy: false,
                ..ready()
            },
            &["install packages: rust-web-clippy"],
        );
    }
}
