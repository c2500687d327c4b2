//! OpenSSL, BoringSSL and GnuTLS, by the functions that a file exports, whatever the file is called.

use agent_ebpf::tls_fact::{
    FACT_ALERT_RECEIVED, FACT_ALERT_SENT, FACT_STATUS, LIBRARY_BORINGSSL, LIBRARY_GNUTLS, LIBRARY_OPENSSL,
    PROBE_GNUTLS, PROBE_OPENSSL_CERTIFICATE, PROBE_OPENSSL_ERROR, PROBE_OPENSSL_VERIFIED, ProbeCookie,
};

use super::{
    Place, Refusal, TlsCode,
    code::{GETTER_BYTES, returned_member, returned_number},
    image::{self, Image},
    symbols,
};

/// Of OpenSSL 3; of the versions before; of BoringSSL alone; and what is read of them.
const NAMES: [&str; 12] = [
    "ERR_vset_error",
    "ERR_put_error",
    "BORINGSSL_self_test",
    "OpenSSL_version_num",
    "X509_STORE_CTX_get_error",
    "X509_STORE_CTX_get_error_depth",
    "X509_STORE_CTX_get0_cert",
    "X509_get0_extensions",
    "gnutls_alert_send",
    "gnutls_alert_get_name",
    "gnutls_certificate_verification_status_print",
    "gnutls_check_version",
];

/// The code in a file that is none of Go's.
pub(super) fn tls_code(image: &Image<'_>) -> Result<Option<TlsCode>, Refusal> {
    let found = symbols::find(image, &NAMES)?;
    let [
        vset,
        put,
        boring,
        number,
        get_error,
        get_depth,
        get_certificate,
        get_extensions,
        gnutls_send,
        gnutls_name,
        gnutls_status,
        gnutls_version,
    ] = found[..]
    else {
        return Ok(None);
    };
    if let Some(send) = gnutls_send {
        return Ok(Some(gnutls(
            image,
            [Some(send), gnutls_name, gnutls_status],
            gnutls_version,
        )));
    }
    let Some((error, reason)) = vset.map(|at| (at, 1)).or(put.map(|at| (at, 2))) else {
        return Ok(None);
    };
    let beginning = |address: Option<u64>| {
        let offset = image.code_offset(address?)?;
        image.read(offset, GETTER_BYTES).ok()
    };
    let member = |address| beginning(address).and_then(|code| returned_member(&code));
    let library = if boring.is_some() {
        LIBRARY_BORINGSSL
    } else {
        LIBRARY_OPENSSL
    };
    let version = beginning(number)
        .and_then(|code| returned_number(&code))
        .map_or(0, version);
    let about = ProbeCookie {
        library,
        version,
        ..ProbeCookie::default()
    };
    let mut probes = Vec::new();
    let mut add = |what, address, cookie: ProbeCookie| {
        if let Some(offset) = image.code_offset(address) {
            probes.push(Place {
                offset,
                cookie: ProbeCookie { what, ..cookie }.pack(),
            });
        }
    };
    add(PROBE_OPENSSL_ERROR, error, ProbeCookie { first: reason, ..about });
    if let (Some(at), Some(first), Some(second)) = (get_error, member(get_error), member(get_depth)) {
        add(PROBE_OPENSSL_VERIFIED, at, ProbeCookie { first, second, ..about });
        // The encoding stands behind the extensions, in every version of `X509_CINF` from 1.1.0 on.
        if let (LIBRARY_OPENSSL, Some(first), Some(extensions)) =
            (library, member(get_certificate), member(get_extensions))
        {
            let second = extensions + 8;
            add(PROBE_OPENSSL_CERTIFICATE, at, ProbeCookie { first, second, ..about });
        }
    }
    Ok((!probes.is_empty()).then_some(TlsCode {
        library,
        version,
        probes,
    }))
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

fn gnutls(image: &Image<'_>, functions: [Option<u64>; 3], check_version: Option<u64>) -> TlsCode {
    let version = check_version.and_then(|at| named_version(image, at)).unwrap_or(0);
    let facts = [(2, FACT_ALERT_SENT), (0, FACT_ALERT_RECEIVED), (0, FACT_STATUS)];
    let place = |(address, (argument, fact)): (Option<u64>, (u16, u8))| {
        let cookie = ProbeCookie {
            library: LIBRARY_GNUTLS,
            version,
            first: argument,
            second: u16::from(fact),
            what: PROBE_GNUTLS,
        };
        Some(Place {
            offset: image.code_offset(address?)?,
            cookie: cookie.pack(),
        })
    };
    TlsCode {
        library: LIBRARY_GNUTLS,
        version,
        probes: functions.into_iter().zip(facts).filter_map(place).collect(),
    }
}

/// The version in the text that a function refers to: three numbers with dots.
fn named_version(image: &Image<'_>, address: u64) -> Option<u32> {
    const CODE: u64 = 64;
    const TEXT: u64 = 16;
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
