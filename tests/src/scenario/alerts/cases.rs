//! The table of failures: how each is made, the alert that must be on the wire, and the reason that hopline must give.

/// Who serves a case.
#[derive(Clone, Copy, Debug)]
pub(super) enum Server {
    /// `openssl s_server` with these options.
    OpenSsl(&'static [&'static str]),
    /// nginx: a server that takes no name at all, with these protocols.
    NginxRejects(&'static str),
    /// Reads the hello and closes.
    HangsUp,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Client {
    /// `openssl s_client` with these options.
    OpenSsl(&'static [&'static str]),
    /// curl with these options.
    Curl(&'static [&'static str]),
    /// These bytes.
    Raw(fn() -> Vec<u8>),
}

/// Who sends the alert, and its number in RFC 8446 section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    ByClient(u64),
    ByServer(u64),
    /// None in the clear: what went wrong is in the certificate alone, or nobody said anything.
    Nothing,
}

/// One way to fail.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) server: Server,
    pub(super) client: Client,
    pub(super) sent: Sent,
    /// In what the client printed.
    pub(super) says: &'static str,
    /// `tls.outcome`.
    pub(super) reason: &'static str,
    /// The hello contradicts itself.
    pub(super) malformed: bool,
}

/// Chain and key of a server that has nothing wrong.
const GOOD: &[&str] = &["-cert", "good.pem", "-cert_chain", "intermediate.pem"];
const GOOD12: &[&str] = &["-cert", "good.pem", "-cert_chain", "intermediate.pem", "-tls1_2"];
const GOOD13: &[&str] = &["-cert", "good.pem", "-cert_chain", "intermediate.pem", "-tls1_3"];
const TRUSTING: &[&str] = &["-CAfile", "root.pem", "-verify_return_error"];
const CURL12: &[&str] = &["--cacert", "root.pem", "--tls-max", "1.2"];

macro_rules! server12 {
    ($($word:literal),*) => { Server::OpenSsl(&["-tls1_2", $($word),*]) };
}

const fn case(name: &'static str, sent: Sent, says: &'static str, reason: &'static str) -> Case {
    Case {
        name,
        server: Server::OpenSsl(GOOD12),
        client: Client::OpenSsl(TRUSTING),
        sent,
        says,
        reason,
        malformed: false,
    }
}

const MUTUAL12: Server = server12!(
    "-cert",
    "good.pem",
    "-cert_chain",
    "intermediate.pem",
    "-Verify",
    "1",
    "-verify_return_error",
    "-CAfile",
    "root.pem"
);

pub(super) const CASES: &[Case] = &[
    // Certificates that a client of TLS 1.2 refuses.
    Case {
        client: Client::OpenSsl(&["-CAfile", "stranger.pem", "-verify_return_error"]),
        ..case(
            "unknown authority, openssl",
            Sent::ByClient(48),
            "unable to get",
            "cert_unknown_authority",
        )
    },
    Case {
        client: Client::Curl(&["--cacert", "stranger.pem", "--tls-max", "1.2"]),
        ..case(
            "unknown authority, curl",
            Sent::ByClient(48),
            "unable to get",
            "cert_unknown_authority",
        )
    },
    Case {
        server: server12!("-cert", "good.pem"),
        ..case(
            "missing intermediate, openssl",
            Sent::ByClient(48),
            "unable to get local issuer",
            "cert_missing_intermediate",
        )
    },
    Case {
        server: server12!("-cert", "good.pem"),
        client: Client::Curl(CURL12),
        ..case(
            "missing intermediate, curl",
            Sent::ByClient(48),
            "unable to get local issuer",
            "cert_missing_intermediate",
        )
    },
    Case {
        server: server12!("-cert", "expired.pem", "-cert_chain", "intermediate.pem"),
        ..case(
            "expired, openssl",
            Sent::ByClient(45),
            "certificate has expired",
            "cert_expired",
        )
    },
    Case {
        server: server12!("-cert", "expired.pem", "-cert_chain", "intermediate.pem"),
        client: Client::Curl(CURL12),
        ..case(
            "expired, curl",
            Sent::ByClient(45),
            "certificate has expired",
            "cert_expired",
        )
    },
    Case {
        server: server12!("-cert", "future.pem", "-cert_chain", "intermediate.pem"),
        ..case(
            "not yet valid, openssl",
            Sent::ByClient(42),
            "not yet valid",
            "cert_not_yet_valid",
        )
    },
    Case {
        server: server12!("-cert", "misnamed.pem", "-cert_chain", "intermediate.pem"),
        client: Client::OpenSsl(&[
            "-CAfile",
            "root.pem",
            "-verify_return_error",
            "-verify_hostname",
            "name.lab.test",
        ]),
        ..case(
            "name mismatch, openssl",
            Sent::ByClient(42),
            "hostname mismatch",
            "cert_name_mismatch",
        )
    },
    Case {
        // curl looks at the name after the handshake, and says goodbye under encryption.
        server: server12!("-cert", "misnamed.pem", "-cert_chain", "intermediate.pem"),
        client: Client::Curl(CURL12),
        ..case(
            "name mismatch, curl",
            Sent::Nothing,
            "no alternative certificate subject name",
            "cert_name_mismatch",
        )
    },
    // What a server of TLS 1.2 refuses.
    Case {
        server: server12!("-cert", "good.pem", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"),
        client: Client::OpenSsl(&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"]),
        ..case(
            "1.2 no common suite",
            Sent::ByServer(40),
            "handshake failure",
            "alert_handshake_failure",
        )
    },
    Case {
        server: Server::OpenSsl(GOOD13),
        client: Client::OpenSsl(&["-tls1_2"]),
        ..case(
            "client too old",
            Sent::ByServer(70),
            "alert protocol version",
            "alert_protocol_version",
        )
    },
    Case {
        client: Client::OpenSsl(&["-tls1_3"]),
        ..case(
            "server too old",
            Sent::ByServer(70),
            "alert protocol version",
            "alert_protocol_version",
        )
    },
    Case {
        server: Server::OpenSsl(GOOD),
        client: Client::OpenSsl(&["-tls1_2", "-fallback_scsv"]),
        ..case(
            "fallback without need",
            Sent::ByServer(86),
            "inappropriate fallback",
            "alert_inappropriate_fallback",
        )
    },
    Case {
        server: server12!(
            "-cert",
            "good.pem",
            "-servername",
            "another.lab.test",
            "-servername_fatal",
            "-cert2",
            "good.pem",
            "-key2",
            "leaf.key"
        ),
        ..case(
            "1.2 unknown name",
            Sent::ByServer(112),
            "unrecognized name",
            "alert_unrecognized_name",
        )
    },
    Case {
        server: Server::NginxRejects("TLSv1.2"),
        ..case(
            "1.2 unknown name, nginx",
            Sent::ByServer(112),
            "unrecognized name",
            "alert_unrecognized_name",
        )
    },
    Case {
        server: server12!("-cert", "good.pem", "-alpn", "h2"),
        client: Client::OpenSsl(&["-alpn", "http/1.1"]),
        ..case(
            "1.2 no common protocol",
            Sent::ByServer(120),
            "no application protocol",
            "alert_no_application_protocol",
        )
    },
    Case {
        server: MUTUAL12,
        ..case(
            "1.2 mTLS without certificate",
            Sent::ByServer(40),
            "handshake failure",
            "alert_certificate_required",
        )
    },
    Case {
        server: MUTUAL12,
        client: Client::OpenSsl(&["-cert", "outsider.pem", "-key", "client.key"]),
        ..case(
            "1.2 mTLS, unknown authority",
            Sent::ByServer(48),
            "alert unknown ca",
            "alert_unknown_ca",
        )
    },
    Case {
        server: MUTUAL12,
        client: Client::OpenSsl(&["-cert", "expired-client.pem", "-key", "client.key"]),
        ..case(
            "1.2 mTLS, expired",
            Sent::ByServer(45),
            "alert certificate expired",
            "alert_certificate_expired",
        )
    },
    // TLS 1.3, before anything is encrypted.
    Case {
        server: Server::OpenSsl(&[
            "-cert",
            "good.pem",
            "-tls1_3",
            "-ciphersuites",
            "TLS_AES_128_GCM_SHA256",
        ]),
        client: Client::OpenSsl(&["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"]),
        ..case(
            "1.3 no common suite",
            Sent::ByServer(40),
            "handshake failure",
            "alert_handshake_failure",
        )
    },
    Case {
        server: Server::OpenSsl(&["-cert", "good.pem", "-tls1_3", "-groups", "P-521"]),
        client: Client::OpenSsl(&["-tls1_3", "-groups", "X25519"]),
        ..case(
            "1.3 no common group",
            Sent::ByServer(40),
            "handshake failure",
            "alert_handshake_failure",
        )
    },
    Case {
        server: Server::OpenSsl(&[
            "-cert",
            "good.pem",
            "-tls1_3",
            "-servername",
            "another.lab.test",
            "-servername_fatal",
            "-cert2",
            "good.pem",
            "-key2",
            "leaf.key",
        ]),
        ..case(
            "1.3 unknown name",
            Sent::ByServer(112),
            "unrecognized name",
            "alert_unrecognized_name",
        )
    },
    Case {
        server: Server::NginxRejects("TLSv1.3"),
        client: Client::Curl(&["--tlsv1.3"]),
        ..case(
            "1.3 unknown name, nginx and curl",
            Sent::ByServer(112),
            "unrecognized name",
            "alert_unrecognized_name",
        )
    },
    Case {
        server: Server::OpenSsl(GOOD13),
        client: Client::Raw(super::hellos::without_groups),
        ..case(
            "1.3 hello without groups",
            Sent::ByServer(109),
            "0002026d",
            "alert_missing_extension",
        )
    },
    Case {
        server: Server::OpenSsl(GOOD13),
        client: Client::Raw(super::hellos::with_compression),
        ..case(
            "1.3 hello with compression",
            Sent::ByServer(47),
            "0002022f",
            "alert_illegal_parameter",
        )
    },
    Case {
        client: Client::Raw(super::hellos::cut_short),
        malformed: true,
        ..case(
            "hello with a lying length",
            Sent::ByServer(50),
            "00020232",
            "alert_decode_error",
        )
    },
    Case {
        // A library would answer the early end with an alert of its own.
        server: Server::HangsUp,
        client: Client::Raw(super::hellos::ordinary),
        ..case("closed without a word", Sent::Nothing, "", "no_answer")
    },
];
