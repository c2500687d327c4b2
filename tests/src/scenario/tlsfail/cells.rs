//! The matrix: clients, ways to fail, versions; and for each cell the reason that hopline must give, with why.

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    Curl,
    Python,
    Node,
    Gnutls,
    /// Go of this machine: with its symbols, stripped, and stripped and position-independent.
    Go,
    GoStripped,
    GoPie,
    /// Go 1.19 of Debian, where it is installed.
    GoDebian,
    Java,
    Rustls,
}

impl Client {
    pub(super) const ALL: [Self; 10] = [
        Self::Curl,
        Self::Python,
        Self::Node,
        Self::Gnutls,
        Self::Go,
        Self::GoStripped,
        Self::GoPie,
        Self::GoDebian,
        Self::Java,
        Self::Rustls,
    ];

    /// In the short form: one of each library, and one that cannot be asked.
    pub(super) fn is_short(self) -> bool {
        matches!(self, Self::Curl | Self::Gnutls | Self::Go | Self::GoPie | Self::Rustls)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Python => "python",
            Self::Node => "node",
            Self::Gnutls => "gnutls-cli",
            Self::Go => "go",
            Self::GoStripped => "go stripped",
            Self::GoPie => "go stripped pie",
            Self::GoDebian => "go 1.19",
            Self::Java => "java",
            Self::Rustls => "rustls",
        }
    }

    /// Whose TLS it is.
    pub(super) fn library(self) -> Library {
        match self {
            Self::Curl | Self::Python | Self::Node => Library::OpenSsl,
            Self::Gnutls => Library::GnuTls,
            Self::Go | Self::GoStripped | Self::GoPie | Self::GoDebian => Library::Go,
            Self::Java | Self::Rustls => Library::Unseen,
        }
    }
}

/// Libraries that can be asked, and all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Library {
    OpenSsl,
    GnuTls,
    Go,
    /// JSSE in bytecode, rustls without symbols.
    Unseen,
}

impl Library {
    /// How its name in records begins; `null` for none.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::OpenSsl => "OpenSSL",
            Self::GnuTls => "GnuTLS",
            Self::Go => "Go",
            Self::Unseen => "null",
        }
    }
}

/// Ways to fail, and not to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Expired,
    WrongName,
    UnknownAuthority,
    MissingIntermediate,
    ClientCertificate,
    Version,
    Closes,
    Silent,
    /// Last: of a program that nobody has seen before the beginning of a handshake may be missed, and Go says no more of one
    /// that goes well.
    Nothing,
}

impl Failure {
    pub(super) const ALL: [Self; 9] = [
        Self::Expired,
        Self::WrongName,
        Self::UnknownAuthority,
        Self::MissingIntermediate,
        Self::ClientCertificate,
        Self::Version,
        Self::Closes,
        Self::Silent,
        Self::Nothing,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::WrongName => "wrong name",
            Self::UnknownAuthority => "unknown authority",
            Self::MissingIntermediate => "missing intermediate",
            Self::ClientCertificate => "client certificate required",
            Self::Version => "no common version",
            Self::Closes => "server closes",
            Self::Silent => "server silent",
            Self::Nothing => "nothing wrong",
        }
    }
}

/// What hopline must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) outcome: &'static str,
    pub(super) failed_by: &'static str,
    /// The library has said something by then: before its first look at a certificate or its first error it has not.
    pub(super) library: bool,
}

const fn said(outcome: &'static str, failed_by: &'static str) -> Expected {
    Expected {
        outcome,
        failed_by,
        library: true,
    }
}

/// The wire alone knows.
const fn seen(outcome: &'static str, failed_by: &'static str) -> Expected {
    Expected {
        outcome,
        failed_by,
        library: false,
    }
}

/// What hopline must say of a cell. `tls13`: the version that client and server have in common.
pub(super) fn expected(client: Client, failure: Failure, tls13: bool) -> Expected {
    let library = client.library();
    match failure {
        Failure::Nothing if library == Library::Unseen => seen("ok", "null"),
        Failure::Nothing => said("ok", "null"),
        // Nobody but the wire: the server has said nothing that a library could find fault with. Some send an alert to the
        // closed connection, which tells nobody why.
        Failure::Closes => seen("closed", "remote"),
        // The client gives up after its own time: for TCP it closes, and nobody else did.
        Failure::Silent => seen("closed", "local"),
        Failure::Version => version(client),
        Failure::ClientCertificate => client_certificate(client, tls13),
        _ => match library {
            Library::Unseen => unseen(client, failure, tls13),
            _ => certificate(library, failure, tls13),
        },
    }
}

/// Every client offers two protocols, of which every server knows the second.
pub(super) const OFFERED: [&str; 2] = ["h2", AGREED];
pub(super) const AGREED: &str = "http/1.1";

/// The protocol that hopline must name in a cell: TLS 1.2 has it in the clear, of TLS 1.3 the library knows it.
pub(super) fn protocol(client: Client, failure: Failure, tls13: bool) -> &'static str {
    match failure {
        // No ServerHello.
        Failure::Version | Failure::Closes | Failure::Silent => "null",
        _ if !tls13 => AGREED,
        Failure::Nothing | Failure::ClientCertificate if client.library() != Library::Unseen => AGREED,
        _ => match client.library() {
            // OpenSSL has read it before the certificate and keeps it until the session is freed, Go until the handshake has
            // failed.
            Library::OpenSsl | Library::Go => AGREED,
            // GnuTLS's client asks for it once the handshake is over.
            Library::GnuTls | Library::Unseen => "null",
        },
    }
}

/// What is wrong with the server's certificate, from a library that says it.
fn certificate(library: Library, failure: Failure, tls13: bool) -> Expected {
    let outcome = match failure {
        Failure::Expired => "cert_expired",
        Failure::WrongName => "cert_name_mismatch",
        Failure::MissingIntermediate if library == Library::OpenSsl => "cert_missing_intermediate",
        // The library knows no difference; the certificates in the clear of TLS 1.2 show it.
        Failure::MissingIntermediate if !tls13 => "cert_missing_intermediate",
        _ => "cert_unknown_authority",
    };
    said(outcome, "local")
}

/// What the wire shows of a client that cannot be asked: TLS 1.2 has certificate and alert in the clear, TLS 1.3 neither.
fn unseen(client: Client, failure: Failure, tls13: bool) -> Expected {
    if tls13 {
        // The alert is encrypted; which side's FIN comes first after it is a race.
        return seen("closed", "any");
    }
    let outcome = match (failure, client) {
        (Failure::Expired, _) => "cert_expired",
        (Failure::WrongName, _) => "cert_name_mismatch",
        // Java sends certificate_unknown for every fault, which says nothing of authorities; rustls unknown_ca.
        (_, Client::Java) => "alert_certificate_unknown",
        (Failure::MissingIntermediate, _) => "cert_missing_intermediate",
        _ => "cert_unknown_authority",
    };
    seen(outcome, "local")
}

/// Client and server have no version in common, either way round: the server says so in the clear, and libraries repeat it.
fn version(client: Client) -> Expected {
    Expected {
        library: client.library() != Library::Unseen,
        ..seen("alert_protocol_version", "remote")
    }
}

/// The server asks for a certificate that the client does not have. In TLS 1.2 it says so in the clear, and openssl has
/// no other alert for it than `handshake_failure`; in TLS 1.3 under encryption, after the client's handshake is over.
fn client_certificate(client: Client, tls13: bool) -> Expected {
    let outcome = if tls13 {
        "alert_certificate_required"
    } else {
        "alert_handshake_failure"
    };
    match client.library() {
        Library::Unseen if !tls13 => seen(outcome, "remote"),
        // For the wire the handshake went well: what came after it was encrypted. Go reads such an alert where it reads
        // data, which is not probed.
        Library::Unseen => seen("ok", "null"),
        Library::Go if tls13 => said("ok", "null"),
        _ => said(outcome, "remote"),
    }
}
