//! `hopline path --json`, as the lab reads it.

use std::net::IpAddr;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use super::sabotage::{self, Sabotage};
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::Process;

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PathRecord {
    pub(crate) source_port: u16,
    pub(crate) reached: bool,
    pub(crate) end: Option<String>,
    pub(crate) hops: Vec<Hop>,
    pub(crate) step: Option<Step>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Hop {
    #[serde(rename = "hop")]
    pub(crate) number: u8,
    pub(crate) address: Option<IpAddr>,
    #[serde(default)]
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) rtt_us: Option<Rtt>,
    pub(crate) probes: u64,
    pub(crate) unanswered: Option<f64>,
    pub(crate) loss: Option<f64>,
    pub(crate) answer_ttl: Option<u8>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Rtt {
    pub(crate) min: u64,
    pub(crate) p50: u64,
    pub(crate) p95: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Step {
    pub(crate) from_hop: u8,
    pub(crate) from: Option<IpAddr>,
    pub(crate) to_hop: u8,
    pub(crate) to: Option<IpAddr>,
    pub(crate) added_us: u64,
}

/// An event about a path, as `/api/v1/events` has it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PathEvent {
    pub(crate) r#type: String,
    pub(crate) destination: Place,
    pub(crate) text: String,
    pub(crate) before: Option<Vec<Option<IpAddr>>>,
    pub(crate) step: Option<Step>,
    pub(crate) path: PathRecord,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl PathEvent {
    /// Those among the events, falsified when that is asked for.
    pub(super) fn of_events(events: &Value, sabotage: Option<Sabotage>) -> Result<Vec<Self>> {
        let all = events.as_array().context("events are no list")?;
        let is_of_path = |event: &&Value| event["event"].as_str().is_some_and(|kind| kind.starts_with("path_"));
        let read = |event| Self::deserialize(event).with_context(|| format!("event {event}"));
        let mut events: Vec<Self> = all.iter().filter(is_of_path).map(read).collect::<Result<_>>()?;
        match sabotage {
            None => {}
            Some(Sabotage::Shift) => {
                for step in events.iter_mut().filter_map(|event| event.step.as_mut()) {
                    step.added_us = sabotage::shift(step.added_us);
                }
            }
            Some(Sabotage::Drop) => sabotage::drop_some(&mut events),
            Some(Sabotage::Swap) => {
                for event in &mut events {
                    if let Some(step) = &mut event.step {
                        std::mem::swap(&mut step.from, &mut step.to);
                    }
                    event.path = falsify(sabotage, event.path.clone());
                }
            }
        }
        Ok(events)
    }
}

/// A running `hopline path`.
#[derive(Debug)]
pub(crate) struct PathRun {
    process: Process,
    sabotage: Option<Sabotage>,
}

impl PathRun {
    /// Starts `hopline path --json` with these further words.
    pub(crate) fn start(lab: &Lab, netns: &NetNs, words: &[&str]) -> Result<Self> {
        let mut command = lab.hopline(&["path", "--json"]);
        command.args(words).stdout(Stdio::piped());
        Ok(Self {
            process: Process::spawn(command, Some(netns), &lab.tools)?,
            sabotage: lab.sabotage,
        })
    }

    /// Waits for its end. A destination that is not reached is no failure here.
    pub(crate) fn finish(mut self) -> Result<PathRecord> {
        let line = self.process.line().context("hopline path")?;
        let record = serde_json::from_str(&line).with_context(|| format!("`{line}` is no path"))?;
        Ok(falsify(self.sabotage, record))
    }
}

/// Falsifies a path: later, without a hop, or with the addresses of neighbours exchanged.
pub(super) fn falsify(sabotage: Option<Sabotage>, mut record: PathRecord) -> PathRecord {
    match sabotage {
        None => {}
        Some(Sabotage::Shift) => {
            for rtt in record.hops.iter_mut().filter_map(|hop| hop.rtt_us.as_mut()) {
                for time in [&mut rtt.min, &mut rtt.p50, &mut rtt.p95] {
                    *time = sabotage::shift(*time);
                }
            }
        }
        Some(Sabotage::Drop) => sabotage::drop_some(&mut record.hops),
        Some(Sabotage::Swap) => {
            for pair in record.hops.chunks_exact_mut(2) {
                let [first, second] = pair else { continue };
                std::mem::swap(&mut first.address, &mut second.address);
            }
        }
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_falsehood_changes_something() {
        let text = r#"{"source_port": 1, "reached": true, "end": "syn_ack", "step": null, "hops": [
            {"hop": 1, "address": "10.0.0.1", "rtt_us": {"min": 1, "p50": 1000, "p95": 3}, "probes": 1,
             "unanswered": 0.0, "loss": 0.0, "answer_ttl": 64},
            {"hop": 2, "address": "10.0.0.2", "rtt_us": null, "probes": 1, "unanswered": 0.0, "loss": 0.0, "answer_ttl": 63}]}"#;
        let read = || serde_json::from_str::<PathRecord>(text).expect("a path");
        let shifted = falsify(Some(Sabotage::Shift), read());
        assert_eq!(shifted.hops[0].rtt_us.map(|rtt| rtt.p50), Some(3_200));
        assert_eq!(falsify(Some(Sabotage::Drop), read()).hops.len(), 1);
        let swapped = falsify(Some(Sabotage::Swap), read());
        assert_eq!(swapped.hops[0].address, Some([10, 0, 0, 2].into()));
        assert_eq!(falsify(None, read()).hops.len(), 2);
    }
}
