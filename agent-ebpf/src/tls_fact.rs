//! What TLS libraries say of their handshakes, read by probes at the entry of functions that run once per handshake.

use crate::event::EventHeader;

/// [`TlsFact::library`]: OpenSSL, shared or inside a program.
pub const LIBRARY_OPENSSL: u8 = 1;
/// [`TlsFact::library`]: BoringSSL.
pub const LIBRARY_BORINGSSL: u8 = 2;
/// [`TlsFact::library`]: GnuTLS.
pub const LIBRARY_GNUTLS: u8 = 3;
/// [`TlsFact::library`]: Go's `crypto/tls`.
pub const LIBRARY_GO: u8 = 4;

/// [`TlsFact::fact`]: an error of the SSL library was queued; `code` is its reason. From 1000 on it is an alert of the
/// peer's (`SSL_AD_REASON_OFFSET`).
pub const FACT_ERROR: u8 = 1;
/// [`TlsFact::fact`]: the peer's certificate was looked at; `code` is an `X509_V_*`, `depth` the certificate's.
pub const FACT_VERIFIED: u8 = 2;
/// [`TlsFact::fact`]: this side sends an alert; `code` is its description.
pub const FACT_ALERT_SENT: u8 = 3;
/// [`TlsFact::fact`]: the peer's alert was read; `code` is its description.
pub const FACT_ALERT_RECEIVED: u8 = 4;
/// [`TlsFact::fact`]: GnuTLS's verdict on the peer's certificate; `code` holds the bits `GNUTLS_CERT_*`.
pub const FACT_STATUS: u8 = 5;
/// [`TlsFact::fact`]: Go refuses the peer's certificate; `code` is one of the `GO_*`.
pub const FACT_REFUSED: u8 = 6;

/// [`TlsFact::fact`]: a handshake begins; nothing more is known.
pub const FACT_BEGINS: u8 = 7;

/// [`FACT_REFUSED`]: `x509.CertificateInvalidError` with the reason `code - GO_INVALID`.
pub const GO_INVALID: u32 = 0x100;
/// [`FACT_REFUSED`]: `x509.HostnameError`.
pub const GO_NAME: u32 = 1;
/// [`FACT_REFUSED`]: `x509.UnknownAuthorityError`.
pub const GO_AUTHORITY: u32 = 2;
/// [`FACT_REFUSED`]: anything else.
pub const GO_OTHER: u32 = 3;

/// [`ProbeCookie::what`]: an error of OpenSSL's is queued.
pub const PROBE_OPENSSL_ERROR: u16 = 1;
/// [`ProbeCookie::what`]: OpenSSL's verdict on a certificate is asked for.
pub const PROBE_OPENSSL_VERIFIED: u16 = 2;
/// [`ProbeCookie::what`]: the same place, for the certificate itself.
pub const PROBE_OPENSSL_CERTIFICATE: u16 = 3;
/// [`ProbeCookie::what`]: one of `GnuTLS`'s functions.
pub const PROBE_GNUTLS: u16 = 4;
/// [`ProbeCookie::what`]: Go sends an alert.
pub const PROBE_GO_ALERT: u16 = 5;
/// [`ProbeCookie::what`]: Go has looked at a certificate.
pub const PROBE_GO_VERIFIED: u16 = 6;
/// [`ProbeCookie::what`]: a handshake of Go's begins.
pub const PROBE_GO_BEGINS: u16 = 7;
/// [`ProbeCookie::what`]: a handshake of Go's ends.
pub const PROBE_GO_ENDS: u16 = 8;

/// [`ProbeCookie::what`]: a session of a library's gets its file descriptor.
pub const PROBE_DESCRIPTOR: u16 = 9;
/// [`ProbeCookie::what`]: OpenSSL looks at a certificate for a session.
pub const PROBE_OPENSSL_SESSION: u16 = 10;
/// [`ProbeCookie::what`]: a session of OpenSSL's that may have agreed on a protocol.
pub const PROBE_OPENSSL_PROTOCOL: u16 = 11;
/// [`ProbeCookie::what`]: a program asks `GnuTLS` for the protocol.
pub const PROBE_GNUTLS_ASKED: u16 = 12;
/// [`ProbeCookie::what`]: and has its answer.
pub const PROBE_GNUTLS_ANSWERED: u16 = 13;

/// Bytes of a certificate that are sent at most; longer ones are not sent.
pub const CERTIFICATE_BYTES: usize = 2048;
/// Bytes of a protocol's name that are sent at most; the names in IANA's registry are shorter.
pub const PROTOCOL_BYTES: usize = 32;

/// One fact.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsFact {
    /// Kind [`crate::event::TLS_FACT`], size and time.
    pub header: EventHeader,
    /// Cookie of the socket.
    pub cookie: u64,
    /// Process (tgid, init pid namespace).
    pub pid: u32,
    /// What it means depends on `fact`.
    pub code: u32,
    /// Depth of the certificate that `code` is about, from 0 for the peer's own.
    pub depth: u16,
    /// One of the `LIBRARY_*`.
    pub library: u8,
    /// One of the `FACT_*`.
    pub fact: u8,
    /// Version of the library: major, minor and patch in the lowest three bytes; 0 when not known.
    pub version: u32,
}

/// Starts each `TLS_CERTIFICATE` event; `length` bytes of a `TBSCertificate` (RFC 5280) follow, then nothing of meaning.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsCertificate {
    /// Kind [`crate::event::TLS_CERTIFICATE`], size and time.
    pub header: EventHeader,
    /// Cookie of the socket.
    pub cookie: u64,
    /// Process (tgid, init pid namespace).
    pub pid: u32,
    /// Bytes that follow.
    pub length: u16,
    /// Unused, zero.
    pub reserved: u16,
}

/// The protocol that a handshake agreed on by ALPN (RFC 7301).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsProtocol {
    /// Kind [`crate::event::TLS_PROTOCOL`], size and time.
    pub header: EventHeader,
    /// Cookie of the socket.
    pub cookie: u64,
    /// Process (tgid, init pid namespace).
    pub pid: u32,
    /// Bytes of `name` that mean something.
    pub length: u32,
    /// Its name.
    pub name: [u8; PROTOCOL_BYTES],
}

/// What a probe is told when it is attached: which library in which version, and where in its structs the facts are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeCookie {
    /// One of the `LIBRARY_*`; 4 bits.
    pub library: u8,
    /// As [`TlsFact::version`]; 24 bits.
    pub version: u32,
    /// First number of the probe's own; 12 bits.
    pub first: u16,
    /// Second number of the probe's own; 12 bits.
    pub second: u16,
    /// What to do: one of the `PROBE_*`; 12 bits.
    pub what: u16,
}

impl ProbeCookie {
    /// As one word; what does not fit is cut.
    pub const fn pack(self) -> u64 {
        self.library as u64 & 15
            | (self.version as u64 & 0xff_ffff) << 4
            | (self.first as u64 & 0xfff) << 28
            | (self.second as u64 & 0xfff) << 40
            | (self.what as u64 & 0xfff) << 52
    }

    /// From one word.
    pub const fn unpack(word: u64) -> Self {
        Self {
            library: (word & 15) as u8,
            version: (word >> 4 & 0xff_ffff) as u32,
            first: (word >> 28 & 0xfff) as u16,
            second: (word >> 40 & 0xfff) as u16,
            what: (word >> 52 & 0xfff) as u16,
        }
    }
}

const _: () = assert!(size_of::<TlsFact>() == 40);
const _: () = assert!(size_of::<TlsCertificate>() == 32);
const _: () = assert!(size_of::<TlsProtocol>() == 64);
