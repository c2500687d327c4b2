//! Sends the probes of `path` and takes in their answers: raw sockets in the network namespace that a trace is for.
//!
//! `command` runs one trace to its end on its own thread; `agent` starts a thread for many.
mod run;
mod sockets;

pub use run::{Request, run};
pub use sockets::{Sockets, TracerError, is_allowed};
