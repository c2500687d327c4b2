//! Resolvers' ways of asking, as each looks on the wire, and the lookup that it is.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::protocol::dns::Question;

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
const A: u16 = 1;
const AAAA: u16 = 28;
const REFUSED: u16 = 5;

/// A process that asks, seen on the wire.
struct Asker {
    lookups: Lookups,
    search: Option<SearchList>,
    queries: Vec<Query>,
    /// Who asks next.
    pid: u32,
    socket: u64,
    server: u8,
    transport: Transport,
}

impl Asker {
    fn new(suffixes: &[&str], ndots: u8) -> Self {
        Self {
            lookups: Lookups::default(),
            search: Some(SearchList {
                suffixes: suffixes.iter().copied().map(Box::from).collect(),
                ndots,
            }),
            queries: Vec::new(),
            pid: 100,
            socket: 1,
            server: 1,
            transport: Transport::Udp,
        }
    }

    /// Nobody can read its search list.
    fn unread() -> Self {
        Self {
            search: None,
            ..Self::new(&[], 1)
        }
    }

    fn in_kubernetes() -> Self {
        Self::new(&["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"], 5)
    }

    /// A query; gives its number.
    fn ask(&mut self, sent_ns: u64, name: &str, kind: u16) -> usize {
        let query = Query {
            number: self.queries.len() as u64,
            role: Role::Client,
            transport: self.transport,
            socket: self.socket,
            peer: (Ipv4Addr::new(10, 96, 0, self.server), 53).into(),
            pid: self.pid,
            cgroup_id: u64::from(self.pid),
            netns: 3,
            id: 1,
            question: Question {
                name: DnsName::Valid(name.into()),
                kind,
            },
            sent_ns,
            is_retry: false,
        };
        self.lookups.sent(&query, self.search.as_ref());
        self.queries.push(query);
        self.queries.len() - 1
    }

    fn end(
        &mut self,
        number: usize,
        ended_ns: u64,
        ending: Ending,
        addresses: usize,
        truncated: bool,
    ) -> Option<Lookup> {
        let address = Address {
            address: IpAddr::from([192, 0, 2, 1]),
            ttl_s: 60,
        };
        self.lookups.answered(&Answered {
            query: self.queries[number].clone(),
            ending,
            ended_ns,
            truncated,
            answers: Answers {
                is_found: addresses > 0,
                addresses: vec![address; addresses],
                aliases: vec![DnsName::Valid("cdn.example".into())],
            },
        })
    }

    fn find(&mut self, number: usize, ended_ns: u64) -> Lookup {
        self.end(number, ended_ns, Ending::Answered(0), 1, false)
            .expect("it has what was asked for")
    }

    fn deny(&mut self, number: usize, ended_ns: u64, rcode: u16) {
        assert_eq!(self.end(number, ended_ns, Ending::Answered(rcode), 0, false), None);
    }

    /// Ends all that is open and checks that nothing is left behind.
    fn finish(mut self) -> Vec<Lookup> {
        for number in 0..self.queries.len() {
            self.end(number, 0, Ending::Timeout, 0, false);
        }
        let lookups = self.lookups.expire(u64::MAX);
        let Lookups {
            open,
            by_base,
            by_deadline,
            by_query,
            ..
        } = &self.lookups;
        assert!(open.is_empty() && by_base.is_empty() && by_deadline.is_empty() && by_query.is_empty());
        lookups
    }
}

/// Names, how it ended, and how many queries it took.
fn summary(lookup: &Lookup) -> (&str, &str, &str, u32) {
    (
        lookup.asked.as_str(),
        lookup.resolved.as_str(),
        lookup.ending.name(),
        lookup.queries,
    )
}

#[test]
fn one_query_and_its_answer() {
    let mut asker = Asker::new(&[], 1);
    let number = asker.ask(10, "a.example", A);
    let lookup = asker.find(number, 10 + 7 * MS);
    assert_eq!(summary(&lookup), ("a.example", "a.example", "NOERROR", 1));
    assert_eq!(
        (lookup.started_ns, lookup.answered_ns, lookup.tcp),
        (10, 10 + 7 * MS, false)
    );
    assert_eq!(
        (lookup.pid, lookup.cgroup_id, lookup.netns, lookup.query_type()),
        (100, 100, 3, QueryType::A)
    );
    assert_eq!(
        (lookup.addresses.len(), lookup.resolver.to_string().as_str()),
        (1, "10.96.0.1:53")
    );
    assert_eq!(asker.finish(), []);
}

#[test]
fn a_search_path_is_one_lookup() {
    let mut asker = Asker::in_kubernetes();
    let names = [
        "proxy.golang.org.shop.svc.cluster.local",
        "proxy.golang.org.svc.cluster.local",
        "proxy.golang.org.cluster.local",
    ];
    for (step, name) in (0..).zip(names) {
        let number = asker.ask(step * 2 * MS, name, A);
        asker.deny(number, step * 2 * MS + MS, if step == 1 { 0 } else { NXDOMAIN });
        // Each step from a socket of its own.
        asker.socket += 1;
    }
    let number = asker.ask(6 * MS, "proxy.golang.org", A);
    let lookup = asker.find(number, 9 * MS);
    assert_eq!(summary(&lookup), ("proxy.golang.org", "proxy.golang.org", "NOERROR", 4));
    assert_eq!((lookup.started_ns, lookup.answered_ns), (0, 9 * MS));
    assert_eq!(asker.finish(), []);
}

/// The process is gone before anybody can read its search list: A and AAAA are each one lookup of what it asked for.
#[test]
fn a_search_path_without_its_list_is_one_lookup() {
    let names = ["mirror.lab.one.example", "mirror.lab.two.example", "mirror.lab"];
    let mut asker = Asker::unread();
    for (step, name) in (0..).zip(names) {
        let at = step * 10 * MS;
        let (a, aaaa) = (asker.ask(at, name, A), asker.ask(at, name, AAAA));
        if step == 2 {
            let lookup = asker.find(a, at + 4 * MS);
            assert_eq!(summary(&lookup), ("mirror.lab", "mirror.lab", "NOERROR", 3));
            assert_eq!((lookup.started_ns, lookup.answered_ns), (0, 24 * MS));
        } else {
            asker.deny(a, at + 4 * MS, NXDOMAIN);
        }
        asker.deny(aaaa, at + 9 * MS, if step == 2 { 0 } else { NXDOMAIN });
    }
    let rest = asker.finish();
    assert_eq!(
        rest.iter().map(summary).collect::<Vec<_>>(),
        [("mirror.lab", "mirror.lab", "NOERROR", 3)]
    );
}

/// What comes without a list after another name: the next of its search, or another lookup.
#[test]
fn what_is_no_search_without_a_list() {
    let check = |first: &str, rcode, later_ns, next: &str, is_one: bool| {
        let mut asker = Asker::unread();
        let number = asker.ask(0, first, A);
        asker.deny(number, MS, rcode);
        let number = asker.ask(MS + later_ns, next, A);
        let lookup = asker.find(number, 2 * S);
        assert_eq!(lookup.queries, if is_one { 2 } else { 1 }, "{first}, {next}");
        asker.finish();
    };
    check(
        "api.shop.svc.cluster.local",
        NXDOMAIN,
        MS,
        "api.svc.cluster.local",
        true,
    );
    check("api.example", NXDOMAIN, MS, "api.example.corp.example", true);
    check("api.corp.example", SERVFAIL, MS, "api", true);
    check("api.corp.example", NXDOMAIN, SEARCH_GOES_ON_NS + 1, "api", false);
    check("api.corp.example", NXDOMAIN, MS, "web.corp.example", false);
    check("api.corp.example", REFUSED, MS, "api", false);
    // The sibling was slower.
    let mut asker = Asker::unread();
    let (a, aaaa) = (asker.ask(0, "x.one.example", A), asker.ask(0, "x.one.example", AAAA));
    asker.deny(a, MS, NXDOMAIN);
    asker.deny(aaaa, 500 * MS, NXDOMAIN);
    let next = asker.ask(501 * MS, "x", A);
    assert_eq!(asker.find(next, 502 * MS).queries, 2);
    asker.finish();
}

#[test]
fn the_first_suffix_that_fits_ends_it() {
    let mut asker = Asker::in_kubernetes();
    let number = asker.ask(0, "api.shop.svc.cluster.local", A);
    let lookup = asker.find(number, MS);
    assert_eq!(summary(&lookup), ("api", "api.shop.svc.cluster.local", "NOERROR", 1));
    let number = asker.ask(S, "api.pay.shop.svc.cluster.local", A);
    asker.deny(number, S + MS, NXDOMAIN);
    let number = asker.ask(S + 2 * MS, "api.pay.svc.cluster.local", A);
    let lookup = asker.find(number, S + 3 * MS);
    assert_eq!(summary(&lookup), ("api.pay", "api.pay.svc.cluster.local", "NOERROR", 2));
}

#[test]
fn what_nobody_has_ends_a_second_after_the_last_answer() {
    let mut asker = Asker::in_kubernetes();
    for (step, name) in (0..).zip([
        "x.shop.svc.cluster.local",
        "x.svc.cluster.local",
        "x.cluster.local",
        "x",
    ]) {
        let number = asker.ask(step * MS, name, A);
        asker.deny(number, step * MS + 1, if step == 3 { SERVFAIL } else { NXDOMAIN });
    }
    assert_eq!(asker.lookups.expire(S + 3 * MS), []);
    let ended = asker.lookups.expire(S + 3 * MS + 1);
    assert_eq!(
        ended.iter().map(summary).collect::<Vec<_>>(),
        [("x", "x", "SERVFAIL", 4)]
    );
    assert_eq!((ended[0].answered_ns, ended[0].addresses.len()), (3 * MS + 1, 0));
    assert_eq!(ended[0].aliases, []);
    // Whoever asks after that asks anew.
    asker.ask(2 * S, "x", A);
    assert_eq!(asker.finish().len(), 1);
}

#[test]
fn a_and_aaaa_are_lookups_of_their_own() {
    let mut asker = Asker::new(&[], 1);
    let (a, aaaa) = (asker.ask(0, "a.example", A), asker.ask(0, "a.example", 28));
    asker.deny(aaaa, MS, 0);
    assert_eq!(asker.find(a, 2 * MS).kind, A);
    let rest = asker.finish();
    assert_eq!(
        rest.iter().map(summary).collect::<Vec<_>>(),
        [("a.example", "a.example", "NOERROR", 1)]
    );
    assert_eq!((rest[0].query_type(), rest[0].addresses.len()), (QueryType::Aaaa, 0));
}

/// The answer to A is there, that to AAAA is lost: libc waits for it, and then asks for both again.
#[test]
fn a_lookup_is_not_over_while_its_sibling_waits() {
    let mut asker = Asker::in_kubernetes();
    let (first, lost) = (
        asker.ask(0, "a.svc.cluster.local", A),
        asker.ask(0, "a.svc.cluster.local", AAAA),
    );
    asker.deny(first, MS, NXDOMAIN);
    assert_eq!(asker.lookups.expire(4 * S), []);
    let (again, both) = (
        asker.ask(5 * S, "a.svc.cluster.local", A),
        asker.ask(5 * S, "a.svc.cluster.local", AAAA),
    );
    asker.end(lost, 5 * S, Ending::Timeout, 0, false);
    asker.deny(again, 5 * S + MS, NXDOMAIN);
    asker.deny(both, 5 * S + MS, NXDOMAIN);
    let (next, other) = (
        asker.ask(5 * S + 2 * MS, "a.cluster.local", A),
        asker.ask(5 * S + 2 * MS, "a.cluster.local", AAAA),
    );
    assert_eq!(asker.find(next, 5 * S + 3 * MS).queries, 3);
    assert_eq!(asker.find(other, 5 * S + 3 * MS).queries, 3);
    assert_eq!(asker.finish(), []);
}

/// A program that connects again and again to a name without AAAA.
#[test]
fn who_asks_again_for_what_he_was_told_begins_another_lookup() {
    const AAAA: u16 = 28;
    let mut asker = Asker::new(&["a.example", "b.example"], 1);
    for time in 0..3 {
        let at = time * 100 * MS;
        let (first, second) = (asker.ask(at, "x.a.example", AAAA), at + 10 * MS);
        asker.deny(first, at + MS, NXDOMAIN);
        let second = asker.ask(second, "x.b.example", AAAA);
        asker.deny(second, at + 11 * MS, 0);
    }
    let times: Vec<(u64, u32)> = asker
        .finish()
        .iter()
        .map(|lookup| ((lookup.answered_ns - lookup.started_ns) / MS, lookup.queries))
        .collect();
    assert_eq!(times, [(11, 2), (11, 2), (11, 2)]);
}

/// Both answers are lost; libc then asks for A alone, and for AAAA only once it has that.
#[test]
fn a_lookup_without_an_answer_waits_for_its_sibling_that_is_asked_alone() {
    const AAAA: u16 = 28;
    let mut asker = Asker::in_kubernetes();
    let lost = asker.ask(0, "a.svc.cluster.local", AAAA);
    let first = asker.ask(0, "a.svc.cluster.local", A);
    assert_eq!(asker.lookups.expire(3 * S), []);
    let again = asker.ask(4 * S, "a.svc.cluster.local", A);
    asker.end(lost, 5 * S, Ending::Timeout, 0, false);
    asker.end(first, 5 * S, Ending::Timeout, 0, false);
    assert_eq!(asker.lookups.expire(7 * S), []);
    asker.deny(again, 8 * S, NXDOMAIN);
    let late = asker.ask(8 * S, "a.svc.cluster.local", AAAA);
    assert_eq!(asker.find(late, 8 * S + MS).queries, 2);
    // Nobody is waited for without end.
    asker.ask(10 * S, "b.svc.cluster.local", AAAA);
    (10..50).for_each(|at| {
        asker.ask(at * S, "b.svc.cluster.local", A);
        let over = asker.lookups.expire(at * S);
        assert_eq!(over.iter().any(|lookup| lookup.kind == AAAA), at == 41, "{at} s");
    });
}

#[test]
fn retries_and_other_servers_are_the_same_lookup() {
    let mut asker = Asker::new(&[], 1);
    asker.ask(0, "a.example", A);
    asker.ask(2 * S, "a.example", A);
    (asker.server, asker.socket) = (2, 5);
    let number = asker.ask(4 * S, "a.example", A);
    let lookup = asker.find(number, 4 * S + MS);
    assert_eq!(summary(&lookup), ("a.example", "a.example", "NOERROR", 3));
    assert_eq!(
        (lookup.started_ns, lookup.resolver.to_string().as_str()),
        (0, "10.96.0.2:53")
    );
    assert_eq!(asker.finish(), []);
}

#[test]
fn servers_asked_at_once_are_one_lookup() {
    let mut asker = Asker::new(&[], 1);
    for server in [1, 2, 3] {
        asker.server = server;
        asker.ask(u64::from(server), "a.example", A);
    }
    let lookup = asker.find(1, MS);
    assert_eq!(
        (lookup.queries, lookup.resolver.to_string().as_str()),
        (3, "10.96.0.2:53")
    );
    // What the slower ones say is heard by nobody.
    assert_eq!(asker.end(0, 2 * MS, Ending::Answered(0), 1, false), None);
    assert_eq!(asker.finish(), []);
}

#[test]
fn no_answer_at_all_is_a_timeout() {
    let mut asker = Asker::new(&[], 1);
    let first = asker.ask(0, "a.example", A);
    asker.end(first, 5 * S, Ending::Timeout, 0, false);
    assert_eq!(asker.lookups.expire(6 * S - 1), []);
    let again = asker.ask(6 * S - 1, "a.example", A);
    asker.end(again, 11 * S - 1, Ending::Timeout, 0, false);
    let ended = asker.lookups.expire(12 * S - 1);
    assert_eq!(
        ended.iter().map(summary).collect::<Vec<_>>(),
        [("a.example", "a.example", "TIMEOUT", 2)]
    );
    assert_eq!((ended[0].started_ns, ended[0].answered_ns), (0, 11 * S - 1));
}

#[test]
fn a_truncated_answer_goes_on_over_tcp() {
    let mut asker = Asker::new(&[], 1);
    let number = asker.ask(0, "a.example", A);
    assert_eq!(asker.end(number, MS, Ending::Answered(0), 1, true), None);
    (asker.transport, asker.socket) = (Transport::Tcp, 2);
    let number = asker.ask(3 * MS, "a.example", A);
    let lookup = asker.find(number, 5 * MS);
    assert_eq!(summary(&lookup), ("a.example", "a.example", "NOERROR", 2));
    assert!(lookup.tcp);
    // Who does not ask again makes do with what there is.
    asker.transport = Transport::Udp;
    let number = asker.ask(S, "a.example", A);
    assert_eq!(asker.end(number, S + MS, Ending::Answered(0), 1, true), None);
    let ended = asker.lookups.expire(2 * S + MS);
    assert_eq!(
        (ended[0].addresses.len(), ended[0].tcp, ended[0].answered_ns),
        (1, false, S + MS)
    );
}

#[test]
fn an_answer_to_a_closed_socket_is_asked_for_again_over_tcp() {
    let mut asker = Asker::new(&[], 1);
    // The answer for A is truncated, upon which libc closes the socket: nobody hears that for AAAA.
    let number = asker.ask(0, "a.example", A);
    asker.ask(0, "a.example", AAAA);
    assert_eq!(asker.end(number, MS, Ending::Answered(0), 1, true), None);
    (asker.transport, asker.socket) = (Transport::Tcp, 2);
    let number = asker.ask(3 * MS, "a.example", AAAA);
    // Another name is another thread's.
    asker.ask(4 * MS, "b.example", AAAA);
    let lookup = asker.find(number, 5 * MS);
    assert_eq!(summary(&lookup), ("a.example", "a.example", "NOERROR", 2));
    assert_eq!((lookup.started_ns, lookup.tcp), (0, true));
    assert_eq!(asker.finish().len(), 2);
}

#[test]
fn threads_and_processes_have_lookups_of_their_own() {
    let mut asker = Asker::in_kubernetes();
    let names = ["api.shop.svc.cluster.local", "api.svc.cluster.local"];
    // Two threads in step, and another process.
    let mut numbers = Vec::new();
    for (socket, pid) in [(1, 100), (2, 100), (3, 101)] {
        (asker.socket, asker.pid) = (socket, pid);
        numbers.push(asker.ask(socket, names[0], A));
    }
    for number in numbers.drain(..) {
        asker.deny(number, MS, NXDOMAIN);
    }
    for (socket, pid) in [(4, 100), (5, 100), (6, 101)] {
        (asker.socket, asker.pid) = (socket, pid);
        numbers.push(asker.ask(2 * MS, names[1], A));
    }
    for number in numbers {
        assert_eq!(summary(&asker.find(number, 3 * MS)), ("api", names[1], "NOERROR", 2));
    }
    // Names that could be one search, asked for at once by two threads.
    asker.socket = 7;
    let first = asker.ask(S, "api.shop.svc.cluster.local", A);
    asker.socket = 8;
    let second = asker.ask(S, "api.shop.shop.svc.cluster.local", A);
    assert_eq!(summary(&asker.find(second, S + 1)).0, "api.shop");
    assert_eq!(summary(&asker.find(first, S + 1)).0, "api");
    assert_eq!(asker.finish(), []);
}

#[test]
fn a_denial_of_what_was_given_up_decides_nothing() {
    let mut asker = Asker::in_kubernetes();
    let first = asker.ask(0, "x.shop.svc.cluster.local", A);
    let second = asker.ask(S, "x.svc.cluster.local", A);
    asker.deny(first, S + MS, NXDOMAIN);
    assert_eq!(asker.lookups.expire(3 * S), []);
    let lookup = asker.find(second, 3 * S);
    assert_eq!(summary(&lookup), ("x", "x.svc.cluster.local", "NOERROR", 2));
}

#[test]
fn waiting_is_told_while_it_lasts() {
    let mut asker = Asker::in_kubernetes();
    let first = asker.ask(0, "x.shop.svc.cluster.local", A);
    asker.pid = 101;
    asker.ask(S, "y.example", A);
    let waiting = |asker: &Asker, after_ns, now_ns| {
        let waiting = asker.lookups.longer_than(after_ns, now_ns);
        waiting
            .map(|lookup| (lookup.asked.to_string(), lookup.since_ns))
            .collect::<Vec<_>>()
    };
    assert_eq!(waiting(&asker, S, S - 1), []);
    assert_eq!(
        waiting(&asker, S, 2 * S),
        [("x".to_owned(), 0), ("y.example".to_owned(), S)]
    );
    let stuck = asker.lookups.newly_stuck(S, S);
    assert_eq!((stuck.len(), stuck[0].pid, stuck[0].queries), (1, 100, 1));
    assert_eq!(asker.lookups.newly_stuck(S, 2 * S).len(), 1);
    assert_eq!(asker.lookups.newly_stuck(S, 2 * S), []);
    asker.deny(first, 2 * S, NXDOMAIN);
    assert_eq!(waiting(&asker, 0, 2 * S), [("y.example".to_owned(), S)]);
}

#[test]
fn servers_and_invalid_names() {
    let mut asker = Asker::new(&[], 1);
    asker.ask(0, "a.example", A);
    let served = Query {
        role: Role::Server,
        ..asker.queries[0].clone()
    };
    asker
        .lookups
        .sent(&Query { number: 7, ..served }, Some(&SearchList::default()));
    assert_eq!(asker.lookups.len(), 1);
    let mut odd = asker.queries[0].clone();
    (odd.number, odd.question.name) = (1, DnsName::Invalid);
    asker.lookups.sent(&odd, Some(&SearchList::default()));
    asker.queries.push(odd);
    let lookup = asker
        .end(1, 1, Ending::Answered(0), 1, false)
        .expect("it has an answer");
    assert_eq!((lookup.asked, lookup.resolved), (DnsName::Invalid, DnsName::Invalid));
}

#[test]
fn a_flood_leaves_room_for_others() {
    let mut asker = Asker::in_kubernetes();
    for number in 0..10_000_u64 {
        asker.ask(number, &format!("n{number}.shop.svc.cluster.local"), A);
    }
    assert_eq!((asker.lookups.len(), asker.lookups.refused()), (4_096, 5_904));
    asker.pid = 101;
    let number = asker.ask(S, "a.example", A);
    assert_eq!(asker.find(number, S + MS).queries, 1);
    let ended = asker.finish();
    assert_eq!(ended.len(), 4_096);
    assert!(
        ended
            .iter()
            .all(|lookup| lookup.ending == Ending::Timeout && lookup.addresses.is_empty())
    );
}
