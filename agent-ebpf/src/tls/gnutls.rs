//! GnuTLS: alerts, the verdict on the peer's certificate, and the protocol agreed on.

use agent_ebpf::tls_fact::{FACT_ALERT_RECEIVED, FACT_ALERT_SENT, FACT_STATUS, ProbeCookie};
use aya_ebpf::{bindings::BPF_ANY, programs::ProbeContext};

use crate::{
    kernel::registers,
    maps::ASKED,
    tls::{self, Asked, Said, Session},
};

/// Functions whose argument number `first` is the fact `second`: `gnutls_alert_send(session, level, description)`,
/// `gnutls_alert_get_name(description)`, `gnutls_certificate_verification_status_print(status, …)`.
#[inline(always)]
pub fn says(ctx: &ProbeContext, probe: ProbeCookie) {
    let code = tls::argument(ctx, probe.first) as u32;
    let fact = probe.second as u8;
    if !matches!(fact, FACT_ALERT_RECEIVED | FACT_ALERT_SENT | FACT_STATUS) {
        return;
    }
    // close_notify ends every good connection.
    if fact != FACT_STATUS && code == 0 {
        return;
    }
    if let Some(cookie) = tls::joined() {
        tls::tell(probe, cookie, Said::of(fact, code));
    }
}

/// `gnutls_alpn_get_selected_protocol(session, answer)`.
#[inline(always)]
pub fn asked(ctx: &ProbeContext) {
    let session = Session::at(tls::argument(ctx, 0));
    if session.cookie().is_none() {
        return;
    }
    let asked = Asked {
        session,
        answer: tls::argument(ctx, 1),
    };
    let _evicts_the_oldest = ASKED.insert(tls::pid_tgid() as u32, asked, u64::from(BPF_ANY));
}

/// Its returns, with 0 when there is an answer.
#[inline(always)]
pub fn answered(ctx: &ProbeContext) {
    let thread = tls::pid_tgid() as u32;
    let Some(Asked { session, answer }) = ASKED.get_ptr(thread).map(|asked| {
        // SAFETY: the entry lives as long as this program runs.
        unsafe { *asked }
    }) else {
        return;
    };
    let _just_found = ASKED.remove(thread);
    if registers::rax(ctx) as u32 != 0 {
        return;
    }
    if let (Some(cookie), Some(at), Some(length)) = (session.cookie(), tls::word(answer), tls::word(answer + 8)) {
        session.forget();
        // A `gnutls_datum_t` has a length of 32 bits.
        tls::tell_protocol(cookie, at, length & u64::from(u32::MAX));
    }
}
