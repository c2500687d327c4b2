//! Walks over the storage of open connections, which only a link that names the map can start.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

use aya::maps::Map;

use super::{BpfError, existing::drive, object::Object};

/// `enum bpf_cmd` and `enum bpf_attach_type` (include/uapi/linux/bpf.h).
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_ITER_CREATE: libc::c_long = 33;
const BPF_TRACE_ITER: u32 = 28;

/// `union bpf_iter_link_info` as far as maps need it.
#[repr(C)]
struct MapOfWalk {
    map_fd: u32,
}

/// `union bpf_attr` of `BPF_LINK_CREATE`.
#[repr(C)]
struct CreateLink {
    program_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    walk: u64,
    walk_bytes: u32,
    reserved: u32,
}

/// `union bpf_attr` of `BPF_ITER_CREATE`.
#[repr(C)]
struct CreateWalk {
    link_fd: u32,
    flags: u32,
}

/// The link from the program to the storage; every walk starts from it.
#[derive(Debug)]
pub(super) struct OpenWalk {
    link: OwnedFd,
}

impl OpenWalk {
    /// `None` when the program is not loaded.
    pub(super) fn over(object: &mut Object) -> Result<Option<Self>, BpfError> {
        let Map::SkStorage(storage) = object.map("SOCKETS")? else {
            return Err(BpfError::Object("map SOCKETS is no socket storage".to_owned()));
        };
        let map_fd = storage.fd().as_fd().as_raw_fd();
        let Some(program) = object.iterator("iter_open") else {
            return Ok(None);
        };
        let program = program.fd().map_err(|error| BpfError::Walk(error.to_string()))?;
        let link = link(program.as_fd(), map_fd).map_err(|error| BpfError::Walk(error.to_string()))?;
        Ok(Some(Self { link }))
    }

    /// One walk over all of them.
    pub(super) fn walk(&self) -> Result<(), BpfError> {
        let request = CreateWalk {
            link_fd: self.link.as_raw_fd() as u32,
            flags: 0,
        };
        let walk = bpf(BPF_ITER_CREATE, &request).map_err(|error| BpfError::Walk(error.to_string()))?;
        drive(File::from(walk))
    }
}

/// `union bpf_attr` of `BPF_LINK_CREATE` with a cookie for the program.
#[repr(C)]
struct CreateEventLink {
    program_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    cookie: u64,
}

/// Runs a program at each event, which is told `cookie`.
pub(super) fn create_link(
    program: BorrowedFd<'_>,
    event: BorrowedFd<'_>,
    attach_type: u32,
    cookie: u64,
) -> io::Result<OwnedFd> {
    let request = CreateEventLink {
        program_fd: program.as_raw_fd() as u32,
        target_fd: event.as_raw_fd() as u32,
        attach_type,
        flags: 0,
        cookie,
    };
    bpf(BPF_LINK_CREATE, &request)
}

fn link(program: BorrowedFd<'_>, map_fd: RawFd) -> io::Result<OwnedFd> {
    let walk = MapOfWalk { map_fd: map_fd as u32 };
    let request = CreateLink {
        program_fd: program.as_raw_fd() as u32,
        target_fd: 0,
        attach_type: BPF_TRACE_ITER,
        flags: 0,
        walk: (&raw const walk) as u64,
        walk_bytes: size_of::<MapOfWalk>() as u32,
        reserved: 0,
    };
    bpf(BPF_LINK_CREATE, &request)
}

/// A call that answers with a new descriptor.
pub(super) fn bpf<T>(command: libc::c_long, request: &T) -> io::Result<OwnedFd> {
    // SAFETY: the request is as large as said and lives through the call, with all that it points to.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, request, size_of::<T>()) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(answer as RawFd) })
}
