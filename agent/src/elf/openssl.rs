//! OpenSSL and BoringSSL, by the functions that a file exports, whatever the file is called.

use agent_ebpf::tls_fact::{
    LIBRARY_BORINGSSL, LIBRARY_OPENSSL, PROBE_DESCRIPTOR, PROBE_OPENSSL_CERTIFICATE, PROBE_OPENSSL_ERROR,
    PROBE_OPENSSL_PROTOCOL, PROBE_OPENSSL_SESSION, PROBE_OPENSSL_VERIFIED, ProbeCookie,
};

use super::{
    Place, TlsCode,
    code::{copied_pair, returned_member, returned_number},
    functions::Functions,
};

/// Of OpenSSL 3; of the versions before; of BoringSSL alone; and what is read of them. The last three are in libssl, which
/// is a file of its own where it is shared.
pub(super) const NAMES: &[&str] = &[
    "ERR_vset_error",
    "ERR_put_error",
    "BORINGSSL_self_test",
    "OpenSSL_version_num",
    VERIFIED,
    "X509_STORE_CTX_get_error_depth",
    "X509_STORE_CTX_get0_cert",
    "X509_get0_extensions",
    SESSION,
    PROTOCOL,
    "SSL_free",
    "SSL_set_fd",
];

const VERIFIED: &str = "X509_STORE_CTX_get_error";
const SESSION: &str = "X509_STORE_CTX_set_ex_data";
const PROTOCOL: &str = "SSL_get0_alpn_selected";

pub(super) fn tls_code(functions: &Functions<'_>) -> Option<TlsCode> {
    let library = if functions.has("BORINGSSL_self_test") {
        LIBRARY_BORINGSSL
    } else {
        LIBRARY_OPENSSL
    };
    let number = functions.beginning("OpenSSL_version_num");
    let version = number.and_then(|code| returned_number(&code)).map_or(0, version);
    let about = ProbeCookie {
        library,
        version,
        ..ProbeCookie::default()
    };
    let mut probes = errors(functions, about);
    if !probes.is_empty() {
        probes.extend(verdicts(functions, about));
    }
    if library == LIBRARY_OPENSSL {
        probes.extend(protocol(functions, about));
    }
    (!probes.is_empty()).then_some(TlsCode {
        library,
        version,
        probes,
    })
}

/// The queue of errors: where it is, and which argument is the reason.
fn errors(functions: &Functions<'_>, about: ProbeCookie) -> Vec<Place> {
    let what = PROBE_OPENSSL_ERROR;
    let place = |name, first| functions.entry(name, ProbeCookie { what, first, ..about }.pack());
    let place = place("ERR_vset_error", 1).or_else(|| place("ERR_put_error", 2));
    place.into_iter().collect()
}

/// The verdict on a certificate, itself, and for whom it is looked at.
fn verdicts(functions: &Functions<'_>, about: ProbeCookie) -> Vec<Place> {
    let member = |name| functions.beginning(name).and_then(|code| returned_member(&code));
    let (Some(first), Some(second)) = (member(VERIFIED), member("X509_STORE_CTX_get_error_depth")) else {
        return Vec::new();
    };
    let mut cookies = vec![(VERIFIED, PROBE_OPENSSL_VERIFIED, first, second)];
    if about.library == LIBRARY_OPENSSL {
        // The encoding stands behind the extensions, in every version of `X509_CINF` from 1.1.0 on.
        if let (Some(first), Some(extensions)) = (member("X509_STORE_CTX_get0_cert"), member("X509_get0_extensions")) {
            cookies.push((VERIFIED, PROBE_OPENSSL_CERTIFICATE, first, extensions + 8));
        }
        cookies.push((SESSION, PROBE_OPENSSL_SESSION, 0, 0));
    }
    let places = cookies.into_iter().filter_map(|(name, what, first, second)| {
        let cookie = ProbeCookie {
            what,
            first,
            second,
            ..about
        };
        functions.entry(name, cookie.pack())
    });
    places.collect()
}

/// The protocol that a session agreed on, where the function that tells it shows where a session has it (from 3.0 on).
fn protocol(functions: &Functions<'_>, about: ProbeCookie) -> Vec<Place> {
    let Some(first) = functions.code(PROTOCOL).and_then(|(_, code)| copied_pair(&code)) else {
        return Vec::new();
    };
    let look = |last| ProbeCookie {
        what: PROBE_OPENSSL_PROTOCOL,
        first,
        second: last,
        ..about
    };
    let descriptor = ProbeCookie {
        what: PROBE_DESCRIPTOR,
        ..about
    };
    let places = [(PROTOCOL, look(0)), ("SSL_free", look(1)), ("SSL_set_fd", descriptor)];
    let places = places
        .into_iter()
        .filter_map(|(name, cookie)| functions.entry(name, cookie.pack()));
    places.collect()
}

/// From OpenSSL's number: `MNN00PP0` from 3.0 on, `MNNFFPPS` before.
fn version(number: u32) -> u32 {
    let (major, minor) = (number >> 28, number >> 20 & 0xff);
    let patch = if major >= 3 {
        number >> 4 & 0xff
    } else {
        number >> 12 & 0xff
    };
    major << 16 | minor << 8 | patch
}
