//! RTT spikes as `/api/v1/events` has them. An event that lacks a key of the contract does not parse.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::Sabotage;
use super::path::{PathRecord, Step};
use super::record::{Endpoint, Owner};
use super::sabotage::{drop_some, shift};
use crate::lab::Lab;

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Spike {
    /// `rtt_spike` or `rtt_spike_over`.
    pub(crate) r#type: String,
    pub(crate) id: String,
    pub(crate) destination: Destination,
    pub(crate) window: Option<Window>,
    /// Why it is over.
    pub(crate) over: Option<String>,
    pub(crate) peak_us: u64,
    pub(crate) connections_affected: u64,
    pub(crate) connections: Vec<Worst>,
    pub(crate) processes: Vec<Shown>,
    /// The network path, once it was traced.
    pub(crate) path: Option<SpikePath>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct SpikePath {
    pub(crate) text: String,
    pub(crate) step: Option<Step>,
    pub(crate) path: PathRecord,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Destination {
    pub(crate) host: String,
    pub(crate) port: u16,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Window {
    pub(crate) p50_us: u64,
    pub(crate) baseline_us: u64,
    pub(crate) samples: u64,
}

/// One of the worst connections.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Worst {
    pub(crate) local: Endpoint,
    pub(crate) remote: Endpoint,
    pub(crate) process: Owner,
}

/// A process in the evidence.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Shown {
    pub(crate) pid: Option<u32>,
}

impl Spike {
    /// What it is known by, and its figures.
    pub(crate) fn in_short(&self) -> String {
        let window = self
            .window
            .map(|window| (window.p50_us, window.baseline_us, window.samples));
        format!("{} {} {window:?} {}", self.r#type, self.id, self.peak_us)
    }

    /// Those that a replay of a recording tells.
    pub(crate) fn of_replay(lab: &Lab, recording: &Path, config: &Path) -> Result<Vec<Self>> {
        let mut command = lab.hopline(&["replay", "--json", "--connections", "--config"]);
        let output = command.arg(config).arg(recording).output()?;
        ensure!(output.status.success(), "hopline replay ended with {}", output.status);
        let text = String::from_utf8(output.stdout)?;
        Self::of_lines(&text, None)
    }

    /// Those among the lines of a trace.
    pub(super) fn of_lines(text: &str, sabotage: Option<Sabotage>) -> Result<Vec<Self>> {
        let lines = text.lines().filter(|line| line.starts_with("{\"event\":\"rtt_spike"));
        let events: Vec<Value> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
        Self::of_events(&Value::Array(events), sabotage)
    }

    /// Those among the events, falsified when that is asked for.
    pub(super) fn of_events(events: &Value, sabotage: Option<Sabotage>) -> Result<Vec<Self>> {
        let all = events.as_array().context("events are no list")?;
        let is_spike = |event: &&Value| {
            event["event"]
                .as_str()
                .is_some_and(|kind| matches!(kind, "rtt_spike" | "rtt_spike_over"))
        };
        let spikes = all.iter().filter(is_spike);
        let spikes = spikes.map(|event| Self::deserialize(event).with_context(|| format!("event {event}")));
        let mut spikes: Vec<Self> = spikes.collect::<Result<_>>()?;
        match sabotage {
            None => {}
            Some(Sabotage::Shift) => {
                for spike in &mut spikes {
                    spike.peak_us = shift(spike.peak_us);
                    if let Some(step) = spike.path.as_mut().and_then(|path| path.step.as_mut()) {
                        step.added_us = shift(step.added_us);
                    }
                    if let Some(window) = &mut spike.window {
                        window.p50_us = shift(window.p50_us);
                        window.baseline_us = shift(window.baseline_us);
                    }
                }
            }
            Some(Sabotage::Drop) => drop_some(&mut spikes),
            Some(Sabotage::Swap) => {
                for pair in spikes
                    .iter_mut()
                    .flat_map(|spike| spike.connections.chunks_exact_mut(2))
                {
                    let [first, second] = pair else { continue };
                    std::mem::swap(&mut first.process, &mut second.process);
                }
            }
        }
        Ok(spikes)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_spikes_are_read_and_falsified() {
        let worst = |pid: u32| {
            json!({"local": {"address": "10.0.0.1", "port": 1}, "remote": {"address": "10.0.0.2", "port": 2},
                "process": {"pid": pid, "comm": "c", "ancestry": []}})
        };
        let spike = json!({
            "event": "rtt_spike", "type": "rtt_spike", "id": "x", "destination": {"host": "h", "port": 1},
            "window": {"p50_us": 1_000, "baseline_us": 100, "samples": 9}, "over": null, "peak_us": 1_000,
            "connections_affected": 2, "connections": [worst(1), worst(2)], "processes": [{"pid": 1}],
        });
        let events = json!([{"event": "fallback"}, spike]);
        let read = |sabotage| Spike::of_events(&events, sabotage).expect("events");
        assert_eq!(read(None).len(), 1);
        assert_eq!(read(Some(Sabotage::Drop)).len(), 0);
        assert_eq!(read(Some(Sabotage::Shift))[0].peak_us, 3_200);
        assert_eq!(read(Some(Sabotage::Swap))[0].connections[0].process.pid, Some(2));
    }
}
