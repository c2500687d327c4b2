//! Whose name an address has, for how long, and who cannot take it away.

use std::net::Ipv4Addr;

use super::*;
use crate::protocol::dns::Address;

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A process: pid, cgroup, namespace.
type Who = (u32, u64, u32);
const CURL: Who = (100, 7, 3);
const SIBLING: Who = (101, 7, 3);
const NEIGHBOUR: Who = (200, 8, 3);
const STRANGER: Who = (300, 9, 4);

fn lookup(who: Who, name: &str, addresses: &[IpAddr], answered_ns: u64) -> Lookup {
    Lookup {
        pid: who.0,
        cgroup_id: who.1,
        netns: who.2,
        asked: DnsName::Valid(name.split('.').next().expect("a label").into()),
        resolved: DnsName::Valid(name.into()),
        kind: 1,
        resolver: (Ipv4Addr::new(10, 0, 0, 1), 53).into(),
        ending: Ending::Answered(0),
        started_ns: answered_ns.saturating_sub(5 * MS),
        answered_ns,
        queries: 2,
        tcp: false,
        addresses: addresses
            .iter()
            .map(|address| Address {
                address: *address,
                ttl_s: 60,
            })
            .collect(),
        aliases: Vec::new(),
    }
}

fn names() -> Names {
    Names::new(1_000)
}

fn learned(all: &[(Who, &str, u64)]) -> Names {
    let mut names = names();
    for (who, name, answered_ns) in all {
        names.learn(&lookup(*who, name, &[HOST], *answered_ns), false);
    }
    names
}

fn check(names: &Names, who: Who, at_ns: u64, expected: Option<(&str, Scope, bool)>) {
    let found = names.name_of(who.0, who.1, who.2, HOST, at_ns);
    let found = found
        .as_ref()
        .map(|found| (&*found.name, found.scope, found.is_ambiguous));
    assert_eq!(found, expected, "{who:?} at {at_ns}");
}

#[test]
fn the_nearest_resolution_names_it() {
    let names = learned(&[(CURL, "a.example", S)]);
    check(&names, CURL, 2 * S, Some(("a.example", Scope::Process, false)));
    check(&names, SIBLING, 2 * S, Some(("a.example", Scope::Cgroup, false)));
    check(&names, NEIGHBOUR, 2 * S, Some(("a.example", Scope::Namespace, false)));
    check(&names, STRANGER, 2 * S, None);
    check(&names, CURL, S - 1, None);
    let found = names.name_of(100, 7, 3, HOST, S).expect("just resolved");
    assert_eq!(
        (&*found.asked, found.lookup.started_ns, found.lookup.queries),
        ("a", S - 5 * MS, 2)
    );
}

#[test]
fn two_names_on_one_address_stay_apart() {
    let mut names = learned(&[(CURL, "a.example", S), (SIBLING, "b.example", 2 * S)]);
    check(&names, CURL, 3 * S, Some(("a.example", Scope::Process, false)));
    check(&names, SIBLING, 3 * S, Some(("b.example", Scope::Process, false)));
    // Another of the cgroup has to guess.
    check(&names, (102, 7, 3), 3 * S, Some(("b.example", Scope::Cgroup, true)));
    check(&names, (102, 7, 3), S, Some(("a.example", Scope::Cgroup, false)));
    names.learn(&lookup(CURL, "c.example", &[HOST], 4 * S), false);
    check(&names, CURL, 5 * S, Some(("c.example", Scope::Process, true)));
    check(&names, CURL, 3 * S, Some(("a.example", Scope::Process, false)));
}

#[test]
fn names_outlast_their_ttl_by_a_grace() {
    let names = learned(&[(CURL, "a.example", S)]);
    let last = S + 60 * S;
    check(
        &names,
        CURL,
        last + OWN_GRACE_NS,
        Some(("a.example", Scope::Process, false)),
    );
    check(&names, CURL, last + OWN_GRACE_NS + 1, None);
    check(
        &names,
        SIBLING,
        last + CGROUP_GRACE_NS,
        Some(("a.example", Scope::Cgroup, false)),
    );
    check(&names, SIBLING, last + CGROUP_GRACE_NS + 1, None);
    check(&names, NEIGHBOUR, last, Some(("a.example", Scope::Namespace, false)));
    check(&names, NEIGHBOUR, last + 1, None);
    // Neither nothing nor for ever.
    for (ttl_s, lasts_s) in [(0, 30), (u32::MAX, 86_400)] {
        let mut names = self::names();
        let mut lookup = lookup(CURL, "a.example", &[HOST], 0);
        lookup.addresses[0].ttl_s = ttl_s;
        names.learn(&lookup, false);
        check(
            &names,
            NEIGHBOUR,
            lasts_s * S,
            Some(("a.example", Scope::Namespace, false)),
        );
        check(&names, NEIGHBOUR, lasts_s * S + 1, None);
    }
}

#[test]
fn the_host_s_namespace_tells_nothing() {
    let mut names = names();
    names.learn(&lookup(CURL, "a.example", &[HOST], S), true);
    check(&names, SIBLING, S, Some(("a.example", Scope::Cgroup, false)));
    check(&names, NEIGHBOUR, S, None);
}

#[test]
fn a_process_s_names_end_with_it() {
    let mut names = learned(&[(CURL, "a.example", S)]);
    names.process_ended(100, 2 * S);
    // What it did before is told of later.
    check(&names, CURL, 2 * S, Some(("a.example", Scope::Process, false)));
    check(&names, CURL, 3 * S, Some(("a.example", Scope::Cgroup, false)));
    // Its successor under the same pid, in another cgroup, knows nothing of it.
    check(&names, (100, 9, 4), 3 * S, None);
    assert_eq!(names.take_lookup(100, HOST, None, 3 * S), None);
    names.expire(65 * S);
    assert_eq!(names.len(), 2);
    names.expire(1_000 * S);
    assert!(names.is_empty() && names.units.is_empty() && names.held.is_empty() && names.by_held.is_empty());
}

#[test]
fn a_claim_is_verified_by_its_own_process() {
    let names = learned(&[
        (CURL, "a.example", S),
        (SIBLING, "b.example", S),
        (STRANGER, "x.example", S),
    ]);
    let has = |who: Who, name, address| names.has_resolved(who.0, name, address, 2 * S);
    assert!(has(CURL, "a.example", HOST) && has(CURL, "a", HOST));
    assert!(has(SIBLING, "b.example", HOST) && !has(CURL, "b.example", HOST));
    assert!(!has(CURL, "x.example", HOST) && !has(CURL, "A.example", HOST));
    assert!(!has(CURL, "a.example", IpAddr::from([192, 0, 2, 2])));
    assert!(!names.has_resolved(100, "a.example", HOST, S - 1));
}

#[test]
fn a_mapped_address_is_the_same_address() {
    let names = learned(&[(CURL, "a.example", S)]);
    let mapped = IpAddr::V6(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped());
    assert!(names.name_of(100, 7, 3, mapped, S).is_some());
}

#[test]
fn a_lookup_belongs_to_the_first_connection() {
    let other = IpAddr::from([192, 0, 2, 2]);
    let mut names = names();
    names.learn(&lookup(CURL, "a.example", &[HOST, other], S), false);
    names.learn(&lookup(CURL, "a.example", &[HOST], 3 * S), false);
    let mut take = |pid, address, at_ns| answered_ns(names.take_lookup(pid, address, None, at_ns));
    assert_eq!(take(100, HOST, S - 1), None);
    // Connections may be told of after the next lookup is.
    assert_eq!(take(100, HOST, 2 * S), Some(S));
    assert_eq!(take(100, HOST, 2 * S + 1), None, "it came from a cache");
    assert_eq!(take(100, HOST, 3 * S), Some(3 * S));
    assert_eq!(take(100, HOST, 4 * S), None);
    assert_eq!(take(100, other, 2 * S), Some(S));
    assert_eq!(take(101, HOST, 4 * S), None, "it asked nothing");
}

fn answered_ns(taken: Option<(Arc<str>, LookupFacts)>) -> Option<u64> {
    taken.map(|(_, facts)| facts.answered_ns)
}

#[test]
fn a_lookup_belongs_to_the_connection_that_claims_its_name() {
    let mut names = learned(&[(CURL, "a.example", S), (CURL, "b.example", S + MS)]);
    let mut take = |claimed| answered_ns(names.take_lookup(100, HOST, claimed, S + 2 * MS));
    assert_eq!(take(Some("a.example")), Some(S));
    assert_eq!(take(Some("a.example")), None, "it came from a cache");
    // Nobody resolved that: it can only have used the last answer.
    assert_eq!(take(Some("x.example")), Some(S + MS));
    assert_eq!(take(None), None);
}

/// Which connection waited for a lookup, by when it was opened.
#[test]
fn a_lookup_belongs_to_the_connection_that_waited() {
    let takes = |names: &mut Names, at_ns| names.take_lookup(100, HOST, None, at_ns).is_some();
    let check = |before: &[u64], opened_ns, expected| {
        let mut names = names();
        for answered_ns in before {
            names.learn(&lookup(CURL, "a.example", &[HOST], *answered_ns), false);
        }
        assert_eq!(takes(&mut names, opened_ns), expected, "{before:?}, {opened_ns}");
    };
    check(&[S], S + WAITED_WITHIN_NS, true);
    check(&[S], S + WAITED_WITHIN_NS + 1, false);
    // It is resolved again every five seconds, whoever connects.
    check(&[S, 6 * S], 6 * S + RENEWED_WITHIN_NS, true);
    check(&[S, 6 * S], 6 * S + RENEWED_WITHIN_NS + 1, false);
    check(&[S, S + 4 * MS], S + 4 * MS + RENEWED_WITHIN_NS + 1, true);
    // The answer for the other address type is late, and both are waited for.
    let mut names = learned(&[(CURL, "a.example", S)]);
    names.query_ended(100, "a.example", S - MS, 4 * S);
    assert!(takes(&mut names, 4 * S + MS));
    let mut names = learned(&[(CURL, "a.example", S)]);
    for (pid, name, sent_ns) in [(101, "a.example", S), (100, "b.example", S), (100, "a.example", S + 1)] {
        names.query_ended(pid, name, sent_ns, 4 * S);
    }
    assert!(!takes(&mut names, 4 * S + MS), "nothing of it is a sibling's");
}

const HOUR: u64 = 3_600 * S;

/// A process that resolves once and connects for hours.
#[test]
fn a_name_in_use_stays() {
    let mut names = learned(&[(CURL, "a.example", S)]);
    let mut connect = |who: Who, at_ns, is_same, expected| {
        names.expire(at_ns);
        names.used(who.0, who.1, HOST, at_ns, |_| is_same);
        check(&names, who, at_ns, expected);
    };
    let own = Some(("a.example", Scope::Process, false));
    for hour in 1..100 {
        connect(CURL, hour * HOUR, true, own);
        // Between two uses it was not needed.
        connect(CURL, hour * HOUR + 20 * S, true, own);
    }
    // What another resolved is a guess, which did not live so long.
    connect(SIBLING, 101 * HOUR, true, None);
    // The pid is another process's: an exit was lost.
    connect(CURL, 102 * HOUR, false, None);
    names.process_ended(100, 103 * HOUR);
    names.used(100, 7, HOST, 104 * HOUR, |_| true);
    check(&names, CURL, 104 * HOUR, None);
    names.expire(105 * HOUR);
    assert!(names.is_empty());
}

/// The connections of an ended process are told of after its exit.
#[test]
fn a_use_before_the_end_is_one() {
    let mut names = learned(&[(CURL, "a.example", S)]);
    names.process_ended(100, HOUR + S);
    names.used(100, 7, HOST, HOUR, |since_ns| since_ns == S);
    check(&names, CURL, HOUR, Some(("a.example", Scope::Process, false)));
    check(&names, CURL, HOUR + S + 1, None);
}

/// Workers use what their parent resolved, within the time of a guess.
#[test]
fn a_cgroup_s_name_in_use_stays() {
    let mut names = learned(&[(CURL, "a.example", S)]);
    names.process_ended(100, 2 * S);
    for minute in 1..300 {
        let at_ns = minute * 60 * S;
        names.expire(at_ns);
        names.used(SIBLING.0, SIBLING.1, HOST, at_ns, |_| false);
        check(&names, SIBLING, at_ns, Some(("a.example", Scope::Cgroup, false)));
    }
    names.used(NEIGHBOUR.0, NEIGHBOUR.1, HOST, 60 * S, |_| true);
    check(&names, NEIGHBOUR, 300 * 60 * S, None);
}

/// What is kept beyond its time goes when room is needed, and is not missed.
#[test]
fn unused_names_give_way() {
    let mut names = Names::new(40);
    for number in 0..100 {
        let name = format!("n{number}.example");
        names.learn(
            &lookup((100, 0, 0), &name, &[numbered(number)], S + number * HOUR),
            false,
        );
        names.expire(S + number * HOUR);
        names.used(100, 0, numbered(0), S + number * HOUR, |_| true);
    }
    assert_eq!((names.len(), names.evicted()), (10, 0));
    let has = |number| names.units.contains_key(&(Place::Process(100), numbered(number)));
    assert!(has(0) && has(99) && !has(1), "one is in use");
    assert_eq!(names.by_age.len(), 10);
}

#[test]
fn a_new_network_namespace_knows_no_names() {
    let mut names = learned(&[(CURL, "a.example", S), (STRANGER, "b.example", S)]);
    names.namespace_ended(3);
    check(&names, NEIGHBOUR, 2 * S, None);
    check(&names, SIBLING, 2 * S, Some(("a.example", Scope::Cgroup, false)));
    check(
        &names,
        (301, 10, 4),
        2 * S,
        Some(("b.example", Scope::Namespace, false)),
    );
}

#[test]
fn answers_are_kept_until_their_connections_were_looked_at() {
    let mut names = names();
    for number in 0..200 {
        let name = if number % 2 == 0 { "a.example" } else { "b.example" };
        names.learn(&lookup(CURL, name, &[HOST], 10 * S + number * S / 100), false);
    }
    for number in 0..200 {
        let at_ns = 10 * S + number * S / 100;
        let name = if number % 2 == 0 { "a.example" } else { "b.example" };
        check(&names, CURL, at_ns, Some((name, Scope::Process, number > 0)));
        assert_eq!(answered_ns(names.take_lookup(100, HOST, None, at_ns)), Some(at_ns));
    }
}

#[test]
fn an_address_that_is_resolved_again_and_again() {
    let mut names = names();
    for second in 1..=100 {
        names.learn(&lookup(CURL, "a.example", &[HOST], second * S), false);
    }
    // The last three seconds of the process, and the name in the wider scopes.
    assert_eq!((names.len(), names.evicted()), (3 + 2, 0));
    // The name holds since the first answer, the lookups are the last ones.
    for at_ns in [S, 50 * S, 100 * S] {
        check(&names, CURL, at_ns, Some(("a.example", Scope::Process, false)));
        check(&names, NEIGHBOUR, at_ns, Some(("a.example", Scope::Namespace, false)));
    }
    let mut take = |at_ns| answered_ns(names.take_lookup(100, HOST, None, at_ns));
    assert_eq!((take(99 * S), take(50 * S)), (Some(99 * S), None));
    let first = &names.units[&(Place::Process(100), HOST)];
    assert!(
        first
            .windows(2)
            .all(|pair| Arc::ptr_eq(&pair[0].learned.name, &pair[1].learned.name))
    );
}

#[test]
fn what_teaches_nothing() {
    let mut names = names();
    let good = lookup(CURL, "a.example", &[HOST], S);
    for bad in [
        Lookup {
            resolved: DnsName::Invalid,
            ..good.clone()
        },
        Lookup {
            asked: DnsName::Invalid,
            ..good.clone()
        },
        Lookup {
            ending: Ending::Timeout,
            ..good.clone()
        },
        Lookup {
            ending: Ending::Answered(3),
            ..good.clone()
        },
        Lookup {
            addresses: Vec::new(),
            ..good.clone()
        },
        // Nobody asked.
        Lookup {
            pid: 0,
            cgroup_id: 0,
            netns: 0,
            ..good
        },
    ] {
        names.learn(&bad, false);
    }
    assert!(names.is_empty());
}

fn numbered(number: u64) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number as u32).into()
}

#[test]
fn a_flood_of_names_costs_its_own_cgroup() {
    let mut names = learned(&[(CURL, "a.example", S)]);
    let flooder = (500, 50, 5);
    for number in 0..10_000 {
        let name = format!("n{number}.example");
        names.learn(&lookup(flooder, &name, &[numbered(number)], S + number), false);
    }
    assert_eq!((names.len(), names.held[&50], names.evicted()), (253, 250, 29_750));
    check(&names, CURL, 2 * S, Some(("a.example", Scope::Process, false)));
    check(&names, NEIGHBOUR, 2 * S, Some(("a.example", Scope::Namespace, false)));
    // The oldest went first.
    let has = |number| names.name_of(500, 50, 5, numbered(number), 2 * S).is_some();
    assert!(has(9_999) && has(9_920) && !has(9_900) && !has(0));
}

#[test]
fn when_all_is_full_who_has_most_gives_up() {
    let mut names = learned(&[(CURL, "a.example", S)]);
    for cgroup_id in 50..60_u64 {
        for number in 0..1_000 {
            let flooder = (0, cgroup_id, 0);
            names.learn(&lookup(flooder, "b.example", &[numbered(number)], S), false);
        }
    }
    assert_eq!(names.len(), 1_000);
    check(&names, CURL, 2 * S, Some(("a.example", Scope::Process, false)));
    let held: Vec<_> = (50..60).map(|cgroup_id| names.held[&cgroup_id]).collect();
    assert!(held.iter().all(|held| (90..=130).contains(held)), "{held:?}");
    assert_eq!(names.held.values().sum::<usize>(), names.by_age.len());
    assert_eq!(names.by_age.len(), names.units.values().map(Vec::len).sum::<usize>());
}
