//! Names inside a DNS message: labels and pointers (RFC 1035 section 4.1.4), in lower case, bounded.
//!
//! Pointers go strictly backwards, each before the part of the name that it ends, so no name is without an end.

use std::fmt;
use std::sync::Arc;

use super::super::host_name::is_host_name;

/// Bytes of the longest name on the wire (RFC 1035 section 2.3.4).
const NAME_BYTES: usize = 255;
/// A name has no more labels than this, and no compressor needs more than one pointer for each.
const POINTERS: usize = 127;

/// A name that was asked for, or an alias.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DnsName {
    /// A host name in lower case without the final dot, underscores allowed; `.` for the root.
    Valid(Arc<str>),
    /// Anything else. What it was is not kept, and nothing is learned from it.
    Invalid,
}

impl DnsName {
    /// The name, or `invalid`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Valid(name) => name,
            Self::Invalid => "invalid",
        }
    }

    /// The name, if it is one.
    pub fn valid(&self) -> Option<&Arc<str>> {
        match self {
            Self::Valid(name) => Some(name),
            Self::Invalid => None,
        }
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Why a name could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameError {
    /// The message ends before it.
    End,
    /// It is too long, or its labels or pointers lie.
    Malformed,
}

/// A name as on the wire, without pointers and in lower case: labels with their lengths before them.
#[derive(Clone)]
pub(super) struct WireName {
    bytes: [u8; NAME_BYTES],
    length: usize,
}

impl WireName {
    /// Reads the name at `at`; gives where the reading goes on after it, too.
    pub(super) fn read(message: &[u8], at: usize) -> Result<(Self, usize), NameError> {
        let mut name = Self {
            bytes: [0; NAME_BYTES],
            length: 0,
        };
        let (mut at, mut part, mut after) = (at, at, None);
        let mut pointers = 0;
        loop {
            let first = *message.get(at).ok_or(NameError::End)?;
            match first >> 6 {
                0 => {
                    let end = at + 1 + usize::from(first);
                    name.push(message.get(at..end).ok_or(NameError::End)?)?;
                    at = end;
                    if first == 0 {
                        return Ok((name, after.unwrap_or(at)));
                    }
                }
                3 => {
                    let second = *message.get(at + 1).ok_or(NameError::End)?;
                    let target = usize::from(u16::from_be_bytes([first & 0x3f, second]));
                    pointers += 1;
                    if target >= part || pointers > POINTERS {
                        return Err(NameError::Malformed);
                    }
                    after.get_or_insert(at + 2);
                    (at, part) = (target, target);
                }
                // Reserved, or withdrawn (RFC 6891 section 5).
                _ => return Err(NameError::Malformed),
            }
        }
    }

    fn push(&mut self, label: &[u8]) -> Result<(), NameError> {
        let end = self.length + label.len();
        let room = self.bytes.get_mut(self.length..end).ok_or(NameError::Malformed)?;
        room.copy_from_slice(label);
        // A length is at most 63, below the letters.
        room.make_ascii_lowercase();
        self.length = end;
        Ok(())
    }

    /// The name as text, if it is a host name or the root.
    pub(super) fn text(&self) -> DnsName {
        let mut text = [0; NAME_BYTES];
        let (mut at, mut length) = (0, 0);
        while let Some(label_bytes) = self.bytes[at..self.length].first().copied().filter(|bytes| *bytes != 0) {
            let label = &self.bytes[at + 1..=at + usize::from(label_bytes)];
            if label.contains(&b'.') {
                return DnsName::Invalid;
            }
            text[length..length + label.len()].copy_from_slice(label);
            text[length + label.len()] = b'.';
            at += 1 + label.len();
            length += 1 + label.len();
        }
        if length == 0 {
            return DnsName::Valid(".".into());
        }
        match std::str::from_utf8(&text[..length - 1]) {
            Ok(name) if is_host_name(name.as_bytes()) => DnsName::Valid(name.into()),
            _ => DnsName::Invalid,
        }
    }
}

impl PartialEq for WireName {
    fn eq(&self, other: &Self) -> bool {
        self.bytes[..self.length] == other.bytes[..other.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &[u8], at: usize, expected: Result<(&str, usize), NameError>) {
        let read = WireName::read(message, at).map(|(name, after)| (name.text().to_string(), after));
        assert_eq!(
            read,
            expected.map(|(name, after)| (name.to_owned(), after)),
            "{message:?}"
        );
    }

    #[test]
    fn labels_and_pointers() {
        check(b"\x03wWw\x01a\0rest", 0, Ok(("www.a", 7)));
        check(b"\0", 0, Ok((".", 1)));
        check(b"\x01a\0\x01b\xc0\0\x01c\xc0\x03", 7, Ok(("c.b.a", 11)));
        check(b"\x05_ldap\x04_tcp\x01a\0", 0, Ok(("_ldap._tcp.a", 14)));
    }

    #[test]
    fn what_is_no_host_name_is_invalid() {
        for bad in [
            &b"\x03a b\0"[..],
            b"\x02a\0\0",
            b"\x02a\x1b\0",
            b"\x02\xc3\xa9\0",
            b"\x03a.b\0",
            b"\x01-\0",
        ] {
            check(bad, 0, Ok(("invalid", bad.len())));
        }
        check(b"\x0210\x010\x010\x011\0", 0, Ok(("invalid", 10)));
    }

    #[test]
    fn loops_and_lies_end() {
        // Itself, forwards, a loop of two, and into the part that it ends.
        check(b"\xc0\0", 0, Err(NameError::Malformed));
        check(b"\xc0\x02\0", 0, Err(NameError::Malformed));
        check(b"\xc0\x02\xc0\0", 2, Err(NameError::Malformed));
        check(b"\x01a\xc0\0", 0, Err(NameError::Malformed));
        check(b"\x40a\0", 0, Err(NameError::Malformed));
        check(b"\x80a\0", 0, Err(NameError::Malformed));
        for cut in [&b""[..], b"\x03ab", b"\x01a", b"\xc0"] {
            check(cut, 0, Err(NameError::End));
        }
    }

    #[test]
    fn names_have_a_length() {
        let label = [&[63][..], &[b'a'; 63]].concat();
        let longest = [label.repeat(3), vec![61], vec![b'b'; 61], vec![0]].concat();
        let (name, after) = WireName::read(&longest, 0).expect("it has 255 bytes");
        assert_eq!((name.text().as_str().len(), after), (253, 255));
        let longer = [label.repeat(3), vec![62], vec![b'b'; 62], vec![0]].concat();
        check(&longer, 0, Err(NameError::Malformed));
        check(&[label.repeat(5), vec![0]].concat(), 0, Err(NameError::Malformed));
        // Behind a pointer, too.
        let split = [&label.repeat(3)[..], &[0], &label, &[0xc0, 0]].concat();
        check(&split, 193, Err(NameError::Malformed));
    }

    #[test]
    fn a_stair_of_pointers_has_an_end() {
        let mut stair = vec![0, 0];
        for step in 0..400_u16 {
            stair.extend((0xc000 | (step * 2).min(0x3fff)).to_be_bytes());
        }
        assert_eq!(WireName::read(&stair, 2 * 100).map(|(_, after)| after), Ok(202));
        assert!(WireName::read(&stair, 2 * 200).is_err());
    }
}
