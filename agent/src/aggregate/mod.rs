//! Numbers per destination, within a hard budget of time series, and the exact totals over everything.
//!
//! Takes single observations and hands out an immutable [`Snapshot`]. Knows no events, no clocks, no exporter.
mod budget;
mod child;
mod children;
mod counters;
mod destination;
mod groups;
mod histogram;
mod legs;
mod resolvers;
mod series;
mod snapshot;
mod specimen;
mod staying;
mod tally;
mod tls;

/// The closed sets that are label values.
pub use crate::connection::{ClosedBy, ConnectError, Outcome, Phase, Role, TcpState};
pub use child::{Child, Family};
pub use counters::{Counters, Ended, GaveUp, HttpStatus, Retransmit};
pub use destination::{DestinationId, DestinationKey, Name};
pub use histogram::{BOUNDS_NS, Histogram};
pub use legs::{Leg, LegLabels, Legs, LegsSnapshot};
pub use resolvers::{DnsLabels, ResolverLabels, Resolvers, ResolversSnapshot};
pub use series::Series;
pub use snapshot::{
    ActiveRule, DestinationSnapshot, FamilyCounts, FamilyTotals, GroupSnapshot, HeldCounts, Labels, NameSource,
    PathsSnapshot, PipelineCounts, RoleLess, Snapshot, Totals, without_role,
};
pub use staying::{
    At, ListenerDetail, Place, PortsDetail, StayingDetail, StayingSnapshot, SweepCounts, UnreusedDetail,
};
pub use tally::{FallbackLabels, Tally, UndeclaredLabels};
pub use tls::{TlsFailure, TlsVersion};
