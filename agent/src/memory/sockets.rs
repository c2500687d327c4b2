//! A bound on watched sockets, by what they take: their state is kernel memory, charged to the agent's own cgroup.
//!
//! The kernel does not count the elements of such storage, and runs no program when one goes with its socket. It does count the memory.
use std::{
    fs,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use super::limit;

/// How often to look: seldom, and often while there is little room. 6 000 sockets a second are seen in time by an agent in 64 MiB,
/// 100 000 by one in 512 MiB.
const SELDOM: Duration = Duration::from_millis(250);
const OFTEN: Duration = Duration::from_millis(20);
/// There is little room when less than one part in so many is left.
const LITTLE_PART: u64 = 4;
/// Once refused, sockets are watched again when one part in so many is free.
const FREE_PART: u64 = 16;

/// Kernel memory of the agent's own cgroup.
#[derive(Debug)]
enum Counter {
    /// The directory of a cgroup of v2.
    Unified(PathBuf),
    /// `memory.kmem.usage_in_bytes` of cgroup v1.
    Kernel(PathBuf),
}

/// Whether more sockets may be watched.
#[derive(Debug)]
pub struct SocketRoom {
    counter: Counter,
    loaded_bytes: u64,
    most_bytes: u64,
    is_full: bool,
    is_little: bool,
}

impl SocketRoom {
    /// Room for so many bytes beside what the kernel keeps by now; `None` where the agent has no cgroup to itself, so that
    /// its own memory is not known.
    pub fn beside_what_is_loaded(bytes: u64) -> Option<Self> {
        let counter = counter()?;
        Some(Self {
            loaded_bytes: counter.bytes()?,
            counter,
            most_bytes: bytes,
            is_full: false,
            is_little: false,
        })
    }

    /// Looks again: whether no more sockets may be watched, when that has changed.
    pub fn changed(&mut self) -> Option<bool> {
        // Three quarters of it are no reason to look closer.
        let enough = self.loaded_bytes + self.most_bytes / LITTLE_PART * (LITTLE_PART - 1);
        let bytes = if self.counter.is_below(enough) {
            0
        } else {
            self.counter.bytes()?.saturating_sub(self.loaded_bytes)
        };
        let free = self.most_bytes.saturating_sub(bytes);
        self.is_little = free < self.most_bytes / LITTLE_PART;
        let wanted = if self.is_full { self.most_bytes / FREE_PART } else { 0 };
        let is_full = bytes > self.most_bytes || free < wanted;
        (is_full != std::mem::replace(&mut self.is_full, is_full)).then_some(is_full)
    }

    /// How long to wait before the next look.
    pub fn rest(&self) -> Duration {
        if self.is_little { OFTEN } else { SELDOM }
    }
}

impl Counter {
    fn bytes(&self) -> Option<u64> {
        match self {
            Self::Unified(cgroup) => kernel_bytes(&fs::read_to_string(cgroup.join("memory.stat")).ok()?),
            Self::Kernel(file) => number(file),
        }
    }

    /// Whether it surely is, without asking for `memory.stat`, which the kernel has to add up.
    fn is_below(&self, bytes: u64) -> bool {
        match self {
            Self::Unified(cgroup) => number(&cgroup.join("memory.current")).is_some_and(|all| all < bytes),
            Self::Kernel(_) => false,
        }
    }
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Of the first cgroup with a memory controller that has no process but the agent.
fn counter() -> Option<Counter> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let places = limit::places(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
    places.into_iter().find_map(|place| {
        let counter = if place.is_v2 {
            Counter::Unified(place.own.clone())
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
            loaded_bytes: 100,
            most_bytes: 1600,
            is_full: false,
            is_little: false,
        };
        let check = |room: &mut SocketRoom, bytes: u64, expected, rest| {
            fs::write(&file, bytes.to_string()).expect("written");
            assert_eq!((room.changed(), room.rest()), (expected, rest), "{bytes}");
        };
        check(&mut room, 50, None, SELDOM);
        check(&mut room, 1300, None, SELDOM);
        check(&mut room, 1700, None, OFTEN);
        check(&mut room, 1701, Some(true), OFTEN);
        check(&mut room, 1601, None, OFTEN);
        check(&mut room, 1600, Some(false), OFTEN);
        check(&mut room, 1300, None, SELDOM);
        fs::remove_file(&file).expect("removed");
        assert_eq!(room.changed(), None);
    }
}
