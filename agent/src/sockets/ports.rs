//! Local ports of one namespace: which ones the kernel may give to a connect, and which destination has used most of them.
//!
//! A port that a connect was given may be given again for another destination, so each has a share of its own; one that
//! somebody listens on is lost for all.
use std::fmt;

use crate::connection::Endpoint;

const PORTS: usize = 1 << 16;
/// Destinations of a namespace that are told, those with most ports.
const MOST_PEERS: usize = 8;
/// Sockets of each that are told, to find out whose they are.
const MOST_COOKIES: usize = 16;

/// A set of ports.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PortSet(Box<[u64; PORTS / 64]>);

impl Default for PortSet {
    fn default() -> Self {
        Self(Box::new([0; PORTS / 64]))
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PortSet({} ports)", self.len())
    }
}

impl PortSet {
    pub(super) fn insert(&mut self, port: u16) {
        self.0[usize::from(port) / 64] |= 1 << (port % 64);
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port) / 64] & 1 << (port % 64) != 0
    }

    fn remove(&mut self, port: u16) {
        self.0[usize::from(port) / 64] &= !(1 << (port % 64));
    }

    pub(super) fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Members of both.
    fn common(&self, other: &Self) -> u32 {
        self.0
            .iter()
            .zip(other.0.iter())
            .map(|(a, b)| (a & b).count_ones())
            .sum()
    }
}

/// The ports that a connect may be given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortRange(PortSet);

impl PortRange {
    /// Of the texts of `ip_local_port_range` and `ip_local_reserved_ports`; what is no port is passed over.
    pub fn read(range: &str, reserved: &str) -> Self {
        let mut ports = PortSet::default();
        let mut bounds = range.split_whitespace().map_while(|word| word.parse::<u16>().ok());
        if let (Some(first), Some(last)) = (bounds.next(), bounds.next()) {
            (first..=last).for_each(|port| ports.insert(port));
        }
        for part in reserved.trim().split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
                (first..=last).for_each(|port| ports.remove(port));
            }
        }
        Self(ports)
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        self.0.contains(port)
    }

    /// The destinations that have used most, the worst first. `taken` holds a socket's other end, its port and its cookie.
    pub(super) fn worst(&self, listening: &PortSet, taken: &mut [(Endpoint, u16, u64)]) -> Vec<PeerPorts> {
        let lost = self.0.common(listening);
        taken.sort_unstable();
        let mut peers: Vec<PeerPorts> = Vec::new();
        for of_peer in taken.chunk_by(|a, b| a.0 == b.0) {
            let ports = of_peer.chunk_by(|a, b| a.1 == b.1).map(|same| same[0].1);
            // A listener may have been listed after connections at its port: that port is lost already.
            let used = lost + ports.filter(|port| !listening.contains(*port)).count() as u32;
            let is_worse = peers.len() < MOST_PEERS || peers.last().is_some_and(|last| used > last.used);
            if is_worse {
                let at = peers.partition_point(|peer| peer.used >= used);
                let cookies = of_peer
                    .iter()
                    .take(MOST_COOKIES)
                    .map(|(_, _, cookie)| *cookie)
                    .collect();
                let peer = of_peer[0].0;
                peers.insert(at, PeerPorts { peer, used, cookies });
                peers.truncate(MOST_PEERS);
            }
        }
        peers
    }
}

/// Ports that one destination has used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPorts {
    /// The destination, as on the wire.
    pub peer: Endpoint,
    /// Ports of the range that a connect to it cannot have.
    pub used: u32,
    /// Some of the sockets that have them.
    pub cookies: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_without_what_is_reserved() {
        for (range, reserved, count) in [
            ("32768\t60999\n", "\n", 28_232),
            ("40000 40009", "40001,40003-40005,x,9-1,70000", 6),
            ("40000 40009", "1-65535", 0),
            ("0 65535", "", 65_536),
            ("9 1", "", 0),
            ("", "", 0),
            ("1 99999", "", 0),
        ] {
            assert_eq!(PortRange::read(range, reserved).len(), count, "{range} {reserved}");
        }
    }

    #[test]
    fn the_worst_destination_comes_first() {
        let range = PortRange::read("100 109", "");
        let peer = |last: u8| Endpoint {
            address: [10, 0, 0, last].into(),
            port: 80,
        };
        let mut listening = PortSet::default();
        listening.insert(109);
        listening.insert(9);
        let mut uses = Vec::new();
        for last in 1..=20 {
            uses.extend((0..u16::from(last % 10)).map(|port| (peer(last), 100 + port, u64::from(port))));
        }
        // One port from two local addresses is one port, and one with a listener is lost once.
        uses.push((peer(9), 100, 99));
        uses.push((peer(9), 109, 98));
        let worst = range.worst(&listening, &mut uses);
        assert_eq!(worst.len(), MOST_PEERS);
        assert_eq!(
            worst.iter().map(|peer| peer.used).collect::<Vec<_>>(),
            [10, 10, 9, 9, 8, 8, 7, 7]
        );
        assert_eq!(worst[0].peer, peer(9));
        assert_eq!(worst[0].cookies.len(), 11);
    }
}
