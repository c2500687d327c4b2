//! Safe mode: a node that died under hopline comes back with programs on cgroups alone.
//!
//! `judge` decides from the history of starts and ends, without a clock or a file; `file` keeps that history so that a kernel
//! which dies a second later leaves its trace. Called by `command`: the agent writes, everybody else only looks.
mod file;
mod judge;

pub use file::{StateError, StateFile, ask_to_leave, look};
pub use judge::{Judgement, Moment, Reason, SafeMode};
