//! Which time series one destination can have: each is admitted by the budget once, when it first has data.
use super::counters::{Ended, Retransmit};
use super::histogram::BOUNDS_NS;
use crate::connection::{ClosedBy, Outcome, TcpState};

/// A metric family with destination labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `hopline_tcp_handshake_duration_seconds`
    Handshake,
    /// `hopline_tcp_connections_total`
    Connections,
    /// `hopline_tcp_connections_active`
    Active,
    /// `hopline_connections_waiting`
    Waiting,
    /// `hopline_connections_ended_total`
    Ended,
    /// `hopline_tcp_rtt_seconds`
    Rtt,
    /// `hopline_tcp_rtt_min_seconds`
    RttMin,
    /// `hopline_tcp_retransmits_total`
    Retransmits,
    /// `hopline_tcp_bytes_total`
    Bytes,
    /// `hopline_tcp_segments_total`
    Segments,
}

impl Family {
    /// Every family, in the order of `self as usize`.
    pub const ALL: [Self; 10] = [
        Self::Handshake,
        Self::Connections,
        Self::Active,
        Self::Waiting,
        Self::Ended,
        Self::Rtt,
        Self::RttMin,
        Self::Retransmits,
        Self::Bytes,
        Self::Segments,
    ];

    /// The family's name as scraped.
    pub fn name(self) -> &'static str {
        match self {
            Self::Handshake => "hopline_tcp_handshake_duration_seconds",
            Self::Connections => "hopline_tcp_connections_total",
            Self::Active => "hopline_tcp_connections_active",
            Self::Waiting => "hopline_connections_waiting",
            Self::Ended => "hopline_connections_ended_total",
            Self::Rtt => "hopline_tcp_rtt_seconds",
            Self::RttMin => "hopline_tcp_rtt_min_seconds",
            Self::Retransmits => "hopline_tcp_retransmits_total",
            Self::Bytes => "hopline_tcp_bytes_total",
            Self::Segments => "hopline_tcp_segments_total",
        }
    }

    /// Time series of one child: a histogram has its buckets, `+Inf`, sum and count.
    pub const fn series(self) -> usize {
        match self {
            Self::Handshake | Self::Rtt => BOUNDS_NS.len() + 3,
            _ => 1,
        }
    }
}

/// One member of a family for one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Child {
    /// The handshake histogram.
    Handshake,
    /// Connects with this outcome.
    Connections(Outcome),
    /// Connections in this state.
    Active(TcpState),
    /// Connections waiting in the tcp phase.
    Waiting,
    /// Ended connections.
    Ended(Ended, Option<ClosedBy>),
    /// The RTT histogram.
    Rtt,
    /// The smallest RTT of the last window.
    RttMin,
    /// Segments sent again.
    Retransmits(Retransmit),
    /// Both directions of bytes.
    Bytes,
    /// Both directions of segments.
    Segments,
}

/// First bits of the kinds of child; single ones come first.
const CONNECTIONS: usize = 4;
const ACTIVE: usize = CONNECTIONS + Outcome::ALL.len();
const ENDED: usize = ACTIVE + TcpState::ALL.len();
const RETRANSMITS: usize = ENDED + Ended::ALL.len() * (ClosedBy::ALL.len() + 1);
const BYTES: usize = RETRANSMITS + Retransmit::ALL.len();
const SEGMENTS: usize = BYTES + 1;
const CHILDREN: usize = SEGMENTS + 1;

const _: () = assert!(CHILDREN <= u64::BITS as usize);

impl Child {
    /// Time series of a destination that has every child.
    pub const ALL_SERIES: usize = CHILDREN - 2 + 2 * Family::Rtt.series() + 2;

    /// A bit of its own.
    pub fn bit(self) -> u64 {
        1 << match self {
            Self::Handshake => 0,
            Self::Waiting => 1,
            Self::Rtt => 2,
            Self::RttMin => 3,
            Self::Connections(outcome) => CONNECTIONS + outcome as usize,
            Self::Active(state) => ACTIVE + state as usize,
            Self::Ended(ended, by) => ENDED + ended as usize * (ClosedBy::ALL.len() + 1) + closed_by_index(by),
            Self::Retransmits(kind) => RETRANSMITS + kind as usize,
            Self::Bytes => BYTES,
            Self::Segments => SEGMENTS,
        }
    }

    /// The family it belongs to.
    pub fn family(self) -> Family {
        match self {
            Self::Handshake => Family::Handshake,
            Self::Connections(_) => Family::Connections,
            Self::Active(_) => Family::Active,
            Self::Waiting => Family::Waiting,
            Self::Ended(..) => Family::Ended,
            Self::Rtt => Family::Rtt,
            Self::RttMin => Family::RttMin,
            Self::Retransmits(_) => Family::Retransmits,
            Self::Bytes => Family::Bytes,
            Self::Segments => Family::Segments,
        }
    }

    /// Time series that it adds: both directions are one child.
    pub fn series(self) -> usize {
        match self {
            Self::Bytes | Self::Segments => 2,
            _ => self.family().series(),
        }
    }

    /// Every child.
    pub fn all() -> impl Iterator<Item = Self> {
        let by_phase = |ended| ClosedBy::or_nobody().map(move |by| Self::Ended(ended, by));
        let ended = Ended::ALL.into_iter().flat_map(by_phase);
        [
            Self::Handshake,
            Self::Waiting,
            Self::Rtt,
            Self::RttMin,
            Self::Bytes,
            Self::Segments,
        ]
        .into_iter()
        .chain(Outcome::ALL.map(Self::Connections))
        .chain(TcpState::ALL.map(Self::Active))
        .chain(ended)
        .chain(Retransmit::ALL.map(Self::Retransmits))
    }
}

/// The column of [`super::Counters::ended`].
pub(super) fn closed_by_index(by: Option<ClosedBy>) -> usize {
    by.map_or(ClosedBy::ALL.len(), |by| by as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_child_has_its_own_bit() {
        let bits = Child::all().fold(0_u64, |bits, child| {
            assert_eq!(bits & child.bit(), 0, "{child:?}");
            bits | child.bit()
        });
        assert_eq!(bits.count_ones() as usize, CHILDREN);
        assert_eq!(Child::all().map(Child::series).sum::<usize>(), Child::ALL_SERIES);
    }
}
