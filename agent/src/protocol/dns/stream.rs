//! DNS over TCP (RFC 7766): messages in sequence in one direction, each behind its length of two bytes.
//!
//! Keeps at most one message. A byte that is missing ends the stream for good: where the next message begins is not known.

use super::super::malformed::{Malformed, MalformedCounts};
use super::message::{HEADER_BYTES, MESSAGE_LIMIT, Message};

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct StreamReader {
    /// Offset of the next byte in the stream.
    next: u64,
    /// Length and message, as far as they are there. Empty while a long message is stepped over.
    kept: Vec<u8>,
    /// Bytes of a message to step over.
    skip: usize,
    is_lost: bool,
}

impl StreamReader {
    /// A reader at the first byte of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// True when nothing more can be read.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Bytes that are kept until more come.
    pub fn buffered(&self) -> usize {
        self.kept.len()
    }

    /// Reads the bytes at an offset and hands each message on that they complete. Bytes that were there already are
    /// skipped; a hole before them ends the stream.
    pub fn feed(&mut self, offset: u64, bytes: &[u8], malformed: &mut MalformedCounts, mut each: impl FnMut(Message)) {
        if self.is_lost {
            return;
        }
        let Some(known) = self.next.checked_sub(offset) else {
            return self.lose(Malformed::Incomplete, malformed);
        };
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        let mut rest = bytes.get(known..).unwrap_or_default();
        self.next += rest.len() as u64;
        while !rest.is_empty() && !self.is_lost {
            rest = self.step_over(rest);
            rest = self.read(rest, malformed, &mut each);
        }
    }

    /// Reads up to the end of one message; gives what is after it.
    fn read<'a>(
        &mut self,
        bytes: &'a [u8],
        malformed: &mut MalformedCounts,
        each: &mut impl FnMut(Message),
    ) -> &'a [u8] {
        let (prefix, mut rest) = bytes.split_at(bytes.len().min(2_usize.saturating_sub(self.kept.len())));
        self.kept.extend_from_slice(prefix);
        let Some((&[high, low], start)) = self.kept.split_first_chunk::<2>() else {
            return rest;
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length < HEADER_BYTES {
            // Whoever sends this does not speak DNS.
            self.lose(Malformed::DnsHeader, malformed);
            return &[];
        }
        if length > MESSAGE_LIMIT {
            malformed.count(Malformed::DnsLength);
            self.kept.clear();
            self.skip = length;
            return self.step_over(rest);
        }
        let missing = length - start.len();
        let (part, after) = rest.split_at(rest.len().min(missing));
        rest = after;
        if part.len() < missing {
            self.kept.extend_from_slice(part);
            return rest;
        }
        // Most messages come in one piece: those are read where they are.
        let message = if start.is_empty() {
            Message::read(part, true, malformed)
        } else {
            self.kept.extend_from_slice(part);
            Message::read(&self.kept[2..], true, malformed)
        };
        self.kept.clear();
        if let Some(message) = message {
            each(message);
        }
        rest
    }

    fn step_over<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (skipped, rest) = bytes.split_at(bytes.len().min(self.skip));
        self.skip -= skipped.len();
        rest
    }

    fn lose(&mut self, kind: Malformed, malformed: &mut MalformedCounts) {
        malformed.count(kind);
        self.is_lost = true;
        self.kept = Vec::new();
    }
}
