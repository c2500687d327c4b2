//! A bound on watched sockets, by what they take: their state is kernel memory, charged to the agent's own cgroup.
//!
//! The kernel counts no elements of such storage, and tells nobody of those that go with their socket. It does count the memory.
use std::{fs, path::PathBuf, process};

use super::limit;

/// State in a socket, with what the allocator adds, and a half of a table of round trips by length.
const SOCKET_BYTES: u64 = 1_536;
/// Whatever else the kernel keeps for the agent: sockets of scrapers, page tables, files.
const OTHER_BYTES: u64 = 16 << 20;
/// Once refused, sockets are watched again when one part in so many is free.
const FREE_PART: u64 = 16;

/// Kernel memory of the agent's own cgroup.
#[derive(Debug)]
enum Counter {
    /// `memory.stat` of cgroup v2.
    Unified(PathBuf),
    /// `memory.kmem.usage_in_bytes` of cgroup v1.
    Kernel(PathBuf),
}

/// How many more sockets may be watched.
#[derive(Debug)]
pub struct SocketRoom {
    counter: Counter,
    most_bytes: u64,
    is_full: bool,
}

impl SocketRoom {
    /// Room for so many sockets beside what the kernel keeps by now; `None` where the agent has no cgroup to itself, so that
    /// nobody knows what is its own.
    pub fn beside_what_is_loaded(sockets: usize) -> Option<Self> {
        let counter = counter()?;
        let now = counter.bytes()?;
        Some(Self {
            counter,
            most_bytes: now + OTHER_BYTES + SOCKET_BYTES * sockets as u64,
            is_full: false,
        })
    }

    /// Looks again: whether no more sockets may be watched, when that has changed.
    pub fn changed(&mut self) -> Option<bool> {
        let bytes = self.counter.bytes()?;
        let most = if self.is_full {
            self.most_bytes - self.most_bytes / FREE_PART
        } else {
            self.most_bytes
        };
        let is_full = bytes > most;
        (is_full != std::mem::replace(&mut self.is_full, is_full)).then_some(is_full)
    }
}

impl Counter {
    fn bytes(&self) -> Option<u64> {
        match self {
            Self::Unified(file) => kernel_bytes(&fs::read_to_string(file).ok()?),
            Self::Kernel(file) => fs::read_to_string(file).ok()?.trim().parse().ok(),
        }
    }
}

/// Of the first cgroup that counts the agent's memory and nobody else's.
fn counter() -> Option<Counter> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let places = limit::places(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
    places.into_iter().find_map(|place| {
        let counter = if place.is_v2 {
            Counter::Unified(place.own.join("memory.stat"))
        } else {
            Counter::Kernel(place.own.join("memory.kmem.usage_in_bytes"))
        };
        let members = fs::read_to_string(place.own.join("cgroup.procs")).ok()?;
        let own = process::id().to_string();
        (members.lines().all(|member| member == own) && counter.bytes().is_some()).then_some(counter)
    })
}

/// From `memory.stat`: all of the kernel's (from 5.18 on), or what it has in slabs.
fn kernel_bytes(stat: &str) -> Option<u64> {
    let value = |name: &str| {
        stat.lines()
            .find_map(|line| line.split_once(' ').filter(|(key, _)| *key == name)?.1.parse().ok())
    };
    value("kernel").or_else(|| value("slab"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_how_much_it_has() {
        let check = |stat: &str, expected| assert_eq!(kernel_bytes(stat), expected, "{stat}");
        check("anon 5\nkernel 4096\nkernel_stack 7\nslab 3\n", Some(4096));
        check("anon 5\nslab 3\n", Some(3));
        check("anon 5\n", None);
        check("kernel many\n", None);
    }

    #[test]
    fn full_lasts_until_there_is_room() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("memory.kmem.usage_in_bytes");
        let mut room = SocketRoom {
            counter: Counter::Kernel(file.clone()),
            most_bytes: 1600,
            is_full: false,
        };
        for (bytes, expected) in [(1600, None), (1601, Some(true)), (1501, None), (1500, Some(false)), (0, None)] {
            fs::write(&file, bytes.to_string()).expect("written");
            assert_eq!(room.changed(), expected, "{bytes}");
        }
        fs::remove_file(&file).expect("removed");
        assert_eq!(room.changed(), None);
    }
}
