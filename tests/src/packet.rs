//! One view of a TCP segment for the router, which acts on it, and for the capture, which times it. Pure.

use std::net::{IpAddr, SocketAddr};

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};

/// What the lab looks at in a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the header's flags")]
pub(crate) struct Segment {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) syn: bool,
    pub(crate) ack: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    /// Payload bytes present (a capture may have cut them).
    pub(crate) payload: usize,
}

/// Source and destination of an IP packet.
pub(crate) fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match LaxSlicedPacket::from_ip(packet).ok()?.net? {
        LaxNetSlice::Ipv4(ip) => Some((ip.header().source_addr().into(), ip.header().destination_addr().into())),
        LaxNetSlice::Ipv6(ip) => Some((ip.header().source_addr().into(), ip.header().destination_addr().into())),
        LaxNetSlice::Arp(_) => None,
    }
}

/// The TCP segment in an IP packet; `None` for anything else.
pub(crate) fn tcp_segment(packet: &[u8]) -> Option<Segment> {
    tcp_segment_and_payload(packet).map(|(segment, _)| segment)
}

/// The TCP segment in an IP packet with those bytes of its payload that are there.
pub(crate) fn tcp_segment_and_payload(packet: &[u8]) -> Option<(Segment, &[u8])> {
    let (source, destination) = addresses(packet)?;
    let TransportSlice::Tcp(tcp) = LaxSlicedPacket::from_ip(packet).ok()?.transport? else {
        return None;
    };
    let segment = Segment {
        source: SocketAddr::new(source, tcp.source_port()),
        destination: SocketAddr::new(destination, tcp.destination_port()),
        sequence: tcp.sequence_number(),
        acknowledgment: tcp.acknowledgment_number(),
        syn: tcp.syn(),
        ack: tcp.ack(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        payload: tcp.payload().len(),
    };
    Some((segment, tcp.payload()))
}
