//! What becomes of one packet: forwarded with delay, answered, or dropped. No I/O; the loop sends what comes out.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::faults::{Fate, Faults};
use super::line::Waiting;
use super::reply::{self, IcmpError};
use super::route::{Passage, Routes, take_ttl};
use super::{Change, RouterSettings};
use crate::packet;

/// The router's state.
#[derive(Debug)]
pub(super) struct Forwarder {
    settings: RouterSettings,
    faults: Faults,
    random: fastrand::Rng,
    /// Packets queued so far: keeps packets of one moment in order.
    number: u64,
    /// When the last packet may leave by each device: jitter must not reorder.
    last_due: [Instant; 2],
    /// One packet per direction of a connection that is to change places with the next.
    held: HashMap<(SocketAddr, SocketAddr), Vec<u8>>,
    /// How much further away an address is, microseconds each way. Packets to and from it are in order among themselves.
    further: HashMap<IpAddr, u64>,
    further_due: HashMap<(usize, IpAddr), Instant>,
    routes: Routes,
    /// Changes of both.
    changes: Receiver<Change>,
}

/// A packet's way to the other side.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// When it came in.
    from: Instant,
    /// What the routers on it take.
    takes: Duration,
    /// All packets go this way, and keep their order.
    is_single: bool,
}

impl Forwarder {
    pub(super) fn new(settings: RouterSettings, changes: Receiver<Change>) -> Self {
        let faults = Faults::new(&settings.faults, settings.seed);
        let random = fastrand::Rng::with_seed(settings.seed ^ 1);
        Self {
            routes: Routes::new(settings.routes.clone(), settings.seed ^ 2),
            further: settings.further.iter().copied().collect(),
            further_due: HashMap::new(),
            changes,
            settings,
            faults,
            random,
            number: 0,
            last_due: [Instant::now(); 2],
            held: HashMap::new(),
        }
    }

    /// Handles a packet that came in by `device`; what leaves goes to `queue`.
    pub(super) fn packet(&mut self, device: usize, packet: &[u8], mut queue: impl FnMut(Waiting)) {
        let now = Instant::now();
        for change in self.changes.try_iter() {
            match change {
                Change::Further(address, us) => drop(self.further.insert(address, us)),
                Change::Routes(routes) => self.routes.replace(routes),
            }
        }
        let Some((source, destination)) = packet::addresses(packet) else {
            return;
        };
        if !is_routed(destination) {
            return;
        }
        let mut packet = packet.to_vec();
        let mut way = Way {
            from: now,
            takes: Duration::from_micros(self.settings.delay_us),
            is_single: self.routes.is_empty(),
        };
        if !way.is_single {
            match self.routes.pass(&mut packet, device == 0, now) {
                Passage::Lost => return,
                Passage::Through(takes) => way.takes = takes,
                Passage::Answer(answer, after) => {
                    self.queue_at(device, now + after, answer, &mut queue);
                    return;
                }
            }
        } else if let Some(hop) = self.expiry_hop(&mut packet) {
            let from = reply::hop_address(hop, source);
            let answer = reply::icmp_error(IcmpError::TimeExceeded, from, source, &packet);
            self.queue_some(device, way, answer, &mut queue);
            return;
        }
        let Some(segment) = packet::tcp_segment(&packet) else {
            self.queue_some(1 - device, way, Some(packet), &mut queue);
            return;
        };
        let direction = (segment.source, segment.destination);
        match self.faults.fate(&segment) {
            Fate::Forward => self.queue_some(1 - device, way, Some(packet), &mut queue),
            Fate::Drop => {}
            Fate::Hold => {
                self.held.insert(direction, packet);
            }
            Fate::Release => {
                self.queue_some(1 - device, way, Some(packet), &mut queue);
                let held = self.held.remove(&direction);
                self.queue_some(1 - device, way, held, &mut queue);
            }
            Fate::Duplicate => {
                self.queue_some(1 - device, way, Some(packet.clone()), &mut queue);
                self.queue_some(1 - device, way, Some(packet), &mut queue);
            }
            Fate::Delay(us) => {
                let due = way.from + way.takes + Duration::from_micros(us);
                self.queue_at(1 - device, due, packet, &mut queue);
            }
            Fate::Forge { offset, direction } => {
                let forged = reply::forged(&segment, offset, direction);
                self.queue_some(1 - device, way, forged, &mut queue);
                self.queue_some(1 - device, way, Some(packet), &mut queue);
            }
            Fate::Unreachable => {
                let from = reply::hop_address(1, source);
                let answer = reply::icmp_error(IcmpError::Unreachable, from, source, &packet);
                self.queue_some(device, way, answer, &mut queue);
            }
            Fate::Reset => {
                self.queue_some(device, way, reply::reset_to_sender(&segment), &mut queue);
                self.queue_some(1 - device, way, reply::reset_to_receiver(&segment), &mut queue);
            }
        }
    }

    fn queue_some(&mut self, device: usize, way: Way, packet: Option<Vec<u8>>, queue: &mut impl FnMut(Waiting)) {
        let Some(packet) = packet else { return };
        let jitter = if self.settings.jitter_us == 0 {
            0
        } else {
            self.random.u64(0..=self.settings.jitter_us)
        };
        let due = way.from + way.takes + Duration::from_micros(jitter);
        let due = match self.distance(&packet) {
            // Packets on different routes do not wait for each other.
            further if !way.is_single => due + Duration::from_micros(further.map_or(0, |(_, us)| us)),
            None => {
                self.last_due[device] = self.last_due[device].max(due);
                self.last_due[device]
            }
            Some((address, us)) => {
                let last = self.further_due.get(&(device, address)).copied();
                let due = (due + Duration::from_micros(us)).max(last.unwrap_or(due));
                self.further_due.insert((device, address), due);
                due
            }
        };
        self.queue_at(device, due, packet, queue);
    }

    /// How much further away the packet's end is, when it has a distance of its own.
    fn distance(&self, packet: &[u8]) -> Option<(IpAddr, u64)> {
        if self.further.is_empty() {
            return None;
        }
        let (source, destination) = packet::addresses(packet)?;
        [source, destination]
            .into_iter()
            .find_map(|address| Some((address, *self.further.get(&address)?)))
    }

    fn queue_at(&mut self, device: usize, due: Instant, packet: Vec<u8>, queue: &mut impl FnMut(Waiting)) {
        self.number += 1;
        queue(Waiting {
            due,
            number: self.number,
            device,
            packet,
        });
    }

    /// Takes every hop's share of the TTL; the number of the router at which it is used up, if it is.
    fn expiry_hop(&self, packet: &mut [u8]) -> Option<u8> {
        let hops = self.settings.hops.max(1);
        let ttl = *packet.get(if packet.first()? >> 4 == 4 { 8 } else { 7 })?;
        if ttl <= hops {
            return Some(ttl.max(1));
        }
        take_ttl(packet, hops);
        None
    }
}

/// Multicast and link-local packets stay on their link.
fn is_routed(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(address) => !address.is_multicast() && !address.is_link_local() && !address.is_broadcast(),
        IpAddr::V6(address) => !address.is_multicast() && !address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use etherparse::{Ipv4Header, PacketBuilder};

    use super::super::{Fault, Hop, PortFault};
    use super::*;

    fn syn(ttl: u8) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([10, 99, 1, 2], [10, 99, 2, 2], ttl)
            .tcp(1000, 90, 7, 1000)
            .syn();
        builder.write(&mut packet, &[]).expect("a vector takes every packet");
        packet
    }

    fn route(settings: RouterSettings, packet: &[u8]) -> Vec<Waiting> {
        let mut out = Vec::new();
        Forwarder::new(settings, mpsc::channel().1).packet(0, packet, |waiting| out.push(waiting));
        out
    }

    #[test]
    fn every_hop_takes_one_from_the_ttl_and_the_checksum_stays_right() {
        let out = route(
            RouterSettings {
                hops: 3,
                ..Default::default()
            },
            &syn(64),
        );
        let (header, _) = Ipv4Header::from_slice(&out[0].packet).expect("header");
        assert_eq!((out[0].device, header.time_to_live), (1, 61));
        assert_eq!(header.header_checksum, header.calc_header_checksum());
    }

    #[test]
    fn what_is_further_away_does_not_hold_the_others_up() {
        let far = IpAddr::from([10, 99, 2, 2]);
        let (sender, changes) = mpsc::channel();
        let mut forwarder = Forwarder::new(RouterSettings::default(), changes);
        let mut out = Vec::new();
        sender.send(Change::Further(far, 50_000)).expect("a receiver");
        forwarder.packet(0, &syn(64), |waiting| out.push(waiting));
        sender.send(Change::Further(far, 0)).expect("a receiver");
        sender
            .send(Change::Further([10, 99, 2, 3].into(), 0))
            .expect("a receiver");
        forwarder.packet(0, &syn(64), |waiting| out.push(waiting));
        assert!(out[1].due >= out[0].due, "its own packets keep their order");
        assert!(forwarder.last_due[1] < out[0].due, "others do not wait");
    }

    #[test]
    fn faults_are_those_of_the_server_behind_the_routers() {
        let hop = |number, delay_us| Hop {
            number,
            delay_us,
            ..Hop::default()
        };
        let routes = vec![vec![hop(1, 2_000), hop(2, 6_000)]];
        let settings = |fault| RouterSettings {
            faults: vec![PortFault { port: 90, fault }],
            routes: routes.clone(),
            ..Default::default()
        };
        let swallow = Fault::SwallowSyn { first: 1 };
        assert!(route(settings(swallow), &syn(64)).is_empty());
        let before = Instant::now();
        let out = route(settings(Fault::Unreachable), &syn(64));
        assert_eq!(out[0].device, 0);
        assert!(
            out[0].due >= before + Duration::from_millis(4),
            "as far as the routers take it"
        );
        // A router's answer comes before any of them.
        let out = route(settings(swallow), &syn(2));
        let (source, _) = packet::addresses(&out[0].packet).expect("addresses");
        assert_eq!(source.to_string(), "10.99.0.2");
    }

    #[test]
    fn the_hop_where_the_ttl_ends_answers() {
        let out = route(
            RouterSettings {
                hops: 3,
                ..Default::default()
            },
            &syn(2),
        );
        let (source, destination) = packet::addresses(&out[0].packet).expect("addresses");
        assert_eq!(out[0].device, 0);
        assert_eq!(
            (source.to_string(), destination.to_string()),
            ("10.99.0.2".into(), "10.99.1.2".into())
        );
    }
}
