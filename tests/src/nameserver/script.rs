//! What the server does with a name, which the name itself says: `KIND-ZONE-LOSS-NUMBER-WHO` and the zone it is in. Pure.

use std::hash::{DefaultHasher, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::message::{A, AAAA, Answer, NOERROR, NXDOMAIN, Query, SERVFAIL};

/// The clients' search list.
pub(crate) const SEARCH: [&str; 3] = ["a.lab.test", "b.lab.test", "lab.test"];
/// A zone that is not in it.
pub(crate) const OUTSIDE: &str = "ext.test";

/// Label of names whose queries all arrive.
pub(crate) const SURE: &str = "sure";
/// Label of names whose queries are lost at random, and how many of a hundred.
pub(crate) const LOSSY: &str = "lossy";
const LOST_PERCENT: u8 = 30;

/// Over UDP alone; longer than any path of the lab, shorter than any resolver's patience.
const SLOW: Duration = Duration::from_millis(200);
/// A resolver that asks for A and AAAA by one socket leaves it at the first truncated answer: the other comes before it.
const BEFORE_TRUNCATED: Duration = Duration::from_millis(30);

/// What becomes of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Nobody answers.
    Drop,
    Answer {
        after: Duration,
        answer: Answer,
    },
    /// What no honest server does.
    Mischief(Mischief),
}

/// Datagrams beside or before the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mischief {
    /// The same answer twice.
    Twice,
    /// An answer with an id that nobody used before the right one.
    Unasked,
    /// An answer to another question before the right one.
    OtherQuestion,
    /// The answer from another address before the right one.
    OtherServer,
}

/// Names in the server's log and in metrics.
pub(crate) fn rcode_name(rcode: u8) -> &'static str {
    match rcode {
        NOERROR => "NOERROR",
        SERVFAIL => "SERVFAIL",
        NXDOMAIN => "NXDOMAIN",
        _ => "OTHER",
    }
}

/// Names in metrics; the lab asks for no others.
pub(crate) fn type_name(kind: u16) -> &'static str {
    match kind {
        A => "A",
        AAAA => "AAAA",
        _ => "other",
    }
}

/// The zone that a zone label stands for.
pub(crate) fn zone(label: &str) -> Option<&'static str> {
    match label {
        "a" => Some(SEARCH[0]),
        "b" => Some(SEARCH[1]),
        "l" => Some(SEARCH[2]),
        "e" => Some(OUTSIDE),
        _ => None,
    }
}

/// `repeats`: how often the same question came before.
pub(crate) fn deed(query: &Query, is_udp: bool, repeats: u32, seed: u64) -> Deed {
    let answered = |answer| Deed::Answer {
        after: Duration::ZERO,
        answer,
    };
    let denial = |rcode| Answer {
        rcode,
        ..Answer::default()
    };
    let (token, rest) = query.name.split_once('.').unwrap_or((&query.name, ""));
    let mut parts = token.split('-');
    let mut part = || parts.next().unwrap_or_default();
    let (kind, zone_label, loss) = (part(), part(), part());
    if kind == "silent" || (loss == LOSSY && is_lost(query, is_udp, repeats, seed)) {
        return Deed::Drop;
    }
    if zone(zone_label) != Some(rest) {
        return answered(denial(NXDOMAIN));
    }
    let found = Answer {
        addresses: addresses(token, query.kind),
        ..Answer::default()
    };
    match kind {
        "nx" => answered(denial(NXDOMAIN)),
        "nodata" => answered(denial(NOERROR)),
        "servfail" => answered(denial(SERVFAIL)),
        "alias" => answered(Answer {
            aliases: (1..=3).map(|step| format!("c{step}.{token}.{OUTSIDE}")).collect(),
            ..found
        }),
        "tc" if is_udp && query.kind == A => Deed::Answer {
            after: BEFORE_TRUNCATED,
            answer: Answer {
                truncated: true,
                ..Answer::default()
            },
        },
        "slow" if is_udp => Deed::Answer {
            after: SLOW,
            answer: found,
        },
        "twice" => Deed::Mischief(Mischief::Twice),
        "unasked" => Deed::Mischief(Mischief::Unasked),
        "question" => Deed::Mischief(Mischief::OtherQuestion),
        "server" => Deed::Mischief(Mischief::OtherServer),
        _ => answered(found),
    }
}

/// The same in every run with one seed, whichever query comes first.
fn is_lost(query: &Query, is_udp: bool, repeats: u32, seed: u64) -> bool {
    // A stream loses nothing.
    is_udp && fastrand::Rng::with_seed(hash(&(seed, &query.name, query.kind, repeats))).u8(0..100) < LOST_PERCENT
}

/// Two addresses that no other name has.
pub(crate) fn addresses(token: &str, kind: u16) -> Vec<IpAddr> {
    let bytes = hash(&token).to_be_bytes();
    (1..=2)
        .filter_map(|last| match kind {
            A => Some(Ipv4Addr::new(10, 64 + bytes[0] % 32, bytes[1], bytes[2] & 0xfc | last).into()),
            AAAA => {
                let words = [0, 2, 4, 6].map(|at| u16::from_be_bytes([bytes[at], bytes[at + 1]]));
                Some(Ipv6Addr::new(0xfd77, 0, words[0], words[1], words[2], words[3], 0, last.into()).into())
            }
            _ => None,
        })
        .collect()
}

fn hash(value: &impl std::hash::Hash) -> u64 {
    // The same for every process of this binary.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, is_udp: bool) -> Deed {
        let query = Query::read(&Query::encode(1, name, A)).expect("a query");
        deed(&query, is_udp, 0, 1)
    }

    #[test]
    fn the_name_says_what_is_done() {
        let rcode = |name: &str| match check(name, true) {
            Deed::Answer { answer, .. } => (rcode_name(answer.rcode), answer.addresses.len()),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(rcode("ok-a-sure-1-x.a.lab.test"), ("NOERROR", 2));
        assert_eq!(rcode("ok-a-sure-1-x.b.lab.test"), ("NXDOMAIN", 0));
        assert_eq!(rcode("ok-e-sure-1-x.ext.test.a.lab.test"), ("NXDOMAIN", 0));
        assert_eq!(rcode("ok-e-sure-1-x.ext.test"), ("NOERROR", 2));
        assert_eq!(rcode("nodata-a-sure-1-x.a.lab.test"), ("NOERROR", 0));
        assert_eq!(rcode("servfail-a-sure-1-x.a.lab.test"), ("SERVFAIL", 0));
        assert_eq!(check("silent-a-sure-1-x.a.lab.test", false), Deed::Drop);
        let truncated = |is_udp| match check("tc-a-sure-1-x.a.lab.test", is_udp) {
            Deed::Answer { answer, .. } => answer.truncated,
            other => panic!("{other:?}"),
        };
        assert!(truncated(true) && !truncated(false));
    }

    #[test]
    fn about_a_third_is_lost_and_nothing_of_a_stream() {
        let lost = |is_udp| {
            let names = (0..1_000).map(|number| format!("ok-a-{LOSSY}-{number}-x.a.lab.test"));
            names.filter(|name| check(name, is_udp) == Deed::Drop).count()
        };
        assert!((250..350).contains(&lost(true)), "{}", lost(true));
        assert_eq!(lost(false), 0);
    }
}
