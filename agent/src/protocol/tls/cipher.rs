//! Names of cipher suites in IANA's registry, and what each costs a record.

/// The suites that are met today: those that current and older libraries offer by default.
const NAMES: &[(u16, &str)] = &[
    (0x000a, "TLS_RSA_WITH_3DES_EDE_CBC_SHA"),
    (0x002f, "TLS_RSA_WITH_AES_128_CBC_SHA"),
    (0x0033, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA"),
    (0x0035, "TLS_RSA_WITH_AES_256_CBC_SHA"),
    (0x0039, "TLS_DHE_RSA_WITH_AES_256_CBC_SHA"),
    (0x003c, "TLS_RSA_WITH_AES_128_CBC_SHA256"),
    (0x003d, "TLS_RSA_WITH_AES_256_CBC_SHA256"),
    (0x0067, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA256"),
    (0x006b, "TLS_DHE_RSA_WITH_AES_256_CBC_SHA256"),
    (0x009c, "TLS_RSA_WITH_AES_128_GCM_SHA256"),
    (0x009d, "TLS_RSA_WITH_AES_256_GCM_SHA384"),
    (0x009e, "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256"),
    (0x009f, "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384"),
    (0x00a8, "TLS_PSK_WITH_AES_128_GCM_SHA256"),
    (0x00a9, "TLS_PSK_WITH_AES_256_GCM_SHA384"),
    (0x1301, "TLS_AES_128_GCM_SHA256"),
    (0x1302, "TLS_AES_256_GCM_SHA384"),
    (0x1303, "TLS_CHACHA20_POLY1305_SHA256"),
    (0x1304, "TLS_AES_128_CCM_SHA256"),
    (0x1305, "TLS_AES_128_CCM_8_SHA256"),
    (0xc009, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"),
    (0xc00a, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"),
    (0xc012, "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA"),
    (0xc013, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"),
    (0xc014, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA"),
    (0xc023, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256"),
    (0xc024, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384"),
    (0xc027, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256"),
    (0xc028, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384"),
    (0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    (0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    (0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    (0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    (0xc09c, "TLS_RSA_WITH_AES_128_CCM"),
    (0xc09d, "TLS_RSA_WITH_AES_256_CCM"),
    (0xc09e, "TLS_DHE_RSA_WITH_AES_128_CCM"),
    (0xc09f, "TLS_DHE_RSA_WITH_AES_256_CCM"),
    (0xc0ac, "TLS_ECDHE_ECDSA_WITH_AES_128_CCM"),
    (0xc0ad, "TLS_ECDHE_ECDSA_WITH_AES_256_CCM"),
    (0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0xccaa, "TLS_DHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
];

/// The suite's name in IANA's registry; the number in hexadecimal, as in `0xc0ff`, for one that is not in the table.
pub fn cipher_name(suite: u16) -> String {
    known_cipher_name(suite).map_or_else(|| format!("{suite:#06x}"), str::to_owned)
}

/// The suite's name in IANA's registry, when it is one of the usual.
pub fn known_cipher_name(suite: u16) -> Option<&'static str> {
    let at = NAMES.binary_search_by_key(&suite, |(number, _)| *number).ok()?;
    Some(NAMES[at].1)
}

/// True for the suites of TLS 1.3.
pub fn is_tls13(suite: u16) -> bool {
    suite & 0xff00 == 0x1300
}

/// By how many bytes a record of this suite is longer than its plaintext, header not counted; `None` where padding to
/// blocks hides the plaintext's length, and for unknown suites.
///
/// TLS 1.3: 16 bytes of tag and one of content type. TLS 1.2: 8 bytes of explicit nonce and 16 of tag with GCM and CCM,
/// the tag alone with ChaCha20 (RFC 7905).
pub fn record_overhead(suite: u16) -> Option<u16> {
    let name = known_cipher_name(suite)?;
    Some(match suite {
        0x1305 => 9,
        _ if is_tls13(suite) => 17,
        _ if name.contains("CHACHA20") => 16,
        _ if name.contains("_GCM_") || name.ends_with("_CCM") => 24,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(NAMES.is_sorted_by_key(|(number, _)| *number));
    }

    #[test]
    fn names_and_overheads() {
        for (suite, name, overhead) in [
            (0x1301, "TLS_AES_128_GCM_SHA256", Some(17)),
            (0x1305, "TLS_AES_128_CCM_8_SHA256", Some(9)),
            (0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", Some(24)),
            (0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", Some(16)),
            (0xc0ac, "TLS_ECDHE_ECDSA_WITH_AES_128_CCM", Some(24)),
            (0x002f, "TLS_RSA_WITH_AES_128_CBC_SHA", None),
            (0xc0ff, "0xc0ff", None),
        ] {
            assert_eq!((cipher_name(suite).as_str(), record_overhead(suite)), (name, overhead));
        }
    }
}
