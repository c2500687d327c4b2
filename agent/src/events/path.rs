//! The record of a path that changed, and of what a spike's path is like. Plain data.
use serde::Serialize;

use super::record::SpikeDestination;
use crate::path::{PathRecord, Route, StepRecord};

/// A path that changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PathEvent {
    /// Version of the record's shape.
    pub schema: u32,
    /// `path_changed`: another route; `path_slower`, `path_calm`: latency came up, and has gone; `rtt_spike_path`: what the
    /// path of a destination with a spike is like.
    pub r#type: &'static str,
    /// Of `rtt_spike_path` the spike's id; else its own.
    pub id: String,
    /// Name of the node.
    pub node: String,
    /// When it was found.
    pub time: String,
    /// Where to.
    pub destination: SpikeDestination,
    /// What happened, in a sentence.
    pub text: String,
    /// Addresses of the hops before; null where it is not about the route.
    pub before: Option<Route>,
    /// Where latency comes up; null where it is not about latency.
    pub step: Option<StepRecord>,
    /// The trace that told.
    pub path: PathRecord,
}

/// The path of a destination with a spike.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SpikePath {
    /// Where latency comes up, in a sentence.
    pub text: String,
    /// The same: beside what is usual where earlier traces tell that, else the largest step of the trace.
    pub step: Option<StepRecord>,
    /// Whether it is beside what is usual.
    pub beside_usual: bool,
    /// The trace.
    pub path: PathRecord,
}
