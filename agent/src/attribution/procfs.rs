//! The only reader of `/proc`: processes that were there before hopline, or whose events were lost.
//!
//! Everything here may vanish while it is read: then it is `None`.
use std::{
    collections::HashMap,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::environment::{Environment, allowed};

/// `/proc/self/ns/pid` in the init pid namespace (`PROC_PID_INIT_INO`): the kernel programs tell pids of that one.
const INIT_PID_NAMESPACE: &str = "pid:[4026531836]";
/// Length of the ticks in `/proc/PID/stat`: `USER_HZ` is 100 wherever BPF is.
const TICK_NS: u64 = 10_000_000;

/// Longest resolver configuration that is read.
const RESOLV_CONF_BYTES: u64 = 64 * 1024;
/// Sockets whose holders are looked for at once: as many as a sweep reads. The owners of others stay unknown.
const MOST_SOCKETS: usize = 262_144;
/// No more of an environment is read: it may be megabytes.
const ENVIRONMENT_BYTES: u64 = 128 * 1024;

/// A `/proc` with the pids that the kernel programs tell.
#[derive(Debug)]
pub(super) struct Procfs {
    root: PathBuf,
    /// Variables that may be read of an environment.
    variables: Box<[Arc<str>]>,
}

/// What `/proc` says of a process.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// Its name.
    pub(super) comm: String,
    /// Its parent.
    pub(super) parent_pid: u32,
    /// When it started, nanoseconds since boot, rounded down to 10 ms. Counts suspended time, unlike event times: the
    /// caller may only use it to refuse what started clearly later.
    pub(super) start_ns: u64,
}

impl Procfs {
    /// `None` in a pid namespace of our own: its pids are not those of the events.
    pub(super) fn open(variables: &[Arc<str>]) -> Option<Self> {
        match fs::read_link("/proc/self/ns/pid") {
            Ok(namespace) if namespace == Path::new(INIT_PID_NAMESPACE) => Some(Self {
                root: "/proc".into(),
                variables: variables.into(),
            }),
            namespace => {
                tracing::warn!(
                    ?namespace,
                    "/proc is not the host's: owners come from events alone (use the host's pid namespace)"
                );
                None
            }
        }
    }

    /// Every process id.
    pub(super) fn pids(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir(&self.root) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// A process's name, parent and start.
    pub(super) fn stat(&self, pid: u32) -> Option<Stat> {
        parse_stat(&fs::read(self.path(pid, "stat")).ok()?)
    }

    /// Path of its program; `None` for kernel threads.
    pub(super) fn exe(&self, pid: u32) -> Option<String> {
        let path = fs::read_link(self.path(pid, "exe"))
            .ok()?
            .to_string_lossy()
            .into_owned();
        Some(path.strip_suffix(" (deleted)").map(str::to_owned).unwrap_or(path))
    }

    /// Its allowed variables; `None` when none are, or when it has gone.
    pub(super) fn environment(&self, pid: u32) -> Option<Environment> {
        if self.variables.is_empty() {
            return None;
        }
        let mut bytes = Vec::new();
        let file = File::open(self.path(pid, "environ")).ok()?;
        file.take(ENVIRONMENT_BYTES).read_to_end(&mut bytes).ok()?;
        // Empty of a kernel thread, and of a process that is about to be gone.
        (!bytes.is_empty()).then(|| allowed(&bytes, &self.variables))
    }

    /// Path of its cgroup in the cgroup2 tree.
    pub(super) fn cgroup(&self, pid: u32) -> Option<String> {
        let text = fs::read_to_string(self.path(pid, "cgroup")).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("0::"))
            .map(str::to_owned)
    }

    /// Text of its `/etc/resolv.conf`, no more than [`RESOLV_CONF_BYTES`].
    ///
    /// Opened below its root: a link in a container must not lead to a file of the node, nor to a pipe that never ends.
    pub(super) fn resolv_conf(&self, pid: u32) -> Option<String> {
        let root = File::open(self.path(pid, "root")).ok()?;
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file = File::from(openat2(&root, "etc/resolv.conf", how).ok()?);
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut text = Vec::new();
        file.take(RESOLV_CONF_BYTES).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// Inode number of the node's own network namespace.
    pub(super) fn host_netns(&self) -> Option<u32> {
        self.namespace(1, "net")
    }

    /// Inode number of a process's mount namespace.
    pub(super) fn mount_namespace(&self, pid: u32) -> Option<u32> {
        self.namespace(pid, "mnt")
    }

    fn namespace(&self, pid: u32, kind: &str) -> Option<u32> {
        let link = fs::read_link(self.path(pid, "ns").join(kind)).ok()?;
        let (found, number) = link.to_str()?.strip_suffix(']')?.split_once(":[")?;
        (found == kind).then(|| number.parse().ok())?
    }

    /// The smallest process id that holds each socket, by the socket's inode; of no more than [`MOST_SOCKETS`].
    pub(super) fn socket_holders(&self) -> HashMap<u64, u32> {
        let mut holders = HashMap::new();
        for pid in self.pids() {
            let Ok(descriptors) = fs::read_dir(self.path(pid, "fd")) else {
                continue;
            };
            for descriptor in descriptors.flatten() {
                let Ok(target) = fs::read_link(descriptor.path()) else {
                    continue;
                };
                if let Some(inode) = target.to_str().and_then(socket_inode) {
                    if holders.len() >= MOST_SOCKETS && !holders.contains_key(&inode) {
                        continue;
                    }
                    let holder = holders.entry(inode).or_insert(pid);
                    *holder = pid.min(*holder);
                }
            }
        }
        holders
    }

    fn path(&self, pid: u32, file: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(file)
    }
}

fn socket_inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// `PID (COMM) STATE PPID …`: the name may hold spaces and parentheses itself.
fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|byte| *byte == b'(')?;
    let close = bytes.iter().rposition(|byte| *byte == b')')?;
    let comm = String::from_utf8_lossy(bytes.get(open + 1..close)?).into_owned();
    let mut fields = str::from_utf8(&bytes[close + 1..]).ok()?.split_ascii_whitespace();
    // proc_pid_stat(5): the state is field 3, the parent field 4, the start field 22.
    let parent_pid = fields.nth(1)?.parse().ok()?;
    let ticks: u64 = fields.nth(17)?.parse().ok()?;
    Some(Stat {
        comm,
        parent_pid,
        start_ns: ticks.saturating_mul(TICK_NS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_any_name() {
        let rest = "S 17 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 1234 0 0";
        for comm in ["sh", "a b", "x) S 1 (y", "(", ""] {
            let stat = parse_stat(format!("42 ({comm}) {rest}\n").as_bytes()).expect("a whole line");
            assert_eq!(
                stat,
                Stat {
                    comm: comm.into(),
                    parent_pid: 17,
                    start_ns: 12_340_000_000
                }
            );
        }
        for cut in ["", "42", "42 (sh", "42 (sh)", "42 (sh) S 17", "42 )sh( S 17"] {
            assert_eq!(parse_stat(cut.as_bytes()), None, "{cut}");
        }
    }

    #[test]
    fn this_process() {
        let procfs = Procfs {
            root: "/proc".into(),
            variables: ["PATH".into()].into(),
        };
        let pid = std::process::id();
        let stat = procfs.stat(pid).expect("it runs");
        assert_eq!(stat.parent_pid, std::os::unix::process::parent_id());
        let exe = std::env::current_exe().expect("it has a program");
        assert_eq!(procfs.exe(pid).as_deref(), exe.to_str());
        let environment = procfs.environment(pid).expect("one is allowed");
        let path = std::env::var("PATH").expect("it has a PATH");
        assert!(matches!(&*environment, [(name, value)] if &**name == "PATH" && path.starts_with(&**value)));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let fd = std::os::fd::AsRawFd::as_raw_fd(&listener);
        let link = fs::read_link(format!("/proc/self/fd/{fd}")).expect("it is open");
        let inode = link.to_str().and_then(socket_inode).expect("it is a socket");
        assert_eq!(procfs.socket_holders().get(&inode), Some(&pid));
        assert_eq!(procfs.stat(u32::MAX), None);
    }
}
