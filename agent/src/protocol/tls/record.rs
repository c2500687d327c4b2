//! The record layer: a header of 5 bytes, then a fragment (RFC 8446 section 5.1).

/// Bytes of a record's header.
pub const HEADER_BYTES: usize = 5;
/// Longest fragment that a record may carry: that of TLS 1.2 with compression and encryption.
pub const FRAGMENT_LIMIT: usize = (1 << 14) + 2048;

/// What a record carries, from its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// 20, `change_cipher_spec`.
    ChangeCipherSpec,
    /// 21, `alert`.
    Alert,
    /// 22, `handshake`.
    Handshake,
    /// 23, `application_data`: in TLS 1.3 everything that is encrypted.
    ApplicationData,
    /// 24, `heartbeat` (RFC 6520).
    Heartbeat,
}

impl ContentType {
    /// `None` for a number that is no type.
    pub fn of(number: u8) -> Option<Self> {
        Some(match number {
            20 => Self::ChangeCipherSpec,
            21 => Self::Alert,
            22 => Self::Handshake,
            23 => Self::ApplicationData,
            24 => Self::Heartbeat,
            _ => return None,
        })
    }
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the fragment is.
    pub content_type: ContentType,
    /// Bytes of the fragment.
    pub length: usize,
}

/// What the first bytes of a record are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordStart {
    /// A header.
    Header(RecordHeader),
    /// A header so far.
    Incomplete,
    /// No TLS.
    Malformed,
}

/// Reads a header. A byte that no record can have is found as soon as it is there.
pub fn record_start(bytes: &[u8]) -> RecordStart {
    let known = |at: usize, good: fn(u8) -> bool| bytes.get(at).is_none_or(|byte| good(*byte));
    if !known(0, |byte| ContentType::of(byte).is_some())
        || !known(1, |major| major == 3)
        || !known(2, |minor| minor <= 4)
    {
        return RecordStart::Malformed;
    }
    let &[content_type, _, _, high, low, ..] = bytes else {
        return RecordStart::Incomplete;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    match ContentType::of(content_type) {
        // Only application data may be empty: anything else without content is an attack or no TLS (section 5.1).
        Some(content_type)
            if length <= FRAGMENT_LIMIT && (length > 0 || content_type == ContentType::ApplicationData) =>
        {
            RecordStart::Header(RecordHeader { content_type, length })
        }
        _ => RecordStart::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let header = |content_type, length| RecordStart::Header(RecordHeader { content_type, length });
        for (bytes, expected) in [
            (&b""[..], RecordStart::Incomplete),
            (b"\x16\x03\x01\x02", RecordStart::Incomplete),
            (b"\x16\x03\x01\x02\x00", header(ContentType::Handshake, 512)),
            (b"\x17\x03\x03\x00\x00", header(ContentType::ApplicationData, 0)),
            (
                b"\x17\x03\x03\x48\x00",
                header(ContentType::ApplicationData, FRAGMENT_LIMIT),
            ),
            (b"\x17\x03\x03\x48\x01", RecordStart::Malformed),
            (b"\x16\x03\x01\x00\x00", RecordStart::Malformed),
            (b"\x16\x02", RecordStart::Malformed),
            (b"G", RecordStart::Malformed),
        ] {
            assert_eq!(record_start(bytes), expected, "{bytes:?}");
        }
    }
}
