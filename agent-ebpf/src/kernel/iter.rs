//! What an iterator is called with: structs of the BPF ABI, so nothing has to be looked up.

use core::ffi::c_void;

use super::Sock;

/// Kernel's `struct bpf_iter__tcp`.
#[repr(C)]
pub struct TcpWalk {
    meta: *const c_void,
    sk_common: *const Sock,
}

/// Kernel's `struct bpf_iter__bpf_sk_storage_map`, of a map whose values are `T`.
#[repr(C)]
pub struct StorageWalk<T> {
    meta: *const c_void,
    map: *const c_void,
    sk: *const Sock,
    value: *mut T,
}

impl TcpWalk {
    /// The socket that the walk is at, which it has locked; `None` at the end.
    #[inline(always)]
    pub fn socket(walk: *const Self) -> Option<*const Sock> {
        // SAFETY: the context is valid for the program's run.
        let sk = unsafe { (*walk).sk_common };
        if sk.is_null() { None } else { Some(sk) }
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
