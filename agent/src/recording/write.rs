//! Writes a recording and moves full files aside.
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::frame::{FRAME_HEADER, Header, KIND_CLOCK, KIND_HEADER, KIND_SAMPLE, KIND_TICK, MAGIC, MAX_BODY, crc};
use crate::config::RecordConfig;

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
