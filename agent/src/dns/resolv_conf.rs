//! `resolv.conf` as resolvers read it: which servers a program asks, and which suffixes it tries.
//!
//! Total and bounded; a line or a word that makes no sense is passed over, as glibc, musl and Go do.
use std::net::IpAddr;

use crate::protocol::HostName;

/// Servers that are used (glibc's and musl's `MAXNS`).
const NAMESERVERS: usize = 3;
/// Suffixes that are kept: what Kubernetes allows. glibc has had no limit since 2.26.
const SUFFIXES: usize = 32;
/// Bytes of all suffixes together that are kept: what Kubernetes allows.
const SUFFIX_BYTES: usize = 2_048;
/// Bytes that are looked at.
const TEXT_BYTES: usize = 65_536;

/// The suffixes that a resolver tries, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchList {
    /// Suffixes in the order in which they are tried: lower case, without dots at their ends.
    pub suffixes: Vec<Box<str>>,
    /// A name with at least this many dots is tried as it is before the suffixes.
    pub ndots: u8,
}

impl Default for SearchList {
    fn default() -> Self {
        Self {
            suffixes: Vec::new(),
            ndots: 1,
        }
    }
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// Servers in the order in which they are asked, without zones of link-local addresses.
    pub nameservers: Vec<IpAddr>,
    /// What is tried for a name.
    pub search: SearchList,
    /// For how long a server is waited for, seconds.
    pub timeout_s: u8,
    /// How often all servers are asked.
    pub attempts: u8,
}

impl Default for ResolvConf {
    fn default() -> Self {
        Self {
            nameservers: Vec::new(),
            search: SearchList::default(),
            timeout_s: 5,
            attempts: 2,
        }
    }
}

impl ResolvConf {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text
            .get(..text.floor_char_boundary(TEXT_BYTES))
            .unwrap_or_default()
            .lines()
        {
            // A comment is a keyword that nobody knows.
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => conf.nameservers.extend(words.next().and_then(address)),
                // The last of both kinds counts.
                Some("search") => conf.search.suffixes = suffixes(words),
                Some("domain") => conf.search.suffixes = words.take(1).filter_map(suffix).collect(),
                Some("options") => words.for_each(|option| conf.set(option)),
                _ => {}
            }
        }
        conf.nameservers.truncate(NAMESERVERS);
        conf
    }

    /// Limits are glibc's (`RES_MAXNDOTS`, `RES_MAXRETRANS`, `RES_MAXRETRY`).
    fn set(&mut self, option: &str) {
        let Some((name, Ok(number))) = option.split_once(':').map(|(name, text)| (name, text.parse::<u64>())) else {
            return;
        };
        let up_to = |limit: u8| u8::try_from(number).map_or(limit, |number| number.min(limit));
        match name {
            "ndots" => self.search.ndots = up_to(15),
            "timeout" => self.timeout_s = up_to(30),
            "attempts" => self.attempts = up_to(5),
            _ => {}
        }
    }
}

fn address(word: &str) -> Option<IpAddr> {
    word.split('%').next()?.parse().ok()
}

fn suffixes<'a>(words: impl Iterator<Item = &'a str>) -> Vec<Box<str>> {
    let mut left = SUFFIX_BYTES;
    let mut fits = |bytes: usize| {
        left.checked_sub(bytes).is_some_and(|rest| {
            left = rest;
            true
        })
    };
    let suffixes = words.filter_map(suffix).take_while(|suffix| fits(suffix.len()));
    suffixes.take(SUFFIXES).collect()
}

fn suffix(word: &str) -> Option<Box<str>> {
    HostName::parse(word.as_bytes()).map(|name| name.as_str().into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, nameservers: &[&str], suffixes: &[&str], numbers: [u8; 3]) {
        let conf = ResolvConf::parse(text);
        let found: Vec<_> = conf.nameservers.iter().map(ToString::to_string).collect();
        assert_eq!(found, nameservers, "{text}");
        let found: Vec<_> = conf.search.suffixes.iter().map(AsRef::as_ref).collect();
        assert_eq!(found, suffixes, "{text}");
        assert_eq!([conf.search.ndots, conf.timeout_s, conf.attempts], numbers, "{text}");
    }

    #[test]
    fn what_files_say() {
        check("", &[], &[], [1, 5, 2]);
        check(
            "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
            &["10.96.0.10"],
            &["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"],
            [5, 5, 2],
        );
        check(
            "# nameserver 9.9.9.9\n;search x\nnameserver fe80::1%eth0\r\nnameserver ::1 # local\nnameserver nobody\n",
            &["fe80::1", "::1"],
            &[],
            [1, 5, 2],
        );
        check("domain Corp.Example.\n", &[], &["corp.example"], [1, 5, 2]);
        check("search a b\ndomain c d\n", &[], &["c"], [1, 5, 2]);
        check("domain c\nsearch a . \u{e9} b", &[], &["a", "b"], [1, 5, 2]);
        check(
            "options timeout:1 attempts:9 rotate ndots:x ndots:99999\n",
            &[],
            &[],
            [15, 1, 5],
        );
        check(
            "nameserver 1.1.1.1\n".repeat(9).as_str(),
            &["1.1.1.1"; 3],
            &[],
            [1, 5, 2],
        );
    }

    proptest! {
        #[test]
        fn any_text_is_within_bounds(text in "((nameserver|search|domain|options|ndots:|::1|a\\.b|\u{e9}|[ \n:#0-9])[ \n]?){0,60}") {
            let conf = ResolvConf::parse(&text);
            prop_assert!(conf.nameservers.len() <= NAMESERVERS && conf.search.suffixes.len() <= SUFFIXES);
            prop_assert!(conf.search.ndots <= 15);
        }
    }
}
