//! One HTTP request over a connection of its own, and what the client alone can tell of it: the status, the step that
//! it did not get through, the certificates as they were sent, the socket's cookie.
//!
//! Takes no times: those are the kernel side's, found again by the cookie. Called by the threads of `hopline compare`.
mod chain;
mod client;
mod target;
mod trust;

pub use chain::Chain;
pub use client::{Client, Ending, Fetched, Step};
pub use target::Target;
pub use trust::{Presented, Trust, TrustError};
