//! Everything that only grows and can be added up: kept per destination, for what left, and for the truth over all.
use super::{
    child::{Family, closed_by_index},
    histogram::Histogram,
    tls::{TlsFailure, TlsVersion},
};
use crate::connection::{ClosedBy, ConnectError, Outcome};

/// How far a connection had come when it ended: the phase in which it waited, if it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Waiting for an answer to its SYN, or before that.
    Tcp,
    /// In its TLS handshake.
    Tls,
    /// Waiting for the first answer.
    Ttfb,
    /// Waiting for a later answer.
    Turn,
    /// It was open, and waited for nothing.
    Established,
}

impl Ended {
    /// Every value, in the order of `self as usize`.
    pub const ALL: [Self; 5] = [Self::Tcp, Self::Tls, Self::Ttfb, Self::Turn, Self::Established];

    /// The value of the label `phase`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ttfb => "ttfb",
            Self::Turn => "turn",
            Self::Established => "established",
        }
    }
}

/// Status of an HTTP response as a label value: ten codes that need different answers, all others by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HttpStatus(u8);

impl HttpStatus {
    const NAMES: [&str; 15] = [
        "1xx", "2xx", "3xx", "4xx", "5xx", "401", "403", "404", "407", "408", "429", "500", "502", "503", "504",
    ];
    const CODES: [u16; 10] = [401, 403, 404, 407, 408, 429, 500, 502, 503, 504];
    const CLASSES: u8 = 5;

    /// Every value, in the order of [`Self::index`].
    pub const ALL: [Self; Self::NAMES.len()] = {
        let mut all = [Self(0); Self::NAMES.len()];
        let mut index = 0;
        while index < all.len() {
            all[index] = Self(index as u8);
            index += 1;
        }
        all
    };

    /// That of a code; `None` for what RFC 9110 section 15 calls invalid.
    pub fn of(code: u16) -> Option<Self> {
        if let Some(index) = Self::CODES.iter().position(|named| *named == code) {
            return Some(Self(Self::CLASSES + u8::try_from(index).ok()?));
        }
        let class = u8::try_from(code / 100).ok()?.checked_sub(1)?;
        (class < Self::CLASSES).then_some(Self(class))
    }

    /// A number of its own, below the length of [`Self::ALL`].
    pub fn index(self) -> usize {
        self.0.into()
    }

    /// The value of the label `status`.
    pub fn name(self) -> &'static str {
        Self::NAMES[self.index()]
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

/// Who gave up while a request had no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaveUp {
    /// This side closed.
    Local,
    /// The peer closed.
    Remote,
}

impl GaveUp {
    /// Every value, in the order of `self as usize`.
    pub const ALL: [Self; 2] = [Self::Local, Self::Remote];

    /// Whose end it was.
    pub fn of(closed_by: Option<ClosedBy>) -> Self {
        match closed_by {
            Some(ClosedBy::Remote | ClosedBy::ResetRemote) => Self::Remote,
            _ => Self::Local,
        }
    }

    /// The value of the label `closed_by`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }
}

/// Sums since the start. Every array is indexed by the closed set it names, `as usize`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connects by [`ConnectError::index`], counted when established or failed; late connections are not among them.
    pub connections: [u64; 1 + ConnectError::ALL.len()],
    /// Connections that have ended by [`Outcome`]: each once.
    pub outcomes: [u64; Outcome::ALL.len()],
    /// How long who gave up had waited for an answer, by [`GaveUp`].
    pub unanswered: [Option<Box<Histogram>>; GaveUp::ALL.len()],
    /// Ended connections by [`Ended`] and by [`ClosedBy`]; the last column is nobody.
    pub ended: [[u64; ClosedBy::ALL.len() + 1]; Ended::ALL.len()],
    /// SYN to ESTABLISHED.
    pub handshake: Histogram,
    /// One observation per connection and report: the mean of the samples since its last report.
    pub rtt: Histogram,
    /// Acknowledgements that the peer held back: no round trips.
    pub delayed_acks: u64,
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
    /// `ClientHello` to both Finished; nothing without TLS.
    pub tls: Option<Box<Histogram>>,
    /// Complete TLS handshakes by [`TlsVersion`], full ones first, then resumed.
    pub tls_handshakes: Option<Box<[[u64; 2]; TlsVersion::ALL.len()]>>,
    /// Failed TLS handshakes by [`TlsFailure::index`].
    pub tls_failures: Option<Box<[u64; TlsFailure::COUNT]>>,
    /// Request to the first byte of its answer.
    pub ttfb: Option<Box<Histogram>>,
    /// First exchanges whose answer could not be told from what is none.
    pub ttfb_ambiguous: u64,
    /// Later exchanges.
    pub turn: Option<Box<Histogram>>,
    /// Later exchanges that overlapped.
    pub turns_overlapping: u64,
    /// Final responses of cleartext HTTP/1 by [`HttpStatus`].
    pub http_responses: [u64; HttpStatus::ALL.len()],
}

impl Counters {
    /// All connects.
    pub fn connects(&self) -> u64 {
        self.connections.iter().sum()
    }

    /// Connections that ended with this outcome.
    pub fn ended_with(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// Connections that ended and did not serve their purpose, by what was wrong: each once. Of TLS handshakes that which they
    /// say themselves.
    pub fn failures(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let outcomes = Outcome::ALL.into_iter();
        let outcomes = outcomes.filter(|outcome| !matches!(outcome, Outcome::Ok | Outcome::Tls));
        let outcomes = outcomes.map(|outcome| (outcome.name().to_owned(), self.ended_with(outcome)));
        let tls = TlsFailure::all().map(|failure| (format!("tls {}", failure.name()), self.tls_failed(failure)));
        outcomes.chain(tls).filter(|(_, count)| *count > 0)
    }

    /// TLS handshakes that failed for this reason.
    pub fn tls_failed(&self, failure: TlsFailure) -> u64 {
        self.tls_failures
            .as_ref()
            .map_or(0, |failures| failures[failure.index()])
    }

    /// Ended connections by how far they had come and who closed.
    pub fn ended_by(&self, ended: Ended, by: Option<ClosedBy>) -> u64 {
        self.ended[ended as usize][closed_by_index(by)]
    }

    /// All ended connections.
    pub fn ended(&self) -> u64 {
        self.ended.iter().flatten().sum()
    }

    /// Everything counted in one family, of a histogram its observations; `None` for a gauge.
    pub fn count(&self, family: Family) -> Option<u64> {
        let observations =
            |histogram: &Option<Box<Histogram>>| histogram.as_ref().map_or(0, |histogram| histogram.count);
        Some(match family {
            Family::Handshake => self.handshake.count,
            Family::Connections => self.connects(),
            Family::Ended => self.ended(),
            Family::Unanswered => self.unanswered.iter().map(observations).sum(),
            Family::Rtt => self.rtt.count,
            Family::Retransmits => self.retransmits.iter().sum(),
            Family::Bytes => self.bytes_sent.saturating_add(self.bytes_received),
            Family::Segments => self.segments_sent + self.segments_received,
            Family::Tls => observations(&self.tls),
            Family::TlsHandshakes => self.tls_handshakes.iter().flat_map(|all| all.as_flattened()).sum(),
            Family::TlsFailures => self.tls_failures.iter().flat_map(|all| all.iter()).sum(),
            Family::Ttfb => observations(&self.ttfb),
            Family::TtfbAmbiguous => self.ttfb_ambiguous,
            Family::Turn => observations(&self.turn),
            Family::TurnsOverlapping => self.turns_overlapping,
            Family::HttpResponses => self.http_responses.iter().sum(),
            Family::Active | Family::Waiting | Family::RttMin | Family::RttJitter => return None,
        })
    }

    /// Adds another's sums.
    pub fn add(&mut self, other: &Self) {
        fn add_all(to: &mut [u64], from: &[u64]) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
        fn add_histogram(to: &mut Option<Box<Histogram>>, from: Option<&Histogram>) {
            if let Some(from) = from {
                to.get_or_insert_default().add(from);
            }
        }
        add_all(&mut self.connections, &other.connections);
        add_all(&mut self.outcomes, &other.outcomes);
        for (to, from) in self.unanswered.iter_mut().zip(&other.unanswered) {
            add_histogram(to, from.as_deref());
        }
        add_all(self.ended.as_flattened_mut(), other.ended.as_flattened());
        self.handshake.add(&other.handshake);
        self.rtt.add(&other.rtt);
        self.delayed_acks += other.delayed_acks;
        add_all(&mut self.retransmits, &other.retransmits);
        self.bytes_sent = self.bytes_sent.saturating_add(other.bytes_sent);
        self.bytes_received = self.bytes_received.saturating_add(other.bytes_received);
        self.segments_sent += other.segments_sent;
        self.segments_received += other.segments_received;
        add_histogram(&mut self.tls, other.tls.as_deref());
        if let Some(from) = &other.tls_handshakes {
            let to = self.tls_handshakes.get_or_insert_default();
            add_all(to.as_flattened_mut(), from.as_flattened());
        }
        if let Some(from) = &other.tls_failures {
            add_all(self.failures_mut(), from.as_slice());
        }
        add_histogram(&mut self.ttfb, other.ttfb.as_deref());
        self.ttfb_ambiguous += other.ttfb_ambiguous;
        add_histogram(&mut self.turn, other.turn.as_deref());
        self.turns_overlapping += other.turns_overlapping;
        add_all(&mut self.http_responses, &other.http_responses);
    }

    /// Failed TLS handshakes, made when there is the first.
    pub(super) fn failures_mut(&mut self) -> &mut [u64; TlsFailure::COUNT] {
        self.tls_failures
            .get_or_insert_with(|| Box::new([0; TlsFailure::COUNT]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_status() {
        for (status, class) in [
            (99, None),
            (100, Some("1xx")),
            (204, Some("2xx")),
            (400, Some("4xx")),
            (404, Some("404")),
            (500, Some("500")),
            (504, Some("504")),
            (599, Some("5xx")),
            (600, None),
            (0, None),
        ] {
            assert_eq!(HttpStatus::of(status).map(HttpStatus::name), class, "{status}");
        }
        for (index, status) in HttpStatus::ALL.into_iter().enumerate() {
            assert_eq!(status.index(), index);
        }
    }
}
