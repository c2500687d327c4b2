//! The truth about a trace: its probes and their answers as they passed the client's device.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::Result;
use etherparse::{LaxSlicedPacket, TransportSlice};

use super::pcap;
use crate::packet;

/// A probe by its TTL, and what came back first.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) ttl: u8,
    pub(crate) source_port: u16,
    pub(crate) destination: IpAddr,
    /// Wall clock, nanoseconds.
    pub(crate) sent_ns: u64,
    pub(crate) answer: Option<ProbeAnswer>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct ProbeAnswer {
    pub(crate) from: IpAddr,
    /// As it arrived.
    pub(crate) ttl: u8,
    pub(crate) round_trip_us: f64,
}

/// Everything about traces in a capture.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    /// In the order in which they were sent.
    pub(crate) sent: Vec<Probe>,
    /// SYN-ACKs that came in.
    pub(crate) syn_acks: u64,
    /// ACKs alone that came in: what a server says that has not heard the RST for the SYN before.
    pub(crate) challenges: u64,
    /// RSTs that went out.
    pub(crate) resets: u64,
}

impl Probes {
    /// `last_ttl` is the least that reaches the destination.
    pub(crate) fn read(file: &Path, last_ttl: u8) -> Result<Self> {
        let mut found = Self::default();
        // By source port and sequence number.
        let mut by_tag: HashMap<(u16, u32), usize> = HashMap::new();
        for packet in pcap::read(file)? {
            let Some((from, to)) = packet::addresses(&packet.ip) else {
                continue;
            };
            let ttl = packet.ip[if from.is_ipv4() { 8 } else { 7 }];
            let answered = if let Some(segment) = packet::tcp_segment(&packet.ip) {
                if segment.syn && !segment.ack {
                    by_tag.insert((segment.source.port(), segment.sequence), found.sent.len());
                    found.sent.push(Probe {
                        ttl,
                        source_port: segment.source.port(),
                        destination: to,
                        sent_ns: packet.time_ns,
                        answer: None,
                    });
                    continue;
                }
                found.syn_acks += u64::from(segment.syn);
                if segment.ack && !segment.syn && !segment.rst && !segment.fin {
                    found.challenges += 1;
                    let port = segment.destination.port();
                    let last = found
                        .sent
                        .iter_mut()
                        .rev()
                        .find(|probe| probe.source_port == port && probe.ttl >= last_ttl);
                    if let Some(probe) = last.filter(|probe| probe.answer.is_none()) {
                        probe.answer = Some(ProbeAnswer {
                            from,
                            ttl,
                            round_trip_us: (packet.time_ns - probe.sent_ns) as f64 / 1e3,
                        });
                    }
                    continue;
                }
                let is_answer = segment.syn || segment.rst && segment.ack;
                if segment.rst && !segment.ack {
                    found.resets += 1;
                }
                is_answer.then(|| (segment.destination.port(), segment.acknowledgment.wrapping_sub(1)))
            } else {
                quoted(&packet.ip)
            };
            let probe = answered.and_then(|tag| found.sent.get_mut(*by_tag.get(&tag)?));
            if let Some(probe) = probe
                && probe.answer.is_none()
            {
                probe.answer = Some(ProbeAnswer {
                    from,
                    ttl,
                    round_trip_us: (packet.time_ns - probe.sent_ns) as f64 / 1e3,
                });
            }
        }
        Ok(found)
    }

    /// Those of one hop, of one family.
    pub(crate) fn of_hop(&self, is_ipv4: bool, ttl: u8) -> impl Iterator<Item = &Probe> {
        self.sent
            .iter()
            .filter(move |probe| probe.destination.is_ipv4() == is_ipv4 && probe.ttl == ttl)
    }
}

/// Source port and sequence number of the segment that an ICMP error is about.
fn quoted(packet: &[u8]) -> Option<(u16, u32)> {
    let sliced = LaxSlicedPacket::from_ip(packet).ok()?;
    let quoted = match sliced.transport? {
        TransportSlice::Icmpv4(icmp) if icmp.type_u8() == 11 => icmp.payload(),
        TransportSlice::Icmpv6(icmp) if icmp.type_u8() == 3 => icmp.payload(),
        _ => return None,
    };
    // Our own probes: no options, no extension headers.
    let tcp = quoted.get(if quoted.first()? >> 4 == 4 { 20 } else { 40 }..)?;
    let word = |at: usize| Some(u32::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
    Some(((word(0)? >> 16) as u16, word(4)?))
}

/// Address of the lab's router of this number.
pub(crate) fn router(number: u8, is_ipv4: bool) -> IpAddr {
    if is_ipv4 {
        Ipv4Addr::new(10, 99, 0, number).into()
    } else {
        Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, number.into()).into()
    }
}
