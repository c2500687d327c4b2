//! Cgroup ids to paths, and what a path says: container and pod.
//!
//! Paths come from events, from one walk of the tree at start, and for an unknown id from the socket's process, else
//! from another walk. The id of a cgroup is the inode number of its directory.
use std::{
    collections::{HashMap, VecDeque},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The whole tree is walked for unknown ids at most this often.
const WALK_EVERY_NS: u64 = 5_000_000_000;

/// Longest path that is kept; whoever may make cgroups may nest them as deep as they like.
const PATH_BYTES: usize = 512;

/// One cgroup.
#[derive(Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Path below the cgroup2 mount, with a leading slash.
    pub path: Box<str>,
    /// Container id in the path.
    pub container: Option<Box<str>>,
    /// Pod uid in the path.
    pub pod: Option<Box<str>>,
}

impl Cgroup {
    fn new(path: &str) -> Self {
        let path = format!("/{}", path.trim_matches('/'));
        let container = path.rsplit('/').find_map(container_id).map(Box::from);
        let pod = path.split('/').find_map(pod_uid).map(String::into_boxed_str);
        Self {
            path: path[..path.floor_char_boundary(PATH_BYTES)].into(),
            container,
            pod,
        }
    }
}

/// The cache of cgroups.
#[derive(Debug)]
pub(super) struct Cgroups {
    by_id: HashMap<u64, Arc<Cgroup>>,
    /// Ids by age, for the bound.
    order: VecDeque<u64>,
    limit: usize,
    evicted: u64,
    /// Where the tree is; `None`: not to be read.
    root: Option<PathBuf>,
    walked_ns: u64,
}

impl Cgroups {
    pub(super) fn new(limit: usize, root: Option<PathBuf>) -> Self {
        Self {
            by_id: HashMap::new(),
            order: VecDeque::new(),
            limit,
            evicted: 0,
            root,
            walked_ns: 0,
        }
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// An event told the path of a new cgroup.
    pub(super) fn made(&mut self, id: u64, path: &str) {
        if self.by_id.insert(id, Arc::new(Cgroup::new(path))).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
            self.evicted += 1;
        }
    }

    /// Cgroups that are known.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The most that are remembered.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Reads the whole tree, or as much of it as can be remembered.
    pub(super) fn walk(&mut self) {
        let Some(root) = self.root.clone() else { return };
        let mut pending = vec![root.clone()];
        let mut seen = 0;
        while let Some(directory) = pending.pop() {
            seen += 1;
            if seen > self.limit {
                return;
            }
            let (Ok(metadata), Ok(path)) = (directory.metadata(), directory.strip_prefix(&root)) else {
                continue;
            };
            if !self.by_id.contains_key(&metadata.ino()) {
                self.made(metadata.ino(), &path.to_string_lossy());
            }
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            pending.extend(
                entries
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path())
                    .take(self.limit),
            );
            pending.truncate(self.limit);
        }
    }

    /// The cgroup with this id. `guess` gives the path of a process that is likely to be in it.
    pub(super) fn find(&mut self, id: u64, now_ns: u64, guess: impl FnOnce() -> Option<String>) -> Option<Arc<Cgroup>> {
        if id != 0 && !self.by_id.contains_key(&id) {
            self.look_up(id, now_ns, guess);
        }
        self.by_id.get(&id).cloned()
    }

    fn look_up(&mut self, id: u64, now_ns: u64, guess: impl FnOnce() -> Option<String>) {
        let Some(root) = &self.root else { return };
        if let Some(path) = guess()
            && inode(&root.join(path.trim_start_matches('/'))) == Some(id)
        {
            self.made(id, &path);
        } else if now_ns.saturating_sub(self.walked_ns) >= WALK_EVERY_NS {
            self.walked_ns = now_ns;
            self.walk();
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    path.metadata().ok().map(|metadata| metadata.ino())
}

/// The 64 hexadecimal digits of a container: alone (cgroupfs driver), or as `RUNTIME-ID.scope` (systemd driver).
fn container_id(component: &str) -> Option<&str> {
    let name = component.strip_suffix(".scope").unwrap_or(component);
    let (prefix, id) = name.rsplit_once(['-', ':']).unwrap_or(("", name));
    let monitor = prefix.ends_with("conmon");
    (!monitor && id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// The uid of a pod: `podUID` (cgroupfs driver) or `kubepods-CLASS-podUID.slice` with `_` for `-` (systemd driver).
fn pod_uid(component: &str) -> Option<String> {
    let name = component.strip_suffix(".slice").unwrap_or(component);
    let uid = &name[name.rfind("pod")? + 3..];
    let hex_digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = uid.bytes().filter(|byte| matches!(byte, b'-' | b'_')).count();
    // Static pods have 32 digits without dashes.
    let is_uid = hex_digits == 32 && hex_digits + dashes == uid.len() && matches!(dashes, 0 | 4);
    is_uid.then(|| uid.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const UID: &str = "11111111-2222-3333-4444-555555555555";

    #[test]
    fn paths() {
        let check = |path: &str, container: Option<&str>, pod: Option<&str>| {
            let cgroup = Cgroup::new(path);
            assert_eq!(
                (cgroup.container.as_deref(), cgroup.pod.as_deref()),
                (container, pod),
                "{path}"
            );
        };
        let dashed = UID.replace('-', "_");
        check("/", None, None);
        check("/user.slice/session-1.scope", None, None);
        check(&format!("/system.slice/docker-{ID}.scope"), Some(ID), None);
        check(&format!("/docker/{ID}"), Some(ID), None);
        check(&format!("/machine.slice/libpod-{ID}.scope/container"), Some(ID), None);
        check(&format!("/machine.slice/libpod-conmon-{ID}.scope"), None, None);
        check(&format!("/kubepods/burstable/pod{UID}/{ID}"), Some(ID), Some(UID));
        let slice = format!("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{dashed}.slice");
        check(&format!("{slice}/cri-containerd-{ID}.scope"), Some(ID), Some(UID));
        check(
            &format!("/kubepods.slice/kubepods-pod{dashed}.slice/crio-{ID}.scope"),
            Some(ID),
            Some(UID),
        );
        check(&format!("/kubepods/pod{}/{ID}", &ID[..32]), Some(ID), Some(&ID[..32]));
        check("/kubepods/podx", None, None);
        assert_eq!(&*Cgroup::new("a/b/").path, "/a/b");
        assert_eq!(&*Cgroup::new("").path, "/");
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut cgroups = Cgroups::new(2, None);
        (1..=3).for_each(|id| cgroups.made(id, &format!("/{id}")));
        cgroups.made(3, "/3");
        let mut path = |id| cgroups.find(id, 0, || None).map(|cgroup| cgroup.path.to_string());
        assert_eq!(
            (path(1), path(2), path(3)),
            (None, Some("/2".into()), Some("/3".into()))
        );
        assert_eq!(cgroups.evicted(), 1);
    }

    #[test]
    fn directories_are_found_by_inode() {
        let root = tempfile::tempdir().expect("a directory");
        let make = |path: &str| {
            fs::create_dir_all(root.path().join(path)).expect("a directory");
            inode(&root.path().join(path)).expect("it is there")
        };
        let early = make("a/b");
        let mut cgroups = Cgroups::new(10, Some(root.path().into()));
        cgroups.walk();
        let later = make("a/c");
        let hidden = make("a/d");
        let mut path = |id, now_ns, guess: Option<&str>| {
            cgroups
                .find(id, now_ns, || guess.map(str::to_owned))
                .map(|cgroup| cgroup.path.to_string())
        };
        assert_eq!(path(early, 0, None), Some("/a/b".into()));
        assert_eq!(path(later, 0, Some("/a/c")), Some("/a/c".into()));
        assert_eq!(
            path(hidden, 1, Some("/a/c")),
            None,
            "the guess is wrong and a walk not yet due"
        );
        assert_eq!(path(hidden, WALK_EVERY_NS, None), Some("/a/d".into()));
    }
}
