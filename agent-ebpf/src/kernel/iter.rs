//! What an iterator is called with: structs of the BPF ABI, so nothing has to be looked up.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_sock_from_file;

use super::{Sock, Socket, file::File};

/// Kernel's `struct bpf_iter__task_file`.
#[repr(C)]
pub struct FileWalk {
    meta: *const c_void,
    task: *const c_void,
    descriptor: u64,
    file: *const File,
}

/// Kernel's `struct bpf_iter__bpf_sk_storage_map`, of a map whose values are `T`.
#[repr(C)]
pub struct StorageWalk<T> {
    meta: *const c_void,
    map: *const c_void,
    sk: *const Sock,
    value: *mut T,
}

impl FileWalk {
    /// The socket behind the open file that the walk is at, which the file keeps but nothing locks; `None` for any other
    /// file and at the end.
    #[inline(always)]
    pub fn socket(walk: *const Self) -> Option<*const Sock> {
        // SAFETY: the context is valid for the program's run.
        let file = unsafe { (*walk).file };
        if file.is_null() {
            return None;
        }
        // SAFETY: the walk holds the file; the helper looks at what kind it is.
        let socket: *const Socket = unsafe { bpf_sock_from_file(file.cast_mut().cast()) }.cast();
        if socket.is_null() {
            return None;
        }
        let sk = Socket::sk(socket);
        if sk.is_null() { None } else { Some(sk.cast_const()) }
    }
}

impl<T> StorageWalk<T> {
    /// The socket that the walk is at, which it has not locked, and what is kept for it; `None` at the end.
    #[inline(always)]
    pub fn element(walk: *const Self) -> Option<(*const Sock, *mut T)> {
        // SAFETY: the context is valid for the program's run.
        let (sk, value) = unsafe { ((*walk).sk, (*walk).value) };
        if sk.is_null() || value.is_null() {
            None
        } else {
            Some((sk, value))
        }
    }
}
