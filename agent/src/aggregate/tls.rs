//! Closed sets of TLS that are label values: versions, and why a handshake failed.

/// The agreed version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsVersion {
    /// RFC 2246.
    Tls10,
    /// RFC 4346.
    Tls11,
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
    /// Any other, or not seen.
    Other,
}

impl TlsVersion {
    /// Every value, in the order of `self as usize`.
    pub const ALL: [Self; 5] = [Self::Tls10, Self::Tls11, Self::Tls12, Self::Tls13, Self::Other];

    /// The version with this number in a `ServerHello`, in `supported_versions` where that is there.
    pub fn of(number: u16) -> Self {
        match number {
            0x0301 => Self::Tls10,
            0x0302 => Self::Tls11,
            0x0303 => Self::Tls12,
            0x0304 => Self::Tls13,
            _ => Self::Other,
        }
    }

    /// The value of the label `tls_version`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls10 => "1.0",
            Self::Tls11 => "1.1",
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
            Self::Other => "other",
        }
    }
}

/// Why a TLS handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsFailure {
    /// An alert in clear, by its description's number.
    Alert(u8),
    /// The certificate's time is over.
    CertExpired,
    /// The certificate's time has not begun.
    CertNotYetValid,
    /// The certificate is for other names.
    CertNameMismatch,
    /// The client does not know the authority that issued the certificate.
    CertUnknownAuthority,
    /// The server did not send the certificate of its issuer.
    CertMissingIntermediate,
    /// The certificate may not be used for this: revoked, weak, for another purpose.
    CertInvalid,
    /// One side broke the rules of the protocol, without an alert that was seen.
    ProtocolError,
    /// The client left after the server's certificate and did not say why in clear.
    RejectedByClient,
    /// No `ServerHello` came.
    NoAnswer,
    /// The answer to the `ClientHello` was no TLS.
    NotTls,
    /// One side closed in the middle.
    Closed,
    /// The kernel gave up in the middle.
    Timeout,
}

/// Alert descriptions of RFC 8446 section 6, with those of TLS 1.2 that it reserves (appendix B.2). Those of
/// SSL 3 and of export ciphers have no name of their own.
const ALERTS: [(u8, &str); 30] = [
    (0, "alert_close_notify"),
    (10, "alert_unexpected_message"),
    (20, "alert_bad_record_mac"),
    (22, "alert_record_overflow"),
    (40, "alert_handshake_failure"),
    (42, "alert_bad_certificate"),
    (43, "alert_unsupported_certificate"),
    (44, "alert_certificate_revoked"),
    (45, "alert_certificate_expired"),
    (46, "alert_certificate_unknown"),
    (47, "alert_illegal_parameter"),
    (48, "alert_unknown_ca"),
    (49, "alert_access_denied"),
    (50, "alert_decode_error"),
    (51, "alert_decrypt_error"),
    (70, "alert_protocol_version"),
    (71, "alert_insufficient_security"),
    (80, "alert_internal_error"),
    (86, "alert_inappropriate_fallback"),
    (90, "alert_user_canceled"),
    (100, "alert_no_renegotiation"),
    (109, "alert_missing_extension"),
    (110, "alert_unsupported_extension"),
    (111, "alert_certificate_unobtainable"),
    (112, "alert_unrecognized_name"),
    (113, "alert_bad_certificate_status_response"),
    (114, "alert_bad_certificate_hash_value"),
    (115, "alert_unknown_psk_identity"),
    (116, "alert_certificate_required"),
    (120, "alert_no_application_protocol"),
];

/// Values that are no alert.
const OTHERS: [TlsFailure; 12] = [
    TlsFailure::CertExpired,
    TlsFailure::CertNotYetValid,
    TlsFailure::CertNameMismatch,
    TlsFailure::CertUnknownAuthority,
    TlsFailure::Closed,
    TlsFailure::Timeout,
    TlsFailure::CertMissingIntermediate,
    TlsFailure::CertInvalid,
    TlsFailure::ProtocolError,
    TlsFailure::RejectedByClient,
    TlsFailure::NoAnswer,
    TlsFailure::NotTls,
];

impl TlsFailure {
    /// Number of values: every alert without a name of its own is one.
    pub const COUNT: usize = ALERTS.len() + 1 + OTHERS.len();

    /// Its place among [`Self::all`].
    pub fn index(self) -> usize {
        let after_alerts = |place| ALERTS.len() + 1 + place;
        match self {
            Self::Alert(description) => ALERTS
                .binary_search_by_key(&description, |(number, _)| *number)
                .unwrap_or(ALERTS.len()),
            Self::CertExpired => after_alerts(0),
            Self::CertNotYetValid => after_alerts(1),
            Self::CertNameMismatch => after_alerts(2),
            Self::CertUnknownAuthority => after_alerts(3),
            Self::Closed => after_alerts(4),
            Self::Timeout => after_alerts(5),
            Self::CertMissingIntermediate => after_alerts(6),
            Self::CertInvalid => after_alerts(7),
            Self::ProtocolError => after_alerts(8),
            Self::RejectedByClient => after_alerts(9),
            Self::NoAnswer => after_alerts(10),
            Self::NotTls => after_alerts(11),
        }
    }

    /// Every value once, in the order of [`Self::index`].
    pub fn all() -> impl Iterator<Item = Self> {
        // The highest number stands for the alerts without a name.
        let alerts = ALERTS.into_iter().map(|(number, _)| number).chain([u8::MAX]);
        alerts.map(Self::Alert).chain(OTHERS)
    }

    /// The value of the label `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alert(_) => ALERTS.get(self.index()).map_or("alert_unknown", |(_, name)| name),
            Self::CertExpired => "cert_expired",
            Self::CertNotYetValid => "cert_not_yet_valid",
            Self::CertNameMismatch => "cert_name_mismatch",
            Self::CertUnknownAuthority => "cert_unknown_authority",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::CertMissingIntermediate => "cert_missing_intermediate",
            Self::CertInvalid => "cert_invalid",
            Self::ProtocolError => "protocol_error",
            Self::RejectedByClient => "rejected_by_client",
            Self::NoAnswer => "no_answer",
            Self::NotTls => "not_tls",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_failure_has_a_place_and_a_name() {
        let all: Vec<_> = TlsFailure::all().collect();
        assert_eq!(all.len(), TlsFailure::COUNT);
        for (index, failure) in all.iter().enumerate() {
            assert_eq!(failure.index(), index, "{failure:?}");
        }
        let names: HashSet<_> = all.iter().map(|failure| failure.name()).collect();
        assert_eq!(names.len(), TlsFailure::COUNT);
    }

    #[test]
    fn alerts_by_number() {
        for (number, name) in [
            (0, "alert_close_notify"),
            (48, "alert_unknown_ca"),
            (120, "alert_no_application_protocol"),
            (121, "alert_unknown"),
            (255, "alert_unknown"),
            (1, "alert_unknown"),
        ] {
            assert_eq!(TlsFailure::Alert(number).name(), name);
        }
        assert_eq!(TlsVersion::of(0x0304).name(), "1.3");
        assert_eq!(TlsVersion::of(0x0300).name(), "other");
    }
}
