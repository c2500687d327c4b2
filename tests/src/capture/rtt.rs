//! Round trips as they passed a device: from a segment to the acknowledgement that covers it, for each side that sends.
//! Pure.
//!
//! As RFC 6298 and Karn want it: nothing that was sent twice is measured, and one acknowledgement measures the oldest
//! segment that it is the first to cover.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use super::pcap;
use crate::packet::{self, Segment};

/// One measured segment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RoundTrip {
    /// When it passed, nanoseconds of the wall clock.
    pub(crate) sent_ns: u64,
    /// Until its acknowledgement did, microseconds.
    pub(crate) us: f64,
}

/// A segment under way.
#[derive(Debug)]
struct Sent {
    begin: u32,
    end: u32,
    time_ns: u64,
    again: bool,
}

/// What one side sent again, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SentAgain {
    /// With a SYN.
    pub(crate) handshake: u64,
    /// Others.
    pub(crate) segments: u64,
}

/// What one side of a connection sent.
#[derive(Debug, Default)]
struct Sender {
    under_way: VecDeque<Sent>,
    next: Option<u32>,
    measured: Vec<RoundTrip>,
    again: SentAgain,
}

/// All round trips of a capture, by who sent and who acknowledged.
#[derive(Debug, Default)]
pub(crate) struct RoundTrips {
    by_sender: HashMap<(SocketAddr, SocketAddr), Sender>,
}

impl RoundTrips {
    /// Reads the file of a finished capture.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let mut found = Self::default();
        for packet in pcap::read(file)? {
            if let Some(segment) = packet::tcp_segment(&packet.ip) {
                found.add(packet.time_ns, &segment);
            }
        }
        Ok(found)
    }

    fn add(&mut self, time_ns: u64, segment: &Segment) {
        let (from, to) = (segment.source, segment.destination);
        let length = segment.payload as u32 + u32::from(segment.syn) + u32::from(segment.fin);
        if length > 0 {
            let sender = self.by_sender.entry((from, to)).or_default();
            let again = sender.send(segment.sequence, segment.sequence.wrapping_add(length), time_ns);
            sender.again.handshake += u64::from(again && segment.syn);
            sender.again.segments += u64::from(again && !segment.syn);
        }
        if segment.ack
            && let Some(sender) = self.by_sender.get_mut(&(to, from))
        {
            sender.acknowledge(segment.acknowledgment, time_ns);
        }
    }

    /// What was measured of `sender`'s segments to `receiver`, in order.
    pub(crate) fn of(&self, sender: SocketAddr, receiver: SocketAddr) -> &[RoundTrip] {
        let found = self.by_sender.get(&(sender, receiver));
        found.map_or(&[], |sender| &sender.measured)
    }

    /// What `sender` sent again.
    pub(crate) fn sent_again(&self, sender: SocketAddr, receiver: SocketAddr) -> SentAgain {
        let found = self.by_sender.get(&(sender, receiver));
        found.map_or_else(SentAgain::default, |sender| sender.again)
    }
}

fn is_before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

impl Sender {
    /// Whether it begins before the end of what was sent already.
    fn send(&mut self, begin: u32, end: u32, sent_ns: u64) -> bool {
        if self.next.is_some_and(|next| is_before(begin, next)) {
            for sent in &mut self.under_way {
                sent.again |= is_before(begin, sent.end) && is_before(sent.begin, end);
            }
            return true;
        }
        self.next = Some(end);
        self.under_way.push_back(Sent {
            begin,
            end,
            time_ns: sent_ns,
            again: false,
        });
        false
    }

    fn acknowledge(&mut self, acknowledgment: u32, time_ns: u64) {
        let mut oldest: Option<Sent> = None;
        let mut again = false;
        while let Some(sent) = self.under_way.front()
            && !is_before(acknowledgment, sent.end)
        {
            again |= sent.again;
            let sent = self.under_way.pop_front();
            oldest = oldest.or(sent);
        }
        if let Some(sent) = oldest.filter(|_| !again) {
            self.measured.push(RoundTrip {
                sent_ns: sent.time_ns,
                us: time_ns.saturating_sub(sent.time_ns) as f64 / 1_000.0,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(steps: &[(u64, u32, u32, u32)], expected: &[f64], again: u64) {
        let (client, server) = (
            SocketAddr::from(([10, 0, 0, 1], 1)),
            SocketAddr::from(([10, 0, 0, 2], 2)),
        );
        let mut trips = RoundTrips::default();
        for (us, begin, payload, acknowledgment) in steps {
            let (source, destination) = if *payload > 0 {
                (client, server)
            } else {
                (server, client)
            };
            let segment = Segment {
                source,
                destination,
                sequence: *begin,
                acknowledgment: *acknowledgment,
                syn: false,
                ack: true,
                fin: false,
                rst: false,
                payload: *payload as usize,
            };
            trips.add(us * 1_000, &segment);
        }
        let measured: Vec<f64> = trips.of(client, server).iter().map(|trip| trip.us).collect();
        assert_eq!(
            (measured.as_slice(), trips.sent_again(client, server).segments),
            (expected, again)
        );
    }

    #[test]
    fn from_a_segment_to_its_acknowledgement() {
        check(
            &[(0, 10, 5, 0), (3, 0, 0, 15), (5, 15, 5, 0), (9, 0, 0, 20)],
            &[3.0, 4.0],
            0,
        );
        // Two at once: the oldest. The same acknowledgement again measures nothing.
        check(
            &[(0, 10, 5, 0), (1, 15, 5, 0), (9, 0, 0, 20), (10, 0, 0, 20)],
            &[9.0],
            0,
        );
        // In part, and beyond the end of the numbers.
        check(
            &[(0, u32::MAX, 5, 0), (1, 4, 5, 0), (7, 0, 0, 4), (9, 0, 0, 9)],
            &[7.0, 8.0],
            0,
        );
    }

    #[test]
    fn nothing_that_was_sent_twice() {
        check(
            &[
                (0, 10, 5, 0),
                (2, 10, 5, 0),
                (3, 0, 0, 15),
                (5, 15, 5, 0),
                (9, 0, 0, 20),
            ],
            &[4.0],
            1,
        );
        check(&[(0, 10, 5, 0), (1, 15, 5, 0), (2, 10, 5, 0), (9, 0, 0, 20)], &[], 1);
    }
}
