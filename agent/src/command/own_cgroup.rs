//! A cgroup of hopline's own below the one it runs in, removed again at the end.
//!
//! `trace -- COMMAND` runs the command in it, `compare` enters it, `doctor` attaches its programs to it. No controller is enabled in it: the
//! limits of the surrounding cgroup go on to apply.
use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::bpf::{self, BpfError};

/// How often removal is tried while the last processes are on their way out.
const REMOVAL_TRIES: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

/// The cgroup; dropping it removes it.
#[derive(Debug)]
pub(super) struct OwnCgroup {
    path: PathBuf,
    parent: PathBuf,
}

impl OwnCgroup {
    /// Makes `hopline-PURPOSE-PID`.
    pub(super) fn create(purpose: &str) -> Result<Self> {
        let mount = bpf::unified_mount().ok_or(BpfError::NoCgroup2)?;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        // In a container whose mount shows another part of the tree, the root of what it shows.
        let parent = Some(below(&mount, &own))
            .filter(|path| path.is_dir())
            .unwrap_or_else(|| mount.clone());
        let path = parent.join(format!("hopline-{purpose}-{}", process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}; run as root", path.display()))?;
        Ok(Self { path, parent })
    }

    /// Its directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// This process enters, with all its threads; it leaves when the cgroup goes.
    pub(super) fn enter(&self) -> Result<()> {
        let entered = fs::write(self.procs(), process::id().to_string());
        entered.with_context(|| format!("cannot enter the cgroup {}", self.path.display()))
    }

    /// The file that a process enters by.
    pub(super) fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }
}

/// A cgroup in which no process is, for whoever may not make one; the first that is found.
pub(super) fn unpopulated() -> Option<PathBuf> {
    /// Cgroups that are looked at: a node has some hundreds.
    const MOST: usize = 4_096;
    let mut found = VecDeque::from([bpf::unified_mount()?]);
    for _ in 0..MOST {
        let directory = found.pop_front()?;
        let events = fs::read_to_string(directory.join("cgroup.events")).unwrap_or_default();
        if events.lines().any(|line| line == "populated 0") {
            return Some(directory);
        }
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        found.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    None
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        let mut result = Ok(());
        for _ in 0..REMOVAL_TRIES {
            result = dissolve(&self.path, &self.parent);
            match &result {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                Err(_) => thread::sleep(REMOVAL_PAUSE),
            }
        }
        if let Err(error) = result {
            tracing::warn!(path = %self.path.display(), %error, "a cgroup of hopline's own is left over");
        }
    }
}

/// Moves what still runs below `path` (a command may leave daemons behind) to `parent`, and removes the directories.
fn dissolve(path: &Path, parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            dissolve(&entry.path(), parent)?;
        }
    }
    for pid in fs::read_to_string(path.join("cgroup.procs"))?.lines() {
        match fs::write(parent.join("cgroup.procs"), pid) {
            // ESRCH: it has ended meanwhile.
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
            _ => {}
        }
    }
    fs::remove_dir(path)
}

/// The directory of the cgroup that `/proc/self/cgroup` names.
fn below(mount: &Path, proc_self_cgroup: &str) -> PathBuf {
    let path = proc_self_cgroup
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap_or_default();
    mount.join(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_its_own_cgroup() {
        let check =
            |text: &str, expected: &str| assert_eq!(below(Path::new("/cg"), text), Path::new(expected), "{text}");
        check("0::/\n", "/cg/");
        check("9:cpu:/x\n0::/user.slice/a b\n", "/cg/user.slice/a b");
        check("9:cpu:/x\n", "/cg/");
    }
}
