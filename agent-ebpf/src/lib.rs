//! Types that kernel programs and agent share: the wire of the ring buffers.
//!
//! Builds for the host and for BPF, with `core` alone. Rules for everything here: `repr(C)`, no implicit padding,
//! integers instead of enums and booleans on the wire, size asserted, the kind tag first.
#![no_std]

pub mod connection;
pub mod dns;
pub mod event;
pub mod fields;
pub mod hello;
pub mod loss;
pub mod process;
pub mod rtt;
pub mod scope;
pub mod timeline;
pub mod tls_fact;

#[cfg(feature = "user")]
mod user {
    //! Lets the agent read these types from maps.
    use crate::{
        loss::{EventCounts, Share, ShareKey},
        scope::ScopeEntry,
    };

    // SAFETY: `repr(C)`, integers only, no padding: any bytes are a value.
    unsafe impl aya::Pod for EventCounts {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Share {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ShareKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ScopeEntry {}
}
