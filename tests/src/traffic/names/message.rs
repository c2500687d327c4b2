//! The little of RFC 1035 that the lab's resolver and clients need: queries with one question, answers with aliases and
//! addresses. Reads only what the lab itself wrote, without trusting it.

use std::net::IpAddr;

/// What is asked for: A.
pub(crate) const A: u16 = 1;
/// AAAA.
pub(crate) const AAAA: u16 = 28;
const CNAME: u16 = 5;
const INTERNET: [u8; 2] = [0, 1];
const HEADER: usize = 12;
/// A pointer to the question's name.
const TO_QUESTION: [u8; 2] = [0xc0, HEADER as u8];
/// QR, RD and RA.
const ANSWER: [u8; 2] = [0x81, 0x80];

/// What a query asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) id: u16,
    pub(crate) name: String,
    pub(crate) kind: u16,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) question: Question,
    pub(crate) rcode: u8,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Question {
    /// The query, with recursion desired.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = header(self.id, [1, 0], 0);
        bytes.extend(self.section());
        bytes
    }

    /// Reads a query, or the head of an answer.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let id = word(bytes, 0)?;
        let (name, end) = read_name(bytes, HEADER)?;
        let kind = word(bytes, end)?;
        Some(Self { id, name, kind })
    }

    fn section(&self) -> Vec<u8> {
        [&name(&self.name)[..], &self.kind.to_be_bytes(), &INTERNET].concat()
    }

    /// An answer with these addresses, of the name itself or of what it is an alias of.
    pub(crate) fn answered(&self, rcode: u8, alias: Option<&str>, addresses: &[IpAddr], ttl_s: u32) -> Vec<u8> {
        let records = addresses.len() + usize::from(alias.is_some());
        let mut bytes = header(self.id, [ANSWER[0], ANSWER[1] | rcode], records as u16);
        bytes.extend(self.section());
        let owner = alias.map_or(TO_QUESTION.to_vec(), name);
        if let Some(alias) = alias {
            bytes.extend(record(&TO_QUESTION, CNAME, ttl_s, &name(alias)));
        }
        for address in addresses {
            bytes.extend(match address {
                IpAddr::V4(ip) => record(&owner, A, ttl_s, &ip.octets()),
                IpAddr::V6(ip) => record(&owner, AAAA, ttl_s, &ip.octets()),
            });
        }
        bytes
    }

    /// An answer whose record has a name that points to itself.
    pub(crate) fn answered_in_circles(&self) -> Vec<u8> {
        let mut bytes = header(self.id, ANSWER, 1);
        bytes.extend(self.section());
        let here = 0xc000 | bytes.len() as u16;
        bytes.extend(record(&here.to_be_bytes(), A, 60, &[127, 0, 0, 1]));
        bytes
    }
}

impl Answer {
    /// Reads an answer as the lab's resolver writes it.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let question = Question::read(bytes)?;
        let (_, mut at) = read_name(bytes, HEADER)?;
        at += 4;
        let mut addresses = Vec::new();
        for _ in 0..word(bytes, 6)? {
            at = skip_name(bytes, at)?;
            let (kind, length) = (word(bytes, at)?, usize::from(word(bytes, at + 8)?));
            at += 10;
            let data = bytes.get(at..at + length)?;
            at += length;
            match kind {
                A => addresses.push(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
                AAAA => addresses.push(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
                _ => {}
            }
        }
        Some(Self {
            question,
            rcode: bytes.get(3)? & 15,
            addresses,
        })
    }
}

/// One question and so many answers.
fn header(id: u16, flags: [u8; 2], answers: u16) -> Vec<u8> {
    let counts = [[0, 1], answers.to_be_bytes(), [0; 2], [0; 2]].concat();
    [&id.to_be_bytes()[..], &flags, &counts].concat()
}

fn record(owner: &[u8], kind: u16, ttl_s: u32, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u16).to_be_bytes();
    [
        owner,
        &kind.to_be_bytes(),
        &INTERNET,
        &ttl_s.to_be_bytes(),
        &length,
        data,
    ]
    .concat()
}

/// A name on the wire. Labels of any bytes and of any number: the lab sends what nobody may, too.
fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> = labels
        .flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat())
        .collect();
    bytes.push(0);
    bytes
}

/// A name without pointers, and where it ends.
fn read_name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels: Vec<String> = Vec::new();
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(bytes.get(at..at + length)?).into_owned());
        at += length;
    }
}

/// Where a name ends that may be a pointer.
fn skip_name(bytes: &[u8], at: usize) -> Option<usize> {
    if *bytes.get(at)? >= 0xc0 {
        return Some(at + 2);
    }
    read_name(bytes, at).map(|(_, end)| end)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Question {
        Question {
            id: 513,
            name: "a.lab.test".to_owned(),
            kind: A,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let question = question();
        assert_eq!(Question::read(&question.encode()), Some(question.clone()));
        let addresses = ["10.0.0.1", "fd99::1"].map(|address| address.parse().expect("an address"));
        for alias in [None, Some("b.lab.test")] {
            let answer = Answer::read(&question.answered(0, alias, &addresses, 60)).expect("an answer");
            assert_eq!(answer.addresses, addresses);
            assert_eq!((answer.question, answer.rcode), (question.clone(), 0));
        }
        let answer = Answer::read(&question.answered(3, None, &[], 60)).expect("an answer");
        assert_eq!((answer.rcode, answer.addresses.len()), (3, 0));
    }

    #[test]
    fn a_circle_points_to_itself() {
        let bytes = question().answered_in_circles();
        let at = HEADER + question().section().len();
        assert_eq!(word(&bytes, at), Some(0xc000 | at as u16));
    }

    #[test]
    fn any_bytes_are_read_to_an_end() {
        let whole = question().answered(0, Some("b.lab.test"), &[IpAddr::from([10, 0, 0, 1])], 60);
        for end in 0..whole.len() {
            assert_eq!(Answer::read(&whole[..end]), None);
        }
    }
}
