//! Where the bench's load runs: a cgroup that hopline is told to watch, and for each run a network namespace with loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::traffic::{LATE_CGROUP, Load, Rate};
use crate::process;

/// A cgroup of the bench's own, removed when dropped. Loads have ended by then.
#[derive(Debug)]
pub(super) struct Sandbox {
    cgroup: PathBuf,
}

/// Before each run: the kernel frees the programs and rings of an agent that ended after its end, and a new one has just
/// read the kernel's types.
const SETTLED: Duration = Duration::from_secs(1);

/// Joins the cgroup, makes the namespace with many ports, and becomes the load. Nothing is left when it ends.
const ENTER: &str = r#"if [ -n "$1" ]; then echo 0 >"$1/cgroup.procs"; fi; shift
exec unshare --net sh -c 'ip link set lo up; echo 1024 65000 >/proc/sys/net/ipv4/ip_local_port_range; exec "$@"' sh "$@""#;

impl Sandbox {
    pub(super) fn new() -> Result<Self> {
        let cgroup = cgroup2()?.join(format!("hopline-bench-{}", std::process::id()));
        fs::create_dir(&cgroup).with_context(|| format!("making cgroup {}", cgroup.display()))?;
        Ok(Self { cgroup })
    }

    /// What hopline is told to watch.
    pub(super) fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Runs the load to its end, once this machine has come to rest.
    pub(super) fn run(&self, load: Load) -> Result<Rate> {
        thread::sleep(SETTLED);
        let mut command = Command::new("sh");
        command.args(["-ec", ENTER, "sh"]);
        if load.is_far() {
            command.arg("").env(LATE_CGROUP, &self.cgroup);
        } else {
            command.arg(&self.cgroup);
        }
        command.arg(std::env::current_exe()?);
        command.args(["bench", "traffic"]).args(load.words());
        serde_json::from_str(&process::output(&mut command)?).context("the load's rate")
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // A process that ended leaves its cgroup a moment later.
        for _ in 0..100 {
            if fs::remove_dir(&self.cgroup).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        eprintln!("xtask: cgroup {} could not be removed", self.cgroup.display());
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
