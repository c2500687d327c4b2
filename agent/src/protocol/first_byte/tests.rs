//! What real servers send after the handshake, with the decrypted truth: `recorded.txt` says how it was made.

use agent_ebpf::timeline::{
    ANSWER_ACKS_REQUEST, AnswerRecord, PROTOCOL_TLS, TIMELINE_EARLY_TICKETS, TIMELINE_GAP, Timeline,
};

use super::super::ticket_lengths::TicketLengths;
use super::*;

const RECORDED: &str = include_str!("recorded.txt");

const DONE_NS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Client,
    Server,
}

/// A recorded connection.
#[derive(Debug)]
struct Recorded {
    line: &'static str,
    server: &'static str,
    timeline: Timeline,
    handshake: Handshake,
    truth: usize,
}

fn recorded(role: Role) -> Vec<Recorded> {
    let lines = RECORDED
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| read(line, role).unwrap_or_else(|| panic!("{line}")))
        .collect()
}

fn read(line: &'static str, role: Role) -> Option<Recorded> {
    let mut words = line.split_whitespace();
    let server = words.next()?;
    let (_client, _think) = (words.next()?, words.next()?);
    let cipher = u16::from_str_radix(words.next()?, 16).ok()?;
    let is_tls13 = cipher >> 8 == 0x13;
    let alpn = words.next()?;
    let handshake = Handshake {
        offers_h2: alpn != "-",
        chose_h2: (!is_tls13).then_some(alpn == "h2"),
        is_h2_doubtful: false,
        resumed: words.next()? == "resumed",
        no_tickets: false,
        offered_ticket_bytes: words.next()?.parse().ok()?,
    };
    let request_us: u64 = words.next()?.parse().ok()?;
    let truth = words.next()?.parse().ok()?;
    let mut timeline = Timeline {
        tls_done_ns: DONE_NS,
        request_ns: DONE_NS + request_us * 1000,
        protocol: PROTOCOL_TLS,
        cipher,
        // Go's tickets come with its Finished.
        flags: if is_tls13 && server.starts_with("go-") {
            TIMELINE_EARLY_TICKETS
        } else {
            0
        },
        ..Timeline::default()
    };
    for (record, word) in timeline.answers.iter_mut().zip(words) {
        let mut fields = word.split(':');
        record.after_us = fields.next()?.parse().ok()?;
        record.length = fields.next()?.parse().ok()?;
        record.content_type = fields.next()?.parse().ok()?;
        let acks = fields.next()?;
        let letter = if role == Role::Client { 'c' } else { 's' };
        record.flags = if acks.contains(letter) { ANSWER_ACKS_REQUEST } else { 0 };
        timeline.answer_count += 1;
    }
    Some(Recorded {
        line,
        server,
        timeline,
        handshake,
        truth,
    })
}

fn truth_ns(recorded: &Recorded) -> u64 {
    DONE_NS + u64::from(recorded.timeline.answers[recorded.truth].after_us) * 1000
}

fn check(role: Role) {
    // One memory per destination, taught by the conversations before: as in the agent.
    let mut tickets = TicketLengths::new(100);
    let (mut total, mut ambiguous) = (0, 0);
    for recorded in recorded(role) {
        let destination = u64::from(crc32fast::hash(recorded.server.as_bytes()));
        let found = first_byte(&recorded.timeline, recorded.handshake, &tickets, || destination);
        learn_tickets(&recorded.timeline, recorded.handshake, &mut tickets, || destination);
        let found = found.unwrap_or_else(|| panic!("{role:?} {}", recorded.line));
        if found.basis == Basis::Ambiguous {
            ambiguous += usize::from(!recorded.server.starts_with("jdk"));
        } else {
            assert_eq!(found.at_ns, truth_ns(&recorded), "{role:?} {}", recorded.line);
        }
        let is_tls12 = recorded.timeline.cipher >> 8 != 0x13;
        let is_plain = is_tls12 && recorded.handshake.chose_h2 == Some(false);
        assert_eq!(found.basis == Basis::Exact, is_plain, "{}", recorded.line);
        total += usize::from(!recorded.server.starts_with("jdk"));
    }
    assert!(total >= 100, "{total} recorded connections");
    assert!(ambiguous * 50 <= total, "{ambiguous} of {total} are ambiguous");
}

#[test]
fn the_answers_of_real_servers_are_found_from_the_client() {
    check(Role::Client);
}

#[test]
fn the_answers_of_real_servers_are_found_from_the_server() {
    check(Role::Server);
}

#[test]
fn no_wrong_verdict_without_any_memory() {
    let tickets = TicketLengths::new(1);
    for recorded in recorded(Role::Client).into_iter().chain(recorded(Role::Server)) {
        let found = first_byte(&recorded.timeline, recorded.handshake, &tickets, || 0).expect("there is an answer");
        assert!(
            found.basis == Basis::Ambiguous || found.at_ns == truth_ns(&recorded),
            "{}",
            recorded.line
        );
    }
}

fn tls13(records: &[(u16, bool)]) -> Timeline {
    let mut timeline = Timeline {
        tls_done_ns: DONE_NS,
        request_ns: DONE_NS,
        protocol: PROTOCOL_TLS,
        cipher: 0x1301,
        answer_count: records.len() as u8,
        ..Timeline::default()
    };
    for (at, (length, acks)) in records.iter().enumerate() {
        let flags = if *acks { ANSWER_ACKS_REQUEST } else { 0 };
        timeline.answers[at] = AnswerRecord {
            after_us: at as u32,
            length: *length,
            content_type: 23,
            flags,
        };
    }
    timeline
}

#[test]
fn nothing_is_found_before_there_is_an_answer() {
    let tickets = TicketLengths::new(1);
    let judge = |timeline: &Timeline| first_byte(timeline, Handshake::default(), &tickets, || 0);
    assert_eq!(judge(&Timeline::default()), None);
    assert_eq!(judge(&tls13(&[])), None);
    assert_eq!(judge(&tls13(&[(250, true), (250, true)])), None);
    assert_eq!(judge(&tls13(&[(250, false), (250, false)])), None);
    assert_eq!(judge(&tls13(&[(19, true)])), None, "an alert is no answer");
}

#[test]
fn short_tickets_are_no_preface() {
    // OpenSSL with sessions kept on the server: two of 74 bytes, as long as SETTINGS of eight parameters.
    let handshake = Handshake {
        offers_h2: true,
        ..Handshake::default()
    };
    let timeline = tls13(&[(74, true), (74, true), (158, true)]);
    let found = first_byte(&timeline, handshake, &TicketLengths::new(1), || 0);
    assert_eq!(found.map(|first| first.at_ns), Some(DONE_NS + 2000));
}

#[test]
fn gaps_and_early_data_are_never_certain() {
    let tickets = TicketLengths::new(1);
    let mut timeline = tls13(&[(500, true)]);
    assert_eq!(
        first_byte(&timeline, Handshake::default(), &tickets, || 0).map(|first| first.basis),
        Some(Basis::Inferred)
    );
    timeline.flags = TIMELINE_GAP;
    assert_eq!(
        first_byte(&timeline, Handshake::default(), &tickets, || 0).map(|first| first.basis),
        Some(Basis::Ambiguous)
    );
}

#[test]
fn without_tls_the_kernel_knows() {
    let timeline = Timeline {
        request_ns: 5,
        first_byte_ns: 9,
        ..Timeline::default()
    };
    let found = first_byte(&timeline, Handshake::default(), &TicketLengths::new(1), || 0);
    assert_eq!(
        found,
        Some(FirstByte {
            at_ns: 9,
            basis: Basis::Exact,
            may_be_ticket: false,
        })
    );
}

#[test]
fn times_count_from_the_request_when_that_came_first() {
    let mut timeline = tls13(&[(500, true)]);
    timeline.request_ns = DONE_NS - 7000;
    timeline.answers[0].after_us = 3;
    let found = first_byte(&timeline, Handshake::default(), &TicketLengths::new(1), || 0);
    assert_eq!(found.map(|first| first.at_ns), Some(DONE_NS - 4000));
}

#[test]
fn a_learned_length_is_a_ticket() {
    let mut tickets = TicketLengths::new(1);
    let timeline = tls13(&[(1119, true), (400, true)]);
    let judge = |tickets: &TicketLengths| first_byte(&timeline, Handshake::default(), tickets, || 3);
    assert_eq!(judge(&tickets).map(|first| first.basis), Some(Basis::Ambiguous));
    learn_tickets(&tls13(&[(1123, false)]), Handshake::default(), &mut tickets, || 3);
    assert_eq!(
        judge(&tickets),
        Some(FirstByte {
            at_ns: DONE_NS + 1000,
            basis: Basis::Inferred,
            may_be_ticket: false,
        })
    );
}

#[test]
fn a_lone_first_record_is_doubted_where_a_ticket_is_due() {
    let mut tickets = TicketLengths::new(1);
    let lone = tls13(&[(730, true)]);
    let followed = tls13(&[(730, true), (108, true), (42, true)]);
    let full = Handshake::default();
    let judge = |timeline: &Timeline, handshake, tickets: &TicketLengths| {
        let found = first_byte(timeline, handshake, tickets, || 3).expect("something has come");
        ((found.at_ns - DONE_NS) / 1000, found.basis, found.may_be_ticket)
    };
    assert_eq!(judge(&lone, full, &tickets), (0, Basis::Inferred, true));
    assert_eq!(judge(&followed, full, &tickets), (1, Basis::Ambiguous, false));
    // What was followed once makes its like suspect.
    learn_tickets(&followed, full, &mut tickets, || 3);
    assert_eq!(judge(&lone, full, &tickets), (0, Basis::Ambiguous, true));
    // No ticket is due.
    let none = Handshake {
        no_tickets: true,
        ..full
    };
    assert_eq!(judge(&followed, none, &tickets), (0, Basis::Inferred, false));
    let mut early = followed;
    early.flags = TIMELINE_EARLY_TICKETS;
    assert_eq!(judge(&early, full, &tickets), (0, Basis::Inferred, false));
}
