//! The history on disk: one small file that is replaced as a whole before any program is loaded, and whose head is
//! overwritten in place at a clean end, which needs neither room on the disk nor a capability any more.
//!
//! Whatever is wrong with the file costs a warning, never a start.
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::{Deserialize, Serialize};

use super::judge::{History, Judgement, Moment, Record, SafeMode, judge, judge_running};

const FILE: &str = "safe-mode.json";
const TEMPORARY: &str = "safe-mode.json.tmp";
/// Asks the next start to leave safe mode.
const LEAVE: &str = "leave-safe-mode";
const VERSION: u32 = 1;
/// More is no file of ours.
const MOST_BYTES: u64 = 1 << 16;

/// Why the history cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory or a file in it.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{}: not a history of hopline's starts: {message}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Two agents cannot share it.
    #[error("{}: another agent keeps its history here", path.display())]
    Taken {
        /// Which directory.
        path: PathBuf,
    },
}

/// The history of this agent, until it ends.
#[derive(Debug)]
pub struct StateFile {
    file: File,
    /// Keeps other agents away.
    _directory: Flock<File>,
}

/// The file but for its head.
#[derive(Serialize, Deserialize)]
struct Body {
    history: History,
}

/// The file.
#[derive(Deserialize)]
struct Whole {
    version: u32,
    clean: bool,
    ended_s: u64,
    history: History,
}

impl StateFile {
    /// Judges this start by what `directory` holds and notes it there, on disk when this returns. A judgement comes
    /// whatever fails; where nothing could be noted an error says why, where something was passed over too.
    pub fn start(directory: &Path, now: &Moment) -> (Judgement, Option<Self>, Vec<StateError>) {
        let mut errors = Vec::new();
        let locked = match lock(directory) {
            Ok(locked) => locked,
            Err(error) => {
                let judgement = match read(directory) {
                    Ok(Some(record)) => judge_running(&record, wants_to_leave(directory), now),
                    Ok(None) | Err(_) => judge(None, false, now),
                };
                return (judgement, None, vec![error]);
            }
        };
        let record = read(directory).unwrap_or_else(|error| {
            errors.push(error);
            None
        });
        let leave = wants_to_leave(directory);
        let judgement = judge(record.as_ref(), leave, now);
        let file = match replace(directory, &locked, &judgement.history) {
            Ok(file) => file,
            Err(error) => {
                errors.push(error);
                return (judgement, None, errors);
            }
        };
        if leave && let Err(error) = remove(directory, LEAVE) {
            errors.push(error);
        }
        let this = Self {
            file,
            _directory: locked,
        };
        (judgement, Some(this), errors)
    }

    /// Notes a clean end.
    pub fn end(&self, uptime_s: u64) -> io::Result<()> {
        self.file.write_all_at(head(true, uptime_s).as_bytes(), 0)?;
        self.file.sync_data()
    }
}

/// Whether the node is in safe mode, for whoever loads programs beside the agent. Writes nothing.
pub fn look(directory: &Path, now: &Moment) -> Result<Option<SafeMode>, StateError> {
    let record = read(directory)?;
    Ok(record.and_then(|record| judge_running(&record, wants_to_leave(directory), now).safe_mode))
}

/// Asks the next start to leave safe mode.
pub fn ask_to_leave(directory: &Path) -> Result<(), StateError> {
    let path = directory.join(LEAVE);
    let made = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .and_then(|file| file.sync_all())
        .and_then(|()| File::open(directory)?.sync_all());
    made.map_err(|source| StateError::Io { path, source })
}

fn wants_to_leave(directory: &Path) -> bool {
    directory.join(LEAVE).exists()
}

/// Makes the directory if need be, and keeps other agents out of it.
fn lock(directory: &Path) -> Result<Flock<File>, StateError> {
    let failed = |source| StateError::Io {
        path: directory.to_owned(),
        source,
    };
    if !directory.is_dir() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed)?;
        if let Some(parent) = directory.parent() {
            File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(failed)?;
        }
    }
    let opened = File::open(directory).map_err(failed)?;
    Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => StateError::Taken {
            path: directory.to_owned(),
        },
        other => failed(other.into()),
    })
}

fn read(directory: &Path) -> Result<Option<Record>, StateError> {
    let path = directory.join(FILE);
    let mut text = String::new();
    // A pipe or a device in its place must not hold up the start.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path);
    match opened.and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateError::Io { path, source }),
    }
    parse(&text)
        .map(Some)
        .map_err(|message| StateError::Malformed { path, message })
}

fn parse(text: &str) -> Result<Record, String> {
    let whole: Whole = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if whole.version != VERSION {
        return Err(format!("of version {}, this hopline knows {VERSION}", whole.version));
    }
    Ok(Record {
        clean: whole.clean,
        ended_s: whole.ended_s,
        history: whole.history,
    })
}

/// The first line, of the same length whatever it says.
fn head(clean: bool, ended_s: u64) -> String {
    format!("{{\"version\": {VERSION}, \"clean\": {clean:<5}, \"ended_s\": {ended_s:>20},\n")
}

fn text(history: &History) -> String {
    let body = Body {
        history: history.clone(),
    };
    let body = serde_json::to_string(&body).expect("numbers and strings are JSON");
    format!("{}{}\n", head(false, 0), &body[1..])
}

/// Puts a new file in the place of the old one: whole or not at all, and on disk.
fn replace(directory: &Path, opened: &File, history: &History) -> Result<File, StateError> {
    let (temporary, path) = (directory.join(TEMPORARY), directory.join(FILE));
    let write = || {
        // What an earlier start left may be of another mode, or a link.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text(history).as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        opened.sync_all()?;
        Ok(file)
    };
    write().map_err(|source| StateError::Io {
        path: path.clone(),
        source,
    })
}

fn remove(directory: &Path, name: &str) -> Result<(), StateError> {
    let path = directory.join(name);
    fs::remove_file(&path).map_err(|source| StateError::Io { path, source })
}

#[cfg(test)]
mod tests;
