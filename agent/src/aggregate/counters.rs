//! Everything that only grows and can be added up: kept per destination, for what left, and for the truth over all.
use super::{child::closed_by_index, histogram::Histogram};
use crate::connection::{ClosedBy, Outcome};

/// How far a connection had come when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Waiting for an answer to its SYN, or before that.
    Tcp,
    /// It was open.
    Established,
}

impl Ended {
    /// Every value, in the order of `self as usize`.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Established];

    /// The value of the label `phase`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Established => "established",
        }
    }
}

/// Why a segment was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retransmit {
    /// A client's SYN.
    Syn,
    /// A server's SYN-ACK.
    Synack,
    /// A retransmission time-out.
    Rto,
    /// Fast recovery.
    Fast,
    /// A tail loss probe.
    Tlp,
    /// Any other.
    Other,
}

impl Retransmit {
    /// Every value, in the order of `self as usize`.
    pub const ALL: [Self; 6] = [Self::Syn, Self::Synack, Self::Rto, Self::Fast, Self::Tlp, Self::Other];

    /// The value of the label `type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::Synack => "synack",
            Self::Rto => "rto",
            Self::Fast => "fast",
            Self::Tlp => "tlp",
            Self::Other => "other",
        }
    }
}

/// Sums since the start. Every array is indexed by the closed set it names, `as usize`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connects by [`Outcome`], counted when established or failed; late connections are not among them.
    pub connections: [u64; Outcome::ALL.len()],
    /// Ended connections by [`Ended`] and by [`ClosedBy`]; the last column is nobody.
    pub ended: [[u64; ClosedBy::ALL.len() + 1]; Ended::ALL.len()],
    /// SYN to ESTABLISHED.
    pub handshake: Histogram,
    /// One observation per connection and report: the mean of the samples since its last report.
    pub rtt: Histogram,
    /// Segments sent again by [`Retransmit`].
    pub retransmits: [u64; Retransmit::ALL.len()],
    /// Payload bytes that left, each counted once.
    pub bytes_sent: u64,
    /// Payload bytes that arrived.
    pub bytes_received: u64,
    /// Segments that left, retransmitted and pure ACKs included.
    pub segments_sent: u64,
    /// Segments that arrived.
    pub segments_received: u64,
}

impl Counters {
    /// All connects.
    pub fn connects(&self) -> u64 {
        self.connections.iter().sum()
    }

    /// Connects that did not succeed.
    pub fn failed(&self) -> u64 {
        self.connects() - self.connections[Outcome::Ok as usize]
    }

    /// Ended connections by how far they had come and who closed.
    pub fn ended_by(&self, ended: Ended, by: Option<ClosedBy>) -> u64 {
        self.ended[ended as usize][closed_by_index(by)]
    }

    /// All ended connections.
    pub fn ended(&self) -> u64 {
        self.ended.iter().flatten().sum()
    }

    /// Adds another's sums.
    pub fn add(&mut self, other: &Self) {
        fn add_all(to: &mut [u64], from: &[u64]) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
        add_all(&mut self.connections, &other.connections);
        add_all(self.ended.as_flattened_mut(), other.ended.as_flattened());
        self.handshake.add(&other.handshake);
        self.rtt.add(&other.rtt);
        add_all(&mut self.retransmits, &other.retransmits);
        self.bytes_sent = self.bytes_sent.saturating_add(other.bytes_sent);
        self.bytes_received = self.bytes_received.saturating_add(other.bytes_received);
        self.segments_sent += other.segments_sent;
        self.segments_received += other.segments_received;
    }
}
