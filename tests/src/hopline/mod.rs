//! hopline as a user runs it: the agent with its HTTP interface, `trace --json`, `replay --json`, `compare --json`. Nothing is taken from its inside.
//!
//! Everything that it says passes [`Sabotage`] on its way to a scenario, and nowhere else.

mod agent;
mod compare;
mod fallback;
mod http;
mod lookup;
mod metrics;
mod path;
mod record;
mod replay;
mod sabotage;
mod spike;
mod totals;
mod trace;

use std::time::Duration;

pub(crate) use agent::{Agent, AgentOptions, Place, free_address, tail};
pub(crate) use compare::{Compare, Row};
pub(crate) use fallback::Fallback;
pub(crate) use http::{get, timed_get};
pub(crate) use lookup::Lookup;
pub(crate) use metrics::Metrics;
pub(crate) use path::{Hop as PathHop, PathEvent, PathRecord, PathRun, Rtt as PathRtt};
pub(crate) use record::{Owner, Record, Retransmits, Tls};
pub(crate) use replay::Replay;
pub(crate) use sabotage::{Sabotage, falsify_exposition, falsify_lines};
pub(crate) use spike::{Spike, Window as SpikeWindow};
pub(crate) use totals::Totals;
pub(crate) use trace::{Trace, read_records};

#[cfg(test)]
pub(crate) use {record::Dns, record::tests::record, sabotage::falsify_records};

/// How long a start may take, on a machine that others share.
const START: Duration = Duration::from_mins(1);
/// How long an end may take there.
const END: Duration = Duration::from_secs(30);
