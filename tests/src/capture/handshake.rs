//! Marks of each connection as they passed the device: SYN, SYN-ACK, ACK, first FIN or RST. Pure.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::packet::{self, Segment};

/// Who ended a connection first, as seen on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closer {
    ClientFin,
    ServerFin,
    ClientReset,
    ServerReset,
}

/// One connection, times in nanoseconds of the wall clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    /// First SYN.
    pub(crate) syn_ns: Option<u64>,
    /// SYNs after the first.
    pub(crate) syn_again: u32,
    /// First SYN-ACK.
    pub(crate) synack_ns: Option<u64>,
    /// SYN-ACKs after the first.
    pub(crate) synack_again: u32,
    /// First segment of the client after the SYN-ACK.
    pub(crate) ack_ns: Option<u64>,
    /// First FIN or RST.
    pub(crate) closer: Option<Closer>,
    /// What the client sent behind its SYN.
    pub(crate) by_client: Sent,
    /// What the server sent behind its SYN-ACK.
    pub(crate) by_server: Sent,
}

/// Segments with payload or FIN, of one side.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    /// Where the farthest began.
    farthest: Option<u32>,
    /// Those that began no farther than one before.
    pub(crate) again: u64,
}

impl Sent {
    fn add(&mut self, segment: &Segment) {
        if segment.payload == 0 && !segment.fin {
            return;
        }
        match self.farthest {
            // Sequence numbers go round.
            Some(farthest) if segment.sequence.wrapping_sub(farthest).cast_signed() <= 0 => self.again += 1,
            _ => self.farthest = Some(segment.sequence),
        }
    }
}

impl Conversation {
    /// The client's `tcp` phase, when captured at the client: SYN leaves, SYN-ACK arrives.
    pub(crate) fn client_tcp_us(&self) -> Option<f64> {
        Some(self.synack_ns?.checked_sub(self.syn_ns?)? as f64 / 1_000.0)
    }

    /// The server's `tcp` phase, when captured at the server: first SYN-ACK leaves, final ACK arrives.
    pub(crate) fn server_tcp_us(&self) -> Option<f64> {
        Some(self.ack_ns?.checked_sub(self.synack_ns?)? as f64 / 1_000.0)
    }

    fn add(&mut self, time_ns: u64, segment: &Segment, from_client: bool) {
        match (segment.syn, from_client) {
            (true, true) if self.syn_ns.is_none() => self.syn_ns = Some(time_ns),
            (true, true) => self.syn_again += 1,
            (true, false) if self.synack_ns.is_none() => self.synack_ns = Some(time_ns),
            (true, false) => self.synack_again += 1,
            (false, true) if self.synack_ns.is_some() && self.ack_ns.is_none() => self.ack_ns = Some(time_ns),
            _ => {}
        }
        if !segment.syn {
            let sent = if from_client {
                &mut self.by_client
            } else {
                &mut self.by_server
            };
            sent.add(segment);
        }
        if self.closer.is_none() {
            self.closer = match (segment.rst, segment.fin, from_client) {
                (true, _, true) => Some(Closer::ClientReset),
                (true, _, false) => Some(Closer::ServerReset),
                (false, true, true) => Some(Closer::ClientFin),
                (false, true, false) => Some(Closer::ServerFin),
                (false, false, _) => None,
            };
        }
    }
}

/// All connections of a capture, by client and server address.
#[derive(Debug, Default)]
pub(crate) struct Conversations {
    by_addresses: HashMap<(SocketAddr, SocketAddr), Conversation>,
}

impl Conversations {
    /// Puts packets, in order of time, together by connection. Who sent the first SYN is the client.
    pub(crate) fn new<'a>(packets: impl Iterator<Item = (u64, &'a [u8])>) -> Self {
        let mut conversations = Self::default();
        for (time_ns, ip) in packets {
            if let Some(segment) = packet::tcp_segment(ip) {
                conversations.add(time_ns, &segment);
            }
        }
        conversations
    }

    fn add(&mut self, time_ns: u64, segment: &Segment) {
        let as_client = (segment.source, segment.destination);
        let as_server = (segment.destination, segment.source);
        if segment.syn && !segment.ack {
            self.by_addresses
                .entry(as_client)
                .or_default()
                .add(time_ns, segment, true);
        } else if let Some(conversation) = self.by_addresses.get_mut(&as_client) {
            conversation.add(time_ns, segment, true);
        } else if let Some(conversation) = self.by_addresses.get_mut(&as_server) {
            conversation.add(time_ns, segment, false);
        }
    }

    /// The connection from `client` to `server`.
    pub(crate) fn get(&self, client: SocketAddr, server: SocketAddr) -> Option<&Conversation> {
        self.by_addresses.get(&(client, server))
    }

    /// Every connection to `server`, with its client's address.
    pub(crate) fn to(&self, server: SocketAddr) -> impl Iterator<Item = (SocketAddr, &Conversation)> {
        self.by_addresses
            .iter()
            .filter(move |((_, to), _)| *to == server)
            .map(|((from, _), found)| (*from, found))
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    const CLIENT: ([u8; 4], u16) = ([10, 0, 0, 1], 1000);
    const SERVER: ([u8; 4], u16) = ([10, 0, 0, 2], 80);

    fn packet(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: &str) -> Vec<u8> {
        let mut tcp = PacketBuilder::ipv4(from.0, to.0, 64).tcp(from.1, to.1, 1, 1000);
        for flag in flags.chars() {
            tcp = match flag {
                'S' => tcp.syn(),
                'A' => tcp.ack(1),
                'F' => tcp.fin(),
                _ => tcp.rst(),
            };
        }
        let mut packet = Vec::new();
        tcp.write(&mut packet, &[]).expect("a vector takes every packet");
        packet
    }

    #[test]
    fn phases_start_at_the_first_try_and_the_first_closer_wins() {
        let packets = [
            (1_000, packet(CLIENT, SERVER, "S")),
            (5_000, packet(CLIENT, SERVER, "S")),
            (7_000, packet(SERVER, CLIENT, "SA")),
            (8_000, packet(SERVER, CLIENT, "SA")),
            (9_000, packet(CLIENT, SERVER, "A")),
            (9_500, packet(SERVER, CLIENT, "FA")),
            (9_550, packet(SERVER, CLIENT, "FA")),
            (9_600, packet(CLIENT, SERVER, "R")),
        ];
        let conversations = Conversations::new(packets.iter().map(|(time, packet)| (*time, packet.as_slice())));
        let address = |(ip, port): ([u8; 4], u16)| SocketAddr::from((ip, port));
        let found = conversations.get(address(CLIENT), address(SERVER)).expect("seen");
        assert_eq!((found.client_tcp_us(), found.server_tcp_us()), (Some(6.0), Some(2.0)));
        assert_eq!(
            (found.syn_again, found.synack_again, found.closer),
            (1, 1, Some(Closer::ServerFin))
        );
        assert_eq!((found.by_client.again, found.by_server.again), (0, 1));
    }
}
