//! The rules of `first_byte`, on the log alone.

use agent_ebpf::timeline::{ANSWER_ACKS_REQUEST, ANSWERS, AnswerRecord, TIMELINE_EARLY_DATA, TIMELINE_GAP, Timeline};

use super::super::tls::cipher;
use super::{Basis, FirstByte, Handshake, Role};

/// `application_data`.
const APPLICATION_DATA: u8 = 23;
/// Shortest ticket record that any library sends; below it are control records and alerts.
const TICKET_MIN: u16 = 60;

pub(super) fn judge(
    timeline: &Timeline,
    _role: Role,
    handshake: Handshake,
    is_known_ticket: &dyn Fn(u16) -> bool,
) -> Option<FirstByte> {
    let suite = suite(timeline, handshake);
    let tickets = if cipher::is_tls13(suite) {
        leading_tickets(records(timeline), handshake, is_known_ticket)
    } else {
        0
    };
    let mut basis = Basis::Exact;
    if cipher::is_tls13(suite) || handshake.may_be_h2 {
        basis = Basis::Inferred;
    }
    if timeline.flags & (TIMELINE_GAP | TIMELINE_EARLY_DATA) != 0 {
        basis = Basis::Ambiguous;
    }
    let answer = records(timeline)
        .iter()
        .skip(tickets)
        .filter(|record| record.content_type == APPLICATION_DATA && record.flags & ANSWER_ACKS_REQUEST != 0)
        .find(|record| !(handshake.may_be_h2 && is_h2_control(record.length, suite)))?;
    Some(FirstByte {
        at_ns: at_ns(timeline, answer),
        basis,
    })
}

pub(super) fn certain_tickets(timeline: &Timeline, handshake: Handshake) -> Vec<u16> {
    let early = |record: &&AnswerRecord| record.flags & ANSWER_ACKS_REQUEST == 0;
    if !cipher::is_tls13(suite(timeline, handshake)) {
        return Vec::new();
    }
    records(timeline)
        .iter()
        .take_while(early)
        .map(|record| record.length)
        .filter(|length| *length >= TICKET_MIN)
        .collect()
}

fn records(timeline: &Timeline) -> &[AnswerRecord] {
    &timeline.answers[..usize::from(timeline.answer_count).min(ANSWERS)]
}

fn suite(timeline: &Timeline, handshake: Handshake) -> u16 {
    if handshake.cipher == 0 {
        timeline.cipher
    } else {
        handshake.cipher
    }
}

/// Records count from `tls_done`, or from the request when that came first.
fn at_ns(timeline: &Timeline, record: &AnswerRecord) -> u64 {
    timeline
        .tls_done_ns
        .min(timeline.request_ns)
        .saturating_add(u64::from(record.after_us) * 1000)
}

fn leading_tickets(records: &[AnswerRecord], handshake: Handshake, is_known: &dyn Fn(u16) -> bool) -> usize {
    let known = records.iter().take_while(|record| is_known(record.length)).count();
    if known > 0 {
        return known;
    }
    match records {
        [first, second, ..] if first.length == second.length && first.length >= TICKET_MIN => 2,
        [first, _, ..] if handshake.resumed && first.length >= TICKET_MIN => 1,
        _ => 0,
    }
}

fn is_h2_control(length: u16, suite: u16) -> bool {
    let plain = cipher::record_overhead(suite).and_then(|overhead| length.checked_sub(overhead));
    plain.is_some_and(|plain| matches!(plain, 9 | 13 | 17 | 22 | 26) || plain % 6 == 3 && plain <= 57)
}
