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
    NotYetValid,
    WrongName,
    UnknownAuthority,
    /// The same, of an authority that signs servers' certificates itself.
    PrivateRoot,
    MissingIntermediate,
    ClientCertificate,
    Version,
    Closes,
    Silent,
    /// A server of HTTP without TLS.
    Plain,
    /// Last: of a program that nobody has seen before the beginning of a handshake may be missed, and Go says no more of one
    /// that goes well.
    Nothing,
}

impl Failure {
    pub(super) const ALL: [Self; 12] = [
        Self::Expired,
        Self::NotYetValid,
        Self::WrongName,
        Self::UnknownAuthority,
        Self::PrivateRoot,
        Self::MissingIntermediate,
        Self::ClientCertificate,
        Self::Version,
        Self::Closes,
        Self::Silent,
        Self::Plain,
        Self::Nothing,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not yet valid",
            Self::WrongName => "wrong name",
            Self::UnknownAuthority => "unknown authority",
            Self::PrivateRoot => "private root",
            Self::MissingIntermediate => "missing intermediate",
            Self::ClientCertificate => "client certificate required",
            Self::Version => "no common version",
            Self::Closes => "server closes",
            Self::Silent => "server silent",
            Self::Plain => "server without TLS",
            Self::Nothing => "nothing wrong",
        }
    }

    /// The one name of it. A client may hide the fault, and then it has the name of what is left to see; it never has
    /// another fault's.
    fn outcome(self) -> &'static str {
        match self {
            Self::Expired => "cert_expired",
            Self::NotYetValid => "cert_not_yet_valid",
            Self::WrongName => "cert_name_mismatch",
            Self::UnknownAuthority | Self::PrivateRoot => "cert_unknown_authority",
            Self::MissingIntermediate => "cert_missing_intermediate",
            Self::ClientCertificate => "alert_certificate_required",
            Self::Version => "alert_protocol_version",
            Self::Closes | Self::Silent => "no_answer",
            Self::Plain => "not_tls",
            Self::Nothing => "ok",
        }
    }

    fn failed_by(self) -> &'static str {
        match self {
            Self::Nothing => "null",
            Self::ClientCertificate | Self::Version | Self::Closes | Self::Plain => "remote",
            _ => "local",
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

/// What hopline must say of a cell, with probes in libraries or without. `tls13`: the version that client and server have
/// in common.
pub(super) fn expected(client: Client, failure: Failure, tls13: bool, probes: bool) -> Expected {
    let library = if probes { client.library() } else { Library::Unseen };
    let (outcome, failed_by) = (failure.outcome(), failure.failed_by());
    let is_seen = library != Library::Unseen;
    match failure {
        // A server that has no common version says so in the clear, and libraries repeat it.
        Failure::Version | Failure::Nothing if is_seen => said(outcome, failed_by),
        // The others have said nothing that a library could find fault with.
        Failure::Closes | Failure::Silent | Failure::Plain | Failure::Version | Failure::Nothing => {
            seen(outcome, failed_by)
        }
        Failure::ClientCertificate => client_certificate(library, tls13),
        // The verdict has no word for it, and the certificate, which would show it, is encrypted.
        Failure::MissingIntermediate if library == Library::GnuTls && tls13 => said("cert_unknown_authority", "local"),
        _ if is_seen => said(outcome, failed_by),
        _ => on_the_wire(client, failure, tls13),
    }
}

/// Every client offers two protocols, of which every server knows the second.
pub(super) const OFFERED: [&str; 2] = ["h2", AGREED];
pub(super) const AGREED: &str = "http/1.1";

/// The protocol that hopline must name in a cell: TLS 1.2 has it in the clear, of TLS 1.3 the library knows it.
pub(super) fn protocol(client: Client, failure: Failure, tls13: bool, probes: bool) -> &'static str {
    match failure {
        // No ServerHello.
        Failure::Version | Failure::Closes | Failure::Silent | Failure::Plain => "null",
        _ if !tls13 => AGREED,
        _ if !probes => "null",
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

/// What the wire shows of a certificate that the client refuses: TLS 1.2 has certificate and alert in the clear, TLS 1.3
/// neither, but for OpenSSL's alert.
fn on_the_wire(client: Client, failure: Failure, tls13: bool) -> Expected {
    let is_of_authority = matches!(
        failure,
        Failure::UnknownAuthority | Failure::PrivateRoot | Failure::MissingIntermediate
    );
    // Looked at when the handshake is over: it went well, and nothing was asked. Node leaves TLS 1.3 before its Finished does.
    let is_late = match client {
        Client::Node => !tls13 && is_of_authority,
        Client::Curl => tls13 && failure == Failure::WrongName,
        _ => false,
    };
    if is_late {
        return seen("ok", "null");
    }
    let has_no_alert_for_it = match client.library() {
        Library::GnuTls | Library::Go => true,
        Library::OpenSsl => false,
        Library::Unseen => client == Client::Java,
    };
    let outcome = match (tls13, client) {
        // OpenSSL's alert is in the clear: it has one for time that is over, one for authorities, one for the rest.
        (true, Client::Curl | Client::Python) if is_of_authority => "cert_unknown_authority",
        (true, Client::Curl | Client::Python) if failure == Failure::Expired => failure.outcome(),
        (true, _) => "rejected_by_client",
        // The certificates show all but a root that the client does not know.
        _ if has_no_alert_for_it && is_of_authority && failure != Failure::MissingIntermediate => "rejected_by_client",
        _ => failure.outcome(),
    };
    seen(outcome, "local")
}

/// The server asks for a certificate that the client does not have. In TLS 1.2 it says so in the clear, where openssl has no
/// other alert for it than `handshake_failure`; in TLS 1.3 under encryption, after the client's handshake is over.
fn client_certificate(library: Library, tls13: bool) -> Expected {
    let (outcome, failed_by) = (
        Failure::ClientCertificate.outcome(),
        Failure::ClientCertificate.failed_by(),
    );
    match library {
        Library::Unseen if !tls13 => seen(outcome, failed_by),
        // For the wire the handshake went well: what came after it was encrypted. Go reads such an alert where it reads
        // data, which is not probed.
        Library::Unseen => seen("ok", "null"),
        Library::Go if tls13 => said("ok", "null"),
        _ => said(outcome, failed_by),
    }
}
