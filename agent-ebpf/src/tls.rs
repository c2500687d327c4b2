//! What probes in TLS libraries share: of which connection a fact is told, and how it leaves.
//!
//! A fact belongs to the handshake that its thread has last read bytes of: whatever a library finds wrong, it finds in
//! what it has just read. Who reads is known in process context (`programs/tls_read.rs`). Without such a read a moment
//! ago nothing is said of any connection, and that is counted.

pub mod gnutls;
pub mod go;
pub mod openssl;

use agent_ebpf::{
    event::{EventHeader, TLS_CERTIFICATE, TLS_FACT},
    loss::TLS_UNJOINED,
    tls_fact::{CERTIFICATE_BYTES, ProbeCookie, TlsCertificate, TlsFact},
};
use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{
        bpf_get_attach_cookie, bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_probe_read_user,
    },
    programs::ProbeContext,
};

use crate::{kernel::registers, maps::LAST_READ, output, socket};

/// Between the read and what the library makes of it lies computing alone.
const FRESH_NS: u64 = 250_000_000;

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

/// The handshake that this thread has read of a moment ago; `None`, counted, without one.
#[inline(always)]
pub fn joined() -> Option<u64> {
    let thread = pid_tgid() as u32;
    if let Some(last) = LAST_READ.get_ptr(thread) {
        // SAFETY: the entry lives as long as this program runs.
        let last = unsafe { *last };
        if socket::now().saturating_sub(last.time_ns) < FRESH_NS {
            return Some(last.cookie);
        }
    }
    output::count_failure(TLS_UNJOINED);
    None
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
    output::send_tls_fact(unsafe { bpf_get_current_cgroup_id() }, &raw const event);
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
            let length = crate::kernel::from_one_to::<{ CERTIFICATE_BYTES as u32 }>(length as u32);
            bpf_probe_read_user((&raw mut (*room).bytes).cast(), length, at as *const core::ffi::c_void) == 0
        }
    });
}
