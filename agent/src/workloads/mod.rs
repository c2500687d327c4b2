//! Pods of this node: what they are called, who owns them, which addresses were theirs at which time.
//!
//! Pure tables and rules; `kubernetes` asks for what is in them, `pipeline` asks them. Times come as arguments.
mod addresses;
mod origin;
mod pod;
mod table;

pub use origin::{Controller, Origin};
pub use pod::{Container, Pod, Source, Workload};
pub use table::{Change, Counts, FAILURES, PODS_BYTES, SourceState, Workloads};
