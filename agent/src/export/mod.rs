//! How others read what the pipeline knows: texts and JSON of snapshots and records, and the HTTP server.
mod accept;
pub mod compare;
pub mod http;
pub mod human;
pub mod json;
pub mod prometheus;
mod sockets;
