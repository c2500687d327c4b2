//! Which time series one destination can have: each is admitted by the budget once, when it first has data.
use super::{
    counters::{Ended, GaveUp, HttpStatus, Retransmit},
    histogram::BOUNDS_NS,
    tls::{TlsFailure, TlsVersion},
};
use crate::connection::{ClosedBy, ConnectError, Phase, TcpState};

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
    /// `hopline_unanswered_wait_seconds`
    Unanswered,
    /// `hopline_tcp_rtt_seconds`
    Rtt,
    /// `hopline_tcp_rtt_min_seconds`
    RttMin,
    /// `hopline_tcp_rtt_jitter_seconds`
    RttJitter,
    /// `hopline_tcp_retransmits_total`
    Retransmits,
    /// `hopline_tcp_bytes_total`
    Bytes,
    /// `hopline_tcp_segments_total`
    Segments,
    /// `hopline_tls_handshake_duration_seconds`
    Tls,
    /// `hopline_tls_handshakes_total`
    TlsHandshakes,
    /// `hopline_tls_handshake_failures_total`
    TlsFailures,
    /// `hopline_ttfb_duration_seconds`
    Ttfb,
    /// `hopline_ttfb_ambiguous_total`
    TtfbAmbiguous,
    /// `hopline_turn_duration_seconds`
    Turn,
    /// `hopline_turns_overlapping_total`
    TurnsOverlapping,
    /// `hopline_http_responses_total`
    HttpResponses,
}

impl Family {
    /// Every family, in the order of `self as usize`.
    pub const ALL: [Self; 20] = [
        Self::Handshake,
        Self::Connections,
        Self::Active,
        Self::Waiting,
        Self::Ended,
        Self::Unanswered,
        Self::Rtt,
        Self::RttMin,
        Self::RttJitter,
        Self::Retransmits,
        Self::Bytes,
        Self::Segments,
        Self::Tls,
        Self::TlsHandshakes,
        Self::TlsFailures,
        Self::Ttfb,
        Self::TtfbAmbiguous,
        Self::Turn,
        Self::TurnsOverlapping,
        Self::HttpResponses,
    ];

    /// The family's name as scraped.
    pub fn name(self) -> &'static str {
        match self {
            Self::Handshake => "hopline_tcp_handshake_duration_seconds",
            Self::Connections => "hopline_tcp_connections_total",
            Self::Active => "hopline_tcp_connections_active",
            Self::Waiting => "hopline_connections_waiting",
            Self::Ended => "hopline_connections_ended_total",
            Self::Unanswered => "hopline_unanswered_wait_seconds",
            Self::Rtt => "hopline_tcp_rtt_seconds",
            Self::RttMin => "hopline_tcp_rtt_min_seconds",
            Self::RttJitter => "hopline_tcp_rtt_jitter_seconds",
            Self::Retransmits => "hopline_tcp_retransmits_total",
            Self::Bytes => "hopline_tcp_bytes_total",
            Self::Segments => "hopline_tcp_segments_total",
            Self::Tls => "hopline_tls_handshake_duration_seconds",
            Self::TlsHandshakes => "hopline_tls_handshakes_total",
            Self::TlsFailures => "hopline_tls_handshake_failures_total",
            Self::Ttfb => "hopline_ttfb_duration_seconds",
            Self::TtfbAmbiguous => "hopline_ttfb_ambiguous_total",
            Self::Turn => "hopline_turn_duration_seconds",
            Self::TurnsOverlapping => "hopline_turns_overlapping_total",
            Self::HttpResponses => "hopline_http_responses_total",
        }
    }

    /// Time series of one child: a histogram has its buckets, `+Inf`, sum and count.
    pub const fn series(self) -> usize {
        match self {
            Self::Handshake | Self::Unanswered | Self::Rtt | Self::Tls | Self::Ttfb | Self::Turn => BOUNDS_NS.len() + 3,
            _ => 1,
        }
    }

    /// Whether its series tell the role.
    pub const fn has_role(self) -> bool {
        !matches!(self, Self::Waiting | Self::Unanswered | Self::HttpResponses)
    }
}

/// One member of a family for one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Child {
    /// The handshake histogram.
    Handshake,
    /// The RTT histogram.
    Rtt,
    /// The smallest RTT of the last window.
    RttMin,
    /// How much RTTs differ in the last window.
    RttJitter,
    /// Both directions of bytes.
    Bytes,
    /// Both directions of segments.
    Segments,
    /// The histogram of TLS handshakes.
    Tls,
    /// The histogram of first answers.
    Ttfb,
    /// First answers that could not be told.
    TtfbAmbiguous,
    /// The histogram of later answers.
    Turn,
    /// Exchanges that overlapped.
    TurnsOverlapping,
    /// Connects that succeeded, or failed with this error.
    Connections(Option<ConnectError>),
    /// Connections in this state.
    Active(TcpState),
    /// Connections waiting in this phase.
    Waiting(Phase),
    /// Ended connections.
    Ended(Ended, Option<ClosedBy>),
    /// How long who gave up had waited for an answer.
    Unanswered(GaveUp),
    /// Segments sent again.
    Retransmits(Retransmit),
    /// TLS handshakes of this version, resumed or not.
    TlsHandshakes(TlsVersion, bool),
    /// Failed TLS handshakes.
    TlsFailures(TlsFailure),
    /// Final responses in cleartext HTTP/1.
    HttpResponses(HttpStatus),
}

/// Members that are alone in their family, in the order of their indices.
const SINGLES: [Child; 11] = [
    Child::Handshake,
    Child::Rtt,
    Child::RttMin,
    Child::Bytes,
    Child::Segments,
    Child::Tls,
    Child::Ttfb,
    Child::TtfbAmbiguous,
    Child::Turn,
    Child::TurnsOverlapping,
    Child::RttJitter,
];
/// First indices of the other kinds of child.
const CONNECTIONS: usize = SINGLES.len();
const ACTIVE: usize = CONNECTIONS + 1 + ConnectError::ALL.len();
const WAITING: usize = ACTIVE + TcpState::ALL.len();
const ENDED: usize = WAITING + Phase::ALL.len();
const UNANSWERED: usize = ENDED + Ended::ALL.len() * (ClosedBy::ALL.len() + 1);
const RETRANSMITS: usize = UNANSWERED + GaveUp::ALL.len();
const TLS_HANDSHAKES: usize = RETRANSMITS + Retransmit::ALL.len();
const TLS_FAILURES: usize = TLS_HANDSHAKES + 2 * TlsVersion::ALL.len();
const HTTP_RESPONSES: usize = TLS_FAILURES + TlsFailure::COUNT;
/// How many there are.
pub(super) const CHILDREN: usize = HTTP_RESPONSES + HttpStatus::ALL.len();

impl Child {
    /// Time series of a destination that has every child: seven are histograms, two have both directions.
    pub const ALL_SERIES: usize = CHILDREN - 9 + 7 * Family::Rtt.series() + 2 * 2;

    /// A number of its own, below [`CHILDREN`].
    pub(super) fn index(self) -> usize {
        match self {
            Self::Handshake => 0,
            Self::Rtt => 1,
            Self::RttMin => 2,
            Self::Bytes => 3,
            Self::Segments => 4,
            Self::Tls => 5,
            Self::Ttfb => 6,
            Self::TtfbAmbiguous => 7,
            Self::Turn => 8,
            Self::TurnsOverlapping => 9,
            Self::RttJitter => 10,
            Self::Connections(error) => CONNECTIONS + ConnectError::index(error),
            Self::Active(state) => ACTIVE + state as usize,
            Self::Waiting(phase) => WAITING + phase as usize,
            Self::Ended(ended, by) => ENDED + ended as usize * (ClosedBy::ALL.len() + 1) + closed_by_index(by),
            Self::Unanswered(by) => UNANSWERED + by as usize,
            Self::Retransmits(kind) => RETRANSMITS + kind as usize,
            Self::TlsHandshakes(version, resumed) => TLS_HANDSHAKES + 2 * version as usize + usize::from(resumed),
            Self::TlsFailures(failure) => TLS_FAILURES + failure.index(),
            Self::HttpResponses(status) => HTTP_RESPONSES + status.index(),
        }
    }

    /// The family it belongs to.
    pub fn family(self) -> Family {
        match self {
            Self::Handshake => Family::Handshake,
            Self::Rtt => Family::Rtt,
            Self::RttMin => Family::RttMin,
            Self::RttJitter => Family::RttJitter,
            Self::Bytes => Family::Bytes,
            Self::Segments => Family::Segments,
            Self::Tls => Family::Tls,
            Self::Ttfb => Family::Ttfb,
            Self::TtfbAmbiguous => Family::TtfbAmbiguous,
            Self::Turn => Family::Turn,
            Self::TurnsOverlapping => Family::TurnsOverlapping,
            Self::Connections(_) => Family::Connections,
            Self::Active(_) => Family::Active,
            Self::Waiting(_) => Family::Waiting,
            Self::Ended(..) => Family::Ended,
            Self::Unanswered(_) => Family::Unanswered,
            Self::Retransmits(_) => Family::Retransmits,
            Self::TlsHandshakes(..) => Family::TlsHandshakes,
            Self::TlsFailures(_) => Family::TlsFailures,
            Self::HttpResponses(_) => Family::HttpResponses,
        }
    }

    /// Time series that it adds: both directions are one child.
    pub fn series(self) -> usize {
        if self.has_directions() {
            2
        } else {
            self.family().series()
        }
    }

    /// Whether it has a time series for each direction.
    pub(super) fn has_directions(self) -> bool {
        matches!(self, Self::Bytes | Self::Segments)
    }

    /// Whether it has buckets, a sum and a count.
    pub(super) fn is_histogram(self) -> bool {
        self.family().series() > 1
    }

    /// Every child.
    pub fn all() -> impl Iterator<Item = Self> {
        let by_phase = |ended| ClosedBy::or_nobody().map(move |by| Self::Ended(ended, by));
        let by_version = |version| [false, true].map(|resumed| Self::TlsHandshakes(version, resumed));
        SINGLES
            .into_iter()
            .chain(ConnectError::or_success().map(Self::Connections))
            .chain(TcpState::ALL.map(Self::Active))
            .chain(Phase::ALL.map(Self::Waiting))
            .chain(Ended::ALL.into_iter().flat_map(by_phase))
            .chain(GaveUp::ALL.map(Self::Unanswered))
            .chain(Retransmit::ALL.map(Self::Retransmits))
            .chain(TlsVersion::ALL.into_iter().flat_map(by_version))
            .chain(TlsFailure::all().map(Self::TlsFailures))
            .chain(HttpStatus::ALL.map(Self::HttpResponses))
    }
}

/// The column of [`super::Counters::ended`].
pub(super) fn closed_by_index(by: Option<ClosedBy>) -> usize {
    by.map_or(ClosedBy::ALL.len(), |by| by as usize)
}
