//! No program notices hopline: the agent is killed again and again under traffic, programs are replaced in every way,
//! services run under a filter of system calls, ten thousand goroutines shake hands at once.
//!
//! Truth: the same programs without hopline, and the bytes of a living process: its breakpoints come with the agent and go
//! with it, however it ends.

mod breakpoints;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use crate::certificates::Certificates;
use crate::hopline::{Agent, AgentOptions, Sabotage};
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::openssl;
use crate::process::{self, Process};
use crate::tools;
use crate::topology::busy_loopback;
use crate::verdict::Verdict;

const SERVER: &str = "127.0.0.1:9443";
const NAME: &str = "safe.lab.test";
const LIBRARY: &str = "libcrypto.so";
const WITH_PROBES: AgentOptions<'_> = AgentOptions {
    record: None,
    ring_bytes: None,
    share: None,
    without: None,
    config: None,
    state_dir: None,
    tls_probes: true,
    place: None,
    memory: None,
};
const KILLS: u32 = 50;
const KILLS_SHORT: u32 = 5;
const GOROUTINES: u32 = 10_000;
const GOROUTINES_SHORT: u32 = 2_000;

const REFUSE: &str = include_str!("../../../programs/refuse/refuse.go");
const MANY: &str = include_str!("../../../programs/refuse/many.go");
const SEALED: &str = include_str!("../../../programs/refuse/sealed.py");

/// A process that has the library mapped, and does nothing.
const SLEEPER: &str = "import ssl, sys; print('ready', flush=True); sys.stdin.read()";

#[derive(Debug)]
struct Place<'a> {
    lab: &'a Lab,
    netns: NetNs,
    certificates: Certificates,
    directory: PathBuf,
}

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let directory = lab.file("safety");
    fs::create_dir(&directory)?;
    let place = Place {
        lab,
        netns: busy_loopback()?,
        certificates: Certificates::make(lab)?,
        directory,
    };
    for (file, source) in [("refuse.go", REFUSE), ("many.go", MANY), ("sealed.py", SEALED)] {
        fs::write(place.directory.join(file), source)?;
    }
    for (program, file, options) in [
        ("many", "many.go", &[][..]),
        ("plain", "refuse.go", &[]),
        ("pie", "refuse.go", &["-buildmode=pie", "-ldflags=-s -w"]),
    ] {
        build(&place.directory, program, file, options)?;
    }
    let options = [
        "-www",
        "-key",
        "leaf.key",
        "-cert",
        "good.pem",
        "-cert_chain",
        "intermediate.pem",
    ];
    let options = options.map(str::to_owned);
    let certificates = &place.certificates;
    let _server = openssl::serve(lab, &place.netns, &lab.tools, certificates, SERVER.parse()?, &options)?;

    // Without hopline.
    let truth = [place.sealed()?, place.many()?];
    ensure!(truth[0] == "answered 20 refused 20", "sealed.py said {}", truth[0]);
    ensure!(place.probe_of_the_filter()?, "the filter of system calls does not work");

    let agent = Agent::start(lab, lab.traffic.path(), &WITH_PROBES)?;
    verdict.text("under a filter of system calls", place.sealed()?, &truth[0]);
    verdict.text("goroutines", place.many()?, &truth[1]);
    place.replaced(verdict)?;
    agent.stop()?;
    place.killed(verdict, &truth[0])
}

fn build(directory: &Path, program: &str, file: &str, options: &[&str]) -> Result<()> {
    let mut command = Command::new("go");
    command
        .current_dir(directory)
        .args(["build", "-o", program])
        .args(options)
        .arg(file);
    command.envs([("CGO_ENABLED", "0"), ("GOTOOLCHAIN", "local"), ("GO111MODULE", "off")]);
    tools::output_of(&mut command).map(drop)
}

/// Writes over a program that has ended; gives how often it was refused as busy. Whoever reads an ending process's `/proc/PID/maps`,
/// as hopline does and `ps` would, keeps its program busy for so long.
fn write_over(from: &Path, program: &Path) -> Result<u32> {
    let mut busy = 0;
    let written = process::poll(Duration::from_secs(2), || match fs::copy(from, program) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
            busy += 1;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    })?;
    ensure!(written, "{} stays busy", program.display());
    Ok(busy)
}

impl Place<'_> {
    fn start(&self, mut command: Command) -> Result<Process> {
        command
            .current_dir(self.certificates.directory())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        Process::spawn(command, Some(&self.netns), &self.lab.traffic)
    }

    fn said(&self, command: Command) -> Result<String> {
        Ok(self.start(command)?.finish()?.trim().to_owned())
    }

    fn sealed_command(&self, count: u32, name: &str) -> Command {
        let (address, port) = SERVER.split_once(':').unwrap_or_default();
        let mut command = Command::new("/usr/bin/python3");
        command
            .arg(self.directory.join("sealed.py"))
            .args([&count.to_string(), address, port, name, "root.pem"]);
        command
    }

    /// Handshakes under a filter that ends whoever makes a call that it does not know.
    fn sealed(&self) -> Result<String> {
        self.said(self.sealed_command(40, NAME))
    }

    /// Whether the filter does end a process.
    fn probe_of_the_filter(&self) -> Result<bool> {
        let mut process = self.start(self.sealed_command(1, "probe"))?;
        Ok(!process.wait(Duration::from_secs(20))?.success())
    }

    /// Many handshakes at once.
    fn many(&self) -> Result<String> {
        let count = if self.lab.short { GOROUTINES_SHORT } else { GOROUTINES };
        let mut command = Command::new(self.directory.join("many"));
        command.arg(count.to_string());
        self.said(command)
    }

    /// A program that is probed becomes another one: beside it and renamed, and written over. Each runs before and after.
    fn replaced(&self, verdict: &mut Verdict) -> Result<()> {
        let (address, port) = SERVER.split_once(':').unwrap_or_default();
        let program = self.directory.join("program");
        let (mut answered, mut busy) = (0, 0);
        let rounds = if self.lab.short { 10 } else { 100 };
        for round in 0..rounds {
            let from = self.directory.join(if round % 2 == 0 { "plain" } else { "pie" });
            if round % 10 < 2 {
                let beside = self.directory.join("beside");
                fs::copy(from, &beside)?;
                fs::rename(beside, &program)?;
            } else {
                // The same inode, other code: a breakpoint that stayed would be in the middle of an instruction.
                busy += write_over(&from, &program)?;
            }
            for _ in 0..2 {
                let mut command = Command::new(&program);
                command.args([address, port, NAME, "1.3", "root.pem"]);
                answered += u64::from(self.said(command)? == "ok");
            }
        }
        verdict.count("answers of replaced programs", answered, 2 * rounds);
        verdict.note("times that an ended program was still busy", f64::from(busy), "");
        Ok(())
    }

    /// The agent is killed under traffic.
    fn killed(&self, verdict: &mut Verdict, truth: &str) -> Result<()> {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", SLEEPER]);
        let mut sleeper = self.start(command)?;
        sleeper.wait_for("ready")?;
        let pid = sleeper.pid();
        let (mut with, mut left, mut alike) = (0, 0, 0);
        let kills = if self.lab.short { KILLS_SHORT } else { KILLS };
        for _ in 0..kills {
            let agent = Agent::start(self.lab, self.lab.traffic.path(), &WITH_PROBES)?;
            let traffic = self.start(self.sealed_command(40, NAME))?;
            let probed = process::poll(Duration::from_secs(10), || Ok(breakpoints::count(pid, LIBRARY)? > 0))?;
            with += u64::from(probed);
            agent.signal(Signal::SIGKILL)?;
            drop(agent);
            let gone = process::poll(Duration::from_secs(5), || Ok(breakpoints::count(pid, LIBRARY)? == 0))?;
            left += u64::from(!gone);
            alike += u64::from(traffic.finish()?.trim() == truth);
        }
        // What hopline did is what is falsified here.
        let with = if self.lab.sabotage == Some(Sabotage::Drop) {
            with.saturating_sub(1)
        } else {
            with
        };
        verdict.count("agents with breakpoints in a living process", with, u64::from(kills));
        verdict.count("breakpoints left by a killed agent", left, 0);
        verdict.count("clients through a kill as without hopline", alike, u64::from(kills));
        Ok(())
    }
}
