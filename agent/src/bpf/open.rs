//! Walks over open connections: over their storage, which only a link that names the map can start, or over the sockets
//! of each network namespace.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
};

use aya::maps::Map;

use super::{
    BpfError, existing,
    object::Object,
    syscall::{ITER_CREATE, LINK_CREATE, bpf},
};

/// The program for the sockets of a namespace.
const SOCKETS_PROGRAM: &str = "iter_tcp_open";

/// What follows where namespaces may not be entered.
pub(super) const CONFINED: &str = "without CAP_SYS_ADMIN in the own network namespace alone: connections of pods that stay \
                                   open are not seen before they end";

/// `enum bpf_attach_type` (include/uapi/linux/bpf.h).
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

/// How open connections are walked.
#[derive(Debug)]
pub(super) enum OpenWalk {
    /// By their storage: the link from the program to it, from which every walk starts.
    Storage(OwnedFd),
    /// By the sockets of each namespace that this process may enter.
    Sockets,
}

impl OpenWalk {
    /// `None` when no program for it is loaded.
    pub(super) fn of(object: &mut Object) -> Result<Option<Self>, BpfError> {
        let Map::SkStorage(storage) = object.map("SOCKETS")? else {
            return Err(BpfError::Object("map SOCKETS is no socket storage".to_owned()));
        };
        let map_fd = storage.fd().as_fd().as_raw_fd();
        let Some(program) = object.iterator("iter_open") else {
            return Ok(object.is_attached(SOCKETS_PROGRAM).then_some(Self::Sockets));
        };
        let program = program.fd().map_err(|error| BpfError::Walk(error.to_string()))?;
        let link = link(program.as_fd(), map_fd).map_err(|error| BpfError::Walk(error.to_string()))?;
        Ok(Some(Self::Storage(link)))
    }

    /// One walk over all of them.
    pub(super) fn walk(&self, object: &mut Object) -> Result<(), BpfError> {
        let Self::Storage(link) = self else {
            return existing::walk_all(object, SOCKETS_PROGRAM);
        };
        let request = CreateWalk {
            link_fd: link.as_raw_fd() as u32,
            flags: 0,
        };
        let walk = bpf(ITER_CREATE, &request).map_err(|error| BpfError::Walk(error.to_string()))?;
        existing::drive(File::from(walk))
    }
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
    bpf(LINK_CREATE, &request)
}
