//! Numbers per destination, within a hard budget of time series, and the exact totals over everything.
//!
//! Takes single observations and hands out an immutable [`Snapshot`]. Knows no events, no clocks, no exporter.
mod child;
mod counters;
mod histogram;
mod series;
mod sketch;
mod snapshot;

/// The closed sets that are label values.
pub use crate::connection::{ClosedBy, Outcome, Role, TcpState};
pub use child::{Child, Family};
pub use counters::{Counters, Ended, Retransmit};
pub use histogram::{BOUNDS_NS, Histogram};
pub use series::{DestinationId, DestinationKey, Name, Series};
pub use sketch::Quantiles;
pub use snapshot::{DestinationSnapshot, FamilyCounts, Labels, NameSource, PipelineCounts, Snapshot, Totals};
