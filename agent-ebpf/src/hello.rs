//! First bytes of a conversation on their way to userspace: TLS hellos up to the encrypted part, heads of cleartext HTTP/1.
//!
//! Sent in chunks as they pass the socket, put together by the agent: chunks of one stream and direction may come more
//! than once, overlap or be missing.

use crate::event::EventHeader;

/// [`HelloHeader::direction`]: the client's bytes.
pub const FORWARD: u8 = 0;
/// [`HelloHeader::direction`]: the server's bytes.
pub const BACKWARD: u8 = 1;

/// Bytes of one direction that are sent at most.
pub const HELLO_LIMIT: usize = 16 * 1024;
/// Bytes of a cleartext HTTP/1 head that are sent at most: servers take no longer ones by default.
pub const HTTP_LIMIT: usize = 8 * 1024;
/// Bytes of the longest chunk.
pub const CHUNK_BYTES: usize = 2048;

/// Starts each `HELLO_BYTES` event; `length` bytes follow, then nothing of meaning up to `header.size`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloHeader {
    /// Kind [`crate::event::HELLO_BYTES`], size and time.
    pub header: EventHeader,
    /// Cookie of the socket, or the key under which its listener's payload waits for the child.
    pub stream: u64,
    /// Cgroup of the socket.
    pub cgroup_id: u64,
    /// Where the chunk belongs, counted from the first byte of this stream and direction that was sent.
    pub offset: u32,
    /// Bytes that follow.
    pub length: u16,
    /// [`FORWARD`] or [`BACKWARD`].
    pub direction: u8,
    /// `PROTOCOL_TLS` or `PROTOCOL_HTTP1` of [`crate::timeline`].
    pub protocol: u8,
}

const _: () = assert!(size_of::<HelloHeader>() == 40);
