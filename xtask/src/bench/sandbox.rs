//! Where the bench's load runs: a cgroup that hopline is told to watch, others beside it, and for each run a network
//! namespace with loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::lasting;
use super::traffic::{Load, Rate};
use crate::process;

/// Cgroups of the bench's own, removed when dropped. Loads have ended by then.
#[derive(Debug)]
pub(super) struct Sandbox {
    cgroups: [PathBuf; 3],
}

/// What is attached to a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Nothing,
    Empty,
    Hopline,
}

/// Before each run: the kernel frees the programs and rings of an agent that ended after its end, and a new one has just
/// read the kernel's types.
const SETTLED: Duration = Duration::from_secs(1);

/// Joins the cgroup, makes the namespace with many ports, and becomes the load. Nothing is left when it ends.
const ENTER: &str = r#"echo 0 >"$1/cgroup.procs"; shift
exec unshare --net sh -c 'ip link set lo up; echo 1024 65000 >/proc/sys/net/ipv4/ip_local_port_range; exec "$@"' sh "$@""#;

impl Sandbox {
    pub(super) fn new() -> Result<Self> {
        let root = cgroup2()?;
        let cgroups =
            ["", "-empty", "-hopline"].map(|side| root.join(format!("hopline-bench-{}{side}", std::process::id())));
        let sandbox = Self { cgroups };
        for cgroup in &sandbox.cgroups {
            fs::create_dir(cgroup).with_context(|| format!("making cgroup {}", cgroup.display()))?;
        }
        Ok(sandbox)
    }

    /// That of one side.
    pub(super) fn cgroup(&self, side: Side) -> &Path {
        &self.cgroups[side as usize]
    }

    /// Runs the load to its end in hopline's cgroup, once this machine has come to rest.
    pub(super) fn run(&self, load: Load) -> Result<Rate> {
        let mut command = Self::enter(self.cgroup(Side::Hopline))?;
        command.args(["bench", "traffic", &load.name(), &load.operations().to_string()]);
        serde_json::from_str(&process::output(&mut command)?).context("the load's rate")
    }

    /// Lets each side of a load on lasting connections work so many times: the seconds of each turn, a list for each side.
    pub(super) fn take_turns(&self, load: lasting::Load, turns: u32, sides: &[Side]) -> Result<Vec<Vec<f64>>> {
        let home = self.cgroup(Side::Nothing);
        let mut command = Self::enter(home)?;
        command
            .args(["bench", "lasting", &load.name(), &turns.to_string()])
            .arg(home)
            .args(sides.iter().map(|side| self.cgroup(*side)));
        serde_json::from_str(&process::output(&mut command)?).context("the seconds of each turn")
    }

    fn enter(cgroup: &Path) -> Result<Command> {
        thread::sleep(SETTLED);
        let mut command = Command::new("sh");
        command
            .args(["-ec", ENTER, "sh"])
            .arg(cgroup)
            .arg(std::env::current_exe()?);
        Ok(command)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for cgroup in self.cgroups.iter().filter(|cgroup| cgroup.exists()) {
            // A process that ended leaves its cgroup a moment later.
            let mut tries = 0..100;
            while fs::remove_dir(cgroup).is_err() {
                if tries.next().is_none() {
                    eprintln!("xtask: cgroup {} could not be removed", cgroup.display());
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Where cgroup v2 is mounted, alone or beside v1.
fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let line = mounts.lines().find(|line| {
        line.split_once(" - ")
            .is_some_and(|(_, kind)| kind.starts_with("cgroup2 "))
    });
    let mount = line.and_then(|line| line.split(' ').nth(4)).map(PathBuf::from);
    mount.context("no cgroup2 mount: mount -t cgroup2 none /sys/fs/cgroup")
}
