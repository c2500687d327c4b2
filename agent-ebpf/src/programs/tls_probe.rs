//! The program behind every probe in a TLS library: what to do stands in the probe's cookie.
//!
//! One program for all, so that one link holds all probes of a file (`agent/src/bpf/uprobe.rs`) and one wait of the kernel
//! ends them.

use agent_ebpf::tls_fact::{
    PROBE_DESCRIPTOR, PROBE_GNUTLS, PROBE_GNUTLS_ANSWERED, PROBE_GNUTLS_ASKED, PROBE_GO_ALERT, PROBE_GO_BEGINS,
    PROBE_GO_ENDS, PROBE_GO_VERIFIED, PROBE_OPENSSL_CERTIFICATE, PROBE_OPENSSL_ERROR, PROBE_OPENSSL_PROTOCOL,
    PROBE_OPENSSL_SESSION, PROBE_OPENSSL_VERIFIED,
};
use aya_ebpf::{macros::uprobe, programs::ProbeContext};

use crate::{
    inside,
    kernel::private_stack,
    tls::{self, gnutls, go, openssl},
};

/// At the probed instruction, in the context of the process.
#[uprobe]
pub fn tls_probe(ctx: ProbeContext) -> u32 {
    private_stack::turn_off();
    if !inside::current_task() {
        return 0;
    }
    let probe = tls::cookie(&ctx);
    match probe.what {
        PROBE_OPENSSL_ERROR => openssl::error(&ctx, probe),
        PROBE_OPENSSL_VERIFIED => openssl::verified(&ctx, probe),
        PROBE_OPENSSL_CERTIFICATE => openssl::certificate(&ctx, probe),
        PROBE_OPENSSL_SESSION => openssl::session(&ctx),
        PROBE_OPENSSL_PROTOCOL => openssl::protocol(&ctx, probe),
        PROBE_DESCRIPTOR => tls::descriptor(&ctx),
        PROBE_GNUTLS => gnutls::says(&ctx, probe),
        PROBE_GNUTLS_ASKED => gnutls::asked(&ctx),
        PROBE_GNUTLS_ANSWERED => gnutls::answered(&ctx),
        PROBE_GO_ALERT => go::alert(&ctx, probe),
        PROBE_GO_VERIFIED => go::verified(&ctx),
        PROBE_GO_BEGINS => go::begins(&ctx, probe),
        PROBE_GO_ENDS => go::ends(&ctx, probe),
        _ => {}
    }
    0
}
