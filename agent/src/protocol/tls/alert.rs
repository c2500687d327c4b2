//! Alerts in clear, and their names in RFC 8446 section 6.

/// An alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert {
    /// 1 warning, 2 fatal.
    pub level: u8,
    /// What is the matter.
    pub description: u8,
}

impl Alert {
    /// `None` for what cannot be an alert in clear: it has two bytes, and one of two levels.
    pub fn parse(fragment: &[u8]) -> Option<Self> {
        match *fragment {
            [level @ 1..=2, description] => Some(Self { level, description }),
            _ => None,
        }
    }

    /// True when the connection ends with it; `close_notify` and `user_canceled` say goodbye, nothing failed.
    pub fn is_failure(self) -> bool {
        self.level == 2 && !matches!(self.description, 0 | 90)
    }
}

/// The name of an alert's description, as in RFC 8446 section 6, with those of earlier versions that it reserves.
pub fn alert_name(description: u8) -> Option<&'static str> {
    Some(match description {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        21 => "decryption_failed",
        22 => "record_overflow",
        30 => "decompression_failure",
        40 => "handshake_failure",
        41 => "no_certificate",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        60 => "export_restriction",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        100 => "no_renegotiation",
        109 => "missing_extension",
        110 => "unsupported_extension",
        111 => "certificate_unobtainable",
        112 => "unrecognized_name",
        113 => "bad_certificate_status_response",
        114 => "bad_certificate_hash_value",
        115 => "unknown_psk_identity",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts() {
        let alert = |level, description| Some(Alert { level, description });
        assert_eq!(Alert::parse(&[2, 48]), alert(2, 48));
        for bad in [&[][..], &[2], &[3, 0], &[0, 0], &[2, 40, 0]] {
            assert_eq!(Alert::parse(bad), None);
        }
        assert_eq!(alert_name(48), Some("unknown_ca"));
        assert_eq!(alert_name(255), None);
        assert!(alert(2, 40).is_some_and(Alert::is_failure));
        assert!(alert(1, 0).is_some_and(|alert| !alert.is_failure()));
    }
}
