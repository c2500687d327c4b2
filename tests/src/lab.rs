//! What every scenario is given: the lab's cgroups, a directory, hopline's binary and how strict to be.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use nix::fcntl::Flock;
use tempfile::TempDir;

use crate::cgroup::{self, Cgroup, PREFIX, RootCgroup};
use crate::hopline::Sabotage;
use crate::netns::NetNs;
use crate::process::Process;
use crate::signals;

/// How far a time may be from the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tolerance {
    /// A machine of its own: 100 µs without injected delay, else 1 ms or 5 %.
    Host,
    /// An emulated machine: 5 ms or 5 %; and everything may take longer.
    Vm,
}

impl Tolerance {
    /// Allowed deviation, in microseconds, of a phase that the machine's own work is part of.
    pub(crate) fn of_phase_us(self, truth_us: f64) -> f64 {
        (truth_us * 0.05).max(self.least_us())
    }

    /// The least of it, whatever the truth: what the machine's scheduler alone may add.
    pub(crate) fn least_us(self) -> f64 {
        match self {
            Self::Host => 1_000.0,
            Self::Vm => 5_000.0,
        }
    }

    /// Allowed deviation where the path's own jitter allows `jitter_us`.
    pub(crate) fn beside_us(self, jitter_us: f64) -> f64 {
        match self {
            Self::Host => jitter_us,
            Self::Vm => jitter_us + self.least_us(),
        }
    }
}

/// One run of the lab. Dropping it ends every process that it started and removes what it made.
#[derive(Debug)]
pub(crate) struct Lab {
    /// Generators and servers that hopline watches.
    pub(crate) traffic: Cgroup,
    /// Routers, captures, servers that are not watched, and hopline.
    pub(crate) tools: Cgroup,
    /// Dropped after its children.
    _root: RootCgroup,
    directory: TempDir,
    /// Tells the directory of a running lab from one that was left behind.
    _directory_lock: Flock<File>,
    hopline: PathBuf,
    stand_in: OnceLock<PathBuf>,
    keeps_history: OnceLock<bool>,
    executable: PathBuf,
    /// How hopline's output is falsified on purpose.
    pub(crate) sabotage: Option<Sabotage>,
    /// How strict the comparison of times is.
    pub(crate) tolerance: Tolerance,
    /// Length that was asked for.
    seconds: Option<u64>,
    /// Fewer cells and connections, where a scenario has a short form.
    pub(crate) short: bool,
}

impl Lab {
    pub(crate) fn set_up(
        sabotage: Option<Sabotage>,
        tolerance: Tolerance,
        seconds: Option<u64>,
        short: bool,
    ) -> Result<Self> {
        let hopline =
            std::env::var_os("HOPLINE_BIN").map_or_else(|| PathBuf::from("target/release/hopline"), PathBuf::from);
        let hopline = std::path::absolute(hopline)?;
        let root = RootCgroup::create()?;
        sweep_temporary();
        let directory = TempDir::with_prefix(PREFIX).context("making a temporary directory")?;
        let lock = cgroup::lock(directory.path()).context("locking the temporary directory")?;
        signals::clean_up_on_signal(root.cgroup.path().to_owned(), directory.path().to_owned());
        Ok(Self {
            traffic: root.cgroup.child("traffic")?,
            tools: root.cgroup.child("tools")?,
            _root: root,
            directory,
            _directory_lock: lock,
            hopline,
            stand_in: OnceLock::new(),
            keeps_history: OnceLock::new(),
            executable: std::env::current_exe()?,
            sabotage,
            tolerance,
            seconds,
            short,
        })
    }

    /// A path in the lab's temporary directory.
    pub(crate) fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// This binary, for helpers.
    pub(crate) fn executable(&self) -> &Path {
        &self.executable
    }

    /// Fails where there is no hopline to compare; only the demo runs without.
    pub(crate) fn check_hopline(&self) -> Result<()> {
        ensure!(
            self.hopline.is_file(),
            "{} is not there: build hopline first, or name its binary in HOPLINE_BIN",
            self.hopline.display()
        );
        Ok(())
    }

    /// From now on this program is started as hopline; the first stand-in stays.
    pub(crate) fn stand_in(&self, program: PathBuf) {
        drop(self.stand_in.set(program));
    }

    /// `hopline` with these first words.
    pub(crate) fn hopline(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.stand_in.get().unwrap_or(&self.hopline));
        command.args(words);
        command
    }

    /// Whether this build keeps a history, which is to be switched off: `HOPLINE_BIN` may be an older one.
    pub(crate) fn keeps_history(&self) -> bool {
        *self.keeps_history.get_or_init(|| {
            let asked = self.hopline(&["agent", "--state-dir=", "--print-config"]).output();
            asked.is_ok_and(|asked| asked.status.success())
        })
    }

    /// Starts a helper of this binary with piped stdin and stdout.
    pub(crate) fn helper(&self, words: &[&str], netns: &NetNs, cgroup: &Cgroup) -> Result<Process> {
        Process::spawn(self.helper_command(words), Some(netns), cgroup)
    }

    /// The same, not started yet.
    pub(crate) fn helper_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.executable);
        command
            .arg("internal")
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command
    }

    /// Allowed deviation of a time, in microseconds, where the path adds `delay_us`.
    pub(crate) fn tolerance_us(&self, delay_us: u64) -> f64 {
        match self.tolerance {
            Tolerance::Host if delay_us == 0 => 100.0,
            Tolerance::Host => 1_000.0,
            Tolerance::Vm => (delay_us as f64 * 0.05).max(5_000.0),
        }
    }

    /// Length of a scenario, in seconds: as asked for, or its own.
    pub(crate) fn seconds(&self, usual: u64) -> u64 {
        self.seconds.unwrap_or(usual).max(1)
    }

    /// Factor on every time limit: emulation is slow.
    pub(crate) fn patience(&self) -> u32 {
        match self.tolerance {
            Tolerance::Host => 1,
            Tolerance::Vm => 8,
        }
    }
}

/// Removes the directories of labs that no longer run.
fn sweep_temporary() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && cgroup::lock(&entry.path()).is_ok() {
            // Another lab may sweep at the same time: gone is gone.
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}
