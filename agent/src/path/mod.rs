//! Hops of the network path to a destination: probes as bytes, answers out of hostile bytes, what they say together.
//!
//! Pure: sends nothing and reads no clock. `tracer` does both; `pipeline` decides what is traced.
pub mod answer;
mod budget;
mod change;
mod hop;
mod plan;
mod probe;
mod record;
mod trace;

pub use budget::{Budget, Limits};
pub use change::{Change, Route, Watch};
pub use hop::Hop;
pub use plan::{Candidate, Network, Plan, Target};
pub use probe::{Flow, Kind, build, build_reset};
pub use record::{HopRecord, PathRecord, PathSnapshot, RttRecord, StepRecord};
pub use trace::{Counts, End, Settings, Step, Trace};
