//! What peers say in clear: TLS hellos, alerts and certificates, heads of HTTP/1, DNS messages, and which record is the
//! first answer.
//!
//! Everything here is a total function of its arguments: hostile bytes give a value or a counted [`Malformed`], never
//! a panic, and each list has a bound. No clock, no file, no other module of the agent. The pipeline calls it: chunks
//! go into the [`assembler`], facts come out, [`first_byte`] judges the kernel's log of records.

pub mod assembler;
mod bytes;
pub mod certificate;
pub mod dns;
pub mod facts;
pub mod first_byte;
pub mod host_name;
pub mod http1;
pub mod malformed;
pub mod shared;
pub mod ticket_lengths;
pub mod tls;

pub use assembler::{Assembler, AssemblerLimits};
pub use facts::{Facts, HttpFacts, TlsFacts};
pub use host_name::HostName;
pub use malformed::{Malformed, MalformedCounts};
