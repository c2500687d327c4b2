//! Types that kernel programs and agent share: the wire of the ring buffers.
//!
//! Builds for the host and for BPF, with `core` alone. Rules for everything here: `repr(C)`, no implicit padding,
//! integers instead of enums and booleans on the wire, size asserted, the kind tag first.
#![no_std]

pub mod connection;
pub mod event;
pub mod fields;
pub mod loss;
pub mod process;
pub mod scope;
