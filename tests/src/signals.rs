//! SIGINT, SIGTERM and SIGHUP clean up like any other end of the lab.
//!
//! They are blocked in every thread and taken by one that kills the lab's cgroup and removes what it made. Namespaces
//! need nothing: they are held by descriptors and end with the processes in them.

use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};

use crate::cgroup;

fn signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

/// Must run before the first thread starts: threads inherit the mask.
pub(crate) fn block() -> Result<()> {
    signals().thread_block().context("blocking signals")
}

/// From now on a signal kills everything in `cgroup`, removes it and `directory`, and ends the lab with 130.
pub(crate) fn clean_up_on_signal(cgroup: PathBuf, directory: PathBuf) {
    thread::spawn(move || {
        let Ok(signal) = signals().wait() else { return };
        eprintln!("lab: {signal}: cleaning up");
        cgroup::remove_tree(&cgroup);
        if let Err(error) = std::fs::remove_dir_all(&directory) {
            eprintln!("lab: {}: {error}", directory.display());
        }
        #[expect(
            clippy::exit,
            reason = "the main thread may wait for what was just killed; everything is removed"
        )]
        std::process::exit(130);
    });
}
