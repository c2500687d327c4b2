//! Reads what comes back for a probe: ICMP and `ICMPv6` errors with the quoted header, echo replies, segments of TCP.
//!
//! The bytes are a stranger's. Each function is total: a packet becomes an [`Arrival`] or a reason why it is none.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const IPV6_HEADER: usize = 40;
/// Extension headers before the quoted transport header that are walked through: probes are sent without any.
const MOST_EXTENSIONS: usize = 4;

/// Something that may be an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Who sent it.
    pub from: IpAddr,
    /// TTL or hop limit that it arrived with, where that is known.
    pub ttl: Option<u8>,
    /// What it says.
    pub answer: Answer,
}

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The probe used up its TTL here.
    Expired(Quoted),
    /// The probe cannot go on, for this reason.
    Unreachable(Reason, Quoted),
    /// An answer to an ICMP echo.
    Echo {
        /// The identifier of the request.
        id: u16,
        /// Its sequence number.
        sequence: u16,
    },
    /// A segment.
    Tcp {
        /// Port that it came from.
        source_port: u16,
        /// Port that it is for.
        destination_port: u16,
        /// What it acknowledges.
        acknowledgment: u32,
        /// SYN with ACK.
        syn_ack: bool,
        /// RST.
        reset: bool,
        /// ACK alone, with neither SYN nor RST nor FIN.
        ack: bool,
    },
}

/// Why a probe cannot go on: what the codes of IPv4 (RFC 792, RFC 1812) and IPv6 (RFC 4443) have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No route to the network.
    Network,
    /// The host does not answer on its link, or has no such address.
    Host,
    /// Nobody listens at the port.
    Port,
    /// A filter forbids it.
    Prohibited,
    /// Any other code.
    Other,
}

impl Reason {
    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Network => "network_unreachable",
            Self::Host => "host_unreachable",
            Self::Port => "port_unreachable",
            Self::Prohibited => "prohibited",
            Self::Other => "unreachable",
        }
    }
}

/// The head of a packet that an ICMP error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Its sender.
    pub source: IpAddr,
    /// Its receiver.
    pub destination: IpAddr,
    /// What it carried.
    pub transport: QuotedTransport,
}

/// The first eight bytes of what a quoted packet carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotedTransport {
    /// A segment.
    Tcp {
        /// Port of its sender.
        source_port: u16,
        /// Port of its receiver.
        destination_port: u16,
        /// Its sequence number.
        sequence: u32,
    },
    /// An echo request.
    Echo {
        /// Its identifier.
        id: u16,
        /// Its sequence number.
        sequence: u16,
    },
}

/// Why a packet is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// It ends too early or contradicts itself.
    Malformed,
    /// It is about something that no probe is.
    Unrelated,
}

/// A whole IPv4 packet, as a raw socket gives it.
pub fn read_ipv4(packet: &[u8]) -> Result<Arrival, Ignored> {
    let header = Header::ipv4(packet)?;
    let ttl = Some(packet[8]);
    let answer = match header.protocol {
        TCP => tcp(header.payload),
        ICMP => icmp(header.payload),
        _ => Err(Ignored::Unrelated),
    }?;
    Ok(Arrival {
        from: header.source,
        ttl,
        answer,
    })
}

/// A message of `ICMPv6`, which a raw socket gives without its IPv6 header.
pub fn read_icmpv6(from: Ipv6Addr, hop_limit: Option<u8>, message: &[u8]) -> Result<Arrival, Ignored> {
    let answer = icmpv6(message)?;
    Ok(Arrival {
        from: from.into(),
        ttl: hop_limit,
        answer,
    })
}

/// A segment over IPv6, which a raw socket gives without its IPv6 header.
pub fn read_tcp_ipv6(from: Ipv6Addr, hop_limit: Option<u8>, segment: &[u8]) -> Result<Arrival, Ignored> {
    let answer = tcp(segment)?;
    Ok(Arrival {
        from: from.into(),
        ttl: hop_limit,
        answer,
    })
}

/// An IP header taken off.
struct Header<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &'a [u8],
}

impl<'a> Header<'a> {
    fn ipv4(packet: &'a [u8]) -> Result<Self, Ignored> {
        let fixed: &[u8; 20] = packet.first_chunk().ok_or(Ignored::Malformed)?;
        let length = usize::from(fixed[0] & 0xf) * 4;
        if fixed[0] >> 4 != 4 || length < fixed.len() {
            return Err(Ignored::Malformed);
        }
        let payload = packet.get(length..).ok_or(Ignored::Malformed)?;
        // Only the first fragment has the transport header.
        if u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff != 0 {
            return Err(Ignored::Unrelated);
        }
        Ok(Self {
            source: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]).into(),
            destination: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]).into(),
            protocol: fixed[9],
            payload,
        })
    }

    fn ipv6(packet: &'a [u8]) -> Result<Self, Ignored> {
        let fixed: &[u8; IPV6_HEADER] = packet.first_chunk().ok_or(Ignored::Malformed)?;
        if fixed[0] >> 4 != 6 {
            return Err(Ignored::Malformed);
        }
        let address = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 16] = *fixed.get(at..)?.first_chunk()?;
            Some(Ipv6Addr::from(octets).into())
        };
        let mut protocol = fixed[6];
        let mut payload = &packet[IPV6_HEADER..];
        for _ in 0..MOST_EXTENSIONS {
            // Hop-by-hop, routing, fragment and destination options.
            if !matches!(protocol, 0 | 43 | 44 | 60) {
                break;
            }
            let extension: &[u8; 8] = payload.first_chunk().ok_or(Ignored::Malformed)?;
            let length = if protocol == 44 {
                8
            } else {
                (usize::from(extension[1]) + 1) * 8
            };
            protocol = extension[0];
            payload = payload.get(length..).ok_or(Ignored::Malformed)?;
        }
        Ok(Self {
            source: address(8).ok_or(Ignored::Malformed)?,
            destination: address(24).ok_or(Ignored::Malformed)?,
            protocol,
            payload,
        })
    }

    /// What an ICMP error is about; eight bytes of it are all that is promised.
    fn quoted(&self) -> Result<Quoted, Ignored> {
        let transport = match self.protocol {
            TCP => {
                let head: &[u8; 8] = self.payload.first_chunk().ok_or(Ignored::Malformed)?;
                QuotedTransport::Tcp {
                    source_port: u16::from_be_bytes([head[0], head[1]]),
                    destination_port: u16::from_be_bytes([head[2], head[3]]),
                    sequence: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
                }
            }
            ICMP | ICMPV6 => {
                let head: &[u8; 8] = self.payload.first_chunk().ok_or(Ignored::Malformed)?;
                let request = if self.protocol == ICMP { 8 } else { 128 };
                if head[0] != request {
                    return Err(Ignored::Unrelated);
                }
                QuotedTransport::Echo {
                    id: u16::from_be_bytes([head[4], head[5]]),
                    sequence: u16::from_be_bytes([head[6], head[7]]),
                }
            }
            _ => return Err(Ignored::Unrelated),
        };
        Ok(Quoted {
            source: self.source,
            destination: self.destination,
            transport,
        })
    }
}

fn icmp(message: &[u8]) -> Result<Answer, Ignored> {
    let head: &[u8; 8] = message.first_chunk().ok_or(Ignored::Malformed)?;
    let quoted = || Header::ipv4(&message[8..])?.quoted();
    match (head[0], head[1]) {
        (0, _) => Ok(echo(*head)),
        // Code 1 is about fragments that never became a packet.
        (11, 0) => quoted().map(Answer::Expired),
        (3, code) => {
            let reason = match code {
                0 | 6 | 8 | 11 => Reason::Network,
                1 | 7 | 12 => Reason::Host,
                3 => Reason::Port,
                9 | 10 | 13 => Reason::Prohibited,
                _ => Reason::Other,
            };
            quoted().map(|quoted| Answer::Unreachable(reason, quoted))
        }
        _ => Err(Ignored::Unrelated),
    }
}

fn icmpv6(message: &[u8]) -> Result<Answer, Ignored> {
    let head: &[u8; 8] = message.first_chunk().ok_or(Ignored::Malformed)?;
    let quoted = || Header::ipv6(&message[8..])?.quoted();
    match (head[0], head[1]) {
        (129, _) => Ok(echo(*head)),
        (3, 0) => quoted().map(Answer::Expired),
        (1, code) => {
            let reason = match code {
                0 => Reason::Network,
                3 => Reason::Host,
                4 => Reason::Port,
                1 | 5 | 6 => Reason::Prohibited,
                _ => Reason::Other,
            };
            quoted().map(|quoted| Answer::Unreachable(reason, quoted))
        }
        _ => Err(Ignored::Unrelated),
    }
}

fn echo(head: [u8; 8]) -> Answer {
    Answer::Echo {
        id: u16::from_be_bytes([head[4], head[5]]),
        sequence: u16::from_be_bytes([head[6], head[7]]),
    }
}

fn tcp(segment: &[u8]) -> Result<Answer, Ignored> {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    let head: &[u8; 20] = segment.first_chunk().ok_or(Ignored::Malformed)?;
    let flags = head[13];
    Ok(Answer::Tcp {
        source_port: u16::from_be_bytes([head[0], head[1]]),
        destination_port: u16::from_be_bytes([head[2], head[3]]),
        acknowledgment: u32::from_be_bytes([head[8], head[9], head[10], head[11]]),
        syn_ack: flags & (SYN | RST | ACK) == SYN | ACK,
        // Without ACK it acknowledges nothing, so it names no probe.
        reset: flags & (RST | ACK) == RST | ACK,
        ack: flags & (FIN | SYN | RST | ACK) == ACK,
    })
}

#[cfg(test)]
mod tests;
