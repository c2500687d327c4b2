//! GnuTLS: alerts, and the verdict on the peer's certificate.

use agent_ebpf::tls_fact::{FACT_ALERT_RECEIVED, FACT_ALERT_SENT, FACT_STATUS, ProbeCookie};
use aya_ebpf::programs::ProbeContext;

use crate::tls::{self, Said};

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
