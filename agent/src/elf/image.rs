//! One ELF file: its segments and sections, and checked reads of it.

use std::cell::Cell;

use super::Refusal;

/// Where the bytes come from.
pub trait Source {
    /// Bytes of the whole.
    fn size(&self) -> u64;
    /// Fills `into` with the bytes at `at`; false when they are not all there.
    fn read(&self, at: u64, into: &mut [u8]) -> bool;
    /// Bytes that are read of it at most, which is also the most that are in memory at once.
    fn budget(&self) -> u64 {
        BUDGET
    }
}

impl Source for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, at: u64, into: &mut [u8]) -> bool {
        let range = usize::try_from(at)
            .ok()
            .and_then(|at| Some(at..at.checked_add(into.len())?))
            .and_then(|range| self.get(range));
        let Some(bytes) = range else { return false };
        into.copy_from_slice(bytes);
        true
    }
}

/// Bytes that are read of one file at most by default. The largest programs of Go have tables of some 40 MiB.
const BUDGET: u64 = 64 << 20;
/// Headers that are looked at.
const MOST_SEGMENTS: u64 = 64;
const MOST_SECTIONS: u64 = 256;
const SEGMENT_BYTES: u64 = 56;
const SECTION_BYTES: u64 = 64;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PF_X: u32 = 1;
const X86_64: u16 = 62;

/// A part of the file that is mapped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    size: u64,
}

/// A named part of the file.
#[derive(Clone, Debug)]
pub(super) struct Section {
    name: String,
    pub(super) address: u64,
    pub(super) offset: u64,
    pub(super) size: u64,
    /// Number of the section that it refers to.
    pub(super) link: u32,
}

/// An opened file.
pub struct Image<'a> {
    source: &'a dyn Source,
    left: Cell<u64>,
    pub(super) segments: Vec<Segment>,
    pub(super) sections: Vec<Section>,
}

impl std::fmt::Debug for Image<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Image")
            .field("segments", &self.segments)
            .finish_non_exhaustive()
    }
}

impl<'a> Image<'a> {
    /// Reads headers.
    pub fn open(source: &'a dyn Source) -> Result<Self, Refusal> {
        let mut this = Self {
            source,
            left: Cell::new(source.budget()),
            segments: Vec::new(),
            sections: Vec::new(),
        };
        let header = this.read(0, 64).map_err(|_| Refusal::NotElf)?;
        if header[..4] != *b"\x7fELF" {
            return Err(Refusal::NotElf);
        }
        // 64 bit, little endian, x86-64.
        if header[4] != 2 || header[5] != 1 || half(&header, 18) != X86_64 {
            return Err(Refusal::OtherMachine);
        }
        let (segments_at, sections_at) = (long(&header, 32), long(&header, 40));
        let (segments, sections, names) = (half(&header, 56), half(&header, 60), half(&header, 62));
        if u64::from(half(&header, 54)) != SEGMENT_BYTES {
            return Err(Refusal::Malformed);
        }
        let table = this.read(segments_at, u64::from(segments).min(MOST_SEGMENTS) * SEGMENT_BYTES)?;
        this.segments = table.chunks_exact(SEGMENT_BYTES as usize).map(segment).collect();
        if sections != 0 && u64::from(half(&header, 58)) == SECTION_BYTES {
            this.read_sections(sections_at, sections, names)?;
        }
        Ok(this)
    }

    fn read_sections(&mut self, at: u64, count: u16, names: u16) -> Result<(), Refusal> {
        const NAME_BYTES: u64 = 1 << 16;
        let table = self.read(at, u64::from(count).min(MOST_SECTIONS) * SECTION_BYTES)?;
        let table: Vec<&[u8]> = table.chunks_exact(SECTION_BYTES as usize).collect();
        let Some(strings) = table.get(usize::from(names)) else {
            return Ok(());
        };
        let strings = self.read(long(strings, 24), long(strings, 32).min(NAME_BYTES))?;
        self.sections = table
            .iter()
            .map(|row| Section {
                name: text(&strings, word(row, 0) as usize).to_owned(),
                address: long(row, 16),
                offset: long(row, 24),
                // Sections without bytes in the file (NOBITS) have none to read.
                size: if word(row, 4) == 8 { 0 } else { long(row, 32) },
                link: word(row, 40),
            })
            .collect();
        Ok(())
    }

    /// Bytes of the file, counted against the budget.
    pub(super) fn read(&self, at: u64, length: u64) -> Result<Vec<u8>, Refusal> {
        if at.checked_add(length).is_none_or(|end| end > self.source.size()) {
            return Err(Refusal::Malformed);
        }
        let left = self.left.get().checked_sub(length).ok_or(Refusal::TooLarge)?;
        self.left.set(left);
        let mut bytes = vec![0; length as usize];
        if self.source.read(at, &mut bytes) {
            Ok(bytes)
        } else {
            Err(Refusal::Malformed)
        }
    }

    /// The section with this name.
    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// All bytes of a section.
    pub(super) fn contents(&self, section: &Section) -> Result<Vec<u8>, Refusal> {
        self.read(section.offset, section.size)
    }

    /// Where in the file the byte at an address is; `None` when no loaded part of the file holds it.
    pub(super) fn offset(&self, address: u64) -> Option<u64> {
        self.loaded(address, 0)
    }

    /// The same for code.
    pub(super) fn code_offset(&self, address: u64) -> Option<u64> {
        self.loaded(address, PF_X)
    }

    fn loaded(&self, address: u64, flags: u32) -> Option<u64> {
        let holds = |segment: &&Segment| {
            segment.kind == PT_LOAD
                && segment.flags & flags == flags
                && address.checked_sub(segment.address).is_some_and(|at| at < segment.size)
        };
        let segment = self.segments.iter().find(holds)?;
        segment.offset.checked_add(address - segment.address)
    }

    /// The table that tells the dynamic linker where things are: tag and value.
    pub(super) fn dynamic(&self) -> Result<Vec<(u64, u64)>, Refusal> {
        const MOST_BYTES: u64 = 16 * 512;
        let Some(segment) = self.segments.iter().find(|segment| segment.kind == PT_DYNAMIC) else {
            return Ok(Vec::new());
        };
        let table = self.read(segment.offset, segment.size.min(MOST_BYTES) / 16 * 16)?;
        let rows = table.chunks_exact(16).map(|row| (long(row, 0), long(row, 8)));
        Ok(rows.take_while(|(tag, _)| *tag != 0).collect())
    }
}

fn segment(row: &[u8]) -> Segment {
    Segment {
        kind: word(row, 0),
        flags: word(row, 4),
        offset: long(row, 8),
        address: long(row, 16),
        size: long(row, 32),
    }
}

/// The string that begins at `at`, up to its NUL; empty when there is none or it is no UTF-8.
pub(super) fn text(strings: &[u8], at: usize) -> &str {
    let rest = strings.get(at..).unwrap_or_default();
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(0);
    std::str::from_utf8(&rest[..end]).unwrap_or_default()
}

/// Two bytes; 0 beyond the end.
pub(super) fn half(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

/// Four bytes; 0 beyond the end.
pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Eight bytes; 0 beyond the end.
pub(super) fn long(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
