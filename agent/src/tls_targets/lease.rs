//! A read lease on each probed file (fcntl(2), `F_SETLEASE`): who opens it for writing waits until its probes are gone.
//!
//! Probes stay at their offsets of a file. One that is written in place would get a breakpoint in the middle of another instruction,
//! which ends whoever runs it next: a word that it was written may come too late. The kernel asks for a lease back by a signal, and
//! the writer goes on when it is given back: by us, by our end however it comes, or after `fs.lease-break-time`.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use nix::{
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::gettid,
};

/// `struct f_owner_ex` and what goes with it (include/uapi/asm-generic/fcntl.h).
#[repr(C)]
struct Owner {
    kind: libc::c_int,
    id: libc::pid_t,
}
const F_SETOWN_EX: libc::c_int = 15;
const F_OWNER_TID: libc::c_int = 0;

/// Hears that leases are asked back.
#[derive(Debug)]
pub(super) struct Breaks {
    signals: SignalFd,
}

impl Breaks {
    /// For leases that this thread takes: the signal goes to it alone.
    pub(super) fn of_this_thread() -> io::Result<Self> {
        let mut asked_back = SigSet::empty();
        asked_back.add(Signal::SIGIO);
        asked_back.thread_block()?;
        let signals = SignalFd::with_flags(&asked_back, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { signals })
    }

    /// To wait on.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }

    /// Whether any lease was asked back since the last call. Which ones, the leases themselves say.
    pub(super) fn take(&self) -> bool {
        let mut any = false;
        while let Ok(Some(_)) = self.signals.read_signal() {
            any = true;
        }
        any
    }
}

/// Takes the lease on a file that is not open for writing anywhere. It ends with the file.
pub(super) fn take(file: &File) -> io::Result<()> {
    let owner = Owner {
        kind: F_OWNER_TID,
        id: gettid().as_raw(),
    };
    // SAFETY: the owner lives through the call, which only reads it.
    if unsafe { libc::fcntl(file.as_raw_fd(), F_SETOWN_EX, &raw const owner) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: no preconditions.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether the lease holds and no writer waits.
pub(super) fn holds(file: &File) -> bool {
    // SAFETY: no preconditions.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) == libc::F_RDLCK }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, OpenOptions},
        sync::mpsc,
        thread,
        time::Duration,
    };

    use nix::poll::{PollFd, PollFlags, poll};

    use super::*;

    fn a_file() -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("library.so");
        fs::write(&path, "code").expect("written");
        (directory, path)
    }

    #[test]
    fn a_writer_waits_until_it_is_given_back() {
        let (_directory, path) = a_file();
        let breaks = Breaks::of_this_thread().expect("signals");
        let file = File::open(&path).expect("open");
        take(&file).expect("nobody writes");
        assert!(holds(&file) && !breaks.take());
        let (opened, is_open) = mpsc::channel();
        let writer = thread::spawn(move || {
            let file = OpenOptions::new().write(true).truncate(true).open(&path);
            opened.send(file.is_ok()).expect("the test waits");
        });
        let mut waiting = [PollFd::new(breaks.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut waiting, 10_000_u16), Ok(1));
        assert!(breaks.take() && !holds(&file));
        assert!(is_open.recv_timeout(Duration::from_millis(50)).is_err(), "it waits");
        assert_eq!(file.metadata().expect("metadata").len(), 4, "nothing is written yet");
        drop(file);
        assert_eq!(is_open.recv_timeout(Duration::from_secs(10)), Ok(true));
        writer.join().expect("the writer");
    }

    #[test]
    fn a_file_being_written_gives_none() {
        let (_directory, path) = a_file();
        let _writer = OpenOptions::new().append(true).open(&path).expect("open");
        let file = File::open(&path).expect("open");
        let refused = take(&file).expect_err("somebody writes");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert!(!holds(&file));
    }
}
