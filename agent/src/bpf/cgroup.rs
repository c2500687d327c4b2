//! The cgroups to attach to, and how the kernel side recognises what is below them.

use std::{
    fs::File,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use agent_ebpf::scope::{MAX_SCOPES, ScopeEntry};

use super::BpfError;

/// One cgroup to watch.
#[derive(Debug)]
pub(super) struct Scope {
    /// Its directory, to attach programs to.
    pub(super) directory: File,
    /// How the kernel side recognises it.
    pub(super) entry: ScopeEntry,
}

/// The cgroups to watch: those named, else the root.
pub(super) fn scopes(paths: &[PathBuf]) -> Result<Vec<Scope>, BpfError> {
    let mount = unified_mount().ok_or(BpfError::NoCgroup2)?;
    if paths.len() > MAX_SCOPES {
        return Err(BpfError::TooManyCgroups {
            given: paths.len(),
            most: MAX_SCOPES,
        });
    }
    if paths.is_empty() {
        return Ok(vec![scope(&mount, &mount)?]);
    }
    paths.iter().map(|path| scope(&mount, path)).collect()
}

fn scope(mount: &Path, path: &Path) -> Result<Scope, BpfError> {
    let unreadable = |source| BpfError::Cgroup {
        path: path.to_path_buf(),
        source,
    };
    let canonical = path.canonicalize().map_err(unreadable)?;
    let level = canonical
        .strip_prefix(mount)
        .map_err(|_| BpfError::NotCgroup2 {
            path: path.to_path_buf(),
            mount: mount.to_path_buf(),
        })?
        .components()
        .count();
    let directory = File::open(&canonical).map_err(unreadable)?;
    let cgroup_id = directory.metadata().map_err(unreadable)?.ino();
    Ok(Scope {
        directory,
        entry: ScopeEntry {
            cgroup_id,
            level: level as u32,
            reserved: 0,
        },
    })
}

/// Where cgroup v2 is mounted, from the mount table: on hybrid hosts it is not `/sys/fs/cgroup`.
pub fn unified_mount() -> Option<PathBuf> {
    mount_in(&std::fs::read_to_string("/proc/self/mountinfo").ok()?)
}

fn mount_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        // Optional fields end at a lone dash; the file system's type follows it (proc_pid_mountinfo(5)).
        let (mount, file_system) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        (file_system.split(' ').next() == Some("cgroup2")).then(|| PathBuf::from(unescape(point)))
    })
}

/// The mount table writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, character)| text.replace(code, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_unified_hierarchy() {
        let check = |mountinfo: &str, expected: Option<&str>| {
            assert_eq!(mount_in(mountinfo), expected.map(PathBuf::from), "{mountinfo}");
        };
        check(
            "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
            Some("/sys/fs/cgroup"),
        );
        check(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n38 31 0:35 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 none rw",
            Some("/sys/fs/cgroup/unified"),
        );
        check("32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu", None);
        check("30 23 0:26 / /a\\040b rw - cgroup2 cgroup2 rw", Some("/a b"));
        check("", None);
    }
}
