//! Finds TLS code as it is mapped, and probes each file once, whoever runs it.
//!
//! A thread of its own: it hears of every executable mapping (`bpf::Mappings`), looks at files that it has not seen
//! (`elf`), and holds the probes. A file is what was opened through the process's own mapping (`/proc/PID/map_files`), so
//! neither a path that a container chose nor a file put in its place is ever probed. A file that is probed cannot change (`lease`).
//! Started by `agent`.

mod files;
mod lease;
mod maps;
mod watch;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::watch as channel;

use crate::{bpf::Prober, selfmetrics::TlsTargets};

/// What to probe.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Watched cgroups; empty for the whole node.
    pub cgroups: Vec<PathBuf>,
    /// Where cgroup2 is mounted.
    pub cgroup_root: Option<PathBuf>,
    /// Which libraries, by number (`agent_ebpf::tls_fact::LIBRARY_*`).
    pub libraries: Vec<u8>,
    /// Paths that are left alone, with `*` for any text.
    pub exclude: Vec<String>,
    /// Files that nobody has mapped for this long are let go.
    pub release_after: Duration,
    /// Bytes of a file that may be in memory while it is read; one that needs more is refused.
    pub file_bytes: u64,
}

/// The running thread.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    targets: channel::Receiver<Arc<TlsTargets>>,
}

/// Starts the thread, which first looks at what runs already.
pub fn start(prober: Prober, settings: Settings) -> io::Result<Watch> {
    let watcher = watch::Watcher::new(prober, settings)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (tell, targets) = channel::channel(Arc::default());
    let stopped = Arc::clone(&stop);
    let thread = thread::Builder::new()
        .name("tls-targets".to_owned())
        .spawn(move || watcher.run(&stopped, &tell))?;
    Ok(Watch {
        stop,
        thread: Some(thread),
        targets,
    })
}

/// What runs now and could be probed, for `doctor`: no probe is set.
pub fn survey(settings: &Settings) -> TlsTargets {
    watch::survey(settings)
}

impl Watch {
    /// The files as they are now.
    pub fn targets(&self) -> channel::Receiver<Arc<TlsTargets>> {
        self.targets.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            drop(thread.join());
        }
    }
}
