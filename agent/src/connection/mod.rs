//! Connections: what one kernel snapshot means, the bounded table of open ones, who waits, and the record of an ended one.
//!
//! Knows nothing of processes beyond the types it stores, of series, or of exporters. The pipeline drives it.
mod activity;
mod outcome;
mod packed;
pub mod record;
mod rtt;
mod state;
mod table;
mod time;
mod waiting;

pub use activity::{Activity, Idle};
pub use outcome::{ConnectError, Outcome, connect_error, outcome, transport_outcome};
pub use packed::Packed;
pub use record::ConnectionRecord;
pub use rtt::{Rtt, RttWindow};
pub use state::{
    ClosedBy, Endpoint, Endpoints, Phase, Role, RoleBasis, TcpState, received_bytes, routers_by_ttl, sent_bytes,
    was_opened,
};
pub use table::{Admission, Entry, Table};
pub use time::rfc3339;
pub use waiting::{Protocol, WaitingList, phase, wait_at_end, waited_ns};
