//! The memory limit of the agent's own cgroup: cgroup v2 (`memory.max`) and v1 (`memory.limit_in_bytes`), this cgroup's and
//! those above it, of which the smallest counts. What cannot be read limits nothing.
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A value from here on is v1's way to say that there is no limit: the largest number of whole pages.
const NO_LIMIT_BYTES: u64 = 1 << 60;
/// Cgroups that are looked at: the kernel allows no deeper tree by default on any distribution.
const MOST_LEVELS: usize = 64;

/// A limit, and the file that sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes.
    pub bytes: u64,
    /// Which file says so.
    pub file: PathBuf,
}

/// The smallest limit that the agent's process has; `None` without any.
pub fn own_limit() -> Option<MemoryLimit> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let files = files(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
    smallest(files, |file| fs::read_to_string(file).ok())
}

/// The smallest limit among those that these files state.
fn smallest(files: Vec<PathBuf>, read: impl Fn(&Path) -> Option<String>) -> Option<MemoryLimit> {
    files
        .into_iter()
        .filter_map(|file| {
            let bytes = bytes(&read(&file)?)?;
            Some(MemoryLimit { bytes, file })
        })
        .min_by_key(|limit| limit.bytes)
}

/// The limit that such a file states; `None` where it states that there is none.
fn bytes(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < NO_LIMIT_BYTES)
}

/// The files that may limit the process with this `/proc/PID/cgroup`, as this `/proc/PID/mountinfo` shows them.
fn files(cgroup: &str, mountinfo: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for Place { own, mount, is_v2 } in places(cgroup, mountinfo) {
        let name = if is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        let up = own.ancestors().take(MOST_LEVELS);
        files.extend(up.take_while(|one| one.starts_with(&mount)).map(|one| one.join(name)));
    }
    files
}

/// Where a hierarchy that may have the memory controller shows the process's cgroup.
pub(super) struct Place {
    /// The cgroup's directory.
    pub(super) own: PathBuf,
    /// Where the hierarchy is mounted.
    mount: PathBuf,
    /// The unified hierarchy.
    pub(super) is_v2: bool,
}

/// All such places of the process with this `/proc/PID/cgroup` and `/proc/PID/mountinfo`.
pub(super) fn places(cgroup: &str, mountinfo: &str) -> Vec<Place> {
    let mut places = Vec::new();
    for line in mountinfo.lines() {
        // Optional fields end at a lone dash; the type of the file system follows (proc_pid_mountinfo(5)).
        let Some((mount, file_system)) = line.split_once(" - ") else {
            continue;
        };
        let mut fields = mount.split(' ').skip(3);
        let (Some(root), Some(point)) = (fields.next(), fields.next()) else {
            continue;
        };
        let mut kind = file_system.split(' ');
        let is_memory = |options: &str| options.split(',').any(|option| option == "memory");
        let (own, is_v2) = match (kind.next(), kind.nth(1)) {
            (Some("cgroup2"), _) => (path_in(cgroup, str::is_empty), true),
            (Some("cgroup"), Some(options)) if is_memory(options) => (path_in(cgroup, is_memory), false),
            _ => continue,
        };
        let Some(own) = own else { continue };
        // Below another root than the mount's, as in some containers, the mount itself is the process's cgroup.
        let below = own.strip_prefix(root.trim_end_matches('/')).unwrap_or_default();
        let below = below.trim_matches('/');
        let below = if below.split('/').any(|part| part == "..") {
            ""
        } else {
            below
        };
        let mount = PathBuf::from(point);
        places.push(Place {
            own: mount.join(below),
            mount,
            is_v2,
        });
    }
    places
}

/// The path of the process's cgroup in the hierarchy with these controllers: `NUMBER:CONTROLLERS:PATH` (cgroups(7)).
fn path_in(cgroup: &str, is_it: impl Fn(&str) -> bool) -> Option<&str> {
    cgroup.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        is_it(controllers).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw";
    const V1: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";

    fn check(cgroup: &str, mountinfo: &str, expected: &[&str]) {
        let found = files(cgroup, mountinfo);
        let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
        assert_eq!(found, expected, "{cgroup} {mountinfo}");
    }

    #[test]
    fn every_level_may_limit() {
        let expected = [
            "/sys/fs/cgroup/a/b/memory.max",
            "/sys/fs/cgroup/a/memory.max",
            "/sys/fs/cgroup/memory.max",
        ];
        check("0::/a/b", V2, &expected);
        let expected = [
            "/sys/fs/cgroup/memory/x/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        ];
        check("4:memory:/x\n1:cpu:/y\n0::/", V1, &expected);
        check("1:cpu,cpuacct:/y\n0::/", V1, &[]);
        check("", "", &[]);
    }

    #[test]
    fn in_containers_the_mount_is_the_cgroup() {
        let mount = "35 31 0:32 /docker/7 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";
        let own = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
        check("4:memory:/docker/7", mount, &[own]);
        check(
            "4:memory:/docker/7/in",
            mount,
            &["/sys/fs/cgroup/memory/in/memory.limit_in_bytes", own],
        );
        check("4:memory:/elsewhere", mount, &[own]);
        check("0::/../../x", V2, &["/sys/fs/cgroup/memory.max"]);
    }

    #[test]
    fn the_smallest_counts() {
        let read = |file: &Path| {
            let text = match file.to_str()? {
                "/a/b" => "max\n",
                "/a" => "67108864\n",
                "/" => "9223372036854771712\n",
                "/x" => "-1",
                _ => return None,
            };
            Some(text.to_owned())
        };
        let check = |files: &[&str], expected: Option<(u64, &str)>| {
            let found = smallest(files.iter().map(PathBuf::from).collect(), read);
            let expected = expected.map(|(bytes, file)| MemoryLimit {
                bytes,
                file: file.into(),
            });
            assert_eq!(found, expected, "{files:?}");
        };
        check(&["/a/b", "/a", "/", "/gone"], Some((64 << 20, "/a")));
        check(&["/a/b", "/", "/x"], None);
    }
}
