//! A cgroup that limits and measures memory, kernel memory included: of v1, or of v2 where that has the controller.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cgroup::{PREFIX, mount_point};

const V1: &str = "/sys/fs/cgroup/memory";

/// Removed when dropped; whoever is in it must have ended.
#[derive(Debug)]
pub(crate) struct MemoryCgroup {
    path: PathBuf,
    is_v1: bool,
}

impl MemoryCgroup {
    /// One with this limit; `None` where the machine has no memory controller to use.
    pub(crate) fn create(name: &str, limit_bytes: u64) -> Result<Option<Self>> {
        let v1 = Path::new(V1).join("memory.limit_in_bytes").exists();
        let parent = if v1 { PathBuf::from(V1) } else { mount_point()? };
        let delegated = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
        if !v1 && !delegated.split_whitespace().any(|controller| controller == "memory") {
            return Ok(None);
        }
        let path = parent.join(format!("{PREFIX}memory-{}-{name}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        let this = Self { path, is_v1: v1 };
        let file = if v1 { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(this.path.join(file), limit_bytes.to_string()).context("setting a memory limit")?;
        Ok(Some(this))
    }

    /// The same command, which enters the cgroup before its program starts.
    pub(crate) fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(self.path.join("cgroup.procs"))
            .arg(command.get_program())
            .args(command.get_args());
        inside
    }

    /// Charged now, bytes.
    pub(crate) fn now(&self) -> Result<u64> {
        self.number(if self.is_v1 {
            "memory.usage_in_bytes"
        } else {
            "memory.current"
        })
    }

    /// The most that was charged, bytes.
    pub(crate) fn peak(&self) -> Result<u64> {
        self.number(if self.is_v1 {
            "memory.max_usage_in_bytes"
        } else {
            "memory.peak"
        })
    }

    /// Kernel memory, bytes: maps, rings, programs, descriptors.
    pub(crate) fn kernel(&self) -> Result<u64> {
        if self.is_v1 {
            self.number("memory.kmem.usage_in_bytes")
        } else {
            self.field("memory.stat", "kernel")
        }
    }

    /// Processes that the kernel has killed for want of memory.
    pub(crate) fn killed(&self) -> Result<u64> {
        self.field(
            if self.is_v1 {
                "memory.oom_control"
            } else {
                "memory.events"
            },
            "oom_kill",
        )
    }

    fn number(&self, file: &str) -> Result<u64> {
        Ok(fs::read_to_string(self.path.join(file))?.trim().parse()?)
    }

    fn field(&self, file: &str, name: &str) -> Result<u64> {
        let text = fs::read_to_string(self.path.join(file))?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("{file} has no {name}"))?.parse()?)
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // A process that has just ended stays for a moment.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        eprintln!("lab: cgroup {} could not be removed", self.path.display());
    }
}
