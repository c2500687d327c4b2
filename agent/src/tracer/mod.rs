//! Sends the probes of `path` and takes in their answers: raw sockets in the network namespace that a trace is for.
//!
//! `command` runs one trace to its end on its own thread; `agent` starts a thread for many.
use std::hash::{BuildHasher as _, RandomState};

use crate::{host, selfmetrics::FeatureState};

mod run;
mod sockets;
mod thread;

pub use run::{Request, run};
pub use sockets::{Sockets, TracerError, is_allowed};
pub use thread::{Traced, TracerSettings, start};

/// Name of the feature, as `doctor` and the metrics have it.
pub const FEATURE: &str = "path";

/// Why it is off when somebody wants it so.
pub const SWITCHED_OFF: &str = "paths.trace is off";

/// Whether this thread may trace.
pub fn feature() -> FeatureState {
    let enabled = is_allowed();
    FeatureState {
        feature: FEATURE,
        hook: if enabled {
            "raw sockets".to_owned()
        } else {
            String::new()
        },
        enabled,
        switched_off: false,
        reason: if enabled {
            String::new()
        } else {
            TracerError::NotAllowed.to_string()
        },
    }
}

/// A number that nobody can guess who does not see the probes.
pub fn seed() -> u64 {
    // The standard library seeds it with random numbers of the system.
    RandomState::new().hash_one(host::monotonic_ns())
}
