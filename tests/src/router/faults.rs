//! What the router does on purpose to the segments of some server ports. Decides only; no I/O.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::{Direction, Fault, PayloadEvent, PortFault};
use crate::packet::Segment;

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Forward,
    Drop,
    /// Dropped, and its sender is told that the host cannot be reached.
    Unreachable,
    /// Dropped, and both sides are told that the other reset.
    Reset,
    /// Kept until the next one of its direction.
    Hold,
    /// Forwarded, and what is held behind it.
    Release,
    Duplicate,
    /// Forwarded later by so many microseconds.
    Delay(u64),
    /// Forwarded behind a forged one.
    Forge {
        offset: i32,
        direction: Direction,
    },
}

/// Client and server of a connection.
type Flow = (SocketAddr, SocketAddr);

/// The configured faults and what they have done so far.
#[derive(Debug)]
pub(super) struct Faults {
    by_port: HashMap<u16, Fault>,
    /// Packets swallowed per connection.
    swallowed: HashMap<Flow, u32>,
    /// Segments with payload so far, per connection, in the direction that its fault looks at.
    payloads: HashMap<Flow, u32>,
    random: fastrand::Rng,
}

impl Faults {
    pub(super) fn new(faults: &[PortFault], seed: u64) -> Self {
        let by_port = faults.iter().map(|fault| (fault.port, fault.fault)).collect();
        Self {
            by_port,
            swallowed: HashMap::new(),
            payloads: HashMap::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    pub(super) fn fate(&mut self, segment: &Segment) -> Fate {
        let to_server = self
            .by_port
            .get(&segment.destination.port())
            .map(|&fault| (fault, true));
        let found = to_server.or_else(|| self.by_port.get(&segment.source.port()).map(|&fault| (fault, false)));
        let Some((fault, to_server)) = found else {
            return Fate::Forward;
        };
        let flow = if to_server {
            (segment.source, segment.destination)
        } else {
            (segment.destination, segment.source)
        };
        match fault {
            Fault::SwallowSyn { first } if to_server && segment.syn => self.swallow(flow, first),
            Fault::SwallowSynAck { first } if !to_server && segment.syn => self.swallow(flow, first),
            Fault::SwallowPayload { first } if to_server && segment.payload > 0 => self.swallow(flow, first),
            Fault::Unreachable if to_server && segment.syn => Fate::Unreachable,
            Fault::ResetHandshake if to_server && !segment.syn && !segment.rst => Fate::Reset,
            Fault::Lose { per_mille } if segment.payload > 0 && self.random.u32(0..1000) < per_mille => Fate::Drop,
            Fault::SwallowFinalAck if to_server && !segment.syn && segment.payload == 0 && !segment.fin => {
                self.swallow(flow, 1)
            }
            Fault::AtPayload {
                direction,
                number,
                event,
            } if segment.payload > 0 && to_server == (direction == Direction::ToServer) => {
                self.at_payload(flow, direction, number, event)
            }
            _ => Fate::Forward,
        }
    }

    fn at_payload(&mut self, flow: Flow, direction: Direction, number: u32, event: PayloadEvent) -> Fate {
        let passed = self.payloads.entry(flow).or_default();
        *passed += 1;
        match event {
            PayloadEvent::Swap if *passed == number + 1 => Fate::Release,
            _ if *passed != number => Fate::Forward,
            PayloadEvent::Drop => Fate::Drop,
            PayloadEvent::Swap => Fate::Hold,
            PayloadEvent::Duplicate => Fate::Duplicate,
            PayloadEvent::Delay { us } => Fate::Delay(us),
            PayloadEvent::Forge { offset } => Fate::Forge { offset, direction },
        }
    }

    fn swallow(&mut self, flow: Flow, first: u32) -> Fate {
        let swallowed = self.swallowed.entry(flow).or_default();
        if *swallowed >= first {
            return Fate::Forward;
        }
        *swallowed += 1;
        Fate::Drop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(from: &str, to: &str, syn: bool, ack: bool) -> Segment {
        let (source, destination) = (from.parse().expect("address"), to.parse().expect("address"));
        let (fin, rst) = (false, false);
        Segment {
            source,
            destination,
            sequence: 1,
            acknowledgment: 1,
            syn,
            ack,
            fin,
            rst,
            payload: 0,
        }
    }

    #[test]
    fn only_the_first_syn_of_each_connection_vanishes() {
        let mut faults = Faults::new(
            &[PortFault {
                port: 90,
                fault: Fault::SwallowSyn { first: 1 },
            }],
            1,
        );
        for client in ["10.0.0.1:1000", "10.0.0.1:1001"] {
            assert_eq!(faults.fate(&segment(client, "10.0.0.2:90", true, false)), Fate::Drop);
            assert_eq!(faults.fate(&segment(client, "10.0.0.2:90", true, false)), Fate::Forward);
            assert_eq!(faults.fate(&segment("10.0.0.2:90", client, true, true)), Fate::Forward);
        }
    }

    #[test]
    fn the_second_payload_of_each_connection_changes_places_with_the_third() {
        let fault = Fault::AtPayload {
            direction: Direction::ToServer,
            number: 2,
            event: PayloadEvent::Swap,
        };
        let mut faults = Faults::new(&[PortFault { port: 90, fault }], 1);
        let mut fate = |from, to, payload| {
            faults.fate(&Segment {
                payload,
                ..segment(from, to, false, true)
            })
        };
        let (client, server) = ("10.0.0.1:1000", "10.0.0.2:90");
        let fates = [1, 0, 1, 0, 1, 1].map(|payload| fate(client, server, payload));
        assert_eq!(fates[..3], [Fate::Forward, Fate::Forward, Fate::Hold]);
        assert_eq!(fates[3..], [Fate::Forward, Fate::Release, Fate::Forward]);
        assert_eq!(fate(server, client, 1), Fate::Forward);
        assert_eq!(fate("10.0.0.1:1001", server, 1), Fate::Forward);
    }

    #[test]
    fn a_reset_handshake_lets_syn_and_syn_ack_pass() {
        let mut faults = Faults::new(
            &[PortFault {
                port: 90,
                fault: Fault::ResetHandshake,
            }],
            1,
        );
        assert_eq!(
            faults.fate(&segment("10.0.0.1:1000", "10.0.0.2:90", true, false)),
            Fate::Forward
        );
        assert_eq!(
            faults.fate(&segment("10.0.0.2:90", "10.0.0.1:1000", true, true)),
            Fate::Forward
        );
        assert_eq!(
            faults.fate(&segment("10.0.0.1:1000", "10.0.0.2:90", false, true)),
            Fate::Reset
        );
    }
}
