//! Probes at places in files. Dropped, or when the agent ends in any way, their descriptors are closed: then the kernel
//! takes the breakpoints out.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya::programs::Program;

use super::{
    BpfError, multi,
    object::Object,
    perf,
    syscall::{LINK_CREATE, bpf},
};

/// `enum bpf_attach_type` (include/uapi/linux/bpf.h).
const BPF_PERF_EVENT: u32 = 41;
/// A file is named by the descriptor that was looked at: nobody can put another one in its place.
const OWN_FILES: &str = "/proc/self/fd";
const PROGRAM: &str = "tls_probe";
/// Probes that each have a link of their own: two descriptors each, and the end of each waits for the whole machine.
const MOST_SINGLE: usize = 256;

/// `union bpf_attr` of `BPF_LINK_CREATE` with a cookie for the program.
#[repr(C)]
struct CreateEventLink {
    program_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    cookie: u64,
}

/// What attaches probes to files.
#[derive(Debug)]
pub struct Prober {
    /// In the form of which a link holds all probes of a file; `None` before 6.6.
    multi: Option<OwnedFd>,
    /// In the form of one event for each.
    single: OwnedFd,
    /// The kernel's number for such events.
    kind: u32,
}

/// One probe, or all of a file; dropped, they are gone.
#[derive(Debug)]
pub struct Probe {
    _link: OwnedFd,
    _event: Option<OwnedFd>,
    places: usize,
}

/// Why files of other processes cannot be opened through their mappings, where that is so.
pub(super) fn refused() -> Option<String> {
    const OWN_MAPPINGS: &str = "/proc/self/map_files";
    let opened = fs::read_dir(OWN_MAPPINGS)
        .and_then(|mut all| all.next().transpose())
        .and_then(|first| first.map(|first| fs::File::open(first.path())).transpose());
    opened
        .err()
        .map(|error| format!("{OWN_MAPPINGS}: {error}; needs CHECKPOINT_RESTORE"))
}

impl Probe {
    /// How many places it is at.
    pub fn places(&self) -> usize {
        self.places
    }
}

impl Prober {
    pub(super) fn of(object: &mut Object) -> Result<Self, BpfError> {
        let failed = |error: &dyn std::fmt::Display| BpfError::Object(format!("uprobes: {error}"));
        let kind = fs::read_to_string("/sys/bus/event_source/devices/uprobe/type").map_err(|error| failed(&error))?;
        let kind = kind.trim().parse().map_err(|error| failed(&error))?;
        let Some(Program::UProbe(single)) = object.program(PROGRAM) else {
            return Err(failed(&"the program is not loaded"));
        };
        let single = single.fd().map_err(|error| failed(&error))?;
        let single = single.as_fd().try_clone_to_owned().map_err(|error| failed(&error))?;
        let multi = object
            .load_multi(PROGRAM)
            .inspect_err(|error| tracing::debug!(%error, "each probe has a link of its own"))
            .ok();
        Ok(Self { multi, single, kind })
    }

    /// What is slower than it could be, and why.
    pub(super) fn slow(&self) -> Option<&'static str> {
        self.multi
            .is_none()
            .then_some("no uprobe_multi (6.6): the end of many probes takes seconds")
    }

    /// How many more places may be probed beside so many.
    pub fn room(&self, places: usize) -> usize {
        match self.multi {
            Some(_) => usize::MAX,
            None => MOST_SINGLE.saturating_sub(places),
        }
    }

    /// Probes the instructions at these offsets of a file, each with its cookie, in every process that maps it, now or later.
    /// Gives what could be set, and how many could not.
    pub fn attach(&self, file: BorrowedFd<'_>, places: &[(u64, u64)]) -> (Vec<Probe>, u64) {
        let Ok(path) = CString::new(format!("{OWN_FILES}/{}", file.as_raw_fd())) else {
            return (Vec::new(), places.len() as u64);
        };
        if let Some(program) = &self.multi
            && let Ok(link) = multi::link(program.as_fd(), &path, places)
                .inspect_err(|error| tracing::debug!(%error, "no link for all probes of a file"))
        {
            let probe = Probe {
                _link: link,
                _event: None,
                places: places.len(),
            };
            return (vec![probe], 0);
        }
        let (mut probes, mut refused) = (Vec::new(), 0);
        for (offset, cookie) in places {
            match self.attach_one(&path, *offset, *cookie) {
                Ok(probe) => probes.push(probe),
                Err(error) => {
                    tracing::debug!(%error, offset, "no probe");
                    refused += 1;
                }
            }
        }
        (probes, refused)
    }

    fn attach_one(&self, path: &CString, offset: u64, cookie: u64) -> io::Result<Probe> {
        let attributes = perf::Attributes {
            kind: self.kind,
            size: size_of::<perf::Attributes>() as u32,
            config1: path.as_ptr() as u64,
            config2: offset,
            ..perf::Attributes::default()
        };
        let event = perf::open(&attributes, 0)?;
        let link = link(self.single.as_fd(), event.as_fd(), cookie)?;
        Ok(Probe {
            _link: link,
            _event: Some(event),
            places: 1,
        })
    }
}

/// Runs a program at each event, which is told `cookie`.
fn link(program: BorrowedFd<'_>, event: BorrowedFd<'_>, cookie: u64) -> io::Result<OwnedFd> {
    let request = CreateEventLink {
        program_fd: program.as_raw_fd() as u32,
        target_fd: event.as_raw_fd() as u32,
        attach_type: BPF_PERF_EVENT,
        flags: 0,
        cookie,
    };
    bpf(LINK_CREATE, &request)
}
