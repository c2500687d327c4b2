//! The `ClientHello` (RFC 8446 section 4.1.2): whom the client wants to talk to, and in which ways it can.

use super::super::bytes::Bytes;
use super::super::host_name::HostName;
use super::{alpn_text, is_grease};

/// Protocols of ALPN that are kept of one hello.
pub const ALPN_LIMIT: usize = 8;
/// Versions that are kept of one hello.
pub const VERSION_LIMIT: usize = 8;

/// What a client claims the server's name to be (RFC 6066 section 3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum ServerName {
    /// No such extension.
    #[default]
    Absent,
    /// A host name.
    Name(HostName),
    /// The extension holds no host name: counted, never learned.
    Invalid,
}

impl ServerName {
    /// The name, when it is one.
    pub fn name(&self) -> Option<&HostName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Absent | Self::Invalid => None,
        }
    }
}

/// What is kept of a `ClientHello`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each extension whose presence counts"
)]
pub struct ClientHello {
    /// Version in the message's fixed part: 1.2 at most.
    pub legacy_version: u16,
    /// The extension `supported_versions`, without GREASE, at most [`VERSION_LIMIT`]; empty without it.
    pub supported_versions: Vec<u16>,
    /// Session to resume in TLS 1.2; random in TLS 1.3's compatibility mode; may be empty.
    pub session_id: Box<[u8]>,
    /// Server's name, or its absence.
    pub server_name: ServerName,
    /// Protocols offered by ALPN, in the client's order, at most [`ALPN_LIMIT`]; those that are no text are left out.
    pub alpn: Vec<Box<str>>,
    /// A non-empty `session_ticket` (RFC 5077): a TLS 1.2 session to resume.
    pub session_ticket: bool,
    /// `pre_shared_key`: a TLS 1.3 session to resume.
    pub pre_shared_key: bool,
    /// Length of the first ticket in `pre_shared_key`; the server's next ticket will be about as long. 0 without one.
    pub offered_ticket_bytes: u16,
    /// `psk_key_exchange_modes`: without it the client takes no session tickets of TLS 1.3 (RFC 8446 section 4.2.9).
    pub psk_modes: bool,
    /// `early_data`: 0-RTT.
    pub early_data: bool,
    /// Not all of it was seen; what is here is from its first part.
    pub truncated: bool,
}

impl ClientHello {
    /// Reads a message's body. `None` when its inner lengths lie, or when bytes follow its end.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut hello = Self::default();
        hello.read(Bytes(body), false).then_some(hello)
    }

    /// Reads as far as the bytes go: the first part of a message that never came as a whole. `None` without the fixed
    /// part.
    pub fn parse_prefix(body: &[u8]) -> Option<Self> {
        let mut hello = Self {
            truncated: true,
            ..Self::default()
        };
        hello.read(Bytes(body), true).then_some(hello)
    }

    /// The newest version that the client can speak.
    pub fn newest_version(&self) -> u16 {
        self.supported_versions
            .iter()
            .copied()
            .max()
            .unwrap_or(self.legacy_version)
    }

    /// True when ALPN offers HTTP/2.
    pub fn offers_h2(&self) -> bool {
        self.alpn.iter().any(|protocol| **protocol == *"h2")
    }

    fn read(&mut self, mut bytes: Bytes<'_>, is_prefix: bool) -> bool {
        self.read_fixed(&mut bytes).is_some() && (self.read_extensions(bytes, is_prefix).is_some() || is_prefix)
    }

    /// Up to the session's identifier: what a prefix must have.
    fn read_fixed(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        self.legacy_version = bytes.u16()?;
        bytes.take(32)?;
        let session_id = bytes.vector8()?.0;
        self.session_id = (session_id.len() <= 32).then(|| session_id.into())?;
        Some(())
    }

    fn read_extensions(&mut self, mut bytes: Bytes<'_>, is_prefix: bool) -> Option<()> {
        let suites = bytes.vector16()?.0;
        let compressions = bytes.vector8()?.0;
        if suites.is_empty() || suites.len() % 2 != 0 || compressions.is_empty() {
            return None;
        }
        if bytes.is_empty() {
            return Some(());
        }
        let mut extensions = if is_prefix {
            bytes.u16()?;
            bytes
        } else {
            let extensions = bytes.vector16()?;
            if !bytes.is_empty() {
                return None;
            }
            extensions
        };
        while !extensions.is_empty() {
            let kind = extensions.u16()?;
            let content = extensions.vector16()?;
            self.read_extension(kind, content)?;
        }
        Some(())
    }

    fn read_extension(&mut self, kind: u16, mut content: Bytes<'_>) -> Option<()> {
        match kind {
            0 => self.server_name = server_name(content),
            16 => {
                let mut protocols = content.vector16()?;
                while !protocols.is_empty() {
                    let protocol = protocols.vector8()?.0;
                    if self.alpn.len() < ALPN_LIMIT {
                        self.alpn.extend(alpn_text(protocol));
                    }
                }
            }
            35 => self.session_ticket = !content.is_empty(),
            41 => {
                self.pre_shared_key = true;
                let mut identities = content.vector16()?;
                self.offered_ticket_bytes = identities.vector16()?.0.len() as u16;
            }
            42 => self.early_data = true,
            43 => {
                let mut versions = content.vector8()?;
                while !versions.is_empty() {
                    let version = versions.u16()?;
                    if !is_grease(version) && self.supported_versions.len() < VERSION_LIMIT {
                        self.supported_versions.push(version);
                    }
                }
                // What follows the list is no version: another reader would refuse the hello.
                content.is_empty().then_some(())?;
            }
            45 => self.psk_modes = true,
            _ => {}
        }
        Some(())
    }
}

/// A list of names, of which RFC 6066 allows one, of type `host_name`. A broken list is an invalid name: the rest of the
/// hello still counts.
impl ClientHello {
    /// The name that is asked for, where it is one.
    pub fn name(&self) -> Option<&str> {
        match &self.server_name {
            ServerName::Name(name) => Some(name.as_str()),
            ServerName::Absent | ServerName::Invalid => None,
        }
    }
}

fn server_name(mut content: Bytes<'_>) -> ServerName {
    let mut read = || {
        let mut list = content.vector16()?;
        let kind = list.u8()?;
        let name = list.vector16()?.0;
        (kind == 0 && list.is_empty() && content.is_empty()).then_some(name)
    };
    match read().and_then(HostName::parse) {
        Some(name) => ServerName::Name(name),
        None => ServerName::Invalid,
    }
}
