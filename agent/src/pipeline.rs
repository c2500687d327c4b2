//! The whole of userspace between a ring buffer's bytes and a snapshot.
//!
//! Reads no clock: time comes in with events and ticks, so that a replay gives what live gave. I/O happens in
//! `attribution` alone, and not at all without `read_proc`. One task owns a [`Pipeline`]; nothing in it locks.
use std::path::PathBuf;

use crate::{aggregate::Snapshot, connection::ConnectionRecord};

/// How a pipeline works. Limits are hard: what they refuse is counted.
#[derive(Clone, Debug)]
pub struct PipelineSettings {
    /// Name of the node in records.
    pub node: String,
    /// `/proc/sys/kernel/random/boot_id`, or that of the recording.
    pub boot_id: String,
    /// Most open connections in the table.
    pub max_connections: usize,
    /// Most processes in the cache, ended ones in their grace included.
    pub max_processes: usize,
    /// Most time series with destination labels.
    pub max_series: usize,
    /// A connect that has waited for this long is told once as stuck, nanoseconds.
    pub stuck_after_ns: u64,
    /// A connect that has waited for this long counts as waiting, nanoseconds.
    pub waiting_after_ns: u64,
    /// Ask `/proc` and the cgroup tree for what no event told; off on replay.
    pub read_proc: bool,
    /// Where cgroup2 is mounted; `None`: cgroup paths come from events alone.
    pub cgroup_root: Option<PathBuf>,
}

impl Default for PipelineSettings {
    fn default() -> Self {
        Self {
            node: String::new(),
            boot_id: String::new(),
            max_connections: 100_000,
            max_processes: 32_768,
            max_series: 20_000,
            stuck_after_ns: 5_000_000_000,
            waiting_after_ns: 1_000_000_000,
            read_proc: false,
            cgroup_root: None,
        }
    }
}

/// What a listener of single connections gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// A connection ended.
    Finished(Box<ConnectionRecord>),
    /// A connect has waited for [`PipelineSettings::stuck_after_ns`]; told once per connect.
    Stuck(Box<ConnectionRecord>),
}

/// The pipeline and all its state.
#[derive(Debug)]
pub struct Pipeline {
    settings: PipelineSettings,
}

impl Pipeline {
    /// An empty pipeline.
    pub fn new(settings: PipelineSettings) -> Self {
        Self { settings }
    }

    /// Reads `/proc` and the cgroup tree, when the settings allow it. Call once, after the kernel programs are attached.
    pub fn seed(&mut self) {}

    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, nanoseconds; read again every 10 s by the caller.
    pub fn set_clock_offset(&mut self, _realtime_minus_monotonic_ns: i64) {}

    /// Applies one ring-buffer sample. What is no event is counted and skipped.
    pub fn apply(&mut self, _sample: &[u8]) {}

    /// The agent's clock: who waits, who is stuck, which destinations are idle.
    pub fn tick(&mut self, _now_ns: u64) {}

    /// Whether records are collected: only while somebody listens.
    pub fn set_collect(&mut self, _on: bool) {}

    /// Moves the collected records out, in the order in which they came about.
    pub fn take_outputs(&mut self, _into: &mut Vec<Output>) {}

    /// A picture of everything, immutable and cheap to clone.
    pub fn snapshot(&self) -> Snapshot {
        let _ = &self.settings;
        Snapshot::default()
    }
}
