//! Queries that are answered, and everything that is no answer to them.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::{
    dns::Transport,
    protocol::{
        MalformedCounts,
        dns::{Address, DnsName, Question},
    },
};

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;

fn server(last: u8) -> SocketAddr {
    (Ipv4Addr::new(10, 0, 0, last), 53).into()
}

fn query(id: u16, name: &str) -> Message {
    Message {
        id,
        is_response: false,
        opcode: 0,
        truncated: false,
        rcode: 0,
        question: Some(Question {
            name: DnsName::Valid(name.into()),
            kind: 1,
        }),
        answers: Answers::default(),
    }
}

fn answer(id: u16, name: &str) -> Message {
    let address = Address {
        address: IpAddr::from([192, 0, 2, 1]),
        ttl_s: 60,
    };
    Message {
        is_response: true,
        answers: Answers {
            is_found: true,
            addresses: vec![address],
            aliases: Vec::new(),
        },
        ..query(id, name)
    }
}

fn observed(time_ns: u64, message: &Message) -> Observed<'_> {
    Observed {
        time_ns,
        socket: 1,
        role: Role::Client,
        transport: Transport::Udp,
        is_query_direction: !message.is_response,
        peer: server(1),
        pid: 100,
        cgroup_id: 7,
        netns: 3,
        message,
    }
}

fn table() -> Queries {
    Queries::new(1_000)
}

/// The number and latency of the query that a message answers.
fn answered(queries: &mut Queries, observed: &Observed<'_>) -> Option<(u64, u64)> {
    match queries.observe(observed)? {
        QueryEvent::Answered(answered) => Some((answered.query.number, answered.latency_ns())),
        QueryEvent::Sent(query) => panic!("{query:?} is no answer"),
    }
}

/// A query at time 0, then this: it must be ignored for this reason, and the query still be answered later.
fn check_ignored(ignored: &Observed<'_>, reason: Ignored) {
    let mut queries = table();
    queries.observe(&observed(0, &query(9, "a.example"))).expect("a query");
    assert_eq!(queries.observe(ignored), None, "{reason:?}");
    let counts: Vec<_> = queries.ignored().iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(counts, [(reason, 1)]);
    assert_eq!(
        answered(&mut queries, &observed(30 * MS, &answer(9, "a.example"))),
        Some((0, 30 * MS))
    );
    assert!(queries.is_empty() && queries.by_key.is_empty());
}

#[test]
fn an_answer_belongs_to_its_query() {
    let mut queries = table();
    let asked = query(9, "a.example");
    let Some(QueryEvent::Sent(sent)) = queries.observe(&observed(10, &asked)) else {
        panic!("it is a query");
    };
    assert_eq!(
        (sent.pid, sent.cgroup_id, sent.netns, sent.peer, sent.is_retry),
        (100, 7, 3, server(1), false)
    );
    let said = answer(9, "a.example");
    let Some(QueryEvent::Answered(found)) = queries.observe(&observed(10 + 25 * MS, &said)) else {
        panic!("it was asked for");
    };
    assert_eq!(
        (found.latency_ns(), found.ending, &found.answers),
        (25 * MS, Ending::Answered(0), &said.answers)
    );
    assert_eq!(found.query, sent);
    // Once.
    assert_eq!(queries.observe(&observed(26 * MS, &said)), None);
    assert_eq!(queries.ignored().get(Ignored::Unsolicited), 1);
    assert_eq!(queries.expire(60 * S), []);
}

#[test]
fn what_was_not_asked_for_is_ignored() {
    let (right, other_id, other_name) = (answer(9, "a.example"), answer(8, "a.example"), answer(9, "b.example"));
    let at = observed(20 * MS, &right);
    check_ignored(&observed(20 * MS, &other_id), Ignored::Unsolicited);
    check_ignored(&Observed { socket: 2, ..at }, Ignored::Unsolicited);
    check_ignored(
        &Observed {
            role: Role::Server,
            ..at
        },
        Ignored::Unsolicited,
    );
    check_ignored(&Observed { peer: server(2), ..at }, Ignored::WrongServer);
    let other_port = SocketAddr::new(server(1).ip(), 5353);
    check_ignored(&Observed { peer: other_port, ..at }, Ignored::WrongServer);
    check_ignored(&observed(20 * MS, &other_name), Ignored::OtherQuestion);
    check_ignored(
        &Observed {
            is_query_direction: true,
            ..at
        },
        Ignored::Direction,
    );
    let asked = query(9, "a.example");
    check_ignored(
        &Observed {
            is_query_direction: false,
            ..observed(20 * MS, &asked)
        },
        Ignored::Direction,
    );
    let notify = Message { opcode: 4, ..asked };
    check_ignored(&observed(20 * MS, &notify), Ignored::Opcode);
}

#[test]
fn an_error_may_lack_its_question() {
    let mut queries = table();
    queries.observe(&observed(0, &query(9, "a.example"))).expect("a query");
    let refused = Message {
        question: None,
        rcode: 1,
        answers: Answers::default(),
        ..answer(9, "")
    };
    assert_eq!(answered(&mut queries, &observed(MS, &refused)), Some((0, MS)));
}

#[test]
fn an_id_used_again_is_told_by_its_question() {
    let mut queries = table();
    for (time_ns, name) in [(0, "a.example"), (200 * MS, "b.example")] {
        queries.observe(&observed(time_ns, &query(9, name))).expect("a query");
    }
    assert_eq!(
        answered(&mut queries, &observed(300 * MS, &answer(9, "a.example"))),
        Some((0, 300 * MS))
    );
    assert_eq!(
        answered(&mut queries, &observed(300 * MS, &answer(9, "b.example"))),
        Some((1, 100 * MS))
    );
}

#[test]
fn a_repeated_query_is_answered_by_its_latest() {
    let mut queries = table();
    let asked = query(9, "a.example");
    let retries = [0, S, 2 * S].map(|time_ns| match queries.observe(&observed(time_ns, &asked)) {
        Some(QueryEvent::Sent(query)) => query.is_retry,
        _ => panic!("it is a query"),
    });
    assert_eq!(retries, [false, true, true]);
    // The same to another server is no retry.
    let other = Observed {
        peer: server(2),
        ..observed(2 * S, &asked)
    };
    assert!(matches!(queries.observe(&other), Some(QueryEvent::Sent(query)) if !query.is_retry));
    let said = answer(9, "a.example");
    assert_eq!(answered(&mut queries, &observed(2 * S + MS, &said)), Some((2, MS)));
    let ended: Vec<_> = queries
        .expire(20 * S)
        .iter()
        .map(|ended| (ended.query.number, ended.ended_ns))
        .collect();
    assert_eq!(ended, [(0, 5 * S), (1, 6 * S), (3, 7 * S)]);
}

#[test]
fn one_id_repeated_without_end_is_bounded() {
    let mut queries = table();
    let asked = query(9, "a.example");
    let sent = (0..100)
        .filter(|time_ns| queries.observe(&observed(*time_ns, &asked)).is_some())
        .count();
    assert_eq!((sent, queries.ignored().get(Ignored::Repeated)), (16, 84));
}

#[test]
fn silence_ends_as_a_timeout_and_what_comes_later_is_late() {
    let mut queries = table();
    queries.observe(&observed(S, &query(9, "a.example"))).expect("a query");
    assert_eq!(queries.expire(6 * S), []);
    // Late, even when nobody has looked for time-outs yet.
    let said = answer(9, "a.example");
    assert_eq!(queries.observe(&observed(6 * S + 1, &said)), None);
    let ended = queries.expire(6 * S + 1);
    assert_eq!(
        ended
            .iter()
            .map(|ended| (ended.ending, ended.latency_ns()))
            .collect::<Vec<_>>(),
        [(Ending::Timeout, 5 * S)]
    );
    assert_eq!(queries.observe(&observed(8 * S, &said)), None);
    assert_eq!(queries.ignored().get(Ignored::Late), 2);
    // After a minute nobody remembers.
    queries.expire(70 * S);
    assert_eq!(queries.observe(&observed(70 * S, &said)), None);
    assert_eq!(
        (queries.ignored().get(Ignored::Unsolicited), queries.late.order.len()),
        (1, 0)
    );
}

#[test]
fn an_answer_in_the_last_moment_counts() {
    let mut queries = table();
    queries.observe(&observed(S, &query(9, "a.example"))).expect("a query");
    assert_eq!(
        answered(&mut queries, &observed(6 * S, &answer(9, "a.example"))),
        Some((0, 5 * S))
    );
}

#[test]
fn clients_of_a_server_choose_their_ids_each_for_itself() {
    let mut queries = table();
    let (asked, said) = (query(9, "a.example"), answer(9, "a.example"));
    let at_server = |time_ns, message, last| Observed {
        role: Role::Server,
        peer: (Ipv4Addr::new(10, 0, 1, last), 4_000).into(),
        ..observed(time_ns, message)
    };
    for last in 0..200 {
        queries
            .observe(&at_server(u64::from(last), &asked, last))
            .expect("a query");
    }
    assert_eq!(answered(&mut queries, &at_server(S, &said, 7)), Some((7, S - 7)));
    assert_eq!(queries.observe(&at_server(S, &said, 7)), None);
    assert_eq!(queries.ignored().get(Ignored::Unsolicited), 1);
}

#[test]
fn ten_thousand_queries_without_an_answer_hurt_nobody_else() {
    let mut queries = Queries::default();
    for number in 0..10_000_u64 {
        let asked = query(number as u16, &format!("n{number}.example"));
        queries.observe(&observed(number * 1_000, &asked));
    }
    assert_eq!((queries.len(), queries.ignored().get(Ignored::Crowded)), (8_192, 1_808));
    let asked = query(1, "quiet.example");
    let quiet = Observed {
        socket: 2,
        cgroup_id: 8,
        ..observed(S, &asked)
    };
    assert!(matches!(queries.observe(&quiet), Some(QueryEvent::Sent(_))));
    let ended = queries.expire(5 * S + 10 * MS);
    assert_eq!(ended.len(), 8_192);
    assert!(
        ended
            .iter()
            .all(|ended| ended.ending == Ending::Timeout && ended.answers == Answers::default())
    );
    assert!(ended.is_sorted_by_key(|ended| ended.query.sent_ns));
    assert_eq!((queries.len(), queries.late.order.len()), (1, LATE_KEPT));
    assert!(queries.late.ended_ns.len() <= LATE_KEPT);
}

proptest! {
    #[test]
    fn random_bytes_teach_nothing(datagrams in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..64), any::<bool>()), 1..40)) {
        let (mut queries, mut malformed) = (table(), MalformedCounts::default());
        for (bytes, is_query_direction) in &datagrams {
            let Some(message) = Message::read(bytes, true, &mut malformed) else {
                continue;
            };
            let event = queries.observe(&Observed { is_query_direction: *is_query_direction, ..observed(0, &message) });
            prop_assert!(!matches!(event, Some(QueryEvent::Answered(answered)) if answered.answers.is_found));
        }
        prop_assert!(queries.len() <= datagrams.len());
    }

    #[test]
    fn every_query_ends_once(steps in prop::collection::vec((0..3_u8, 0..4_u16, 0..4_u64, 0..3_000_u64), 1..120)) {
        let (mut queries, mut time_ns, mut sent, mut ended) = (table(), 0, 0, Vec::new());
        for (kind, id, socket, pause_ms) in steps {
            time_ns += pause_ms * MS;
            let name = format!("n{}.example", socket % 2);
            let message = if kind == 0 { answer(id, &name) } else { query(id, &name) };
            let event = queries.observe(&Observed { socket, ..observed(time_ns, &message) });
            match event {
                Some(QueryEvent::Sent(_)) => sent += 1,
                Some(QueryEvent::Answered(answered)) => ended.push(answered.query.number),
                None => {}
            }
            if kind == 2 {
                ended.extend(queries.expire(time_ns).iter().map(|ended| ended.query.number));
            }
        }
        ended.extend(queries.expire(u64::MAX / 2).iter().map(|ended| ended.query.number));
        ended.sort_unstable();
        prop_assert_eq!(ended, (0..sent).collect::<Vec<u64>>());
        prop_assert!(queries.is_empty() && queries.by_key.is_empty());
    }
}
