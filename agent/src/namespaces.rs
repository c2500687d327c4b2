//! Finds network namespaces: of every process, and those that are kept by name without one.
//!
//! Namespaces and processes may go at any time: what is gone is passed over. Called by `bpf` and `sweeper`.
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Files that lead to network namespaces; several may lead to the same.
pub fn files() -> impl Iterator<Item = PathBuf> {
    let entries = |directory: &str| fs::read_dir(directory).into_iter().flatten().flatten();
    let of_processes = entries("/proc")
        .filter(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit())
        })
        .map(|entry| entry.path().join("ns/net"));
    let kept = entries("/run/netns").map(|entry| entry.path());
    of_processes.chain(kept)
}

/// The inode number of the namespace that a file leads to.
pub fn inode(path: &Path) -> Option<u32> {
    fs::metadata(path).ok()?.ino().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_is_among_them() {
        let own = inode(Path::new("/proc/self/ns/net")).expect("there is /proc");
        assert!(files().any(|path| inode(&path) == Some(own)));
        assert_eq!(inode(Path::new("/proc/0/ns/net")), None);
    }
}
