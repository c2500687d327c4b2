//! Which network namespace has which inode number now: the kernel gives a number to another one as soon as its own has ended,
//! and what was resolved in the one says nothing of the other.
//!
//! Fed with every connection and DNS message, by the pipeline.
use std::collections::HashMap;

use super::Names;

/// Cookies, which no two network namespaces share until the next boot, by inode number.
#[derive(Debug)]
pub struct Namespaces {
    limit: usize,
    /// The cookie, and since when the number is that namespace's.
    cookies: HashMap<u32, (u64, u64)>,
}

impl Namespaces {
    /// Remembers at most `limit`.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            cookies: HashMap::new(),
        }
    }

    /// Something happened in a network namespace: forgets the names of the one that had its number before. Without a cookie,
    /// 0, nothing is known.
    pub fn met(&mut self, names: &mut Names, netns: u32, cookie: u64, at_ns: u64) {
        let known = self.cookies.get(&netns).copied();
        // What happened before is told of later: it is the former's.
        let is_news = known.is_none_or(|(known, since_ns)| known != cookie && at_ns >= since_ns);
        if cookie == 0 || !is_news {
            return;
        }
        if known.is_none() && self.cookies.len() >= self.limit {
            // Whoever is forgotten could not be told from its successor: no name stays that may be the former's.
            for netns in self.cookies.drain().map(|(netns, _)| netns) {
                names.namespace_ended(netns);
            }
        }
        self.cookies.insert(netns, (cookie, at_ns));
        if known.is_some() {
            names.namespace_ended(netns);
        }
    }

    /// How many there may be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Those that are remembered, now.
    pub fn len(&self) -> usize {
        self.cookies.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.cookies.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::{
        dns::{Ending, Lookup},
        protocol::dns::{Address, DnsName},
    };

    const NUMBER: u32 = 7;
    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    /// A name that somebody in the namespace resolved at a time.
    fn learn(names: &mut Names, answered_ns: u64) {
        let lookup = Lookup {
            pid: 1,
            cgroup_id: 1,
            netns: NUMBER,
            asked: DnsName::Valid("a.example".into()),
            resolved: DnsName::Valid("a.example".into()),
            kind: 1,
            resolver: (Ipv4Addr::LOCALHOST, 53).into(),
            ending: Ending::Answered(0),
            started_ns: answered_ns,
            answered_ns,
            queries: 1,
            tcp: false,
            addresses: vec![Address {
                address: ADDRESS,
                ttl_s: 60,
            }],
            aliases: Vec::new(),
        };
        names.learn(&lookup, false);
    }

    fn is_named(names: &Names, at_ns: u64) -> bool {
        names.name_of(2, 2, NUMBER, ADDRESS, at_ns).is_some()
    }

    #[test]
    fn names_end_with_their_namespace() {
        let (mut names, mut namespaces) = (Names::new(100), Namespaces::new(2));
        namespaces.met(&mut names, NUMBER, 1, 10);
        learn(&mut names, 20);
        for (cookie, at_ns) in [(1, 30), (0, 30), (9, 5)] {
            namespaces.met(&mut names, NUMBER, cookie, at_ns);
            assert!(is_named(&names, 30), "cookie {cookie} at {at_ns}");
        }
        namespaces.met(&mut names, NUMBER, 2, 40);
        assert!(!is_named(&names, 40) && !is_named(&names, 30));
        learn(&mut names, 50);
        // A connection of the former is told of later.
        namespaces.met(&mut names, NUMBER, 1, 35);
        assert!(is_named(&names, 50));
    }

    #[test]
    fn what_is_forgotten_takes_its_names_along() {
        let (mut names, mut namespaces) = (Names::new(100), Namespaces::new(2));
        namespaces.met(&mut names, NUMBER, 1, 10);
        learn(&mut names, 20);
        for netns in [8, 9] {
            namespaces.met(&mut names, netns, netns.into(), 30);
        }
        assert!(!is_named(&names, 40) && namespaces.len() <= namespaces.limit());
    }
}
