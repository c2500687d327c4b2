//! Network namespaces that have no name: a descriptor holds each, so a lab that dies leaves none behind.
//!
//! Commands and closures enter by `setns`, never by `ip netns exec`, which remounts /sys and breaks cgroup writes.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns, unshare};

use crate::tools;

/// A network namespace with its loopback up.
#[derive(Debug)]
pub(crate) struct NetNs {
    file: File,
}

impl NetNs {
    pub(crate) fn new() -> Result<Self> {
        let file = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
            File::open("/proc/thread-self/ns/net").context("opening a network namespace")
        })
        .join()
        .expect("the closure does not panic")?;
        let netns = Self { file };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Descriptor for `setns`.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Its inode number, which the kernel gives to another one when this one has ended.
    pub(crate) fn number(&self) -> Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// A path that `nsenter --net=` takes while the lab runs.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Whether a TCP socket of IPv4 listens on this port, by the kernel's list: a connect would be seen by the server.
    pub(crate) fn listens(&self, port: u16) -> Result<bool> {
        let wanted = format!(":{port:04X} 00000000:0000 0A");
        self.run(|| Ok(fs::read_to_string("/proc/thread-self/net/tcp")?.contains(&wanted)))
    }

    /// Runs `work` on a thread inside the namespace.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(self.fd(), CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
                work()
            });
            inside.join().expect("work in a namespace reports its trouble")
        })
    }

    /// Runs `ip` with these words.
    pub(crate) fn ip(&self, words: &str) -> Result<()> {
        self.run(|| tools::output_of(Command::new("ip").args(words.split(' '))))
            .map(drop)
    }

    /// Sets `net.*` of this namespace.
    pub(crate) fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = sysctl_path(key);
        self.run(|| fs::write(&path, value).with_context(|| format!("setting {key} to {value}")))
    }

    /// Sets it where this kernel has it; older ones then behave as if it were so.
    pub(crate) fn sysctl_if_there(&self, key: &str, value: &str) -> Result<()> {
        if sysctl_path(key).exists() {
            self.sysctl(key, value)
        } else {
            Ok(())
        }
    }
}

fn sysctl_path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key.replace('.', "/"))
}
