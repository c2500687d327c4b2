//! Go's `crypto/tls`, by its register ABI (from 1.17 on, x86-64): arguments in AX, BX, CX, DI, SI; the goroutine in R14.
//!
//! The connection is known exactly: the `Conn` leads to its file descriptor, and that to the socket.

use agent_ebpf::loss::TLS_UNJOINED;
use agent_ebpf::tls_fact::{
    FACT_ALERT_RECEIVED, FACT_ALERT_SENT, FACT_BEGINS, FACT_REFUSED, GO_AUTHORITY, GO_INVALID, GO_NAME, GO_OTHER,
    ProbeCookie,
};
use aya_ebpf::{bindings::BPF_ANY, helpers::bpf_probe_read_user, programs::ProbeContext};

use crate::{
    kernel::{self, registers},
    maps::{GO_HANDSHAKES, GO_REFUSED},
    output,
    tls::{self, GoHandshake, GoRoutine, Said, word},
};

/// `abi.Struct`, in the lower five bits of a type's kind.
const KIND_STRUCT: u8 = 25;
const KIND_MASK: u8 = 31;
/// Reasons of `x509.CertificateInvalidError` are less than this.
const MOST_REASONS: u64 = 64;

/// The socket of a `tls.Conn`: its first member is an interface whose data begins with a `*netFD`, as `net.TCPConn`
/// does; that begins with a `poll.FD`, whose descriptor is behind its lock of 16 bytes (Go 1.9 to 1.26).
#[inline(always)]
fn socket_of(conn: u64) -> Option<u64> {
    let network = word(word(conn + 8)?)?;
    let fd = word(network + 16)?;
    if fd > u64::from(u32::MAX) {
        return None;
    }
    kernel::socket_cookie(fd as u32)
}

#[inline(always)]
fn routine(ctx: &ProbeContext) -> GoRoutine {
    GoRoutine {
        pid: tls::pid_tgid() >> 32,
        routine: registers::r14(ctx),
    }
}

/// `(*tls.Conn).sendAlert(alert)`.
#[inline(always)]
pub fn alert(ctx: &ProbeContext, probe: ProbeCookie) {
    let (conn, alert) = (registers::rax(ctx), registers::rbx(ctx) as u8);
    let key = routine(ctx);
    let refused = GO_REFUSED.get_ptr(key).map(|code| {
        // SAFETY: the entry lives as long as this program runs.
        unsafe { *code }
    });
    // close_notify ends every good connection.
    if alert == 0 {
        return;
    }
    let Some(cookie) = socket_of(conn) else {
        // A connection that is wrapped; a thread says nothing of its goroutines.
        output::count_failure(TLS_UNJOINED);
        return;
    };
    if let Some(code) = refused {
        let _just_found = GO_REFUSED.remove(key);
        tls::tell(probe, cookie, Said::of(FACT_REFUSED, code as u32));
    }
    tls::tell(probe, cookie, Said::of(FACT_ALERT_SENT, u32::from(alert)));
}

/// A return of `(*x509.Certificate).Verify`: the error's interface is in DI (table) and SI (value).
#[inline(always)]
pub fn verified(ctx: &ProbeContext) {
    let (table, value) = (registers::rdi(ctx), registers::rsi(ctx));
    let key = routine(ctx);
    if table == 0 {
        if GO_REFUSED.get_ptr(key).is_some() {
            let _just_found = GO_REFUSED.remove(key);
        }
        return;
    }
    let refusal = refusal(table, value);
    let code = u64::from(refusal.unwrap_or(GO_OTHER));
    let _evicts_the_oldest = GO_REFUSED.insert(key, code, u64::from(BPF_ANY));
    if refusal.is_some() {
        blamed(key, value);
    }
}

/// Each of these errors begins with the certificate that it is about, and that with its encoding, then the encoding of what is
/// signed: two slices (Go 1.0 to 1.26). Of an unknown authority it is the one whose issuer was not found.
#[inline(always)]
fn blamed(key: GoRoutine, value: u64) {
    const SLICE: u64 = 24;
    let Some(cookie) = GO_HANDSHAKES.get_ptr(key).map(|handshake| {
        // SAFETY: the entry lives as long as this program runs.
        unsafe { (*handshake).cookie }
    }) else {
        return;
    };
    let signed = word(value).and_then(|certificate| {
        let slice = certificate + SLICE;
        Some((word(slice)?, word(slice + 8)?))
    });
    if let Some((at, length)) = signed {
        tls::tell_certificate(cookie, at, length);
    }
}

/// Which error it is, by the size of its type, and by what only one of two of a size can hold.
#[inline(always)]
fn refusal(table: u64, value: u64) -> Option<u32> {
    let kind = table_type(table)?;
    // SAFETY: the helper checks the address.
    let what = unsafe { bpf_probe_read_user((kind + 23) as *const u8) }.ok()?;
    if what & KIND_MASK != KIND_STRUCT {
        return None;
    }
    match word(kind)? {
        24 => Some(GO_NAME),
        32 => match word(value + 8)? {
            // `UnknownAuthorityError` has an interface there: nothing, or an address.
            0 if word(value + 24)? == 0 || word(value + 16)? == 0 => Some(GO_AUTHORITY),
            reason if reason < MOST_REASONS => Some(GO_INVALID + reason as u32),
            _ => Some(GO_AUTHORITY),
        },
        _ => None,
    }
}

/// The type in an interface's table.
#[inline(always)]
fn table_type(table: u64) -> Option<u64> {
    word(table + 8)
}

/// `(*tls.Conn).clientHandshake` and `serverHandshake`: whose handshake this goroutine is at.
#[inline(always)]
pub fn begins(ctx: &ProbeContext, probe: ProbeCookie) {
    let conn = registers::rax(ctx);
    let Some(cookie) = socket_of(conn) else {
        return;
    };
    let key = routine(ctx);
    let handshake = GoHandshake { cookie, conn };
    let _evicts_the_oldest = GO_HANDSHAKES.insert(key, handshake, u64::from(BPF_ANY));
    // What this goroutine refused before, and sent no alert for, is not this connection's.
    if GO_REFUSED.get_ptr(key).is_some() {
        let _just_found = GO_REFUSED.remove(key);
    }
    tls::tell(probe, cookie, Said::of(FACT_BEGINS, 0));
}

/// Their returns, with an error in AX and BX: an alert of the peer's is a `net.permanentError` around a `net.OpError`
/// with `Op` = "remote error". `first` is where a `tls.Conn` has the protocol agreed on, a string; 0 when not known.
#[inline(always)]
pub fn ends(ctx: &ProbeContext, probe: ProbeCookie) {
    let (table, value) = (registers::rax(ctx), registers::rbx(ctx));
    let key = routine(ctx);
    let Some(GoHandshake { cookie, conn }) = GO_HANDSHAKES.get_ptr(key).map(|handshake| {
        // SAFETY: the entry lives as long as this program runs.
        unsafe { *handshake }
    }) else {
        return;
    };
    let _just_found = GO_HANDSHAKES.remove(key);
    let protocol = conn + u64::from(probe.first);
    if probe.first != 0
        && let (Some(at), Some(length)) = (word(protocol), word(protocol + 8))
    {
        tls::tell_protocol(cookie, at, length);
    }
    if table == 0 {
        return;
    }
    let Some(code) = peers_alert(value) else { return };
    tls::tell(probe, cookie, Said::of(FACT_ALERT_RECEIVED, code));
}

/// The alert in an error of the peer's.
#[inline(always)]
fn peers_alert(permanent: u64) -> Option<u32> {
    /// "remote e", as a word.
    const REMOTE: u64 = u64::from_le_bytes(*b"remote e");
    let operation = word(permanent + 8)?;
    if word(operation + 8)? != 12 || word(word(operation)?)? != REMOTE {
        return None;
    }
    // `Err` is behind two strings and two interfaces.
    let alert = word(operation + 72)?;
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(alert as *const u8) }.ok().map(u32::from)
}
