//! The rules of `first_byte`, on the log alone.

use agent_ebpf::timeline::{
    ANSWER_ACKS_REQUEST, ANSWERS, AnswerRecord, TIMELINE_EARLY_DATA, TIMELINE_EARLY_TICKETS, TIMELINE_GAP,
    TIMELINE_PACKED_FLIGHT, Timeline, is_packed_tickets,
};

use super::super::ticket_lengths::Known;
use super::super::tls::cipher;
use super::{Basis, FirstByte, Handshake};

/// `application_data`.
const APPLICATION_DATA: u8 = 23;
/// Shortest record of a ticket: OpenSSL's without a stored session has 74.
const TICKET_MIN: u16 = 70;
/// Longest: those of stateless servers hold the client's certificates.
const TICKET_MAX: u16 = 4096;
/// What a `NewSessionTicket` record has beyond the ticket: 34 bytes of fields and TLS, a nonce of 1 (JDK, `BoringSSL`), 4
/// (`GnuTLS`), 8 (OpenSSL) or 32 bytes, and 8 more when early data is allowed. Go has no nonce, and sends before Finished.
/// `BoringSSL` adds an extension of four bytes that means nothing (RFC 8701).
const TICKET_FRAMES: [u16; 10] = [35, 38, 42, 66, 43, 46, 50, 74, 39, 47];
const LONGEST_FRAME: u16 = 74;
/// Content type and tag.
const TLS13_OVERHEAD: u16 = 17;
/// Records of the JDK's tickets were 1106 to 1123 bytes long for one certificate; a new one may differ by this from the
/// one that was offered.
const JDK_SPREAD: u16 = 24;

/// The records that may be looked at, with the length of its plaintext where the cipher shows it.
struct Log<'a> {
    records: &'a [AnswerRecord],
    overhead: Option<u16>,
    is_tls13: bool,
    /// The server's tickets came before the client's Finished.
    has_early_tickets: bool,
    /// The server put its whole flight into one record, as it does with its tickets.
    has_packed_flight: bool,
    handshake: Handshake,
}

/// What was passed over at the start.
#[derive(Clone, Copy)]
struct Tickets {
    count: usize,
    is_certain: bool,
    /// The first record was not passed over, but it would be if more came.
    may_be_one: bool,
}

pub(super) fn judge(timeline: &Timeline, handshake: Handshake, known: &dyn Fn(u16) -> Known) -> Option<FirstByte> {
    let log = Log::of(timeline, handshake);
    let Tickets {
        count,
        is_certain,
        may_be_one,
    } = log.tickets(known);
    let (answer, is_h2_certain) = log.answer(count)?;
    let hides_control = handshake.may_be_h2() && log.overhead.is_none();
    let basis =
        if timeline.flags & (TIMELINE_GAP | TIMELINE_EARLY_DATA) != 0 || !is_certain || !is_h2_certain || hides_control
        {
            Basis::Ambiguous
        } else if log.is_tls13 || handshake.may_be_h2() {
            Basis::Inferred
        } else {
            Basis::Exact
        };
    let start_ns = timeline.tls_done_ns.min(timeline.request_ns);
    let at_ns = start_ns.saturating_add(u64::from(answer.after_us) * 1000);
    Some(FirstByte {
        at_ns,
        basis,
        may_be_ticket: may_be_one,
    })
}

/// The length of a first record that came before the request, is one of an equal pair before something else, or matches
/// the offered ticket; or that may be a ticket, as more came after it.
pub(super) fn ticket(timeline: &Timeline, handshake: Handshake) -> Option<(u16, Known)> {
    let log = Log::of(timeline, handshake);
    let first = log.records.first().filter(|_| log.is_tls13 && log.is_ticket_like())?;
    let run = log.equal_run();
    let is_pair = run == 2 && log.records.len() > run;
    if !acknowledges(*first) || is_pair || log.packs_tickets() || log.matches_offer(first.length) {
        return Some((first.length, Known::Ticket));
    }
    let may_be = run == 1 && log.expects_ticket() && log.has_more();
    may_be.then_some((first.length, Known::Suspect))
}

fn acknowledges(record: AnswerRecord) -> bool {
    record.flags & ANSWER_ACKS_REQUEST != 0
}

impl<'a> Log<'a> {
    fn of(timeline: &'a Timeline, handshake: Handshake) -> Self {
        Self {
            records: &timeline.answers[..usize::from(timeline.answer_count).min(ANSWERS)],
            overhead: cipher::record_overhead(timeline.cipher),
            is_tls13: cipher::is_tls13(timeline.cipher),
            has_early_tickets: timeline.flags & TIMELINE_EARLY_TICKETS != 0,
            has_packed_flight: timeline.flags & TIMELINE_PACKED_FLIGHT != 0,
            handshake,
        }
    }

    fn plain(&self, record: AnswerRecord) -> Option<u16> {
        record.length.checked_sub(self.overhead?)
    }

    /// Not an alert, which is application data on the wire in TLS 1.3.
    fn is_application_data(&self, record: AnswerRecord) -> bool {
        record.content_type == APPLICATION_DATA && !(self.is_tls13 && self.plain(record) == Some(2))
    }

    /// The first record may be a ticket by its length, and is no preface of HTTP/2: that comes once, tickets in pairs.
    fn is_ticket_like(&self) -> bool {
        self.records.first().is_some_and(|first| {
            let may_be_preface = self.handshake.may_be_h2() && self.plain(*first).is_some_and(is_preface);
            first.content_type == APPLICATION_DATA
                && (TICKET_MIN..=TICKET_MAX).contains(&first.length)
                && (self.equal_run() >= 2 || !may_be_preface)
        })
    }

    fn equal_run(&self) -> usize {
        let length = |record: &AnswerRecord| record.length;
        let first = self.records.first().map(length);
        self.records
            .iter()
            .take_while(|record| Some(record.length) == first)
            .count()
    }

    fn matches_offer(&self, length: u16) -> bool {
        let offered = self.handshake.offered_ticket_bytes;
        if offered == 0 || !self.handshake.resumed {
            return false;
        }
        let is_frame = |length: u16, overhead: u16| {
            let frame = length
                .checked_sub(offered)
                .map(|frame| frame + TLS13_OVERHEAD - overhead);
            frame.is_some_and(|frame| TICKET_FRAMES.contains(&frame))
        };
        let both = length.saturating_sub(TLS13_OVERHEAD);
        is_frame(length, TLS13_OVERHEAD) || both.is_multiple_of(2) && is_frame(both / 2, 0)
    }

    /// The first record holds both tickets of a server that puts what it can into one record.
    fn packs_tickets(&self) -> bool {
        let is_like = |first: &AnswerRecord| is_packed_tickets(first.length);
        let precedes_settings = self.handshake.chose_h2 == Some(true)
            && self
                .records
                .get(1)
                .and_then(|second| self.plain(*second))
                .is_some_and(is_preface);
        precedes_settings
            || self.has_packed_flight && self.expects_ticket() && self.records.first().is_some_and(is_like)
    }

    /// A full handshake, after which a server sends tickets if it has any.
    fn expects_ticket(&self) -> bool {
        !self.handshake.resumed && !self.handshake.no_tickets && !self.has_early_tickets
    }

    /// Something that may be the answer follows the first record.
    fn has_more(&self) -> bool {
        self.records[1..].iter().any(|record| self.is_candidate(*record))
    }

    /// About as long as the ticket that was offered.
    fn is_near_offer(&self, length: u16) -> bool {
        let offered = self.handshake.offered_ticket_bytes;
        offered > 0 && length >= offered && length - offered <= LONGEST_FRAME + JDK_SPREAD
    }

    fn tickets(&self, known: &dyn Fn(u16) -> Known) -> Tickets {
        let tickets = |count, is_certain| Tickets {
            count,
            is_certain,
            may_be_one: false,
        };
        let Some(first) = self.records.first().filter(|_| self.is_tls13 && self.is_ticket_like()) else {
            return tickets(0, true);
        };
        let run = self.equal_run();
        if run >= 2 {
            return tickets(run, true);
        }
        let known = known(first.length);
        if !acknowledges(*first) || known == Known::Ticket || self.packs_tickets() || self.matches_offer(first.length) {
            return tickets(1, true);
        }
        let is_offer_unknown = self.handshake.resumed && self.handshake.offered_ticket_bytes == 0;
        let may_be_one = self.expects_ticket() || self.handshake.resumed && self.is_near_offer(first.length);
        match (may_be_one, self.has_more()) {
            (true, true) => tickets(1, false),
            // Nothing else has come: the answer, unless it is one of those that were followed by more before.
            (true, false) => Tickets {
                count: 0,
                is_certain: known == Known::Nothing,
                may_be_one: true,
            },
            (false, has_more) => tickets(0, !(is_offer_unknown && !self.has_early_tickets && has_more)),
        }
    }

    /// Acknowledges the request, and is no control record of HTTP/2.
    fn is_candidate(&self, record: AnswerRecord) -> bool {
        let is_control = self.handshake.may_be_h2() && self.plain(record).is_some_and(is_control);
        acknowledges(record) && self.is_application_data(record) && !is_control
    }

    /// The first record after `skip` that is left, and whether it is no preface in any reading.
    fn answer(&self, skip: usize) -> Option<(&'a AnswerRecord, bool)> {
        let mut rest = self
            .records
            .get(skip..)?
            .iter()
            .filter(|record| self.is_application_data(**record));
        let preface = rest
            .clone()
            .next()
            .filter(|record| self.handshake.may_be_h2() && self.plain(**record).is_some_and(is_preface));
        let Some(preface) = preface else {
            return rest
                .find(|record| self.is_candidate(**record))
                .map(|record| (record, true));
        };
        rest.next();
        if let Some(answer) = rest.find(|record| self.is_candidate(**record)) {
            let is_doubtful = self.handshake.is_h2_doubtful && self.handshake.chose_h2.is_none();
            return Some((answer, !is_doubtful));
        }
        // Nothing but a preface: without HTTP/2 it would be a short answer.
        let may_be_answer = self.handshake.chose_h2.is_none() && self.is_candidate(*preface);
        may_be_answer.then_some((preface, false))
    }
}

/// Lengths of what HTTP/2 servers send besides answers: SETTINGS acknowledged (9), `WINDOW_UPDATE` (13), PING or GOAWAY
/// (17), two or three of them.
fn is_control(plain: u16) -> bool {
    matches!(plain, 9 | 13 | 17 | 18 | 22 | 26 | 30 | 34 | 43)
}

/// SETTINGS with up to 8 parameters, alone, with `WINDOW_UPDATE`, with the acknowledgement of the client's, or with both.
fn is_preface(plain: u16) -> bool {
    [9, 18, 22, 31]
        .into_iter()
        .any(|base| plain.checked_sub(base).is_some_and(|rest| rest % 6 == 0 && rest <= 48))
}
