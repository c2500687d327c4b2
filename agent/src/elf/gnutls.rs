//! GnuTLS, by the functions that a file exports.

use agent_ebpf::tls_fact::{
    FACT_ALERT_RECEIVED, FACT_ALERT_SENT, FACT_STATUS, LIBRARY_GNUTLS, PROBE_DESCRIPTOR, PROBE_GNUTLS,
    PROBE_GNUTLS_ANSWERED, PROBE_GNUTLS_ASKED, ProbeCookie,
};

use super::{Place, TlsCode, code, functions::Functions, image};

pub(super) const NAMES: &[&str] = &[
    SEND,
    "gnutls_alert_get_name",
    "gnutls_certificate_verification_status_print",
    "gnutls_check_version",
    "gnutls_transport_set_int2",
    "gnutls_transport_set_ptr",
    PROTOCOL,
];

const SEND: &str = "gnutls_alert_send";
const PROTOCOL: &str = "gnutls_alpn_get_selected_protocol";

/// Functions whose argument is a fact.
const FACTS: [(&str, u16, u8); 3] = [
    (SEND, 2, FACT_ALERT_SENT),
    ("gnutls_alert_get_name", 0, FACT_ALERT_RECEIVED),
    ("gnutls_certificate_verification_status_print", 0, FACT_STATUS),
];

pub(super) fn tls_code(functions: &Functions<'_>) -> Option<TlsCode> {
    if !functions.has(SEND) {
        return None;
    }
    let version = version(functions).unwrap_or(0);
    let about = ProbeCookie {
        library: LIBRARY_GNUTLS,
        version,
        ..ProbeCookie::default()
    };
    let facts = FACTS.into_iter().filter_map(|(name, first, fact)| {
        let second = u16::from(fact);
        let what = PROBE_GNUTLS;
        functions.entry(
            name,
            ProbeCookie {
                first,
                second,
                what,
                ..about
            }
            .pack(),
        )
    });
    let mut probes: Vec<Place> = facts.collect();
    let answers = answers(functions, about);
    if !answers.is_empty() {
        let doing = |what| ProbeCookie { what, ..about }.pack();
        probes.extend(answers);
        probes.extend(functions.entry(PROTOCOL, doing(PROBE_GNUTLS_ASKED)));
        for name in ["gnutls_transport_set_int2", "gnutls_transport_set_ptr"] {
            probes.extend(functions.entry(name, doing(PROBE_DESCRIPTOR)));
        }
    }
    Some(TlsCode {
        library: LIBRARY_GNUTLS,
        version,
        probes,
    })
}

/// Where the question for the protocol is answered.
fn answers(functions: &Functions<'_>, about: ProbeCookie) -> Vec<Place> {
    let Some((offset, code)) = functions.code(PROTOCOL) else {
        return Vec::new();
    };
    let what = PROBE_GNUTLS_ANSWERED;
    let cookie = ProbeCookie { what, ..about }.pack();
    let returns = code::returns(&code).unwrap_or_default().into_iter();
    returns
        .map(|at| Place {
            offset: offset + at,
            cookie,
        })
        .collect()
}

/// The version in the text that a function refers to: three numbers with dots.
fn version(functions: &Functions<'_>) -> Option<u32> {
    const CODE: u64 = 64;
    const TEXT: u64 = 16;
    let image = functions.image;
    let address = functions.address("gnutls_check_version")?;
    let code = image.read(image.code_offset(address)?, CODE).ok()?;
    // lea d(%rip), register
    let mut texts = code.windows(7).enumerate().filter_map(|(at, window)| match window {
        [0x48, 0x8d, register, a, b, c, d] if register & 0xc7 == 5 => {
            let distance = i64::from(i32::from_le_bytes([*a, *b, *c, *d]));
            address.checked_add(at as u64 + 7)?.checked_add_signed(distance)
        }
        _ => None,
    });
    texts.find_map(|text| {
        let bytes = image.read(image.offset(text)?, TEXT).ok()?;
        let mut numbers = image::text(&bytes, 0).split('.').map(str::parse::<u8>);
        let mut next = || numbers.next()?.ok().map(u32::from);
        Some(next()? << 16 | next()? << 8 | next()?)
    })
}
