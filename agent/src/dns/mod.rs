//! What programs ask of DNS: queries and their answers, the lookups that they are part of, and the names of addresses.
//!
//! Fed with messages that `protocol` has read; every table is bounded, and no cgroup can take another's room. Time comes
//! in with the messages. Knows nothing of connections but the role, of files, or of exporters. The pipeline drives it:
//! [`Queries`] ties an answer to its query, [`Lookups`] the queries of one resolution, and [`Names`] keeps what came of it.
mod ignored;
mod lookups;
mod names;
mod namespaces;
mod queries;
mod query;
pub mod resolv_conf;
mod shares;

pub use ignored::{Ignored, IgnoredCounts};
pub use lookups::{Lookup, Lookups, WaitingLookup};
pub use names::{LookupFacts, Names, Resolved, Scope};
pub use namespaces::Namespaces;
pub use queries::{QUERY_TIMEOUT_NS, Queries};
pub use query::{Answered, Ending, Observed, Query, QueryEvent, Transport};
pub use resolv_conf::{ResolvConf, SearchList};
