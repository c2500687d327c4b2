//! The system call itself, for what aya 0.14 has no function for.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
};

/// `enum bpf_cmd` (include/uapi/linux/bpf.h): those that answer with a new descriptor.
pub(super) const PROG_LOAD: libc::c_long = 5;
pub(super) const LINK_CREATE: libc::c_long = 28;
pub(super) const ITER_CREATE: libc::c_long = 33;

/// Calls it with a request in the layout of the command.
pub(super) fn bpf<T>(command: libc::c_long, request: &T) -> io::Result<OwnedFd> {
    // SAFETY: the request is as large as said and lives through the call, with all that it points to.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, request, size_of::<T>()) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(answer as RawFd) })
}
