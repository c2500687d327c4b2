//! TLS in clear: records, handshake messages, hellos and the certificates of TLS 1.2 (RFC 5246, RFC 8446).
//!
//! [`reader::TlsReader`] is fed the bytes of one direction in order and collects facts; the other files read one
//! structure each from a slice. Nothing is decrypted, nothing is verified.

pub mod certificate_list;
pub mod cipher;
pub mod client_hello;
pub mod handshake;
pub mod reader;
pub mod record;
pub mod server_hello;

pub use cipher::cipher_name;
pub use client_hello::{ClientHello, ServerName};
pub use server_hello::ServerHello;

/// The number of TLS 1.2 on the wire.
pub const TLS12: u16 = 0x0303;
/// The number of TLS 1.3 on the wire.
pub const TLS13: u16 = 0x0304;

/// A version as OpenTelemetry's `tls.protocol.version` has it: `1.2`, `1.3`. `None` for numbers that are no version.
pub fn version_name(version: u16) -> Option<&'static str> {
    Some(match version {
        0x0300 => "3",
        0x0301 => "1.0",
        0x0302 => "1.1",
        TLS12 => "1.2",
        TLS13 => "1.3",
        _ => return None,
    })
}

/// A value of GREASE (RFC 8701): sent to keep peers tolerant, without meaning.
pub fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

/// At most this many bytes of a protocol's name in ALPN are kept; the names in IANA's registry are shorter.
const ALPN_BYTES: usize = 32;

/// A protocol's name as text, when it is one that can be shown: printable ASCII of a sane length.
pub(crate) fn alpn_text(name: &[u8]) -> Option<Box<str>> {
    if name.is_empty() || name.len() > ALPN_BYTES || !name.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    std::str::from_utf8(name).ok().map(Into::into)
}

#[cfg(test)]
mod tests;
