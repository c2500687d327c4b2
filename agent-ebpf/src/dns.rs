//! DNS messages on their way to userspace: whole datagrams, and for DNS over TCP the bytes of each direction in order.
//!
//! Userspace reads them; the kernel side knows ports only.

use crate::event::EventHeader;

/// Bytes of one message, or of one piece of a stream, that are sent at most.
pub const DNS_LIMIT: usize = 4096;
/// Ports that can be watched at once.
pub const MAX_DNS_PORTS: usize = 4;

/// [`DnsHeader::transport`]: a datagram.
pub const TRANSPORT_UDP: u8 = 17;
/// [`DnsHeader::transport`]: a piece of a stream, whose messages have their length before them (RFC 7766).
pub const TRANSPORT_TCP: u8 = 6;

/// Starts each `DNS_MESSAGE` event; `length` bytes follow, then nothing of meaning up to `header.size`. Addresses and
/// ports are in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsHeader {
    /// Kind [`crate::event::DNS_MESSAGE`], size and time.
    pub header: EventHeader,
    /// Cookie of the socket.
    pub cookie: u64,
    /// Cgroup of the socket.
    pub cgroup_id: u64,
    /// Number of that process's network namespace that no other one has until the next boot; 0 when unknown.
    pub netns_cookie: u64,
    /// Address of the observed side; IPv4 in the first four bytes.
    pub local_address: [u8; 16],
    /// Address of the other side; for a client the resolver's, as on the wire.
    pub remote_address: [u8; 16],
    /// Name of the process that sent last from this socket, NUL-padded.
    pub comm: [u8; 16],
    /// Port of the observed side.
    pub local_port: [u8; 2],
    /// Port of the other side.
    pub remote_port: [u8; 2],
    /// Process (tgid, init pid namespace) that sent last from this socket, or opened the connection; 0 when unknown.
    pub pid: u32,
    /// Inode number of that process's network namespace; 0 when unknown.
    pub netns: u32,
    /// Where the bytes belong in their direction of the stream; 0 for a datagram.
    pub offset: u32,
    /// Bytes that follow.
    pub length: u16,
    /// Bytes of the whole datagram; of a piece of a stream as `length`.
    pub message_length: u16,
    /// [`crate::hello::FORWARD`] for queries, [`crate::hello::BACKWARD`] for answers.
    pub direction: u8,
    /// `ROLE_CLIENT` or `ROLE_SERVER` of [`crate::connection`].
    pub role: u8,
    /// [`TRANSPORT_UDP`] or [`TRANSPORT_TCP`].
    pub transport: u8,
    /// 4 or 6: version of IP.
    pub ip_version: u8,
}

const _: () = assert!(size_of::<DnsHeader>() == 112);
