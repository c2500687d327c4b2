//! Connections: what one kernel snapshot means, the bounded table of open ones, who waits, and the record of an ended one.
//!
//! Knows nothing of processes beyond the types it stores, of series, or of exporters. The pipeline drives it.
mod activity;
mod packed;
pub mod record;
mod rtt;
mod state;
mod table;
mod time;
mod waiting;

pub use activity::{Activity, Idle};
pub use packed::Packed;
pub use record::ConnectionRecord;
pub use rtt::{Rtt, RttWindow};
pub use state::{
    ClosedBy, Endpoint, Endpoints, Outcome, Phase, Role, RoleBasis, TcpState, outcome, received_bytes, routers_by_ttl,
    sent_bytes,
};
pub use table::{Admission, Entry, Table};
pub use time::rfc3339;
pub use waiting::{WaitingList, last_phase, phase};
