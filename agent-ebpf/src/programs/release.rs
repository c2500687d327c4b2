//! Listeners give their storage up before the maps go: the agent starts this walk once, at its end, on kernels from 7.0.
//!
//! A listener's storage is copied to its children. On 7.0 that copy reads a pointer that the end of the map clears, without
//! looking at it (`docs/kernels.md`); an element that a program has deleted is never met there.

use agent_ebpf::connection::tcp_state;
use aya_ebpf::helpers::generated::bpf_sk_storage_delete;

use crate::{
    kernel::{FileWalk, Sock, TcpSock},
    maps::SOCKETS,
};

/// One open file of one process.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn iter_release_listeners(walk: *const FileWalk) -> i32 {
    let Some(sk) = FileWalk::socket(walk) else { return 0 };
    let Some(tcp) = TcpSock::of(sk) else { return 0 };
    if Sock::state(tcp.cast_const().cast()) == tcp_state::LISTEN {
        // SAFETY: the walk holds the file, and the file its socket.
        let _most_have_none = unsafe { bpf_sk_storage_delete(SOCKETS.as_ptr(), tcp.cast()) };
    }
    0
}
