//! One direction of one stream: segments in order go to the readers, the others wait.

use agent_ebpf::hello::{HELLO_LIMIT, HTTP_LIMIT};

pub(super) use super::super::tls::reader::Direction;

use super::super::facts::Facts;
use super::super::http1::{self, HostClaim, Parsed};
use super::super::malformed::{Malformed, MalformedCounts};
use super::super::tls::reader::TlsReader;

/// Segments that wait at most: more are a hostile trickle, and lost chunks leave fewer holes than that.
const SEGMENTS: usize = 32;

/// What a segment's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Tls,
}

/// A segment behind a hole.
#[derive(Debug)]
struct Segment {
    offset: usize,
    protocol: Protocol,
    bytes: Vec<u8>,
}

/// State of a direction.
#[derive(Debug)]
pub(super) struct Lane {
    direction: Direction,
    /// Where the next byte belongs that is read.
    next: usize,
    /// By offset.
    waiting: Vec<Segment>,
    waiting_bytes: usize,
    http: HttpReader,
    tls: Option<TlsReader>,
}

#[derive(Debug, Default)]
struct HttpReader {
    bytes: Vec<u8>,
    is_done: bool,
}

impl Lane {
    pub(super) fn new(direction: Direction) -> Self {
        Self {
            direction,
            next: 0,
            waiting: Vec::new(),
            waiting_bytes: 0,
            http: HttpReader::default(),
            tls: None,
        }
    }

    /// Bytes that are kept.
    pub(super) fn buffered(&self) -> usize {
        self.waiting_bytes + self.http.bytes.len() + self.tls.as_ref().map_or(0, TlsReader::buffered)
    }

    /// Adds a segment; the caller has checked that it ends before [`HELLO_LIMIT`].
    pub(super) fn push(&mut self, protocol: Protocol, offset: usize, bytes: &[u8], facts: &mut Facts) {
        if offset > self.next {
            self.keep(protocol, offset, bytes, &mut facts.malformed);
            return;
        }
        self.read(protocol, offset, bytes, facts);
        while self.waiting.first().is_some_and(|segment| segment.offset <= self.next) {
            let segment = self.waiting.remove(0);
            self.waiting_bytes -= segment.bytes.len();
            self.read(segment.protocol, segment.offset, &segment.bytes, facts);
        }
    }

    /// Nothing more will come.
    pub(super) fn finish(&mut self, facts: &mut Facts) {
        self.http.finish(self.direction, facts);
        // TLS that begins behind a hole is read from where it begins: a wrong start shows at the first header.
        if self.tls.is_none()
            && let Some(at) = self
                .waiting
                .iter()
                .position(|segment| segment.protocol == Protocol::Tls)
        {
            self.waiting.drain(..at);
            self.next = self.waiting[0].offset;
            for segment in std::mem::take(&mut self.waiting) {
                if segment.offset <= self.next {
                    self.read(segment.protocol, segment.offset, &segment.bytes, facts);
                }
            }
        } else if !self.waiting.is_empty() && !self.is_done() {
            facts.malformed.count(Malformed::Incomplete);
        }
        self.waiting = Vec::new();
        self.waiting_bytes = 0;
        if let Some(tls) = &mut self.tls {
            tls.finish(facts.tls.get_or_insert_default(), &mut facts.malformed);
        }
    }

    fn is_done(&self) -> bool {
        self.tls.as_ref().is_some_and(TlsReader::is_done)
    }

    /// Keeps a segment behind a hole, without what is there already of the same bytes.
    fn keep(&mut self, protocol: Protocol, offset: usize, bytes: &[u8], malformed: &mut MalformedCounts) {
        let at = self.waiting.partition_point(|segment| segment.offset < offset);
        if self
            .waiting
            .get(at)
            .is_some_and(|segment| segment.offset == offset && segment.bytes.len() >= bytes.len())
        {
            return;
        }
        if self.is_done() || bytes.is_empty() {
            return;
        }
        if self.waiting.len() == SEGMENTS || self.waiting_bytes + bytes.len() > HELLO_LIMIT {
            malformed.count(Malformed::Chunk);
            return;
        }
        self.waiting_bytes += bytes.len();
        self.waiting.insert(
            at,
            Segment {
                offset,
                protocol,
                bytes: bytes.to_vec(),
            },
        );
    }

    /// Reads what is new of a segment that begins at or before the next byte.
    fn read(&mut self, protocol: Protocol, offset: usize, bytes: &[u8], facts: &mut Facts) {
        let Some(new) = bytes.get(self.next - offset..) else {
            return;
        };
        self.next += new.len();
        match protocol {
            Protocol::Http => self.http.feed(new, self.direction, facts),
            Protocol::Tls => {
                self.http.finish(self.direction, facts);
                let reader = self.tls.get_or_insert_with(|| TlsReader::new(self.direction));
                reader.feed(new, facts.tls.get_or_insert_default(), &mut facts.malformed);
            }
        }
        if self.is_done() {
            self.waiting = Vec::new();
            self.waiting_bytes = 0;
        }
    }
}

impl HttpReader {
    fn feed(&mut self, bytes: &[u8], direction: Direction, facts: &mut Facts) {
        if self.is_done {
            return;
        }
        let room = HTTP_LIMIT - self.bytes.len();
        let bytes = &bytes[..bytes.len().min(room)];
        self.bytes.extend_from_slice(bytes);
        facts.http.get_or_insert_default();
        let is_full = self.bytes.len() == HTTP_LIMIT;
        // Only the end of a line can tell something new, but for what is no HTTP from its first bytes.
        if is_full {
            self.finish(direction, facts);
        } else if bytes.contains(&b'\n') || self.bytes.len() <= 32 {
            self.parse(direction, false, facts);
        }
    }

    fn finish(&mut self, direction: Direction, facts: &mut Facts) {
        if !self.is_done && !self.bytes.is_empty() {
            self.parse(direction, true, facts);
        }
    }

    fn parse(&mut self, direction: Direction, is_last: bool, facts: &mut Facts) {
        let http = facts.http.get_or_insert_default();
        let is_done = match direction {
            Direction::Forward => match http1::request_head(&self.bytes) {
                Parsed::Malformed => {
                    facts.malformed.count(Malformed::Http);
                    true
                }
                Parsed::Head(head) if head.is_complete || is_last => {
                    if head.host == HostClaim::Invalid {
                        facts.malformed.count(Malformed::HttpHost);
                    }
                    http.request = head.line_hash();
                    http.method = Some(head.method);
                    http.host = head.host;
                    true
                }
                Parsed::Head(head) => {
                    // Already of use while the rest trickles in; a second Host may still make it invalid.
                    http.request = head.line_hash();
                    http.method = Some(head.method);
                    http.host = head.host;
                    false
                }
                Parsed::Incomplete => false,
            },
            Direction::Backward => match http1::status(&self.bytes) {
                Parsed::Malformed => {
                    facts.malformed.count(Malformed::Http);
                    true
                }
                Parsed::Head(status) => {
                    http.status = Some(status);
                    true
                }
                Parsed::Incomplete => false,
            },
        };
        if is_last && !is_done {
            facts.malformed.count(Malformed::Incomplete);
        }
        if is_done || is_last {
            *self = Self {
                bytes: Vec::new(),
                is_done: true,
            };
        }
    }
}
