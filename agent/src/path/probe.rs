//! The bytes of a probe: a whole IP packet with a SYN or an echo request in it.
//!
//! All probes of a trace look the same to whoever spreads flows over several paths: addresses, ports, traffic class, flow
//! label and, of an echo request, the checksum stay. They are told apart by the sequence number alone.
use std::net::IpAddr;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SYN to the real port, so that filters and policies treat it as the traffic.
    Tcp,
    /// ICMP echo request.
    Echo,
}

/// What all probes of a trace have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What is sent.
    pub kind: Kind,
    /// Own address, of the same family as the destination's.
    pub source: IpAddr,
    /// Own port, reserved; the identifier of echo requests.
    pub source_port: u16,
    /// Where to.
    pub destination: IpAddr,
    /// The port there; without meaning for echo requests.
    pub destination_port: u16,
}

const SYN: u8 = 2;
const RST: u8 = 4;
const WINDOW: u16 = 64_240;
/// Maximum segment size of 1460, so that the SYN looks like any other.
const OPTIONS: [u8; 4] = [2, 4, 0x05, 0xb4];

/// The probe `tag` with this TTL. The kernel fills in length, checksum and identification of an IPv4 header.
pub fn build(flow: &Flow, ttl: u8, tag: u32) -> Vec<u8> {
    let transport = match flow.kind {
        Kind::Tcp => segment(flow, tag, SYN, &OPTIONS),
        Kind::Echo => echo(flow, tag as u16),
    };
    packet(flow, ttl, &transport)
}

/// Takes back the SYN `tag` whose SYN-ACK got lost, so that the server forgets it.
pub fn build_reset(flow: &Flow, tag: u32) -> Vec<u8> {
    packet(flow, 64, &segment(flow, tag.wrapping_add(1), RST, &[]))
}

fn segment(flow: &Flow, sequence: u32, flags: u8, options: &[u8]) -> Vec<u8> {
    let words = 5 + options.len() as u8 / 4;
    let mut bytes = Vec::with_capacity(24);
    bytes.extend(flow.source_port.to_be_bytes());
    bytes.extend(flow.destination_port.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend([0, 0, 0, 0, words << 4, flags]);
    bytes.extend(if flags == SYN { WINDOW } else { 0 }.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(options);
    let sum = checksum(pseudo_header(flow, 6, bytes.len()), &bytes);
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn echo(flow: &Flow, sequence: u16) -> Vec<u8> {
    let (kind, protocol) = match flow.destination {
        IpAddr::V4(_) => (8, 1),
        IpAddr::V6(_) => (128, 58),
    };
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend(flow.source_port.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    // Makes up for the sequence number: the checksum, which some routers spread by, stays.
    bytes.extend((!sequence).to_be_bytes());
    bytes.extend([0; 6]);
    let seed = match flow.destination {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => pseudo_header(flow, protocol, bytes.len()),
    };
    let sum = checksum(seed, &bytes);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn packet(flow: &Flow, ttl: u8, transport: &[u8]) -> Vec<u8> {
    let (tcp, length) = (flow.kind == Kind::Tcp, transport.len() as u16);
    let mut bytes = Vec::with_capacity(64);
    match (flow.source, flow.destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([if tcp { 6 } else { 58 }, ttl]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        (source, destination) => {
            let octets = |address| match address {
                IpAddr::V4(address) => address.octets(),
                IpAddr::V6(_) => [0; 4],
            };
            bytes.extend([0x45, 0]);
            bytes.extend((20 + length).to_be_bytes());
            // Not to be fragmented, as the kernel sends its own SYNs.
            bytes.extend([0, 0, 0x40, 0, ttl, if tcp { 6 } else { 1 }, 0, 0]);
            bytes.extend(octets(source));
            bytes.extend(octets(destination));
        }
    }
    bytes.extend(transport);
    bytes
}

/// Sum of the pseudo header of RFC 9293 and RFC 8200.
fn pseudo_header(flow: &Flow, protocol: u8, length: usize) -> u32 {
    let address = |address: IpAddr| match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    address(flow.source) + address(flow.destination) + u32::from(protocol) + length as u32
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from))
        .sum()
}

/// RFC 1071.
fn checksum(seed: u32, bytes: &[u8]) -> u16 {
    let mut sum = seed + sum(bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn flow(kind: Kind, source: &str, destination: &str) -> Flow {
        Flow {
            kind,
            source: source.parse().expect("an address"),
            source_port: 40_000,
            destination: destination.parse().expect("an address"),
            destination_port: 443,
        }
    }

    /// A right checksum makes the sum over everything zero.
    fn check(flow: &Flow, ttl: u8, tag: u32) {
        let packet = build(flow, ttl, tag);
        let (header, protocol) = match (flow.destination, flow.kind) {
            (IpAddr::V4(_), Kind::Tcp) => (20, 6),
            (IpAddr::V4(_), Kind::Echo) => (20, 1),
            (IpAddr::V6(_), Kind::Tcp) => (40, 6),
            (IpAddr::V6(_), Kind::Echo) => (40, 58),
        };
        assert_eq!(packet[if header == 20 { 8 } else { 7 }], ttl);
        let transport = &packet[header..];
        let seed = match (flow.destination, flow.kind) {
            (IpAddr::V4(_), Kind::Echo) => 0,
            _ => pseudo_header(flow, protocol, transport.len()),
        };
        assert_eq!(checksum(seed, transport), 0, "{flow:?} {tag}");
    }

    #[test]
    fn checksums_are_right() {
        for kind in [Kind::Tcp, Kind::Echo] {
            for tag in [0, 1, 0xffff, 0x1234_5678, u32::MAX] {
                check(&flow(kind, "10.0.0.1", "192.0.2.7"), 3, tag);
                check(&flow(kind, "fd00::1", "2001:db8::7"), 64, tag);
            }
        }
    }

    #[test]
    fn echo_requests_of_a_trace_share_their_checksum() {
        for flow in [
            flow(Kind::Echo, "10.0.0.1", "192.0.2.7"),
            flow(Kind::Echo, "fd00::1", "2001:db8::7"),
        ] {
            let sum_of = |tag| {
                let packet = build(&flow, 1, tag);
                packet[packet.len() - 14..packet.len() - 12].to_vec()
            };
            assert_eq!(sum_of(1), sum_of(500));
        }
    }

    #[test]
    fn only_ttl_and_sequence_tell_probes_apart() {
        let flow = flow(Kind::Tcp, "10.0.0.1", "192.0.2.7");
        let (one, other) = (build(&flow, 1, 7), build(&flow, 9, 8_000_000));
        let differing: Vec<usize> = (0..one.len()).filter(|at| one[*at] != other[*at]).collect();
        // TTL, sequence number, checksum.
        assert!(
            differing
                .iter()
                .all(|at| *at == 8 || (24..28).contains(at) || (36..38).contains(at)),
            "{differing:?}"
        );
    }
}
