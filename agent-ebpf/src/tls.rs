//! What probes in TLS libraries share: of which connection a fact is told, and how it leaves.
//!
//! A fact belongs to the handshake that its thread has last read bytes of: whatever a library finds wrong, it finds in
//! what it has just read. Who reads is known in process context (`programs/tls_read.rs`). Without such a read a moment
//! ago nothing is said of any connection, and that is counted.

pub mod gnutls;
pub mod go;
pub mod openssl;

use agent_ebpf::{
    event::{EventHeader, TLS_CERTIFICATE, TLS_FACT, TLS_PROTOCOL},
    loss::TLS_UNJOINED,
    tls_fact::{CERTIFICATE_BYTES, PROTOCOL_BYTES, ProbeCookie, TlsCertificate, TlsFact, TlsProtocol},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_ANY,
    helpers::generated::{
        bpf_get_attach_cookie, bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_probe_read_user,
    },
    programs::ProbeContext,
};

use crate::{
    kernel::{self, registers},
    maps::{LAST_READ, SESSIONS},
    output, socket,
};

/// Between the read and what the library makes of it lies computing alone, but in a container that is held to a tenth of a
/// processor, or where the library has to come from the disk first, that takes a while.
const FRESH_NS: u64 = 2_000_000_000;

/// Value of `LAST_READ`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LastRead {
    /// Cookie of the socket.
    pub cookie: u64,
    /// When.
    pub time_ns: u64,
}

/// Key of `GO_REFUSED`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct GoRoutine {
    /// Process.
    pub pid: u64,
    /// Address of the runtime's `g`.
    pub routine: u64,
}

/// Value of `GO_HANDSHAKES`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct GoHandshake {
    /// Cookie of the socket.
    pub cookie: u64,
    /// Address of the `tls.Conn`.
    pub conn: u64,
}

/// Key of `SESSIONS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Session {
    /// Process.
    pub pid: u64,
    /// Address of the `SSL` or `gnutls_session_int`.
    pub address: u64,
}

impl Session {
    /// One of the running process.
    #[inline(always)]
    pub fn at(address: u64) -> Self {
        Self {
            pid: pid_tgid() >> 32,
            address,
        }
    }

    /// Its socket.
    #[inline(always)]
    pub fn cookie(self) -> Option<u64> {
        SESSIONS.get_ptr(self).map(|cookie| {
            // SAFETY: the entry lives as long as this program runs.
            unsafe { *cookie }
        })
    }

    /// From now on its socket is known.
    #[inline(always)]
    pub fn is_of(self, cookie: u64) {
        let _evicts_the_oldest = SESSIONS.insert(self, cookie, u64::from(BPF_ANY));
    }

    /// What it agreed on was told of, or nobody will ask.
    #[inline(always)]
    pub fn forget(self) {
        let _just_found = SESSIONS.remove(self);
    }
}

/// Value of `ASKED`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Asked {
    /// Of whom.
    pub session: Session,
    /// Where the answer will be: an address, then a length.
    pub answer: u64,
}

/// What a probe says.
#[derive(Clone, Copy)]
pub struct Said {
    /// One of the `FACT_*`.
    pub fact: u8,
    /// See [`TlsFact::code`].
    pub code: u32,
    /// See [`TlsFact::depth`].
    pub depth: u16,
}

impl Said {
    /// A fact that is about no certificate of a chain.
    pub const fn of(fact: u8, code: u32) -> Self {
        Self { fact, code, depth: 0 }
    }
}

/// What the probe was told when it was attached.
#[inline(always)]
pub fn cookie(ctx: &ProbeContext) -> ProbeCookie {
    // SAFETY: the helper takes this context.
    ProbeCookie::unpack(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) })
}

/// Argument number `n` of a C function, from 0 to 2.
#[inline(always)]
pub fn argument(ctx: &ProbeContext, n: u16) -> u64 {
    let all = (registers::rdi(ctx), registers::rsi(ctx), registers::rdx(ctx));
    match n {
        0 => all.0,
        1 => all.1,
        _ => all.2,
    }
}

/// The handshake that this thread has read of a moment ago.
#[inline(always)]
pub fn read_of() -> Option<u64> {
    let last = LAST_READ.get_ptr(pid_tgid() as u32)?;
    // SAFETY: the entry lives as long as this program runs.
    let last = unsafe { *last };
    (socket::now().saturating_sub(last.time_ns) < FRESH_NS).then_some(last.cookie)
}

/// The same, for a fact that is lost without one; that is counted.
#[inline(always)]
pub fn joined() -> Option<u64> {
    let cookie = read_of();
    if cookie.is_none() {
        output::count_failure(TLS_UNJOINED);
    }
    cookie
}

/// A word of the running process.
#[inline(always)]
pub fn word(at: u64) -> Option<u64> {
    // SAFETY: the helper checks the address.
    unsafe { aya_ebpf::helpers::bpf_probe_read_user(at as *const u64) }.ok()
}

/// `SSL_set_fd(ssl, fd)`, `gnutls_transport_set_int2(session, fd, fd)`, `gnutls_transport_set_ptr(session, fd)`: whoever
/// gives something else than a descriptor is not told of.
#[inline(always)]
pub fn descriptor(ctx: &ProbeContext) {
    let fd = argument(ctx, 1);
    if fd > u64::from(u32::MAX) {
        return;
    }
    if let Some(cookie) = kernel::socket_cookie(fd as u32) {
        Session::at(argument(ctx, 0)).is_of(cookie);
    }
}

/// Thread in the lower half, process in the upper.
#[inline(always)]
pub fn pid_tgid() -> u64 {
    // SAFETY: no preconditions.
    unsafe { bpf_get_current_pid_tgid() }
}

/// Sends a fact about the connection with this cookie.
#[inline(always)]
pub fn tell(probe: ProbeCookie, cookie: u64, said: Said) {
    let event = TlsFact {
        header: EventHeader::of::<TlsFact>(TLS_FACT, socket::now()),
        cookie,
        pid: (pid_tgid() >> 32) as u32,
        code: said.code,
        depth: said.depth,
        library: probe.library,
        fact: said.fact,
        version: probe.version,
    };
    // SAFETY: no preconditions.
    output::send_tls(TLS_FACT, unsafe { bpf_get_current_cgroup_id() }, &raw const event);
}

/// Sends the name of `length` bytes at `at` in the process's memory as what the connection's handshake agreed on.
#[inline(always)]
pub fn tell_protocol(cookie: u64, at: u64, length: u64) {
    if length == 0 || length > PROTOCOL_BYTES as u64 {
        return;
    }
    let mut event = TlsProtocol {
        header: EventHeader::of::<TlsProtocol>(TLS_PROTOCOL, socket::now()),
        cookie,
        pid: (pid_tgid() >> 32) as u32,
        length: length as u32,
        name: [0; PROTOCOL_BYTES],
    };
    let length = kernel::from_one_to::<{ PROTOCOL_BYTES as u32 }>(length as u32);
    // SAFETY: the name has room for as many bytes.
    let failed = unsafe { bpf_probe_read_user((&raw mut event.name).cast(), length, at as *const core::ffi::c_void) };
    if failed == 0 {
        // SAFETY: no preconditions.
        output::send_tls(TLS_PROTOCOL, unsafe { bpf_get_current_cgroup_id() }, &raw const event);
    }
}

#[repr(C)]
struct Certificate {
    header: TlsCertificate,
    bytes: [u8; CERTIFICATE_BYTES],
}

/// Sends `length` bytes of a certificate at `at` in the process's memory, if that is the length that the bytes say.
#[inline(always)]
pub fn tell_certificate(cookie: u64, at: u64, length: u64) {
    if length < 5 || length > CERTIFICATE_BYTES as u64 {
        return;
    }
    // SAFETY: no preconditions.
    let cgroup_id = unsafe { bpf_get_current_cgroup_id() };
    output::fill_tls_certificate::<Certificate>(cgroup_id, |room| {
        // SAFETY: the reserved room is a certificate's, and the helper fills no more than all of its bytes.
        unsafe {
            (*room).header = TlsCertificate {
                header: EventHeader::of::<Certificate>(TLS_CERTIFICATE, socket::now()),
                cookie,
                pid: (pid_tgid() >> 32) as u32,
                length: length as u16,
                reserved: 0,
            };
            let length = kernel::from_one_to::<{ CERTIFICATE_BYTES as u32 }>(length as u32);
            bpf_probe_read_user((&raw mut (*room).bytes).cast(), length, at as *const core::ffi::c_void) == 0
        }
    });
}
