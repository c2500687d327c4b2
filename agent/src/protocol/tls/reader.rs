//! Reads one direction of a connection, in order and in pieces of any size, until it is encrypted.
//!
//! Keeps at most one handshake message; what has been read is facts. The caller bounds nothing: after
//! [`HELLO_LIMIT`] bytes the reader ends by itself.

use agent_ebpf::hello::HELLO_LIMIT;
use agent_ebpf::timeline::ALERT_LEVEL_FATAL;

use super::super::certificate::Chain;
use super::super::facts::TlsFacts;
use super::super::malformed::{Malformed, MalformedCounts};
use super::TLS13;
use super::certificate_list::certificate_list;
use super::client_hello::{ClientHello, ServerName};
use super::handshake::{self, HandshakeBuffer, Message};
use super::record::{ContentType, HEADER_BYTES, RecordStart, record_start};
use super::server_hello::ServerHello;

/// Longest handshake message that is believed: four times what browsers and servers accept would not fit either.
const MESSAGE_LIMIT: usize = 1 << 17;

/// Level of an alert after which the connection goes on.
const ALERT_LEVEL_WARNING: u8 = 1;

/// Who sends the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The client.
    Forward,
    /// The server.
    Backward,
}

/// The state between two pieces.
#[derive(Debug)]
pub struct TlsReader {
    direction: Direction,
    header: Vec<u8>,
    content_type: Option<ContentType>,
    fragment_left: usize,
    alert: Vec<u8>,
    messages: HandshakeBuffer,
    /// Where the messages are: nothing, the hello, or `ServerHelloDone` was seen.
    progress: Progress,
    changed_cipher: bool,
    seen: usize,
    is_done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Start,
    Hello,
    HelloDone,
}

impl TlsReader {
    /// A reader at the first byte of a record.
    pub fn new(direction: Direction) -> Self {
        Self {
            direction,
            header: Vec::new(),
            content_type: None,
            fragment_left: 0,
            alert: Vec::new(),
            messages: HandshakeBuffer::default(),
            progress: Progress::Start,
            changed_cipher: false,
            seen: 0,
            is_done: false,
        }
    }

    /// True when nothing more can be learned from this direction.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Bytes that are kept until more come.
    pub fn buffered(&self) -> usize {
        self.messages.len() + self.header.len() + self.alert.len()
    }

    /// Reads the next bytes.
    pub fn feed(&mut self, bytes: &[u8], facts: &mut TlsFacts, malformed: &mut MalformedCounts) {
        let room = HELLO_LIMIT - self.seen;
        let mut rest = &bytes[..bytes.len().min(room)];
        self.seen += rest.len();
        while !rest.is_empty() && !self.is_done {
            if let Some(content_type) = self.content_type {
                let (fragment, after) = rest.split_at(rest.len().min(self.fragment_left));
                rest = after;
                self.fragment_left -= fragment.len();
                self.read_fragment(content_type, fragment, facts, malformed);
                if self.fragment_left == 0 {
                    self.content_type = None;
                }
            } else {
                let (part, after) = rest.split_at(rest.len().min(HEADER_BYTES - self.header.len()));
                rest = after;
                self.header.extend_from_slice(part);
                self.read_header(facts, malformed);
            }
        }
        if self.seen == HELLO_LIMIT && !self.is_done {
            self.finish(facts, malformed);
        }
    }

    /// Nothing more will come: takes what can be had from an incomplete message.
    pub fn finish(&mut self, facts: &mut TlsFacts, malformed: &mut MalformedCounts) {
        if self.is_done {
            return;
        }
        if let Some((kind, body)) = self.messages.partial().filter(|_| !self.changed_cipher) {
            malformed.count(Malformed::Incomplete);
            if (self.direction, kind, self.progress) == (Direction::Forward, handshake::CLIENT_HELLO, Progress::Start)
                && let Some(hello) = ClientHello::parse_prefix(body)
            {
                learn_client_hello(hello, facts, malformed);
            }
        } else if self.buffered() > 0 {
            malformed.count(Malformed::Incomplete);
        }
        self.end();
    }

    fn end(&mut self) {
        self.is_done = true;
        self.messages.clear();
        self.header = Vec::new();
        self.alert = Vec::new();
    }

    fn fail(&mut self, kind: Malformed, malformed: &mut MalformedCounts) {
        malformed.count(kind);
        self.end();
    }

    fn read_header(&mut self, facts: &mut TlsFacts, malformed: &mut MalformedCounts) {
        let header = match record_start(&self.header) {
            RecordStart::Incomplete => return,
            RecordStart::Malformed => return self.fail(Malformed::Record, malformed),
            RecordStart::Header(header) => header,
        };
        self.header.clear();
        match header.content_type {
            // From here on all is encrypted; early data comes after the hello too.
            ContentType::ApplicationData => return self.end(),
            ContentType::ChangeCipherSpec if header.length != 1 => return self.fail(Malformed::Record, malformed),
            ContentType::ChangeCipherSpec => self.change_cipher(facts),
            ContentType::Alert if header.length != 2 && self.changed_cipher => return self.end(),
            ContentType::Alert if header.length != 2 => return self.fail(Malformed::Alert, malformed),
            // A message is not interrupted by anything else (RFC 8446 section 5.1).
            ContentType::Alert if !self.messages.is_empty() => self.messages.clear(),
            ContentType::Alert | ContentType::Handshake | ContentType::Heartbeat => {}
        }
        self.content_type = Some(header.content_type);
        self.fragment_left = header.length;
    }

    fn change_cipher(&mut self, facts: &mut TlsFacts) {
        let in_tls12 = facts.server_hello.as_ref().is_some_and(|hello| hello.version < TLS13);
        if self.direction == Direction::Backward && in_tls12 && self.progress == Progress::Hello {
            facts.abbreviated = true;
        }
        self.changed_cipher = true;
    }

    fn read_fragment(
        &mut self,
        content_type: ContentType,
        fragment: &[u8],
        facts: &mut TlsFacts,
        malformed: &mut MalformedCounts,
    ) {
        match content_type {
            ContentType::Handshake => {
                self.messages.push(fragment);
                self.read_messages(facts, malformed);
            }
            ContentType::Alert => {
                self.alert.extend_from_slice(fragment);
                if self.fragment_left == 0 {
                    self.read_alert(malformed);
                }
            }
            ContentType::ChangeCipherSpec | ContentType::ApplicationData | ContentType::Heartbeat => {}
        }
    }

    /// What it says the kernel has told; here it matters that nothing comes after a fatal one.
    fn read_alert(&mut self, malformed: &mut MalformedCounts) {
        match self.alert[..] {
            [ALERT_LEVEL_WARNING, _] => self.alert.clear(),
            [ALERT_LEVEL_FATAL, _] => self.end(),
            _ => self.fail(Malformed::Alert, malformed),
        }
    }

    fn read_messages(&mut self, facts: &mut TlsFacts, malformed: &mut MalformedCounts) {
        while !self.is_done {
            if self.changed_cipher && !self.may_be_second_hello() {
                return self.end();
            }
            match self.messages.next(MESSAGE_LIMIT) {
                Message::Incomplete => return,
                Message::TooLong(_) => return self.fail(Malformed::Handshake, malformed),
                Message::Whole(kind, body) => self.read_message(kind, &body, facts, malformed),
            }
        }
    }

    /// After `ChangeCipherSpec` a handshake record is encrypted, but for the hello that follows a `HelloRetryRequest` in
    /// TLS 1.3's compatibility mode: that fills its record to the byte, which ciphertext does by chance once in 2^32.
    fn may_be_second_hello(&self) -> bool {
        let Some((kind, body)) = self.messages.partial() else {
            return true;
        };
        let wanted = match self.direction {
            Direction::Forward => handshake::CLIENT_HELLO,
            Direction::Backward => handshake::SERVER_HELLO,
        };
        kind == wanted && self.messages.announced() == body.len() + self.fragment_left
    }

    fn read_message(&mut self, kind: u8, body: &[u8], facts: &mut TlsFacts, malformed: &mut MalformedCounts) {
        match (self.direction, kind) {
            (Direction::Forward, handshake::CLIENT_HELLO) => match ClientHello::parse(body) {
                Some(hello) => {
                    self.progress = Progress::Hello;
                    learn_client_hello(hello, facts, malformed);
                }
                None => self.fail(Malformed::ClientHello, malformed),
            },
            (Direction::Backward, handshake::SERVER_HELLO) => match ServerHello::parse(body) {
                Some(hello) => {
                    self.progress = Progress::Hello;
                    facts.retried |= hello.is_retry;
                    let is_last = !hello.is_retry && hello.version >= TLS13;
                    facts.server_hello = Some(hello);
                    if is_last {
                        self.end();
                    }
                }
                None => self.fail(Malformed::ServerHello, malformed),
            },
            // HelloRequest: the server would like a renegotiation.
            (Direction::Backward, 0) => {}
            _ if self.progress == Progress::Start => self.fail(Malformed::Handshake, malformed),
            (Direction::Backward, handshake::CERTIFICATE) => {
                match certificate_list(body).and_then(|certificates| Chain::read(&certificates)) {
                    Some(chain) => facts.chain = Some(chain),
                    None => malformed.count(Malformed::Certificate),
                }
            }
            (Direction::Forward, handshake::CERTIFICATE) => match certificate_list(body) {
                Some(certificates) => facts.client_certificate = Some(!certificates.is_empty()),
                None => malformed.count(Malformed::Certificate),
            },
            (Direction::Backward, handshake::SERVER_HELLO_DONE) => self.progress = Progress::HelloDone,
            (_, handshake::CLIENT_HELLO | handshake::SERVER_HELLO) => self.fail(Malformed::Handshake, malformed),
            _ => {}
        }
    }
}

fn learn_client_hello(hello: ClientHello, facts: &mut TlsFacts, malformed: &mut MalformedCounts) {
    if hello.server_name == ServerName::Invalid {
        malformed.count(Malformed::ServerName);
    }
    facts.client_hello = Some(hello);
}
