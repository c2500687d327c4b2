//! A way through several routers that differ: delay, loss, silence and rate of each. Decides only; no I/O.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::reply::{self, IcmpError};
use crate::packet;

/// A router, and the link before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hop {
    /// Last part of its addresses, `10.99.0.N` and `fd99::N`.
    pub(crate) number: u8,
    /// What its link adds to a round trip, microseconds: half of it each way.
    pub(crate) delay_us: u64,
    /// Up to this much more, evenly spread.
    pub(crate) jitter_us: u64,
    /// Of a thousand packets away from the client this many vanish on its link: so many of each stretch, at random places.
    pub(crate) lose_per_mille: u32,
    /// It never says that a TTL is used up.
    pub(crate) is_silent: bool,
    /// It says so this often a second at most; 0: always.
    pub(crate) answers_a_second: u32,
}

/// What becomes of a packet.
#[derive(Debug)]
pub(super) enum Passage {
    Lost,
    /// It leaves on the other side after this time.
    Through(Duration),
    /// A router's answer goes back after this time.
    Answer(Vec<u8>, Duration),
}

/// The routes and what they have done so far.
#[derive(Debug)]
pub(super) struct Routes {
    all: Vec<Vec<Hop>>,
    random: fastrand::Rng,
    /// Per router, TTL and family: packets of the stretch so far, and which of them vanishes.
    stretches: HashMap<(u8, u8, bool), (u32, u32)>,
    /// Per router: when the second began, and answers in it.
    answers: HashMap<u8, (Instant, u32)>,
}

impl Routes {
    pub(super) fn new(routes: Vec<Vec<Hop>>, seed: u64) -> Self {
        Self {
            all: routes,
            random: fastrand::Rng::with_seed(seed),
            stretches: HashMap::new(),
            answers: HashMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// From now on these.
    pub(super) fn replace(&mut self, routes: Vec<Vec<Hop>>) {
        self.all = routes;
    }

    /// Takes a packet along its route and its TTL down; `to_server` tells the direction.
    pub(super) fn pass(&mut self, packet: &mut [u8], to_server: bool, now: Instant) -> Passage {
        let Some(route) = self.choose(packet, to_server) else {
            return Passage::Lost;
        };
        let mut one_way = Duration::ZERO;
        let hops = route.len() as u8;
        let Some(ttl) = ttl_of(packet) else {
            return Passage::Lost;
        };
        let is_ipv4 = packet[0] >> 4 == 4;
        let mut jitter = |hop: &Hop| self.random.u64(0..=hop.jitter_us);
        if !to_server {
            for hop in &route {
                one_way += Duration::from_micros(hop.delay_us / 2 + jitter(hop));
            }
            return if ttl > hops {
                take_ttl(packet, hops);
                Passage::Through(one_way)
            } else {
                Passage::Lost
            };
        }
        for (before, hop) in (0_u8..).zip(&route) {
            one_way += Duration::from_micros(hop.delay_us / 2 + self.random.u64(0..=hop.jitter_us));
            if self.vanishes(hop, ttl, is_ipv4) {
                return Passage::Lost;
            }
            if ttl == before + 1 {
                return self.answer(packet, hop, before, one_way, now);
            }
        }
        take_ttl(packet, hops);
        Passage::Through(one_way)
    }

    /// By addresses and ports, the same in both directions, as routers that share the load do.
    fn choose(&self, packet: &[u8], to_server: bool) -> Option<Vec<Hop>> {
        let (source, destination) = packet::addresses(packet)?;
        let ports =
            packet::tcp_segment(packet).map_or((0, 0), |segment| (segment.source.port(), segment.destination.port()));
        let ends = [(source, ports.0), (destination, ports.1)];
        let [client, server] = if to_server { ends } else { [ends[1], ends[0]] };
        let mut hasher = DefaultHasher::new();
        (client, server).hash(&mut hasher);
        let at = hasher.finish() % self.all.len() as u64;
        self.all.get(at as usize).cloned()
    }

    fn vanishes(&mut self, hop: &Hop, ttl: u8, is_ipv4: bool) -> bool {
        if hop.lose_per_mille == 0 {
            return false;
        }
        let length = 1_000 / hop.lose_per_mille;
        let stretch = self.stretches.entry((hop.number, ttl, is_ipv4)).or_insert((length, 0));
        if stretch.0 >= length {
            *stretch = (0, self.random.u32(0..length));
        }
        stretch.0 += 1;
        stretch.0 - 1 == stretch.1
    }

    fn answer(&mut self, packet: &[u8], hop: &Hop, before: u8, one_way: Duration, now: Instant) -> Passage {
        if hop.is_silent || !self.may_answer(hop, now) {
            return Passage::Lost;
        }
        let Some((source, _)) = packet::addresses(packet) else {
            return Passage::Lost;
        };
        let from: IpAddr = reply::hop_address(hop.number, source);
        let Some(mut answer) = reply::icmp_error(IcmpError::TimeExceeded, from, source, packet) else {
            return Passage::Lost;
        };
        take_ttl(&mut answer, before);
        // The way back takes as long.
        Passage::Answer(answer, one_way * 2)
    }

    fn may_answer(&mut self, hop: &Hop, now: Instant) -> bool {
        if hop.answers_a_second == 0 {
            return true;
        }
        let (since, count) = self.answers.entry(hop.number).or_insert((now, 0));
        if now.duration_since(*since) >= Duration::from_secs(1) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= hop.answers_a_second
    }
}

fn ttl_of(packet: &[u8]) -> Option<u8> {
    packet.get(if packet.first()? >> 4 == 4 { 8 } else { 7 }).copied()
}

/// Takes so many hops from the TTL, and corrects the checksum.
pub(super) fn take_ttl(packet: &mut [u8], hops: u8) {
    let is_ipv4 = packet.first().is_some_and(|first| first >> 4 == 4);
    let Some(ttl) = packet.get_mut(if is_ipv4 { 8 } else { 7 }) else {
        return;
    };
    *ttl = ttl.saturating_sub(hops);
    if is_ipv4 {
        let sum = u32::from(u16::from_be_bytes([packet[10], packet[11]])) + (u32::from(hops) << 8);
        let folded = (sum & 0xffff) + (sum >> 16);
        packet[10..12].copy_from_slice(&(folded as u16).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn syn(port: u16, ttl: u8) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 99, 1, 2], [10, 99, 2, 2], ttl)
            .tcp(port, 90, 7, 1000)
            .syn()
            .write(&mut packet, &[])
            .expect("a vector takes every packet");
        packet
    }

    fn hop(number: u8, delay_us: u64) -> Hop {
        Hop {
            number,
            delay_us,
            ..Hop::default()
        }
    }

    #[test]
    fn delays_add_up_and_the_last_router_passes_on() {
        let mut routes = Routes::new(vec![vec![hop(1, 1_000), hop(2, 5_000)]], 1);
        let mut at = |ttl| routes.pass(&mut syn(1, ttl), true, Instant::now());
        let answered = |passage| match passage {
            Passage::Answer(answer, after) => (packet::addresses(&answer).expect("addresses").0, after),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            answered(at(1)),
            (IpAddr::from([10, 99, 0, 1]), Duration::from_millis(1))
        );
        assert_eq!(
            answered(at(2)),
            (IpAddr::from([10, 99, 0, 2]), Duration::from_millis(6))
        );
        assert!(matches!(at(3), Passage::Through(after) if after == Duration::from_millis(3)));
    }

    #[test]
    fn of_every_ten_one_vanishes() {
        let lossy = Hop {
            lose_per_mille: 100,
            ..hop(1, 0)
        };
        let mut routes = Routes::new(vec![vec![lossy]], 1);
        for _ in 0..20 {
            let lost = (0..10).filter(|_| matches!(routes.pass(&mut syn(1, 9), true, Instant::now()), Passage::Lost));
            assert_eq!(lost.count(), 1);
        }
    }

    #[test]
    fn a_connection_stays_on_its_route() {
        let mut routes = Routes::new(vec![vec![hop(1, 0)], vec![hop(2, 2_000)]], 1);
        let mut seen = std::collections::HashSet::new();
        for port in 1..40 {
            let passages: Vec<_> = (2..6)
                .map(|ttl| format!("{:?}", routes.pass(&mut syn(port, ttl), true, Instant::now())))
                .collect();
            assert!(passages.iter().all(|passage| *passage == passages[0]));
            seen.insert(passages[0].clone());
        }
        assert_eq!(seen.len(), 2);
    }
}
