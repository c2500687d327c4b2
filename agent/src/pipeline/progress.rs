//! Counts what a snapshot of a connection tells beyond what was counted before.
use std::collections::BTreeMap;

use agent_ebpf::{
    connection::{ConnectionState, Retransmits, TcpCounters},
    rtt::RttEvent,
    timeline::RECENT_TURNS,
};

use super::{Attached, resolution::Waited, talk};
use crate::{
    aggregate::{DestinationId, HttpStatus, Retransmit, Series},
    connection::{RttWindow, received_bytes, sent_bytes},
    protocol::{
        facts::Facts,
        first_byte::{Basis, FirstByte},
    },
    windows::{self, WINDOW_NS},
};

/// Different durations of turns that are kept of a connection: a hundred thousand of them may last for days.
const STEPS_OF_TURNS: usize = 96;

/// Final responses of cleartext HTTP/1 by status code.
#[derive(Debug, Default)]
pub(super) struct Responses(pub(super) BTreeMap<u16, u64>);

/// What has been counted of a connection.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent things that are counted once")]
pub(super) struct Counted {
    /// Its connect.
    pub(super) connected: bool,
    tls: bool,
    first_byte: bool,
    http: bool,
    /// Most connections have none.
    retransmits: Option<Box<Retransmits>>,
    sent: u64,
    received: u64,
    segments_sent: u32,
    segments_received: u32,
    turns: u32,
    overlapping: u32,
}

impl Counted {
    /// Turns that were counted.
    pub(super) fn turns(&self) -> u32 {
        self.turns
    }

    /// The same, and those that overlapped.
    pub(super) fn all_turns(&self) -> (u32, u32) {
        (self.turns, self.overlapping)
    }

    /// What a connection did before hopline is not counted.
    pub(super) fn before(state: &ConnectionState) -> Self {
        Self {
            retransmits: retransmits_of(state),
            sent: sent_bytes(state),
            received: received_bytes(state),
            segments_sent: state.counters.segments_sent,
            segments_received: state.counters.segments_received,
            ..Self::default()
        }
    }
}

/// Whether the walk over open connections made this snapshot: it looks at the socket, and has found it moved. The other
/// program that tells of open connections, when turns are new, knows no counters, or those of a late one's first report.
pub(super) fn is_of_walk(before: &ConnectionState, state: &ConnectionState) -> bool {
    state.counters != TcpCounters::default() && state.counters != before.counters
}

/// Turns that are new in this snapshot, microseconds and the answer's status where it was read: an event leaves each time all that are kept are new, so more are
/// missing only where events were lost.
pub(super) fn new_turns(state: &ConnectionState, counted: u32) -> impl Iterator<Item = (u32, Option<u16>)> + '_ {
    let timeline = &state.timeline;
    let fresh = timeline.turns.wrapping_sub(counted).min(RECENT_TURNS as u32);
    (timeline.turns - fresh.min(timeline.turns)..timeline.turns)
        .map(|turn| turn as usize % RECENT_TURNS)
        .map(|slot| {
            let status = Some(timeline.recent_turns_status[slot]).filter(|status| *status != 0);
            (timeline.recent_turns_us[slot], status)
        })
}

/// Counts all that is new.
pub(super) fn count(
    series: &mut Series,
    attached: &mut Attached,
    state: &ConnectionState,
    facts: Option<&Facts>,
    now_ns: u64,
) {
    let id = attached.destination;
    let counted = &mut attached.counted;
    if !counted.connected && state.established_ns != 0 {
        counted.connected = true;
        series.connected(id, None, now_ns);
        if state.syn_ns != 0 {
            series.handshake(id, state.established_ns.saturating_sub(state.syn_ns), now_ns);
        }
        if let Some(lookup_ns) = attached.waited.as_deref().and_then(Waited::duration_ns) {
            series.lookup(id, lookup_ns);
        }
    }
    let timeline = &state.timeline;
    if !counted.tls && timeline.tls_done_ns != 0 {
        counted.tls = true;
        let tls = facts.and_then(|facts| facts.tls.as_ref());
        let version = talk::version_label(state, tls);
        let duration_ns = timeline.tls_done_ns.saturating_sub(timeline.client_hello_ns);
        series.tls_handshake(id, version, talk::is_resumed(state, tls), Some(duration_ns), now_ns);
    }
    if !counted.http
        && let Some(status) = facts.and_then(|facts| facts.http.as_ref()?.status)
    {
        counted.http = true;
        responded(series, &mut attached.responses, id, status, now_ns);
    }
    for (turn_us, status) in new_turns(state, counted.turns) {
        if let Some(status) = status {
            responded(series, &mut attached.responses, id, status, now_ns);
        }
        let turn_ns = u64::from(turn_us) * 1_000;
        attached
            .turns
            .get_or_insert_default()
            .add_within(turn_ns, 1, STEPS_OF_TURNS);
        series.turn(id, turn_ns, now_ns);
    }
    counted.turns = timeline.turns;
    let overlapping = timeline.turns_overlapping.wrapping_sub(counted.overlapping);
    series.turns_overlapped(id, overlapping.into(), now_ns);
    counted.overlapping = timeline.turns_overlapping;
    count_tcp(series, attached, state, now_ns);
}

/// A final response of HTTP/1.
fn responded(series: &mut Series, responses: &mut Option<Box<Responses>>, id: DestinationId, code: u16, now_ns: u64) {
    // Nothing outside the five classes: there are 500 codes at most.
    if let Some(status) = HttpStatus::of(code) {
        *responses.get_or_insert_default().0.entry(code).or_default() += 1;
        series.http_response(id, status, now_ns);
    }
}

/// The answer to the first request, once nothing can change the verdict.
pub(super) fn count_first_byte(
    series: &mut Series,
    attached: &mut Attached,
    state: &ConnectionState,
    answer: FirstByte,
    now_ns: u64,
) {
    if std::mem::replace(&mut attached.counted.first_byte, true) {
        return;
    }
    let id = attached.destination;
    match answer.basis {
        Basis::Ambiguous => series.ttfb_ambiguous(id, now_ns),
        Basis::Exact | Basis::Inferred => {
            series.ttfb(id, answer.at_ns.saturating_sub(state.timeline.request_ns), now_ns);
        }
    }
}

/// The samples of a connection's histogram.
pub(super) fn count_rtt(series: &mut Series, attached: &mut Attached, state: &ConnectionState, event: &RttEvent) {
    if let Some(news) = attached.rtt.of_histogram(event) {
        tell_rtt(series, attached, state, &news, event.header.time_ns);
    }
}

fn tell_rtt(series: &mut Series, attached: &mut Attached, state: &ConnectionState, news: &RttWindow, now_ns: u64) {
    series.rtt(attached.destination, news, now_ns);
    let Some(window) = of_age(&mut attached.window, state, now_ns) else {
        return;
    };
    for (sample_ns, count) in news.samples() {
        window.rtt(sample_ns, count, series.slot());
    }
    window.set_min(u64::from(news.min_us) * 1_000);
}

fn count_tcp(series: &mut Series, attached: &mut Attached, state: &ConnectionState, now_ns: u64) {
    let id = attached.destination;
    if let Some(news) = attached.rtt.of_sums(state) {
        tell_rtt(series, attached, state, &news, now_ns);
    }
    let mut window = of_age(&mut attached.window, state, now_ns);
    let before = &mut attached.counted;
    let known = before.retransmits.as_deref().copied().unwrap_or_default();
    before.retransmits = retransmits_of(state);
    for (kind, before, now) in [
        (Retransmit::Syn, known.syn, state.retransmits.syn),
        (Retransmit::Rto, known.rto, state.retransmits.rto),
        (Retransmit::Fast, known.fast, state.retransmits.fast),
        (Retransmit::Tlp, known.tlp, state.retransmits.tlp),
        (Retransmit::Other, known.other, state.retransmits.other),
    ] {
        let new = u64::from(now.saturating_sub(before));
        series.retransmitted(id, kind, new, now_ns);
        if let Some(window) = &mut window {
            window.retransmitted(new, series.slot());
        }
    }
    if state.counters == TcpCounters::default() {
        // Told of its turns by a program that does not look at the socket.
        return;
    }
    let (sent, received) = (sent_bytes(state), received_bytes(state));
    series.bytes(
        id,
        sent.saturating_sub(before.sent),
        received.saturating_sub(before.received),
        now_ns,
    );
    // A late connection's turns are told with the counters that it was found with: those take nothing back.
    (before.sent, before.received) = (before.sent.max(sent), before.received.max(received));
    let counters = &state.counters;
    let sent = new_segments(&mut before.segments_sent, counters.segments_sent);
    let received = new_segments(&mut before.segments_received, counters.segments_received);
    series.segments(id, sent, received, now_ns);
}

fn retransmits_of(state: &ConnectionState) -> Option<Box<Retransmits>> {
    (state.retransmits != Retransmits::default()).then(|| Box::new(state.retransmits))
}

/// The window of a connection that is older than one: those that end before have none.
fn of_age<'a>(
    window: &'a mut Option<Box<windows::Connection>>,
    state: &ConnectionState,
    now_ns: u64,
) -> Option<&'a mut windows::Connection> {
    let is_old = now_ns.saturating_sub(state.established_ns) >= WINDOW_NS;
    (state.closed_ns == 0 && is_old).then(|| &mut **window.get_or_insert_default())
}

/// The kernel's counter is 32 bits wide and wraps; one that went back is an older one.
fn new_segments(counted: &mut u32, now: u32) -> u64 {
    let new = now.wrapping_sub(*counted);
    if new > u32::MAX / 2 {
        return 0;
    }
    *counted = now;
    u64::from(new)
}

/// Whether nothing can change the verdict any more: somebody has gone on, or it is long ago.
pub(super) fn is_decided(state: &ConnectionState, answer: FirstByte, now_ns: u64) -> bool {
    /// Tickets come within this time of each other (*measured*: 40 ms), and so do the frames before an answer.
    const QUIET_NS: u64 = 1_000_000_000;
    let timeline = &state.timeline;
    state.closed_ns != 0
        || timeline.turns > u32::from(timeline.turns_before_tls)
        || timeline.turn_ns != 0
        || timeline.first_byte_ns != 0
        || !answer.may_be_ticket && now_ns.saturating_sub(answer.at_ns) > QUIET_NS
}
