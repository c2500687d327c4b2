//! What the kernel's own list of sockets (`sock_diag`) says of a network namespace: what events do not show exactly.
//!
//! Pure: `diag` reads the kernel's messages, `ports` counts local ports, `sweep` adds up one namespace. The thread that
//! asks is `sweeper`; what a sweep means for destinations is `pipeline`'s. Knows no scope: sockets are told by cookie.
pub mod diag;
mod ports;
mod sweep;

pub use ports::{PeerPorts, PortRange};
pub use sweep::{Adding, Backlog, Lingering, NamespaceSweep, SweepReport};
