//! One DNS message: header, question, and the addresses that answer it.
//!
//! An address counts only if it follows from the question through the aliases in the same answer, in whichever order the
//! records stand: what else a server puts there was not asked for. Other records are stepped over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::super::malformed::{Malformed, MalformedCounts};
use super::labels::QueryType;
use super::name::{DnsName, NameError, WireName};

/// Bytes of the longest message that is read; what follows counts as not captured.
pub const MESSAGE_LIMIT: usize = 4096;

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 12;
/// Aliases that are followed; resolvers follow 16 at most.
const ALIASES: usize = 16;
/// Addresses that are kept.
const ADDRESSES: usize = 32;
/// Records of the answer that are looked at: all aliases and addresses, each set with a signature, twice over.
const RECORDS: usize = 128;
/// The class of everything that is learned.
const INTERNET: u16 = 1;
/// Types of records that are read.
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const OPT: u16 = 41;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The name, in lower case: the capitals that some resolvers scatter in it (0x20) come back as they were sent.
    pub name: DnsName,
    /// The type, by number.
    pub kind: u16,
}

impl Question {
    /// The type as a label.
    pub fn query_type(&self) -> QueryType {
        QueryType::of(self.kind)
    }
}

/// An address out of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// For how long it may be used, seconds: the least along the aliases that lead to it.
    pub ttl_s: u32,
}

/// What answers the question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// There is a record of the type that was asked for, of the name or of what the aliases lead to.
    pub is_found: bool,
    /// Addresses, at most 32, in the order of the message; none for an invalid name.
    pub addresses: Vec<Address>,
    /// What the name is an alias of, first to last, at most 16.
    pub aliases: Vec<DnsName>,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Ties an answer to its query.
    pub id: u16,
    /// An answer, not a query.
    pub is_response: bool,
    /// 0 for queries; the sections of others (NOTIFY, UPDATE) are not read.
    pub opcode: u8,
    /// The answer did not fit (TC): the client asks again over TCP.
    pub truncated: bool,
    /// The response code, with its upper bits from OPT when that was captured; 0 in a query.
    pub rcode: u16,
    /// The question. Some servers leave it out of an error.
    pub question: Option<Question>,
    /// The answers; nothing in a query.
    pub answers: Answers,
}

/// A record's place in a message.
struct Record {
    owner: usize,
    kind: u16,
    class: u16,
    ttl: u32,
    data: Range<usize>,
}

/// Reads on from `at`.
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl Message {
    /// Reads a message. `is_whole`: `bytes` are all of it, not only what was captured.
    ///
    /// `None` for what is malformed. Of a message that was cut, by the capture or by the server (TC), what is there counts.
    pub fn read(bytes: &[u8], is_whole: bool, malformed: &mut MalformedCounts) -> Option<Self> {
        let whole_bytes = bytes.len();
        let bytes = &bytes[..whole_bytes.min(MESSAGE_LIMIT)];
        match read(bytes, is_whole && whole_bytes <= MESSAGE_LIMIT) {
            Ok(message) => {
                if message
                    .question
                    .as_ref()
                    .is_some_and(|question| question.name == DnsName::Invalid)
                {
                    malformed.count(Malformed::DnsQuestionName);
                }
                Some(message)
            }
            Err(kind) => {
                malformed.count(kind);
                None
            }
        }
    }
}

fn read(bytes: &[u8], is_whole: bool) -> Result<Message, Malformed> {
    let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(Malformed::DnsHeader)?;
    let [id, flags, questions, answers, authorities, additional] =
        [0, 2, 4, 6, 8, 10].map(|at| u16::from_be_bytes([header[at], header[at + 1]]));
    let mut message = Message {
        id,
        is_response: flags & 0x8000 != 0,
        opcode: (flags >> 11 & 0xf) as u8,
        truncated: flags & 0x0200 != 0,
        rcode: 0,
        question: None,
        answers: Answers::default(),
    };
    if message.is_response {
        message.rcode = flags & 0xf;
    }
    let mut reader = Reader {
        message: bytes,
        at: HEADER_BYTES,
    };
    let is_error = message.is_response && message.rcode != 0;
    let asked = match questions {
        1 => Some(reader.question()?),
        0 if is_error => None,
        _ => return Err(Malformed::DnsQuestions),
    };
    message.question = asked.as_ref().map(|(name, kind)| Question {
        name: name.text(),
        kind: *kind,
    });
    if !message.is_response || message.opcode != 0 {
        return Ok(message);
    }
    let mut records = Vec::new();
    let read = reader.records(answers, |record| {
        if records.len() < RECORDS {
            records.push(record);
        }
    });
    let rest = read.and_then(|()| reader.records(authorities, drop)).and_then(|()| {
        reader.records(additional, |record| {
            if record.kind == OPT && message.rcode < 16 {
                message.rcode |= (record.ttl >> 24 << 4) as u16;
            }
        })
    });
    match rest {
        Err(Malformed::Incomplete) if message.truncated || !is_whole => {}
        Err(Malformed::Incomplete) => return Err(Malformed::DnsRecord),
        rest => rest?,
    }
    if let Some((name, kind)) = asked {
        message.answers = follow(bytes, &records, name, kind);
        if message
            .question
            .as_ref()
            .is_some_and(|question| question.name == DnsName::Invalid)
        {
            message.answers.addresses.clear();
        }
    }
    Ok(message)
}

/// What follows from the question.
fn follow(message: &[u8], records: &[Record], name: WireName, kind: u16) -> Answers {
    let mut answers = Answers::default();
    let (mut name, mut ttl_s) = (name, u32::MAX);
    let is_any = QueryType::of(kind) == QueryType::Any;
    loop {
        let mut alias = None;
        for record in records.iter().filter(|record| record.class == INTERNET) {
            if WireName::read(message, record.owner).map(|(owner, _)| owner).as_ref() != Ok(&name) {
                continue;
            }
            let ttl_s = ttl_s.min(record.ttl_s());
            if record.kind == kind || is_any {
                answers.is_found = true;
                let address = record.address(message).filter(|_| answers.addresses.len() < ADDRESSES);
                answers
                    .addresses
                    .extend(address.map(|address| Address { address, ttl_s }));
            } else if record.kind == CNAME && alias.is_none() {
                let target = WireName::read(message, record.data.start).ok();
                alias = target
                    .filter(|(_, end)| *end == record.data.end)
                    .map(|(target, _)| (target, ttl_s));
            }
        }
        match alias {
            Some((target, least_ttl_s)) if !answers.is_found && answers.aliases.len() < ALIASES => {
                answers.aliases.push(target.text());
                (name, ttl_s) = (target, least_ttl_s);
            }
            _ => return answers,
        }
    }
}

impl Record {
    /// RFC 2181 section 8: with the highest bit set it is 0.
    fn ttl_s(&self) -> u32 {
        if self.ttl >> 31 == 0 { self.ttl } else { 0 }
    }

    fn address(&self, message: &[u8]) -> Option<IpAddr> {
        let data = message.get(self.data.clone())?;
        match self.kind {
            A => <[u8; 4]>::try_from(data)
                .ok()
                .map(|octets| Ipv4Addr::from(octets).into()),
            AAAA => <[u8; 16]>::try_from(data)
                .ok()
                .map(|octets| Ipv6Addr::from(octets).into()),
            _ => None,
        }
    }
}

/// The end came too early: [`read`] decides whether that is the message's fault.
impl From<NameError> for Malformed {
    fn from(error: NameError) -> Self {
        match error {
            NameError::End => Self::Incomplete,
            NameError::Malformed => Self::DnsName,
        }
    }
}

impl Reader<'_> {
    /// Name and type. One that is cut is of no use, whoever cut it.
    fn question(&mut self) -> Result<(WireName, u16), Malformed> {
        let (name, after) = WireName::read(self.message, self.at)?;
        self.at = after;
        let fixed = self.take(4)?;
        Ok((
            name,
            u16::from_be_bytes([self.message[fixed.start], self.message[fixed.start + 1]]),
        ))
    }

    /// Hands each record of a section on.
    fn records(&mut self, count: u16, mut each: impl FnMut(Record)) -> Result<(), Malformed> {
        for _ in 0..count {
            each(self.record()?);
        }
        Ok(())
    }

    fn record(&mut self) -> Result<Record, Malformed> {
        let owner = self.at;
        (_, self.at) = WireName::read(self.message, self.at)?;
        let fixed = self.take(10)?;
        let &[k0, k1, c0, c1, t0, t1, t2, t3, l0, l1] = &self.message[fixed] else {
            return Err(Malformed::Incomplete);
        };
        Ok(Record {
            owner,
            kind: u16::from_be_bytes([k0, k1]),
            class: u16::from_be_bytes([c0, c1]),
            ttl: u32::from_be_bytes([t0, t1, t2, t3]),
            data: self.take(usize::from(u16::from_be_bytes([l0, l1])))?,
        })
    }

    fn take(&mut self, bytes: usize) -> Result<Range<usize>, Malformed> {
        let taken = self.at..self.at + bytes;
        if taken.end > self.message.len() {
            return Err(Malformed::Incomplete);
        }
        self.at = taken.end;
        Ok(taken)
    }
}
