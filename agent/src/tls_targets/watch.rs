//! The thread: what runs at the start, then every mapping as it is made.

use std::{
    collections::HashSet,
    fs, io,
    os::fd::AsRawFd as _,
    path::Path,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch as channel;

use super::{
    Settings,
    files::{Files, Key},
    lease, maps,
};
use crate::{
    bpf::{Mapping, Mappings, Prober},
    privileges::{self, Keep},
    selfmetrics::TlsTargets,
};

/// How soon the end is noticed.
const TURN: Duration = Duration::from_millis(100);
/// Files that are taken for mapped at one time; what only others have mapped is let go.
const MOST_MAPPED: usize = 262_144;

pub(super) struct Watcher {
    mappings: Mappings,
    files: Files,
    settings: Settings,
}

impl Watcher {
    /// Listens from here on, so that nothing falls between the first look and the first mapping.
    pub(super) fn new(prober: Prober, settings: Settings) -> io::Result<Self> {
        Ok(Self {
            mappings: Mappings::listen()?,
            files: Files::new(Some(prober), settings.clone()),
            settings,
        })
    }

    pub(super) fn run(mut self, stop: &AtomicBool, tell: &channel::Sender<Arc<TlsTargets>>) {
        // It runs against programs that shake hands some milliseconds after they were started.
        privileges::hurry();
        privileges::drop_capabilities(Keep {
            probes_files: true,
            ..Keep::default()
        });
        let breaks = match lease::Breaks::of_this_thread() {
            Ok(breaks) => breaks,
            Err(error) => {
                tracing::warn!(%error, "TLS libraries are not probed: without signals, writers to a probed file would wait");
                return;
            }
        };
        self.look_around();
        tell.send_replace(Arc::new(self.files.told(0)));
        let mut due = Instant::now() + self.settings.release_after;
        let mut told = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            if let Err(error) = self.mappings.wait(breaks.as_fd().as_raw_fd(), TURN) {
                tracing::warn!(%error, "programs that start from now on are not looked at for TLS libraries");
                return;
            }
            if breaks.take() {
                self.files.leave_to_writers();
            }
            self.look_at_new();
            let now = Instant::now();
            if now >= due {
                due = now + self.settings.release_after;
                self.look_around();
            }
            if now.duration_since(told) >= TURN {
                told = now;
                tell.send_replace(Arc::new(self.files.told(self.mappings.lost())));
            }
        }
    }

    fn look_at_new(&mut self) {
        let now = Instant::now();
        let (files, settings) = (&mut self.files, &self.settings);
        self.mappings.take(|mapping| {
            if !files.is_known(&mapping, now) && is_inside(settings, mapping.pid) {
                files.look(&mapping, now);
            }
        });
    }

    fn look_around(&mut self) {
        let now = Instant::now();
        let files = &mut self.files;
        let mapped = look_around(&self.settings, |mapping| {
            if !files.is_known(mapping, now) {
                files.look(mapping, now);
            }
        });
        if !self.files.is_empty() {
            self.files.mapped(&mapped, now);
        }
    }
}

/// What could be probed now, without a probe.
pub(super) fn survey(settings: &Settings) -> TlsTargets {
    let now = Instant::now();
    let mut files = Files::new(None, settings.clone());
    look_around(settings, |mapping| {
        if !files.is_known(mapping, now) {
            files.look(mapping, now);
        }
    });
    files.told(0)
}

/// Everything that is mapped now, each file once: at the start, and to see what is no more used.
fn look_around(settings: &Settings, mut with: impl FnMut(&Mapping)) -> HashSet<Key> {
    let mut mapped = HashSet::new();
    let Ok(processes) = fs::read_dir("/proc") else {
        return mapped;
    };
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if !is_inside(settings, pid) {
            continue;
        }
        let Some(text) = maps::read(pid) else {
            continue;
        };
        for mapping in maps::executable(pid, &text) {
            if mapped.len() < MOST_MAPPED && mapped.insert((mapping.device, mapping.inode)) {
                with(&mapping);
            }
        }
    }
    mapped
}

/// In one of the watched cgroups; a process that has ended is not.
fn is_inside(settings: &Settings, pid: u32) -> bool {
    if pid == process::id() {
        return false;
    }
    let Some(root) = settings.cgroup_root.as_deref().filter(|_| !settings.cgroups.is_empty()) else {
        return true;
    };
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else {
        return false;
    };
    let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return false;
    };
    let own = root.join(Path::new(path));
    settings.cgroups.iter().any(|scope| own.starts_with(scope))
}
