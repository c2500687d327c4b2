//! Cgroups of the lab's own in the cgroup2 tree: what hopline is told to watch, and the means to end every process.
//!
//! Never touches a cgroup without the lab's prefix.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

/// Starts the name of everything that the lab makes outside itself.
pub(crate) const PREFIX: &str = "hopline-lab-";

/// A cgroup that is emptied (its processes killed) and removed when dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).with_context(|| format!("making cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Makes a cgroup below this one.
    pub(crate) fn child(&self, name: &str) -> Result<Self> {
        Self::create(self.path.join(name))
    }

    /// Its directory, as `--cgroup` takes it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A process that writes `0` here moves itself into this cgroup.
    pub(crate) fn procs(&self) -> Result<OwnedFd> {
        let file = File::options().write(true).open(self.path.join("cgroup.procs"));
        Ok(file
            .with_context(|| format!("opening {}/cgroup.procs", self.path.display()))?
            .into())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove_tree(&self.path);
    }
}

/// The lab's outermost cgroup. Its lock tells a running lab from what a crashed one left behind.
#[derive(Debug)]
pub(crate) struct RootCgroup {
    /// Removed first: fields drop in order.
    pub(crate) cgroup: Cgroup,
    /// Held while this lab runs.
    _lock: Flock<File>,
}

impl RootCgroup {
    /// Removes what crashed labs left, then makes this lab's own.
    pub(crate) fn create() -> Result<Self> {
        let mount = mount_point()?;
        sweep(&mount);
        let cgroup = Cgroup::create(mount.join(format!("{PREFIX}{}", std::process::id())))?;
        let lock = lock(&cgroup.path).context("locking the lab's cgroup")?;
        Ok(Self { cgroup, _lock: lock })
    }
}

/// Where cgroup v2 is mounted: alone, or beside v1 (hybrid).
pub(crate) fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    mount_point_in(&mounts).context("no cgroup2 mount: mount -t cgroup2 none /sys/fs/cgroup")
}

/// `ID PARENT DEV ROOT MOUNTPOINT OPTIONS… - TYPE SOURCE OPTIONS`: the fifth field of the first line with type cgroup2.
fn mount_point_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ")
            .then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// Taken while the lab that made this directory runs.
pub(crate) fn lock(path: &Path) -> Result<Flock<File>> {
    Flock::lock(File::open(path)?, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

/// Removes the cgroups of labs that no longer run.
fn sweep(mount: &Path) {
    let Ok(entries) = fs::read_dir(mount) else { return };
    for entry in entries.flatten() {
        let leftover = entry.file_name().to_string_lossy().starts_with(PREFIX) && lock(&entry.path()).is_ok();
        if leftover {
            eprintln!("lab: removing {}, left by an earlier run", entry.path().display());
            remove_tree(&entry.path());
        }
    }
}

/// Kills every process in and below `path` and removes the directories, deepest first.
pub(crate) fn remove_tree(path: &Path) {
    for _ in 0..100 {
        if let Ok(mut kill) = File::options().write(true).open(path.join("cgroup.kill")) {
            // Gone in the meantime is as good as killed.
            drop(kill.write_all(b"1"));
        }
        if remove_directories(path) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    eprintln!("lab: cgroup {} could not be removed", path.display());
}

/// True when nothing is left of `path`. Killed processes stay in their cgroup until they are reaped.
fn remove_directories(path: &Path) -> bool {
    let Ok(entries) = fs::read_dir(path) else { return true };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_directories(&entry.path());
        }
    }
    fs::remove_dir(path).is_ok() || !path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_beside_v1() {
        let mountinfo = "40 31 0:37 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                         41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:5 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point_in(mountinfo), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point_in("40 31 0:37 / / rw - ext4 /dev/vda rw\n"), None);
    }
}
