//! Recordings: the sequence of inputs of a pipeline as a file, so that `hopline replay` can repeat it exactly.
//!
//! A file is a row of frames, each with a magic number, its length and a checksum of its own: a cut or a flipped byte
//! costs the frame it hits and no other. The first frame is the [`Header`]. The agent's owner task writes; [`step`]
//! is the pure reader of bytes that are not to be trusted; neither knows what an event means.
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read, Write as _},
    ops::Range,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::config::RecordConfig;

/// Version of the frames and of the events in them; a reader refuses any other.
pub const VERSION: u32 = 1;
/// Starts every frame.
const MAGIC: [u8; 4] = *b"hop\xa7";
/// Magic, kind, length of the body, CRC-32 of kind, length and body: four little-endian words.
const FRAME_HEADER: usize = 16;
/// Longest body; a longer one is damage.
const MAX_BODY: usize = 1 << 16;
/// Damaged places of which the offset is kept; more are only counted.
const MAX_PLACES: usize = 20;

const KIND_HEADER: u32 = 1;
const KIND_SAMPLE: u32 = 2;
const KIND_TICK: u32 = 3;
const KIND_CLOCK: u32 = 4;

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

fn frame(kind: u32, body: &[u8]) -> Option<Frame<'_>> {
    Some(match kind {
        KIND_HEADER => Frame::Header(serde_json::from_slice(body).ok()?),
        KIND_SAMPLE => Frame::Sample(body),
        KIND_TICK => Frame::Tick(u64::from_le_bytes(body.try_into().ok()?)),
        KIND_CLOCK => Frame::ClockOffset(i64::from_le_bytes(body.try_into().ok()?)),
        _ => return None,
    })
}

fn crc(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

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

/// Why a recording could not be begun.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file is in the way.
    #[error("{} is not a recording: give --record another file", .0.display())]
    Foreign(PathBuf),
    /// The system refused.
    #[error("cannot write the recording {}: {source}", file.display())]
    Io {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Writes a recording and moves full files aside.
///
/// After a failed write (a full disk) nothing more is written; what is missing is counted in [`Recorder::dropped`].
#[derive(Debug)]
pub struct Recorder {
    settings: RecordConfig,
    path: PathBuf,
    header: Header,
    /// `None` after a failed write.
    file: Option<BufWriter<File>>,
    /// Bytes in the current file.
    written: u64,
    dropped: u64,
}

impl Recorder {
    /// Begins a recording; one that is there already is moved aside as when it is full.
    pub fn create(path: &Path, settings: &RecordConfig, header: Header) -> Result<Self, RecordingError> {
        if !may_replace(path)? {
            return Err(RecordingError::Foreign(path.to_owned()));
        }
        let mut recorder = Self {
            settings: settings.clone(),
            path: path.to_owned(),
            header,
            file: None,
            written: 0,
            dropped: 0,
        };
        recorder.begin_file().map_err(|source| RecordingError::Io {
            file: path.to_owned(),
            source,
        })?;
        Ok(recorder)
    }

    /// Records one ring-buffer sample.
    pub fn sample(&mut self, sample: &[u8]) {
        self.write(KIND_SAMPLE, sample);
    }

    /// Records the agent's clock, and hands everything so far to the system.
    pub fn tick(&mut self, now_ns: u64) {
        self.write(KIND_TICK, &now_ns.to_le_bytes());
        self.flush();
    }

    /// Records a change of the clock offset.
    pub fn clock_offset(&mut self, offset_ns: i64) {
        self.header.clock_offset_ns = offset_ns;
        self.write(KIND_CLOCK, &offset_ns.to_le_bytes());
    }

    /// Hands everything so far to the system.
    pub fn flush(&mut self) {
        if let Some(Err(error)) = self.file.as_mut().map(BufWriter::flush) {
            self.give_up(&error);
        }
    }

    /// Inputs that are missing in the recording.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn write(&mut self, kind: u32, body: &[u8]) {
        if let Err(error) = self.try_write(kind, body) {
            self.give_up(&error);
        }
        if self.file.is_none() {
            self.dropped += 1;
        }
    }

    fn try_write(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        if self.written >= self.settings.rotate_bytes {
            self.begin_file()?;
        }
        self.append(kind, body)
    }

    fn append(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let Some(file) = self.file.as_mut() else { return Ok(()) };
        let length = u32::try_from(body.len())
            .ok()
            .filter(|length| *length as usize <= MAX_BODY);
        let length = length.ok_or_else(|| io::Error::other("an event is longer than a frame may be"))?;
        let mut head = [0; FRAME_HEADER];
        head[..4].copy_from_slice(&MAGIC);
        head[4..8].copy_from_slice(&kind.to_le_bytes());
        head[8..12].copy_from_slice(&length.to_le_bytes());
        let checksum = crc(&head[4..12], body);
        head[12..].copy_from_slice(&checksum.to_le_bytes());
        file.write_all(&head)?;
        file.write_all(body)?;
        self.written += (FRAME_HEADER + body.len()) as u64;
        Ok(())
    }

    /// Moves older files aside (FILE to FILE.1, FILE.1 to FILE.2, …) and begins FILE anew.
    fn begin_file(&mut self) -> io::Result<()> {
        if let Some(mut full) = self.file.take() {
            full.flush()?;
        }
        let aside = |number: u32| match number {
            0 => self.path.clone(),
            _ => PathBuf::from(format!("{}.{number}", self.path.display())),
        };
        for number in (0..self.settings.keep).rev() {
            let result = if number + 1 == self.settings.keep {
                fs::remove_file(aside(number))
            } else {
                fs::rename(aside(number), aside(number + 1))
            };
            if let Err(error) = result
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
        }
        // Addresses and command names are nobody else's business; `create_new` follows no link that others laid.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.path)?;
        self.file = Some(BufWriter::with_capacity(1 << 18, file));
        self.written = 0;
        let header = serde_json::to_vec(&self.header).map_err(io::Error::other)?;
        self.append(KIND_HEADER, &header)
    }

    fn give_up(&mut self, error: &io::Error) {
        tracing::error!(file = %self.path.display(), %error, "recording stopped; the agent goes on");
        self.file = None;
    }
}

/// Whether nothing is at `path`, or something that may be moved aside: an empty file or a recording.
fn may_replace(path: &Path) -> Result<bool, RecordingError> {
    let failed = |source| RecordingError::Io {
        file: path.to_owned(),
        source,
    };
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        result => result.map_err(failed)?,
    };
    if !metadata.is_file() {
        return Ok(false);
    }
    let mut start = Vec::new();
    File::open(path)
        .map_err(failed)?
        .take(MAGIC.len() as u64)
        .read_to_end(&mut start)
        .map_err(failed)?;
    Ok(start.is_empty() || start == MAGIC)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn header() -> Header {
        Header {
            version: VERSION,
            node: "n".into(),
            ..Header::default()
        }
    }

    /// Writes `count` samples (each its number, 100 bytes) and gives the bytes of the file.
    fn recorded(directory: &Path, count: u32, settings: &RecordConfig) -> Vec<u8> {
        let path = directory.join("r");
        let mut recorder = Recorder::create(&path, settings, header()).expect("create");
        for number in 0..count {
            recorder.sample(&[number.to_le_bytes(); 25].concat());
        }
        recorder.tick(7);
        recorder.clock_offset(-3);
        recorder.flush();
        assert_eq!(recorder.dropped(), 0);
        fs::read(path).expect("read back")
    }

    /// Sample numbers, other frames, damage.
    fn read(bytes: &[u8]) -> (Vec<u32>, usize, Damage) {
        let mut reader = Reader::new(bytes);
        let (mut samples, mut others) = (Vec::new(), 0);
        while let Some(frame) = reader.next_frame().expect("no I/O") {
            match frame {
                Frame::Sample(body) => samples.push(u32::from_le_bytes(body[..4].try_into().expect("four bytes"))),
                _ => others += 1,
            }
        }
        (samples, others, reader.damage().clone())
    }

    #[test]
    fn reads_back_what_was_written() {
        let directory = tempfile::tempdir().expect("tempdir");
        // More than the reader's window.
        let bytes = recorded(directory.path(), 5000, &RecordConfig::default());
        let (samples, others, damage) = read(&bytes);
        assert_eq!(samples, (0..5000).collect::<Vec<_>>());
        assert_eq!(others, 3);
        assert_eq!(damage, Damage::default());
        let mode = fs::metadata(directory.path().join("r"))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn damage_costs_the_frame_it_hits() {
        let directory = tempfile::tempdir().expect("tempdir");
        let bytes = recorded(directory.path(), 200, &RecordConfig::default());
        let frames = 203;
        for at in (0..bytes.len()).step_by(7) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x55;
            let (samples, others, damage) = read(&flipped);
            assert_eq!(samples.len() + others, frames - 1, "flipped at {at}");
            assert_eq!((damage.places, damage.first.len()), (1, 1), "flipped at {at}");
            assert!(damage.first[0].contains(&(at as u64)), "flipped at {at}: {damage:?}");

            let (samples, others, damage) = read(&bytes[..at]);
            assert!(samples.iter().copied().eq(0..samples.len() as u32), "cut at {at}");
            assert!(damage.places <= 1 && samples.len() + others < frames, "cut at {at}");

            let mut holed = bytes.clone();
            holed.drain(at..(at + 50).min(bytes.len()));
            let (samples, others, damage) = read(&holed);
            assert!(samples.len() + others >= frames - 3, "hole at {at}");
            assert!(damage.places <= 1, "hole at {at}: {damage:?}");
        }
    }

    #[test]
    fn many_damaged_places_are_counted_and_few_are_listed() {
        let directory = tempfile::tempdir().expect("tempdir");
        let mut bytes = recorded(directory.path(), 100, &RecordConfig::default());
        let (start, frame) = (bytes.len() - 2 * 24 - 100 * 116, 116);
        for number in (0..100).step_by(2) {
            bytes[start + number * frame + 50] ^= 1;
        }
        let (samples, _, damage) = read(&bytes);
        assert_eq!(samples, (0..100).filter(|number| number % 2 == 1).collect::<Vec<_>>());
        assert_eq!(
            (damage.places, damage.bytes, damage.first.len()),
            (50, 50 * 116, MAX_PLACES)
        );
    }

    #[test]
    fn any_bytes_are_read_to_the_end() {
        let mut state = 1_u32;
        for length in 0..2000 {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // Many starts of magic numbers.
                    MAGIC
                        .get((state >> 24) as usize % 5)
                        .copied()
                        .unwrap_or((state >> 16) as u8)
                })
                .collect();
            let (samples, others, damage) = read(&bytes);
            assert_eq!((samples.len(), others, damage.bytes), (0, 0, length));
        }
    }

    #[test]
    fn full_files_move_aside_up_to_the_bound() {
        let directory = tempfile::tempdir().expect("tempdir");
        let settings = RecordConfig {
            rotate_bytes: 5000,
            keep: 3,
            ..RecordConfig::default()
        };
        recorded(directory.path(), 500, &settings);
        let mut names: Vec<_> = fs::read_dir(directory.path())
            .expect("read_dir")
            .map(|entry| entry.expect("entry").file_name().into_string().expect("utf-8"))
            .collect();
        names.sort();
        assert_eq!(names, ["r", "r.1", "r.2"]);
        let mut samples = Vec::new();
        for name in ["r.2", "r.1", "r"] {
            let bytes = fs::read(directory.path().join(name)).expect("read");
            let (found, _, damage) = read(&bytes);
            assert_eq!(damage.places, 0);
            assert!(
                matches!(step(&bytes, true), Step::Frame(Frame::Header(_), _)),
                "{name} starts with a header"
            );
            samples.extend(found);
        }
        assert_eq!(samples.last(), Some(&499));
        assert!(
            samples.windows(2).all(|pair| pair[0] + 1 == pair[1]),
            "nothing is lost between files"
        );
    }

    #[test]
    fn other_files_are_left_alone() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("notes");
        fs::write(&path, "dear diary").expect("write");
        let refused = Recorder::create(&path, &RecordConfig::default(), header());
        assert!(matches!(refused, Err(RecordingError::Foreign(_))));
        assert!(matches!(
            Recorder::create(directory.path(), &RecordConfig::default(), header()),
            Err(RecordingError::Foreign(_))
        ));
        let missing = Recorder::create(&directory.path().join("no/dir"), &RecordConfig::default(), header());
        assert!(matches!(missing, Err(RecordingError::Io { .. })));
        assert_eq!(fs::read(&path).expect("read"), b"dear diary");
    }
}
