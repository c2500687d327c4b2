//! DNS messages (RFC 1035), as much as a server needs that knows its names by heart. Own, so that the truth does not come
//! from the reader that is compared with it.

use std::net::IpAddr;

pub(crate) const A: u16 = 1;
pub(crate) const CNAME: u16 = 5;
pub(crate) const AAAA: u16 = 28;

pub(crate) const NOERROR: u8 = 0;
pub(crate) const SERVFAIL: u8 = 2;
pub(crate) const NXDOMAIN: u8 = 3;

const INTERNET: u16 = 1;
const TTL_S: u32 = 60;
/// Where the question's name begins, as a pointer to it.
const POINTER_TO_QUESTION: [u8; 2] = [0xc0, 12];

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) id: u16,
    /// Lower case, without the dot at its end.
    pub(crate) name: String,
    pub(crate) kind: u16,
    /// The question's bytes, to be given back as they came.
    question: Vec<u8>,
}

impl Query {
    /// Reads a query; `None` for anything else.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        let is_plain_query = word(2)? & 0xf800 == 0;
        if !is_plain_query || word(4)? != 1 {
            return None;
        }
        let mut labels = Vec::new();
        let mut at = 12;
        loop {
            let length = usize::from(*bytes.get(at)?);
            at += 1;
            match length {
                0 => break,
                1..64 => labels.push(String::from_utf8_lossy(bytes.get(at..at + length)?).to_lowercase()),
                // No resolver compresses a question.
                _ => return None,
            }
            at += length;
        }
        Some(Self {
            id: word(0)?,
            name: labels.join("."),
            kind: word(at)?,
            question: bytes.get(12..at + 4)?.to_vec(),
        })
    }

    /// A query as a resolver sends it.
    pub(crate) fn encode(id: u16, name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = [id.to_be_bytes(), [1, 0], [0, 1], [0, 0], [0, 0], [0, 0]].concat();
        bytes.extend(question(name, kind));
        bytes
    }

    /// The same id with another question.
    pub(crate) fn about(&self, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            question: question(name, self.kind),
            ..self.clone()
        }
    }
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    [&encode_name(name)[..], &kind.to_be_bytes(), &INTERNET.to_be_bytes()].concat()
}

/// What a server says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) rcode: u8,
    pub(crate) truncated: bool,
    /// The name is an alias of the first, that of the second, and so on.
    pub(crate) aliases: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Answer {
    pub(crate) fn encode(&self, query: &Query) -> Vec<u8> {
        // Response, recursion desired and available.
        let flags = 0x8180 | u16::from(self.truncated) << 9 | u16::from(self.rcode);
        let records = (self.aliases.len() + self.addresses.len()) as u16;
        let mut bytes: Vec<u8> = [query.id, flags, 1, records, 0, 0]
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect();
        bytes.extend(&query.question);
        let mut owner = POINTER_TO_QUESTION.to_vec();
        let mut record = |owner: &[u8], kind: u16, data: &[u8]| {
            bytes.extend(owner);
            bytes.extend([kind, INTERNET].iter().flat_map(|word| word.to_be_bytes()));
            bytes.extend(TTL_S.to_be_bytes());
            bytes.extend((data.len() as u16).to_be_bytes());
            bytes.extend(data);
        };
        for alias in &self.aliases {
            let name = encode_name(alias);
            record(&owner, CNAME, &name);
            owner = name;
        }
        for address in &self.addresses {
            match address {
                IpAddr::V4(address) => record(&owner, A, &address.octets()),
                IpAddr::V6(address) => record(&owner, AAAA, &address.octets()),
            }
        }
        bytes
    }
}

fn encode_name(name: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = name
        .split('.')
        .flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat())
        .collect();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_goes_both_ways() {
        let query = Query::read(&Query::encode(7, "Web.lab.test", AAAA)).expect("a query");
        assert_eq!((query.id, query.name.as_str(), query.kind), (7, "web.lab.test", AAAA));
        let bytes = Query::encode(7, "web.lab.test", A);
        for length in 0..bytes.len() {
            assert_eq!(Query::read(&bytes[..length]), None, "{length}");
        }
        let answer = Answer::default().encode(&query);
        assert_eq!(Query::read(&answer), None, "an answer is no query");
    }

    #[test]
    fn an_answer_has_its_records_in_order() {
        let query = Query::read(&Query::encode(1, "a.test", A)).expect("a query");
        let answer = Answer {
            truncated: true,
            rcode: NXDOMAIN,
            aliases: vec!["b.test".to_owned()],
            addresses: vec!["10.0.0.9".parse().expect("an address")],
        };
        let bytes = answer.encode(&query);
        assert_eq!(bytes[..12], [0, 1, 0x83, 0x83, 0, 1, 0, 2, 0, 0, 0, 0]);
        let alias = [&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 8][..], b"\x01b\x04test\x00"].concat();
        let address = [b"\x01b\x04test\x00", &[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 9][..]].concat();
        assert!(bytes.ends_with(&[alias, address].concat()));
    }
}
