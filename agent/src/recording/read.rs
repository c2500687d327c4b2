//! Reads a recording frame by frame, past whatever is damaged in it.
use std::{
    io::{self, Read},
    ops::Range,
};

use super::frame::{FRAME_HEADER, Frame, MAX_BODY, Step, frame, step};

/// Damaged places of which the offset is kept; more are only counted.
const MAX_PLACES: usize = 20;

/// What could not be read of a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Number of damaged places; neighbouring bytes are one place.
    pub places: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Where the first of them are, as offsets into the file.
    pub first: Vec<Range<u64>>,
    /// Offset just behind the last place, to join neighbours.
    end: u64,
}

impl Damage {
    fn add(&mut self, offset: u64, bytes: u64) {
        let joins = self.places > 0 && self.end == offset;
        self.end = offset + bytes;
        self.bytes += bytes;
        if !joins {
            self.places += 1;
            if self.first.len() < MAX_PLACES {
                self.first.push(offset..self.end);
            }
        } else if self.first.len() as u64 == self.places
            && let Some(place) = self.first.last_mut()
        {
            place.end = self.end;
        }
    }
}

/// Reads a recording frame by frame through a window of bounded size.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    window: Vec<u8>,
    /// The part of the window that is still to be read.
    unread: Range<usize>,
    /// Offset in the file of the start of the unread part.
    offset: u64,
    ended: bool,
    damage: Damage,
}

impl<R: Read> Reader<R> {
    /// Starts at the current place of `source`.
    pub fn new(source: R) -> Self {
        let window = vec![0; 4 * MAX_BODY];
        Self {
            source,
            window,
            unread: 0..0,
            offset: 0,
            ended: false,
            damage: Damage::default(),
        }
    }

    /// The next whole frame; damaged places before it are noted. `None` at the end.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame<'_>>> {
        loop {
            match step(&self.window[self.unread.clone()], self.ended) {
                Step::Frame(_, used) => {
                    let whole = self.unread.start..self.unread.start + used;
                    self.advance(used);
                    // The borrow of the window must start after `advance`: look at the same bytes again.
                    let body = &self.window[whole.start + FRAME_HEADER..whole.end];
                    let kind = &self.window[whole.start + 4..whole.start + 8];
                    return Ok(frame(u32::from_le_bytes([kind[0], kind[1], kind[2], kind[3]]), body));
                }
                Step::Damage(bytes) => {
                    self.damage.add(self.offset, bytes as u64);
                    self.advance(bytes);
                }
                Step::Incomplete if self.ended => return Ok(None),
                Step::Incomplete => self.fill()?,
            }
        }
    }

    /// What could not be read so far.
    pub fn damage(&self) -> &Damage {
        &self.damage
    }

    fn advance(&mut self, bytes: usize) {
        self.unread.start += bytes;
        self.offset += bytes as u64;
    }

    fn fill(&mut self) -> io::Result<()> {
        self.window.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        let read = loop {
            match self.source.read(&mut self.window[self.unread.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.unread.end += read;
        self.ended = read == 0;
        Ok(())
    }
}
