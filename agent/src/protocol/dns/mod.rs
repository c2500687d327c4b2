//! DNS messages (RFC 1035, RFC 6891), in datagrams and in the streams of RFC 7766.
//!
//! [`Message::read`] reads one message, [`StreamReader`] one direction of a TCP connection. Which query an answer belongs
//! to, and what may be learned from it, is none of their business.

pub mod labels;
pub mod message;
pub mod name;
pub mod stream;

pub use labels::{QueryType, ResponseCode};
pub use message::{Address, Answers, MESSAGE_LIMIT, Message, Question};
pub use name::DnsName;
pub use stream::StreamReader;

#[cfg(test)]
mod tests;
