//! OpenSSL and BoringSSL: the queue of errors, the verdict on the peer's certificate, and the protocol agreed on.

use agent_ebpf::tls_fact::{FACT_ERROR, FACT_VERIFIED, LIBRARY_BORINGSSL, ProbeCookie};
use aya_ebpf::{helpers::bpf_probe_read_user, programs::ProbeContext};

use crate::tls::{self, Said, Session};

/// `ERR_LIB_SSL`.
const OPENSSL_SSL: u32 = 20;
/// The same of BoringSSL.
const BORINGSSL_SSL: u32 = 16;

/// `ERR_vset_error(lib, reason, …)` of OpenSSL 3, and `ERR_put_error(lib, func, reason, …)` of the others: `first` is the
/// number of the reason's argument.
#[inline(always)]
pub fn error(ctx: &ProbeContext, probe: ProbeCookie) {
    let library = tls::argument(ctx, 0) as u32;
    // Nearly all are about reading files or numbers.
    if library != OPENSSL_SSL && library != BORINGSSL_SSL {
        return;
    }
    if (library == BORINGSSL_SSL) != (probe.library == LIBRARY_BORINGSSL) {
        return;
    }
    let code = tls::argument(ctx, probe.first) as u32;
    if let Some(cookie) = tls::joined() {
        tls::tell(probe, cookie, Said::of(FACT_ERROR, code));
    }
}

/// `X509_STORE_CTX_get_error(ctx)`: libssl asks it once the chain was looked at. Where error and depth are in the context
/// is read off the functions that return them: `first` and `second`.
#[inline(always)]
pub fn verified(ctx: &ProbeContext, probe: ProbeCookie) {
    let context = tls::argument(ctx, 0);
    let Some(cookie) = tls::joined() else { return };
    let number = |at: u16| {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_user((context + u64::from(at)) as *const u32) }
    };
    let (Ok(code), Ok(depth)) = (number(probe.first), number(probe.second)) else {
        return;
    };
    let said = Said {
        fact: FACT_VERIFIED,
        code,
        depth: depth as u16,
    };
    tls::tell(probe, cookie, said);
}

/// `X509_STORE_CTX_get_error` again, for the peer's own certificate: `first` is where the context has it, `second` where a
/// certificate has its encoding (address, then length).
#[inline(always)]
pub fn certificate(ctx: &ProbeContext, probe: ProbeCookie) {
    let context = tls::argument(ctx, 0);
    let Some(cookie) = tls::joined() else { return };
    let told = tls::word(context + u64::from(probe.first)).and_then(|certificate| {
        let encoding = certificate + u64::from(probe.second);
        Some((tls::word(encoding)?, tls::word(encoding + 8)?))
    });
    if let Some((at, length)) = told {
        tls::tell_certificate(cookie, at, length);
    }
}

/// `X509_STORE_CTX_set_ex_data(ctx, index, ssl)`: libssl says for whom a certificate is looked at, in the call that has
/// just read it.
#[inline(always)]
pub fn session(ctx: &ProbeContext) {
    if let Some(cookie) = tls::read_of() {
        Session::at(tls::argument(ctx, 2)).is_of(cookie);
    }
}

/// `SSL_get0_alpn_selected(ssl, …)` and `SSL_free(ssl)`: `first` is where a session has the protocol (address, then
/// length), `second` is 1 for the last look.
#[inline(always)]
pub fn protocol(ctx: &ProbeContext, probe: ProbeCookie) {
    let session = Session::at(tls::argument(ctx, 0));
    let Some(cookie) = session.cookie() else { return };
    let chosen = session.address + u64::from(probe.first);
    let Some(length) = tls::word(chosen + 8) else { return };
    if length != 0 || probe.second == 1 {
        session.forget();
    }
    if let Some(at) = tls::word(chosen) {
        tls::tell_protocol(cookie, at, length);
    }
}
