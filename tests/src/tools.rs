//! Programs of the machine: which a scenario needs, with a clear word before set-up when one is missing, and what one says
//! that runs to its end.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// Debian's package of each tool.
const PACKAGES: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nstat", "iproute2"),
    ("ss", "iproute2"),
    ("tcpdump", "tcpdump"),
    ("mtr", "mtr-tiny"),
    ("traceroute", "traceroute"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("haproxy", "haproxy"),
    ("nsenter", "util-linux"),
    ("nft", "nftables"),
    ("logger", "bsdutils"),
    ("openssl", "openssl"),
    ("gnutls-cli", "gnutls-bin"),
    ("java", "default-jdk-headless"),
    ("node", "nodejs"),
    ("python3", "python3"),
    ("tshark", "tshark"),
    ("getent", "libc-bin"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("xargs", "findutils"),
    ("dnsmasq", "dnsmasq-base"),
    ("go", "golang-go"),
    ("prometheus", "prometheus"),
    ("prometheus-alertmanager", "prometheus-alertmanager"),
    ("setpriv", "util-linux"),
    ("chromium", "chromium"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("runc", "runc"),
    ("busybox", "busybox-static"),
    ("tar", "tar"),
    ("sha256sum", "coreutils"),
];

/// Fails with the names and packages of all missing tools, or when the caller is not root.
pub(crate) fn check(needed: &[&str]) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab makes network namespaces and cgroups: run it as root");
    }
    let missing: Vec<&str> = needed.iter().copied().filter(|tool| !is_installed(tool)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing
        .iter()
        .filter_map(|tool| {
            PACKAGES
                .iter()
                .find(|(name, _)| name == tool)
                .map(|(_, package)| *package)
        })
        .collect();
    bail!(
        "missing: {}; install with: apt-get install -y {}",
        missing.join(", "),
        packages.join(" ")
    )
}

/// Runs `command` to its end, with nothing to read; what it printed, or what it complained of.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {name}"))?;
    ensure!(
        output.status.success(),
        "{}: {}",
        command
            .get_args()
            .fold(name, |words, word| format!("{words} {}", word.display())),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Looks in PATH and in the directories of system programs, which a user's PATH may lack.
fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .any(|directory| Path::new(&directory).join(tool).is_file())
}
