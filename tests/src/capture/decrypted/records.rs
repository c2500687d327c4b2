//! TLS records of each connection as they passed the device: when the first and the last byte did. Pure.
//!
//! Times of records come from here and not from tshark, which names the packet in which a record ends: a `ClientHello`
//! with a post-quantum key share begins in the one before.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use crate::packet::{self, Segment};

const HEADER: usize = 5;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) from_client: bool,
    /// Its first byte passed.
    pub(super) begin_ns: u64,
    /// Its last byte passed.
    pub(super) end_ns: u64,
    /// Positions in the file of the packets with its first and last byte.
    pub(super) packets: (usize, usize),
    /// Sequence number of its first byte.
    pub(super) sequence: u32,
    /// Acknowledgment number of the segment with its first byte.
    pub(super) acknowledgment: u32,
    /// Length in its header.
    pub(super) length: u16,
}

/// All records of one connection, in the order in which they ended.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) records: Vec<Record>,
    directions: [Direction; 2],
    /// Bytes are missing or came in another order: no truth.
    pub(super) broken: bool,
}

/// Bytes of one side.
#[derive(Debug, Default)]
struct Direction {
    /// Next expected sequence number.
    next: Option<u32>,
    /// Bytes of the next header that have come.
    header: Vec<u8>,
    /// The record that has begun, and how many of its bytes have not come.
    open: Option<(Record, usize)>,
}

/// Puts the records of all connections to `ports` together, by client and server.
pub(super) fn collect<'a>(
    packets: impl Iterator<Item = (u64, &'a [u8])>,
    ports: &RangeInclusive<u16>,
) -> HashMap<(SocketAddr, SocketAddr), Stream> {
    let mut streams: HashMap<_, Stream> = HashMap::new();
    for (number, (time_ns, ip)) in packets.enumerate() {
        let Some((segment, payload)) = packet::tcp_segment_and_payload(ip) else {
            continue;
        };
        let from_client = ports.contains(&segment.destination.port());
        let addresses = if from_client {
            (segment.source, segment.destination)
        } else {
            (segment.destination, segment.source)
        };
        if ports.contains(&addresses.1.port()) {
            let stream = streams.entry(addresses).or_default();
            stream.add(number, time_ns, &segment, payload, from_client);
        }
    }
    streams
}

impl Stream {
    fn add(&mut self, number: usize, time_ns: u64, segment: &Segment, mut payload: &[u8], from_client: bool) {
        let direction = &mut self.directions[usize::from(from_client)];
        if segment.syn {
            direction.next = Some(segment.sequence.wrapping_add(1));
            return;
        }
        let Some(next) = direction.next else {
            self.broken = true;
            return;
        };
        if payload.is_empty() {
            return;
        }
        let seen = next.wrapping_sub(segment.sequence);
        if seen > u32::MAX / 2 {
            self.broken = true;
            return;
        }
        // Retransmitted bytes passed before.
        payload = payload.get(seen as usize..).unwrap_or_default();
        let mut sequence = next;
        while !payload.is_empty() {
            let taken = direction.take(number, time_ns, sequence, segment.acknowledgment, payload, from_client);
            sequence = sequence.wrapping_add(taken as u32);
            payload = &payload[taken..];
            if let Some((mut record, 0)) = direction.open {
                record.end_ns = time_ns;
                record.packets.1 = number;
                self.records.push(record);
                direction.open = None;
                direction.header.clear();
            }
        }
        direction.next = Some(sequence);
    }
}

impl Direction {
    /// Takes bytes of one header or body, at least one; how many.
    fn take(
        &mut self,
        number: usize,
        time_ns: u64,
        sequence: u32,
        acknowledgment: u32,
        payload: &[u8],
        from_client: bool,
    ) -> usize {
        if self.header.len() == HEADER
            && let Some((_, left)) = &mut self.open
        {
            let taken = payload.len().min(*left);
            *left -= taken;
            return taken;
        }
        let (record, left) = self.open.get_or_insert((
            Record {
                from_client,
                begin_ns: time_ns,
                end_ns: time_ns,
                packets: (number, number),
                sequence,
                acknowledgment,
                length: 0,
            },
            usize::MAX,
        ));
        let taken = payload.len().min(HEADER - self.header.len());
        self.header.extend(&payload[..taken]);
        if let [_, _, _, high, low] = self.header[..] {
            record.length = u16::from_be_bytes([high, low]);
            *left = usize::from(record.length);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn packet(to_server: bool, syn: bool, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let (client, server) = (([10, 0, 0, 1], 40_000), ([10, 0, 0, 2], 9_000));
        let (from, to) = if to_server { (client, server) } else { (server, client) };
        let mut tcp = PacketBuilder::ipv4(from.0, to.0, 64)
            .tcp(from.1, to.1, sequence, 1000)
            .ack(7);
        if syn {
            tcp = tcp.syn();
        }
        let mut packet = Vec::new();
        tcp.write(&mut packet, payload).expect("a vector takes every packet");
        packet
    }

    fn stream(packets: &[Vec<u8>]) -> Stream {
        let timed = packets
            .iter()
            .enumerate()
            .map(|(at, packet)| (at as u64 * 10, packet.as_slice()));
        let mut streams = collect(timed, &(9_000..=9_001));
        streams.drain().next().expect("one connection").1
    }

    #[test]
    fn records_span_segments_and_share_them() {
        let found = stream(&[
            packet(true, true, 99, b""),
            packet(true, false, 100, &[22, 3, 1]),
            // Sent again, with more: the rest of the header, the body, and a whole record of one byte.
            packet(true, false, 100, &[22, 3, 1, 0, 2, 7, 7, 23, 3, 3, 0, 1, 9]),
            packet(true, false, 100, &[22, 3, 1]),
        ]);
        let seen: Vec<_> = found
            .records
            .iter()
            .map(|record| (record.begin_ns, record.end_ns, record.sequence, record.length))
            .collect();
        assert_eq!(seen, [(10, 20, 100, 2), (20, 20, 107, 1)]);
        assert!(!found.broken && found.records.iter().all(|record| record.from_client));
    }

    #[test]
    fn an_empty_record_is_one() {
        let found = stream(&[
            packet(false, true, 0, b""),
            packet(false, false, 1, &[23, 3, 3, 0, 0, 23, 3, 3, 0, 0]),
        ]);
        assert_eq!(found.records.len(), 2);
    }

    #[test]
    fn a_gap_is_no_truth() {
        assert!(stream(&[packet(true, true, 99, b""), packet(true, false, 101, b"x")]).broken);
        assert!(stream(&[packet(true, false, 101, b"x")]).broken);
    }
}
