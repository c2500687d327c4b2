//! Handshake messages out of fragments: a message may span records, and a record may hold several (section 5.1).

/// Bytes before a handshake message's body: type and length.
const HEADER_BYTES: usize = 4;

/// `client_hello`.
pub const CLIENT_HELLO: u8 = 1;
/// `server_hello`, and HelloRetryRequest.
pub const SERVER_HELLO: u8 = 2;
/// `certificate`.
pub const CERTIFICATE: u8 = 11;
/// `server_hello_done`: the end of the server's first flight in TLS 1.2.
pub const SERVER_HELLO_DONE: u8 = 14;
/// `client_key_exchange`: the last plain message of a client in TLS 1.2, but for `certificate_verify`.
pub const CLIENT_KEY_EXCHANGE: u8 = 16;

/// Puts messages together, never keeping more than one message of at most `limit` bytes.
#[derive(Debug, Default)]
pub struct HandshakeBuffer {
    bytes: Vec<u8>,
}

/// The next message.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// A whole message: type and body.
    Whole(u8, Vec<u8>),
    /// More bytes are needed.
    Incomplete,
    /// A message of this type is longer than the limit.
    TooLong(u8),
}

impl HandshakeBuffer {
    /// Adds bytes of a fragment.
    pub fn push(&mut self, fragment: &[u8]) {
        self.bytes.extend_from_slice(fragment);
    }

    /// Takes the next message out.
    pub fn next(&mut self, limit: usize) -> Message {
        let &[kind, high, middle, low, ..] = self.bytes.as_slice() else {
            return Message::Incomplete;
        };
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        if length > limit {
            return Message::TooLong(kind);
        }
        let end = HEADER_BYTES + length;
        if self.bytes.len() < end {
            return Message::Incomplete;
        }
        let rest = self.bytes.split_off(end);
        let mut message = std::mem::replace(&mut self.bytes, rest);
        message.drain(..HEADER_BYTES);
        Message::Whole(kind, message)
    }

    /// Type of the message that is not complete yet, and what is there of its body.
    pub fn partial(&self) -> Option<(u8, &[u8])> {
        let (header, body) = self.bytes.split_at_checked(HEADER_BYTES)?;
        Some((header[0], body))
    }

    /// Length of the body of the message that is not complete yet; 0 before its header is there.
    pub fn announced(&self) -> usize {
        match *self.bytes.as_slice() {
            [_, high, middle, low, ..] => u32::from_be_bytes([0, high, middle, low]) as usize,
            _ => 0,
        }
    }

    /// Bytes that wait for the rest of their message.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets what waits and gives its memory back.
    pub fn clear(&mut self) {
        self.bytes = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_span_fragments_and_share_them() {
        let mut buffer = HandshakeBuffer::default();
        buffer.push(&[1, 0, 0, 2, 7]);
        assert_eq!(buffer.next(100), Message::Incomplete);
        assert_eq!(buffer.partial(), Some((1, &[7][..])));
        buffer.push(&[8, 14, 0, 0, 0, 2, 0, 1]);
        assert_eq!(buffer.next(100), Message::Whole(1, vec![7, 8]));
        assert_eq!(buffer.next(100), Message::Whole(14, vec![]));
        assert_eq!(buffer.next(100), Message::Incomplete);
        buffer.push(&[0]);
        assert_eq!(buffer.next(100), Message::TooLong(2));
        buffer.clear();
        assert!(buffer.is_empty() && buffer.len() == 0 && buffer.partial().is_none());
    }
}
