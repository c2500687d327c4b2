//! Safe mode as the commands meet it: what a start may load, why less is shown, and how to leave it.
use std::{fs, path::Path, time::Duration};

use crate::{
    config::Config,
    host::{self, Host},
    safe_mode::{self, Judgement, Moment, SafeMode, StateFile},
};

/// The history of an agent that runs, and how long its safe mode lasts.
#[derive(Debug)]
pub(super) struct Noted {
    file: Option<StateFile>,
    /// Zero outside safe mode.
    pub(super) remaining: Duration,
}

/// Notes that the agent starts, before anything is loaded, and turns `config` to safe mode where it has to be.
pub(super) fn start(config: &mut Config, host: &Host) -> Noted {
    let Some(directory) = config.state_dir.clone() else {
        return Noted {
            file: None,
            remaining: Duration::ZERO,
        };
    };
    let (judgement, file, errors) = StateFile::start(&directory, &moment(host));
    for error in errors {
        tracing::warn!(%error, "crashes cannot be told from clean ends: no safe mode by them");
    }
    announce(&judgement, &directory);
    config.safe_mode = judgement.safe_mode;
    Noted {
        file,
        remaining: judgement.remaining,
    }
}

fn announce(judgement: &Judgement, directory: &Path) {
    if let Some(mode) = &judgement.safe_mode {
        tracing::warn!(
            reason = %mode.reason,
            remaining_s = judgement.remaining.as_secs(),
            state_dir = %directory.display(),
            "safe mode: programs on cgroups alone; `hopline doctor --leave-safe-mode` and a restart end it"
        );
    }
    if let Some(reason) = judgement.left {
        tracing::info!(reason, "safe mode is over");
    }
}

impl Noted {
    /// Notes a clean end.
    pub(super) fn end(&self) {
        if let Some(file) = &self.file
            && let Err(error) = file.end(host::uptime_s())
        {
            tracing::warn!(%error, "this clean end could not be noted: it will count as a crash");
        }
    }
}

/// Turns `config` to safe mode where the node is in it, and says so in one line.
pub(super) fn follow(config: &mut Config, host: &Host) {
    config.safe_mode = found(config, host);
    if let Some(mode) = &config.safe_mode {
        eprintln!(
            "hopline: safe mode, as {}: no retransmissions, STUCK lines, failures before a SYN or processes",
            mode.reason
        );
    }
}

/// The node's safe mode, for commands that write nothing.
pub(super) fn found(config: &Config, host: &Host) -> Option<SafeMode> {
    let directory = config.state_dir.as_deref()?;
    safe_mode::look(directory, &moment(host)).unwrap_or_else(|error| {
        tracing::warn!(%error, "whether this node is in safe mode is not known");
        None
    })
}

fn moment(host: &Host) -> Moment {
    let build = fs::read_to_string("/proc/sys/kernel/version").unwrap_or_default();
    Moment {
        boot_id: host.boot_id.clone(),
        uptime_s: host::uptime_s(),
        hopline: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: format!("{} {}", host.kernel, build.trim()),
        unix_s: host::unix_s(),
    }
}
