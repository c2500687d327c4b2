//! Puts the chunks of hello bytes together, per stream and direction, and turns them into facts as soon as it can.
//!
//! Chunks may come twice, overlap, be missing or come in any order. What is in order is read at once and forgotten;
//! only what waits for a hole to close is kept. The number of streams and the sum of kept bytes are bounded: the
//! stream that was touched longest ago leaves first, and is counted. Time is that of the events.

use std::collections::{BTreeMap, HashMap};

use agent_ebpf::hello::{BACKWARD, FORWARD, HELLO_LIMIT, HelloHeader};
use agent_ebpf::timeline::{PROTOCOL_HTTP1, PROTOCOL_TLS};

use super::certificate::Chain;
use super::facts::Facts;
use super::malformed::{Malformed, MalformedCounts};
use crate::capacity::{Share, TableUse};
use lane::{Lane, Protocol};

mod lane;
#[cfg(test)]
mod tests;

/// Bounds of an [`Assembler`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssemblerLimits {
    /// Streams at most.
    pub streams: usize,
    /// Bytes that wait and names out of certificates, of all streams together, at most.
    pub bytes: usize,
    /// A stream that nothing came for in this time leaves.
    pub idle_ns: u64,
}

impl Default for AssemblerLimits {
    fn default() -> Self {
        Self::new(Share::WHOLE)
    }
}

impl AssemblerLimits {
    /// This share of the usual numbers.
    pub fn new(share: Share) -> Self {
        Self {
            streams: share.of(65_536),
            bytes: share.of(8 << 20),
            idle_ns: 120_000_000_000,
        }
    }
}

/// What was done so far; all counts grow only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AssemblerCounts {
    /// Streams that left to make room, their facts unread.
    pub evicted: u64,
    /// Streams that left because nothing came for them any more, their facts unread.
    pub expired: u64,
    /// What could not be read, of all streams, those that left included.
    pub malformed: MalformedCounts,
}

/// Chunks in, facts out.
#[derive(Debug)]
pub struct Assembler {
    limits: AssemblerLimits,
    streams: HashMap<u64, Stream>,
    /// Streams by last touch.
    by_touch: BTreeMap<u64, u64>,
    touches: u64,
    bytes: usize,
    newest_ns: u64,
    counts: AssemblerCounts,
}

#[derive(Debug)]
struct Stream {
    touch: u64,
    time_ns: u64,
    forward: Lane,
    backward: Lane,
    facts: Facts,
}

impl Stream {
    fn buffered(&self) -> usize {
        // All other facts are small; a certificate's names are as many as its server likes.
        let chain = self.facts.tls.as_ref().and_then(|tls| tls.chain.as_ref());
        self.forward.buffered() + self.backward.buffered() + chain.map_or(0, Chain::kept_bytes)
    }
}

impl Assembler {
    /// An empty one.
    pub fn new(limits: AssemblerLimits) -> Self {
        Self {
            limits,
            streams: HashMap::new(),
            by_touch: BTreeMap::new(),
            touches: 0,
            bytes: 0,
            newest_ns: 0,
            counts: AssemblerCounts::default(),
        }
    }

    /// Adds a chunk: `bytes` are what follows the header; only the first `header.length` of them count.
    pub fn push(&mut self, header: &HelloHeader, bytes: &[u8]) {
        self.newest_ns = self.newest_ns.max(header.header.time_ns);
        let Some((protocol, offset, bytes)) = chunk(header, bytes) else {
            self.counts.malformed.count(Malformed::Chunk);
            return;
        };
        self.touches += 1;
        let touch = self.touches;
        let stream = self.streams.entry(header.stream).or_insert_with(|| Stream {
            touch,
            time_ns: 0,
            forward: Lane::new(lane::Direction::Forward),
            backward: Lane::new(lane::Direction::Backward),
            facts: Facts::default(),
        });
        self.by_touch.remove(&stream.touch);
        self.by_touch.insert(touch, header.stream);
        stream.touch = touch;
        stream.time_ns = stream.time_ns.max(header.header.time_ns);
        let buffered = stream.buffered();
        let malformed = stream.facts.malformed;
        let lane = if header.direction == FORWARD {
            &mut stream.forward
        } else {
            &mut stream.backward
        };
        lane.push(protocol, offset, bytes, &mut stream.facts);
        self.counts.malformed.add(&stream.facts.malformed.since(&malformed));
        self.bytes = self.bytes - buffered + stream.buffered();
        self.make_room();
        self.expire(self.newest_ns);
    }

    /// How full it is.
    pub fn uses(&self) -> [TableUse; 2] {
        [
            TableUse::new("hello_streams", self.streams.len(), self.limits.streams),
            TableUse::new("hello_bytes", self.bytes, self.limits.bytes),
        ]
    }

    /// What is known of a stream by now.
    pub fn facts(&self, stream: u64) -> Option<&Facts> {
        self.streams.get(&stream).map(|stream| &stream.facts)
    }

    /// Takes a stream out: what is incomplete is read as far as it goes.
    pub fn take(&mut self, stream: u64) -> Option<Facts> {
        let mut stream = self.remove(stream)?;
        let malformed = stream.facts.malformed;
        stream.forward.finish(&mut stream.facts);
        stream.backward.finish(&mut stream.facts);
        self.counts.malformed.add(&stream.facts.malformed.since(&malformed));
        Some(stream.facts)
    }

    /// Lets streams go that nothing came for since `idle_ns` before `now_ns`.
    pub fn expire(&mut self, now_ns: u64) {
        while let Some((_, oldest)) = self.by_touch.first_key_value()
            && let oldest = *oldest
            && self
                .streams
                .get(&oldest)
                .is_none_or(|stream| now_ns.saturating_sub(stream.time_ns) > self.limits.idle_ns)
        {
            self.remove(oldest);
            self.counts.expired += 1;
        }
    }

    /// Counts so far.
    pub fn counts(&self) -> AssemblerCounts {
        self.counts
    }

    /// Streams now.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// True without any stream.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Bytes that wait and names out of certificates, now.
    pub fn buffered_bytes(&self) -> usize {
        self.bytes
    }

    fn make_room(&mut self) {
        while self.streams.len() > self.limits.streams || self.bytes > self.limits.bytes {
            let Some((_, oldest)) = self.by_touch.first_key_value() else {
                return;
            };
            self.remove(*oldest);
            self.counts.evicted += 1;
        }
    }

    fn remove(&mut self, stream: u64) -> Option<Stream> {
        let stream = self.streams.remove(&stream)?;
        self.by_touch.remove(&stream.touch);
        self.bytes -= stream.buffered();
        Some(stream)
    }
}

/// What a chunk holds; `None` when it cannot be one of the kernel's.
fn chunk<'a>(header: &HelloHeader, bytes: &'a [u8]) -> Option<(Protocol, usize, &'a [u8])> {
    let protocol = match header.protocol {
        PROTOCOL_TLS => Protocol::Tls,
        PROTOCOL_HTTP1 => Protocol::Http,
        _ => return None,
    };
    let bytes = bytes.get(..usize::from(header.length))?;
    let offset = usize::try_from(header.offset).ok()?;
    let is_inside = offset.checked_add(bytes.len()).is_some_and(|end| end <= HELLO_LIMIT);
    (is_inside && matches!(header.direction, FORWARD | BACKWARD)).then_some((protocol, offset, bytes))
}
