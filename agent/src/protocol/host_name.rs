//! Host names that others claim: checked before anything is learned from them.

use std::{fmt, sync::Arc};

/// Bytes of the longest name.
const NAME_LIMIT: usize = 253;
/// Bytes of the longest label.
const LABEL_LIMIT: usize = 63;

/// A host name: lower-case labels of letters, digits and hyphens, at most 253 bytes, without the final dot.
///
/// Underscores count as letters: DNS carries them, and names of compose services, buckets and Windows hosts have them.
/// A name whose last label is all digits is an address, or the attempt at one (RFC 3696 section 2), and no name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(Arc<str>);

impl HostName {
    /// `None` for what is no host name.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.strip_suffix(b".").unwrap_or(bytes);
        if !is_host_name(bytes) {
            return None;
        }
        let lower = bytes.to_ascii_lowercase();
        String::from_utf8(lower).ok().map(|name| Self(name.into()))
    }

    /// The same name for others to keep, without a copy: a hundred thousand connections have one each.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// The name, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether this is a host name, in either case, without the final dot.
pub(super) fn is_host_name(bytes: &[u8]) -> bool {
    let last = bytes.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    bytes.len() <= NAME_LIMIT && bytes.split(|byte| *byte == b'.').all(is_label) && !last.iter().all(u8::is_ascii_digit)
}

fn is_label(label: &[u8]) -> bool {
    let ldh = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-' || *byte == b'_';
    (1..=LABEL_LIMIT).contains(&label.len())
        && label.iter().all(ldh)
        && label.first() != Some(&b'-')
        && label.last() != Some(&b'-')
}

impl fmt::Display for HostName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl AsRef<str> for HostName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: Option<&str>) {
        let name = HostName::parse(input.as_bytes());
        assert_eq!(name.as_ref().map(HostName::as_str), expected, "{input}");
    }

    #[test]
    fn only_host_names_pass() {
        check("Proxy.Golang.ORG", Some("proxy.golang.org"));
        check("localhost", Some("localhost"));
        check("xn--bcher-kva.example.", Some("xn--bcher-kva.example"));
        check("my_service", Some("my_service"));
        check("_dmarc.example.com", Some("_dmarc.example.com"));
        check("r3---sn-4g5.googlevideo.com", Some("r3---sn-4g5.googlevideo.com"));
        check("3.debian.pool.ntp.org", Some("3.debian.pool.ntp.org"));
        for bad in [
            "",
            ".",
            "a..b",
            ".a",
            "a b",
            "a/b",
            "-a.b",
            "a-.b",
            "10.0.0.1",
            "::1",
            "[::1]",
            "b\u{fc}cher",
            "*.a.b",
        ] {
            check(bad, None);
        }
        check(&"a".repeat(64), None);
        check(&["a".repeat(63).as_str(); 4].join("."), None);
        let longest = ["a".repeat(63).as_str(); 3].join(".") + "." + &"b".repeat(61);
        check(&longest, Some(&longest));
        assert_eq!(HostName::parse(b"a\0b"), None);
    }
}
