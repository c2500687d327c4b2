//! One frame of a recording: magic number, kind, length, checksum, body. Pure: bytes in, a frame or damage out.
use serde::{Deserialize, Serialize};

/// Version of the frames and of the events in them; a reader refuses any other.
pub const VERSION: u32 = 6;
/// Starts every frame.
pub(super) const MAGIC: [u8; 4] = *b"hop\xa7";
/// Magic, kind, length of the body, CRC-32 of kind, length and body: four little-endian words.
pub(super) const FRAME_HEADER: usize = 16;
/// Longest body; a longer one is damage.
pub(super) const MAX_BODY: usize = 1 << 16;

pub(super) const KIND_HEADER: u32 = 1;
pub(super) const KIND_SAMPLE: u32 = 2;
pub(super) const KIND_TICK: u32 = 3;
pub(super) const KIND_CLOCK: u32 = 4;

/// First frame of every file: on which boot of which machine the rest was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Header {
    /// [`VERSION`].
    pub version: u32,
    /// Version of the hopline that wrote it.
    pub hopline: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Name of the node.
    pub node: String,
    /// Kernel release.
    pub kernel: String,
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, nanoseconds, when the file was begun.
    pub clock_offset_ns: i64,
    /// A connection that waited longer counted as waiting, nanoseconds.
    pub waiting_after_ns: u64,
    /// A connection that waited longer was told as stuck, nanoseconds.
    pub stuck_after_ns: u64,
    /// Connections followed at once.
    pub max_connections: u64,
    /// Processes remembered at once.
    pub max_processes: u64,
    /// Time series exported.
    pub max_series: u64,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// What the recording is of.
    Header(Header),
    /// One ring-buffer sample.
    Sample(&'a [u8]),
    /// The agent's clock, `CLOCK_MONOTONIC` nanoseconds.
    Tick(u64),
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, nanoseconds.
    ClockOffset(i64),
}

/// What [`step`] found at the start of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A whole frame and the bytes it takes.
    Frame(Frame<'a>, usize),
    /// So many bytes are no frame.
    Damage(usize),
    /// A frame may start here, and more bytes are needed to tell.
    Incomplete,
}

/// Looks at the start of `bytes`; `last` when no more will follow. Total on any bytes, and never empty-handed on more
/// than [`MAX_BODY`] and a frame header.
pub fn step(bytes: &[u8], last: bool) -> Step<'_> {
    let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEADER>() else {
        return if last && !bytes.is_empty() {
            Step::Damage(bytes.len())
        } else {
            Step::Incomplete
        };
    };
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (kind, length, checksum) = (word(4), word(8) as usize, word(12));
    if head[..4] != MAGIC || length > MAX_BODY {
        return Step::Damage(next_magic(bytes, last));
    }
    let Some(body) = rest.get(..length) else {
        return if last {
            Step::Damage(next_magic(bytes, last))
        } else {
            Step::Incomplete
        };
    };
    let frame = (checksum == crc(&head[4..12], body))
        .then(|| frame(kind, body))
        .flatten();
    match frame {
        Some(frame) => Step::Frame(frame, FRAME_HEADER + length),
        None => Step::Damage(next_magic(bytes, last)),
    }
}

/// Bytes up to the next place where a frame may start.
fn next_magic(bytes: &[u8], last: bool) -> usize {
    let found = bytes[1..]
        .windows(MAGIC.len())
        .position(|window| window == MAGIC)
        .map(|at| at + 1);
    // The end may hold the start of a magic number.
    found.unwrap_or(if last {
        bytes.len()
    } else {
        bytes.len() - (MAGIC.len() - 1)
    })
}

pub(super) fn frame(kind: u32, body: &[u8]) -> Option<Frame<'_>> {
    Some(match kind {
        KIND_HEADER => Frame::Header(serde_json::from_slice(body).ok()?),
        KIND_SAMPLE => Frame::Sample(body),
        KIND_TICK => Frame::Tick(u64::from_le_bytes(body.try_into().ok()?)),
        KIND_CLOCK => Frame::ClockOffset(i64::from_le_bytes(body.try_into().ok()?)),
        _ => return None,
    })
}

pub(super) fn crc(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}
