//! Packets that the router makes itself: ICMP errors, forged RSTs and forged payload.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};

use super::{Direction, FORGED_NAME, FORGED_TTL};
use crate::hello::{FATAL_ALERT, client_hello};
use crate::packet::Segment;

const TTL: u8 = 64;

/// What an ICMP error says; the numbers differ between IPv4 (RFC 792) and IPv6 (RFC 4443).
#[derive(Clone, Copy, Debug)]
pub(super) enum IcmpError {
    Unreachable,
    TimeExceeded,
}

/// Address of the `hop`-th router on the way, counted from 1, in the family of `like`.
pub(super) fn hop_address(hop: u8, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::new(10, 99, 0, hop).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, hop.into()).into(),
    }
}

/// The ICMP error of router `from` about `packet`, to its sender.
pub(super) fn icmp_error(error: IcmpError, from: IpAddr, to: IpAddr, packet: &[u8]) -> Option<Vec<u8>> {
    match ip(from, to)? {
        (step, IpAddr::V4(_)) => {
            let (kind, code) = match error {
                IcmpError::Unreachable => (3, 1),
                IcmpError::TimeExceeded => (11, 0),
            };
            let quoted = &packet[..packet.len().min(548)];
            write(|out| step.icmpv4_raw(kind, code, [0; 4]).write(out, quoted))
        }
        (step, IpAddr::V6(_)) => {
            let (kind, code) = match error {
                IcmpError::Unreachable => (1, 3),
                IcmpError::TimeExceeded => (3, 0),
            };
            let quoted = &packet[..packet.len().min(1232)];
            write(|out| step.icmpv6_raw(kind, code, [0; 4]).write(out, quoted))
        }
    }
}

/// A RST as the peer of `segment`'s sender would send it.
pub(super) fn reset_to_sender(segment: &Segment) -> Option<Vec<u8>> {
    reset(segment.destination, segment.source, segment.acknowledgment, None)
}

/// A RST as the sender of `segment` would send it instead of that.
pub(super) fn reset_to_receiver(segment: &Segment) -> Option<Vec<u8>> {
    reset(
        segment.source,
        segment.destination,
        segment.sequence,
        Some(segment.acknowledgment),
    )
}

/// A segment as the sender of `segment` might send it, with TLS that it never sent.
pub(super) fn forged(segment: &Segment, offset: i32, direction: Direction) -> Option<Vec<u8>> {
    let payload = match direction {
        Direction::ToServer => client_hello(FORGED_NAME),
        Direction::ToClient => FATAL_ALERT.to_vec(),
    };
    let (from, to) = (segment.source, segment.destination);
    let (step, _) = ip_with_ttl(from.ip(), to.ip(), FORGED_TTL)?;
    let sequence = segment.sequence.wrapping_add_signed(offset);
    let tcp = step
        .tcp(from.port(), to.port(), sequence, 500)
        .ack(segment.acknowledgment);
    write(|out| tcp.write(out, &payload))
}

fn reset(from: SocketAddr, to: SocketAddr, sequence: u32, acknowledgment: Option<u32>) -> Option<Vec<u8>> {
    let (step, _) = ip(from.ip(), to.ip())?;
    let mut tcp = step.tcp(from.port(), to.port(), sequence, 0).rst();
    if let Some(acknowledgment) = acknowledgment {
        tcp = tcp.ack(acknowledgment);
    }
    write(|out| tcp.write(out, &[]))
}

fn ip(from: IpAddr, to: IpAddr) -> Option<(PacketBuilderStep<IpHeaders>, IpAddr)> {
    ip_with_ttl(from, to, TTL)
}

fn ip_with_ttl(from: IpAddr, to: IpAddr, ttl: u8) -> Option<(PacketBuilderStep<IpHeaders>, IpAddr)> {
    match (from, to) {
        (IpAddr::V4(a), IpAddr::V4(b)) => Some((PacketBuilder::ipv4(a.octets(), b.octets(), ttl), from)),
        (IpAddr::V6(a), IpAddr::V6(b)) => Some((PacketBuilder::ipv6(a.octets(), b.octets(), ttl), from)),
        _ => None,
    }
}

fn write<E>(build: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Option<Vec<u8>> {
    let mut packet = Vec::new();
    build(&mut packet).ok().map(|()| packet)
}
