//! The `ServerHello` (RFC 8446 section 4.1.3): what the server chose.

use super::super::bytes::Bytes;
use super::alpn_text;

/// The random of a `HelloRetryRequest`: SHA-256 of that word.
const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// What is kept of a `ServerHello`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServerHello {
    /// The version that is spoken: that of `supported_versions` where there is one.
    pub version: u16,
    /// Cipher suite, IANA's number.
    pub cipher: u16,
    /// A `HelloRetryRequest`: the client is to say hello again.
    pub is_retry: bool,
    /// TLS 1.2: the session that is resumed, or a new one's identifier. TLS 1.3: the client's, echoed.
    pub session_id: Box<[u8]>,
    /// The protocol chosen by ALPN, where it stands in clear (TLS 1.2).
    pub alpn: Option<Box<str>>,
    /// `pre_shared_key`: the session of TLS 1.3 is resumed.
    pub pre_shared_key: bool,
    /// An empty `session_ticket`: a `NewSessionTicket` message follows in the handshake (TLS 1.2).
    pub new_ticket: bool,
}

impl ServerHello {
    /// Reads a message's body. `None` when its inner lengths lie, or when bytes follow its end.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(body);
        let legacy_version = bytes.u16()?;
        let random = bytes.take(32)?;
        let session_id = bytes.vector8()?.0;
        let mut hello = Self {
            version: legacy_version,
            is_retry: random == RETRY_RANDOM,
            session_id: (session_id.len() <= 32).then(|| session_id.into())?,
            cipher: bytes.u16()?,
            ..Self::default()
        };
        bytes.u8()?;
        if !bytes.is_empty() {
            let mut extensions = bytes.vector16()?;
            if !bytes.is_empty() {
                return None;
            }
            while !extensions.is_empty() {
                let kind = extensions.u16()?;
                let content = extensions.vector16()?;
                hello.read_extension(kind, content)?;
            }
        }
        Some(hello)
    }

    fn read_extension(&mut self, kind: u16, mut content: Bytes<'_>) -> Option<()> {
        match kind {
            16 => {
                let mut protocols = content.vector16()?;
                self.alpn = alpn_text(protocols.vector8()?.0);
                // Exactly one (RFC 7301 section 3.1).
                return protocols.is_empty().then_some(());
            }
            35 => self.new_ticket = true,
            41 => self.pre_shared_key = true,
            43 => {
                self.version = content.u16()?;
                return content.is_empty().then_some(());
            }
            _ => {}
        }
        Some(())
    }

    /// Whether the session is an earlier one's: TLS 1.3 says so by the extension, TLS 1.2 by the client's own session
    /// identifier. A client that offers a ticket sends an identifier of its choice with it, for just that purpose
    /// (RFC 5077 section 3.4).
    pub fn resumes(&self, offered_session_id: &[u8]) -> bool {
        if self.version >= super::TLS13 {
            self.pre_shared_key
        } else {
            !self.session_id.is_empty() && *self.session_id == *offered_session_id
        }
    }
}
