//! A cgroup that limits and measures memory, kernel memory included: of v2 where that has the controller, else of v1.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::fcntl::Flock;

use crate::cgroup::{self, Cgroup, PREFIX, mount_point};

/// Removed when dropped, with whoever is in it.
#[derive(Debug)]
pub(crate) struct MemoryCgroup {
    cgroup: Cgroup,
    is_v2: bool,
    /// Held while this lab runs: what has none was left by one that died.
    _lock: Flock<File>,
}

impl MemoryCgroup {
    /// One with this limit; `None` where the machine has no memory controller to use.
    pub(crate) fn create(name: &str, limit_bytes: u64) -> Result<Option<Self>> {
        let unified = mount_point()?;
        let controllers = fs::read_to_string(unified.join("cgroup.controllers"))?;
        let is_v2 = controllers.split_whitespace().any(|controller| controller == "memory");
        let parent = if is_v2 {
            fs::write(unified.join("cgroup.subtree_control"), "+memory").context("enabling the memory controller")?;
            unified
        } else {
            let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
            let Some(mount) = v1_memory_in(&mounts) else {
                return Ok(None);
            };
            mount
        };
        let path = parent.join(format!("{PREFIX}{}-memory-{name}", std::process::id()));
        let cgroup = Cgroup::create(path.clone())?;
        let lock = cgroup::lock(&path).context("locking the lab's memory cgroup")?;
        let file = if is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(path.join(file), limit_bytes.to_string()).context("setting a memory limit")?;
        Ok(Some(Self {
            cgroup,
            is_v2,
            _lock: lock,
        }))
    }

    /// Which of the two it is.
    pub(crate) fn version(&self) -> &'static str {
        if self.is_v2 { "cgroup v2" } else { "cgroup v1" }
    }

    /// The same command, which enters the cgroup before its program starts.
    pub(crate) fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(self.cgroup.path().join("cgroup.procs"))
            .arg(command.get_program())
            .args(command.get_args());
        inside
    }

    /// Charged now, bytes.
    pub(crate) fn now(&self) -> Result<u64> {
        self.number(if self.is_v2 {
            "memory.current"
        } else {
            "memory.usage_in_bytes"
        })
    }

    /// The most that was charged, bytes.
    pub(crate) fn peak(&self) -> Result<u64> {
        self.number(if self.is_v2 {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        })
    }

    /// Kernel memory, bytes: maps, rings, programs, descriptors.
    pub(crate) fn kernel(&self) -> Result<u64> {
        if self.is_v2 {
            self.field("memory.stat", "kernel")
        } else {
            self.number("memory.kmem.usage_in_bytes")
        }
    }

    /// Processes that the kernel has killed for want of memory.
    pub(crate) fn killed(&self) -> Result<u64> {
        self.field(
            if self.is_v2 {
                "memory.events"
            } else {
                "memory.oom_control"
            },
            "oom_kill",
        )
    }

    fn number(&self, file: &str) -> Result<u64> {
        Ok(self.read(file)?.trim().parse()?)
    }

    fn field(&self, file: &str, name: &str) -> Result<u64> {
        let text = self.read(file)?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("{file} has no {name}"))?.parse()?)
    }

    fn read(&self, file: &str) -> Result<String> {
        fs::read_to_string(self.cgroup.path().join(file)).with_context(|| format!("reading {file}"))
    }
}

/// The mount of v1's memory hierarchy.
fn v1_memory_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let options = kind.strip_prefix("cgroup ")?.split(' ').nth(1)?;
        let is_memory = options.split(',').any(|option| option == "memory");
        is_memory.then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_hierarchy_is_found() {
        let unified = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:5 - cgroup2 cgroup2 rw\n";
        let with_memory = format!("{unified}42 31 0:39 / /sys/fs/cgroup/memory rw - cgroup none rw,memory\n");
        assert_eq!(v1_memory_in(&with_memory), Some(PathBuf::from("/sys/fs/cgroup/memory")));
        assert_eq!(v1_memory_in(unified), None);
    }
}
