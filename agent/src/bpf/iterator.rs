//! Runs iterator programs: a link says over what, each walk starts from it and is driven by reading.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
};

use super::{
    BpfError,
    object::Object,
    syscall::{ITER_CREATE, LINK_CREATE, bpf},
};

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

/// What every walk of one program starts from.
#[derive(Debug)]
pub(super) struct Iterator {
    link: OwnedFd,
}

impl Iterator {
    /// Over the elements of a map, or over what the program itself is for; `None` when the program is not loaded.
    pub(super) fn of(object: &mut Object, program: &str, map: Option<RawFd>) -> Result<Option<Self>, BpfError> {
        let failed = |error: &dyn std::error::Error| BpfError::Walk(error.to_string());
        let Some(program) = object.iterator(program) else {
            return Ok(None);
        };
        let program = program.fd().map_err(|error| failed(&error))?;
        let link = link(program.as_fd(), map).map_err(|error| failed(&error))?;
        Ok(Some(Self { link }))
    }

    /// One walk over all of it. The program prints nothing, reading only drives it.
    pub(super) fn walk(&self) -> Result<(), BpfError> {
        let failed = |error: io::Error| BpfError::Walk(error.to_string());
        let request = CreateWalk {
            link_fd: self.link.as_raw_fd() as u32,
            flags: 0,
        };
        let mut walk = File::from(bpf(ITER_CREATE, &request).map_err(failed)?);
        let mut buffer = [0; 4096];
        loop {
            match walk.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // The kernel pauses a long walk this way (EAGAIN) or a signal interrupted it.
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

/// Runs a program over the open files of all processes, once; does nothing when it is not loaded.
pub(super) fn walk_files(object: &mut Object, program: &str) -> Result<(), BpfError> {
    Iterator::of(object, program, None)?.map_or(Ok(()), |iterator| iterator.walk())
}

fn link(program: BorrowedFd<'_>, map_fd: Option<RawFd>) -> io::Result<OwnedFd> {
    let walk = map_fd.map(|map_fd| MapOfWalk { map_fd: map_fd as u32 });
    let request = CreateLink {
        program_fd: program.as_raw_fd() as u32,
        target_fd: 0,
        attach_type: BPF_TRACE_ITER,
        flags: 0,
        walk: walk.as_ref().map_or(0, |walk| core::ptr::from_ref(walk) as u64),
        walk_bytes: walk.as_ref().map_or(0, |_| size_of::<MapOfWalk>() as u32),
        reserved: 0,
    };
    bpf(LINK_CREATE, &request)
}
