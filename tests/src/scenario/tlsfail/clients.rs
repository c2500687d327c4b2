//! Runs one connection of each client. The programs of other languages are `tests/programs/refuse`.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::cells::{Client, OFFERED};
use crate::certificates::Certificates;
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::openssl::{self, Said};
use crate::tools;

const GO: &str = include_str!("../../../programs/refuse/refuse.go");
const JAVA: &str = include_str!("../../../programs/refuse/Refuse.java");
const PYTHON: &str = include_str!("../../../programs/refuse/refuse.py");
const NODE: &str = include_str!("../../../programs/refuse/refuse.js");

/// Where Debian puts its old Go.
const DEBIANS_GO: &str = "/usr/lib/go-1.19/bin/go";

/// The programs, built.
#[derive(Debug)]
pub(super) struct Programs {
    directory: PathBuf,
}

/// One connection to make.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) to: SocketAddr,
    pub(super) name: &'a str,
    /// `1.2` or `1.3`.
    pub(super) version: &'static str,
    /// File of the authority to trust.
    pub(super) authority: &'static str,
}

/// Whether this machine has what the client needs.
pub(super) fn can_run(client: Client) -> bool {
    client != Client::GoDebian || Path::new(DEBIANS_GO).exists()
}

const GO_CLIENTS: [Client; 4] = [Client::Go, Client::GoStripped, Client::GoPie, Client::GoDebian];
const SOURCES: [(&str, &str); 4] = [
    ("Refuse.java", JAVA),
    ("refuse.py", PYTHON),
    ("refuse.js", NODE),
    // Last: while it is there, the others are built.
    ("refuse.go", GO),
];

/// Builds what this machine can build, beside the lab's program: emulated machines have no time for compilers.
pub(in crate::scenario) fn prebuild(executable: &Path) -> Result<PathBuf> {
    let directory = executable.with_file_name("programs").join("refuse");
    fs::create_dir_all(&directory)?;
    let is_there =
        |(file, source): &(&str, &str)| fs::read_to_string(directory.join(file)).is_ok_and(|there| there == *source);
    let programs = || GO_CLIENTS.into_iter().filter(|client| can_run(*client));
    if SOURCES.iter().all(is_there) && programs().all(|client| directory.join(file_name(client)).exists()) {
        return Ok(directory);
    }
    let workshop = tempfile::tempdir()?;
    for (file, source) in SOURCES {
        fs::write(workshop.path().join(file), source)?;
    }
    tools::output_of(
        Command::new("javac")
            .current_dir(workshop.path())
            .arg("-d")
            .arg(&directory)
            .arg("Refuse.java"),
    )?;
    for client in programs() {
        build_go(workshop.path(), &directory, client).with_context(|| format!("building {}", client.name()))?;
    }
    for (file, source) in SOURCES {
        fs::write(directory.join(file), source)?;
    }
    Ok(directory)
}

fn build_go(workshop: &Path, directory: &Path, client: Client) -> Result<()> {
    let (go, options): (_, &[&str]) = match client {
        Client::GoStripped => ("go", &["-ldflags=-s -w"]),
        Client::GoPie => ("go", &["-ldflags=-s -w", "-buildmode=pie"]),
        Client::GoDebian => (DEBIANS_GO, &[]),
        _ => ("go", &[]),
    };
    let mut command = Command::new(go);
    command
        .current_dir(workshop)
        .args(["build", "-o"])
        .arg(directory.join(file_name(client)))
        .args(options)
        .arg("refuse.go")
        .envs([("CGO_ENABLED", "0"), ("GOTOOLCHAIN", "local"), ("GO111MODULE", "off")]);
    tools::output_of(&mut command).map(drop)
}

fn file_name(client: Client) -> String {
    client.name().replace(' ', "-")
}

impl Programs {
    /// Each run has files of its own, which nobody has ever mapped before.
    pub(super) fn copied(lab: &Lab) -> Result<Self> {
        let directory = lab.file("refuse");
        fs::create_dir(&directory)?;
        for entry in fs::read_dir(prebuild(lab.executable())?)? {
            let from = entry?.path();
            fs::copy(&from, directory.join(from.file_name().context("a file")?))?;
        }
        Ok(Self { directory })
    }

    fn go_program(&self, client: Client) -> PathBuf {
        self.directory.join(file_name(client))
    }

    /// A copy of a Go client under a new inode: a program that was never seen before.
    pub(super) fn copy(&self, client: Client, number: usize) -> Result<PathBuf> {
        let copy = self.directory.join(format!("copy-{number}"));
        fs::copy(self.go_program(client), &copy)?;
        Ok(copy)
    }

    /// Makes the connection; gives what the client printed.
    pub(super) fn fetch(
        &self,
        lab: &Lab,
        netns: &NetNs,
        certificates: &Certificates,
        client: Client,
        wanted: &Wanted<'_>,
    ) -> Result<Said> {
        let mut command = self.command(lab, client, wanted);
        command.current_dir(certificates.directory()).stdin(Stdio::null());
        let log = lab.file(format!("refuse-{}-{}.log", wanted.to.port(), client.name()));
        openssl::finish(lab, netns, command, &log)
    }

    fn command(&self, lab: &Lab, client: Client, wanted: &Wanted<'_>) -> Command {
        let (address, port) = (wanted.to.ip().to_string(), wanted.to.port().to_string());
        let (name, version) = (wanted.name, wanted.version);
        let script = |file: &str| self.directory.join(file);
        let limit = (1.5 * f64::from(lab.patience())).to_string();
        let with = |program: &OsStr, first: &[&OsStr]| {
            let mut command = Command::new(program);
            command
                .args(first)
                .args([&address, &port, name, version, wanted.authority]);
            command
        };
        match client {
            Client::Curl => {
                let mut command = Command::new("curl");
                command
                    .args(["-sS", "--max-time", &limit, "--cacert", wanted.authority])
                    .args([&format!("--tlsv{version}"), "--tls-max", version])
                    .args(["--resolve", &format!("{name}:{port}:{address}")])
                    .arg(format!("https://{name}:{port}/"));
                command
            }
            Client::Gnutls => {
                let mut command = Command::new("timeout");
                command
                    .args([&limit, "gnutls-cli", "--x509cafile", wanted.authority])
                    .args(["--priority", &format!("NORMAL:-VERS-ALL:+VERS-TLS{version}")])
                    .args(OFFERED.map(|protocol| format!("--alpn={protocol}")))
                    .args(["--sni-hostname", name, "--verify-hostname", name, "-p", &port, &address]);
                command
            }
            Client::Python => with("/usr/bin/python3".as_ref(), &[script("refuse.py").as_os_str()]),
            Client::Node => with("node".as_ref(), &[script("refuse.js").as_os_str()]),
            Client::Java => with(
                "java".as_ref(),
                &["-cp".as_ref(), self.directory.as_os_str(), "Refuse".as_ref()],
            ),
            Client::Go | Client::GoStripped | Client::GoPie | Client::GoDebian => {
                with(self.go_program(client).as_os_str(), &[])
            }
            Client::Rustls => with(lab.executable().as_os_str(), &["internal".as_ref(), "refuse".as_ref()]),
        }
    }
}
