//! From what was noted at earlier starts to what this start may load. Pure: time and versions are arguments.
//!
//! Times are those of `CLOCK_BOOTTIME`, which no step of the wall clock moves, and hold within one boot. What counts across
//! boots is time without an unclean end, added up while the machine runs.
use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// So many boots that ended uncleanly while hopline ran lead to safe mode.
const BOOTS: u32 = 2;
/// So many unclean ends of the agent within [`WINDOW_S`] do.
const ENDS: usize = 5;
/// Seconds.
const WINDOW_S: u64 = 600;
/// Safe mode ends after this long without an unclean end, seconds.
const QUIET_S: u64 = 86_400;
/// An unclean end of a boot is forgotten after this long without another, seconds: a node that dies every other day is in trouble
/// as well.
const FORGOTTEN_S: u64 = 7 * QUIET_S;

/// Where and when something starts or looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Changes with every boot.
    pub boot_id: String,
    /// Seconds since that boot, suspended time included.
    pub uptime_s: u64,
    /// Version of hopline.
    pub hopline: String,
    /// Release and build of the kernel.
    pub kernel: String,
    /// For people: seconds since the Unix epoch.
    pub unix_s: u64,
}

/// What is noted of one start, and carried on from those before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct History {
    /// The boot in which it started.
    boot_id: String,
    /// When, for people: seconds since the Unix epoch.
    started_unix_s: u64,
    /// When, in seconds since that boot.
    started_s: u64,
    /// Its version.
    hopline: String,
    /// Its kernel.
    kernel: String,
    /// Boots that ended uncleanly while hopline ran.
    unclean_boots: u32,
    /// When unclean ends of the agent were found, in seconds since this boot; the latest few.
    unclean_ends_s: Vec<u64>,
    /// Seconds without an unclean end in earlier boots.
    quiet_s: u64,
    /// From when on they count in this boot.
    quiet_from_s: u64,
    /// It started in safe mode.
    safe_mode: Option<SafeMode>,
}

/// What the file holds: the last start, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Its end was noted.
    pub(super) clean: bool,
    /// When, in seconds since its boot; 0 without.
    pub(super) ended_s: u64,
    pub(super) history: History,
}

/// Why a node is in safe mode, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SafeMode {
    /// Why.
    pub reason: Reason,
    /// Since when, for people: seconds since the Unix epoch.
    pub since_unix_s: u64,
}

/// What led to safe mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// So many boots.
    UncleanBoots(u32),
    /// So many ends of the agent within ten minutes.
    UncleanEnds(u32),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UncleanBoots(count) => write!(f, "{count} boots ended uncleanly while hopline ran"),
            Self::UncleanEnds(count) => write!(
                f,
                "the agent ended uncleanly {count} times within {} minutes",
                WINDOW_S / 60
            ),
        }
    }
}

/// What a start may load, and what is to be noted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Programs on cgroups alone, and why; `None`: everything.
    pub safe_mode: Option<SafeMode>,
    /// The start before was in safe mode, this one is not: why.
    pub left: Option<&'static str>,
    /// How long safe mode lasts if nothing happens; zero without.
    pub remaining: Duration,
    pub(super) history: History,
}

/// Judges a start at `now`. `record` is of the start before, `leave` that somebody asked to leave safe mode.
pub(super) fn judge(record: Option<&Record>, leave: bool, now: &Moment) -> Judgement {
    let Some(record) = record else {
        return fresh(now, None);
    };
    let before = &record.history;
    let was_in = before.safe_mode.is_some();
    if before.hopline != now.hopline {
        return fresh(now, was_in.then_some("a new version of hopline"));
    }
    if before.kernel != now.kernel {
        return fresh(now, was_in.then_some("a new kernel"));
    }
    if leave {
        return fresh(now, was_in.then_some("hopline doctor --leave-safe-mode"));
    }
    let mut history = continued(record, now);
    let quiet_s = quiet_s(&history, now);
    let is_quiet = quiet_s >= QUIET_S;
    if was_in && is_quiet {
        return fresh(now, Some("a day without an unclean end"));
    }
    if quiet_s >= FORGOTTEN_S {
        history.unclean_boots = 0;
    }
    let since_unix_s = before.safe_mode.as_ref().map_or(now.unix_s, |mode| mode.since_unix_s);
    // Also where nothing could be noted for a day: whoever is let out by time must not come back in by the same file.
    if !is_quiet {
        history.safe_mode = reason(&history)
            .map(|reason| SafeMode { reason, since_unix_s })
            .or_else(|| before.safe_mode.clone());
    }
    let remaining_s = if history.safe_mode.is_some() {
        QUIET_S - quiet_s
    } else {
        0
    };
    Judgement {
        safe_mode: history.safe_mode.clone(),
        left: None,
        remaining: Duration::from_secs(remaining_s),
        history,
    }
}

/// The same for somebody who only looks: the agent of this boot may be running, so it has not ended.
pub(super) fn judge_running(record: &Record, leave: bool, now: &Moment) -> Judgement {
    let ended = Record {
        clean: record.clean || record.history.boot_id == now.boot_id,
        ..record.clone()
    };
    judge(Some(&ended), leave, now)
}

fn reason(history: &History) -> Option<Reason> {
    if history.unclean_boots >= BOOTS {
        return Some(Reason::UncleanBoots(history.unclean_boots));
    }
    let ends = history.unclean_ends_s.len();
    (ends >= ENDS).then_some(Reason::UncleanEnds(ends as u32))
}

/// Nothing has happened yet.
fn fresh(now: &Moment, left: Option<&'static str>) -> Judgement {
    Judgement {
        safe_mode: None,
        left,
        remaining: Duration::ZERO,
        history: History {
            boot_id: now.boot_id.clone(),
            started_unix_s: now.unix_s,
            started_s: now.uptime_s,
            hopline: now.hopline.clone(),
            kernel: now.kernel.clone(),
            unclean_boots: 0,
            unclean_ends_s: Vec::new(),
            quiet_s: 0,
            quiet_from_s: now.uptime_s,
            safe_mode: None,
        },
    }
}

/// The history with the last end in it.
fn continued(record: &Record, now: &Moment) -> History {
    let before = &record.history;
    let mut history = fresh(now, None).history;
    history.unclean_boots = before.unclean_boots;
    let is_same_boot = before.boot_id == now.boot_id;
    match (record.clean, is_same_boot) {
        (true, true) => {
            history.quiet_s = before.quiet_s;
            history.quiet_from_s = before.quiet_from_s;
        }
        (true, false) => {
            history.quiet_s = before
                .quiet_s
                .saturating_add(record.ended_s.saturating_sub(before.quiet_from_s));
            history.quiet_from_s = 0;
        }
        (false, true) => {}
        (false, false) => {
            history.unclean_boots = before.unclean_boots.saturating_add(1);
            history.quiet_from_s = 0;
        }
    }
    if is_same_boot {
        history.unclean_ends_s.clone_from(&before.unclean_ends_s);
        if !record.clean {
            history.unclean_ends_s.push(now.uptime_s);
        }
        let ends = &mut history.unclean_ends_s;
        ends.retain(|end| now.uptime_s.saturating_sub(*end) < WINDOW_S);
        ends.drain(..ends.len().saturating_sub(ENDS));
    }
    history
}

fn quiet_s(history: &History, now: &Moment) -> u64 {
    history
        .quiet_s
        .saturating_add(now.uptime_s.saturating_sub(history.quiet_from_s))
}

#[cfg(test)]
mod tests;
