//! Which connection goes when there is no room: the bounds as a table of cases.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn remote(last: u8) -> Peer {
    Peer::of([10, 0, 0, last].into())
}

fn table(connections: usize) -> Arc<Table> {
    Arc::new(Table::new(Bounds::new(connections), Timeouts::default()))
}

/// A connection of this peer that does this.
fn open(table: &Arc<Table>, peer: Peer, phase: Phase, now: Instant) -> Ticket {
    let ticket = table.admit(peer, now).expect("room");
    ticket.entry.enter(phase, now);
    ticket
}

#[test]
fn what_is_overdue() {
    let now = Instant::now();
    let check = |phase, blocked: Option<u64>, seconds: u64, end: Option<End>| {
        let activity = Activity {
            blocked: blocked.map(|after| now + Duration::from_secs(after)),
            ..Activity::new(phase, now)
        };
        let then = now + Duration::from_secs(seconds) + Duration::from_millis(1);
        let found = activity.overdue(then, &Timeouts::default());
        assert_eq!(found, end, "{phase:?} {blocked:?} {seconds}");
    };
    check(Phase::Reading, None, 9, None);
    check(Phase::Reading, None, 10, Some(End::HeaderTimeout));
    check(Phase::Idle, None, 119, None);
    check(Phase::Idle, None, 120, Some(End::IdleTimeout));
    check(Phase::Answering, None, 29, None);
    check(Phase::Answering, None, 30, Some(End::RequestTimeout));
    check(Phase::Answering, Some(5), 14, None);
    check(Phase::Answering, Some(5), 15, Some(End::WriteTimeout));
    check(Phase::Streaming, None, 100_000, None);
    check(Phase::Streaming, Some(1_000), 1_009, None);
    check(Phase::Streaming, Some(1_000), 1_010, Some(End::WriteTimeout));
    // An answer that nobody takes, even if it was sent already.
    check(Phase::Idle, Some(0), 10, Some(End::WriteTimeout));
}

#[test]
fn who_goes_for_a_newcomer() {
    use Phase::{Answering, Idle, Reading, Streaming};

    /// Peers by the last byte of their address, 0 for loopback; the place of who goes, or why nobody does.
    fn check(open_ones: &[(u8, Phase)], wait: Duration, newcomer: u8, expected: Result<Option<usize>, End>) {
        let peer = |number| if number == 0 { Peer::Loopback } else { remote(number) };
        let table = table(8);
        let begin = Instant::now();
        let times = (0..).map(|number| begin + Duration::from_millis(number));
        let tickets: Vec<_> = (open_ones.iter().zip(times))
            .map(|((number, phase), at)| open(&table, peer(*number), *phase, at))
            .collect();
        let now = begin + Duration::from_millis(10) + wait;
        let admission = table.state().admission(peer(newcomer), now);
        let found = match admission {
            Admission::Free => Ok(None),
            Admission::Instead(victim) => Ok(tickets.iter().position(|ticket| Arc::ptr_eq(&ticket.entry, &victim))),
            Admission::Refused(end) => Err(end),
        };
        assert_eq!(found, expected, "{open_ones:?} {newcomer}");
    }
    let none = Duration::ZERO;

    check(&[(1, Reading)], none, 2, Ok(None));
    // Two of a peer are all, where there are eight: its own oldest goes, unless it is being answered.
    check(&[(1, Idle), (1, Reading)], SECOND, 1, Ok(Some(0)));
    check(&[(1, Idle), (1, Reading)], none, 1, Ok(Some(1)));
    check(&[(1, Answering), (1, Reading)], none, 1, Ok(Some(1)));
    check(&[(1, Answering), (1, Answering)], none, 1, Err(End::PeerLimit));

    let each = |phase| [1, 2, 3, 4, 5, 6, 7, 8].map(|number| (number, phase));
    let pairs = |phase| [1, 2, 2, 3, 3, 4, 4, 5].map(|number| (number, phase));
    let local = |phase| [0; 8].map(|number| (number, phase));
    // Full: the oldest of those that have most.
    check(&each(Reading), none, 9, Ok(Some(0)));
    check(&each(Reading), none, 3, Ok(Some(0)));
    check(&pairs(Reading), none, 9, Ok(Some(1)));
    // What is being answered stays a second, at least.
    check(&pairs(Answering), none, 9, Err(End::Full));
    check(&each(Answering), none, 9, Err(End::Full));
    check(&each(Answering), none, 3, Err(End::Full));
    check(&pairs(Answering), none, 1, Err(End::Full));
    check(&each(Answering), SECOND, 9, Err(End::Full));
    check(&each(Streaming), SECOND, 9, Err(End::Full));
    check(&each(Idle), none, 9, Err(End::Full));
    check(&each(Idle), SECOND, 9, Ok(Some(0)));
    // Half a request goes before an answer that is slow to be taken.
    let mut mixed = each(Answering);
    mixed[6].1 = Reading;
    check(&mixed, SECOND, 9, Ok(Some(6)));
    // This machine comes first: what it has stays, and others make room, in half of the table.
    let mut half = each(Reading);
    half[..4].fill((0, Reading));
    check(&half, SECOND, 9, Ok(Some(4)));
    check(&half, none, 0, Ok(Some(4)));
    check(&local(Reading), none, 9, Ok(Some(0)));
    // Alone, its oldest that is worth least goes.
    check(&local(Reading), none, 0, Ok(Some(0)));
    check(&local(Answering), none, 0, Err(End::Full));
    check(&local(Answering), SECOND, 0, Err(End::Full));
}

#[test]
fn whoever_is_slow_to_take_an_answer_makes_room() {
    let (table, now) = (table(8), Instant::now());
    let tickets: Vec<_> = (1..=8)
        .map(|last| open(&table, remote(last), Phase::Answering, now))
        .collect();
    tickets[4].entry.wrote(false, now);
    let victim = |now| table.state().victim(remote(9), now).cloned();
    assert!(victim(now).is_none());
    let slow = victim(now + SECOND).expect("it takes nothing");
    assert!(Arc::ptr_eq(&slow, &tickets[4].entry));
    tickets[4].entry.wrote(true, now + SECOND);
    assert!(victim(now + SECOND * 2).is_none());
}

/// First connects of many peers, while a scraper that has come for long is answered: it weighs more than each, and stays.
#[test]
fn a_scraper_outlives_the_begin_of_an_attack() {
    let (table, mut now) = (table(8), Instant::now());
    for _ in 0..20 {
        drop(table.admit(remote(250), now));
        now += SECOND;
        (0..2).for_each(|_| table.sweep(Bounds::new(8), now));
    }
    let scraper = open(&table, remote(250), Phase::Answering, now);
    let mut tickets = Vec::new();
    for last in 0..200 {
        let ticket = table.admit(remote(last), now).expect("room for whoever has none open");
        ticket.entry.received(now);
        tickets.push(ticket);
        tickets.retain(|ticket: &Ticket| !ticket.entry.is_killed());
        now += Duration::from_micros(300);
        assert!(!scraper.entry.is_killed(), "evicted after {last} connects");
    }
}

/// A request that is due stays while others are half-sent, and while there are answers for those that connect all the time.
#[test]
fn whoever_has_said_nothing_yet_goes_after_half_a_request() {
    let (table, now) = (table(8), Instant::now());
    let local: Vec<_> = (0..8)
        .map(|_| open(&table, Peer::Loopback, Phase::Reading, now))
        .collect();
    local[5].entry.received(now);
    let state = table.state();
    let victim = state.victim(Peer::Loopback, now).expect("half a request");
    assert!(Arc::ptr_eq(victim, &local[5].entry));
    drop(state);
    drop(local);

    let calm = open(&table, remote(1), Phase::Reading, now);
    for _ in 0..100 {
        drop(table.admit(remote(2), now));
    }
    let busy = open(&table, remote(2), Phase::Answering, now);
    let state = table.state();
    let victim = state.victim(Peer::Loopback, now).expect("an answer");
    assert!(Arc::ptr_eq(victim, &busy.entry) && !Arc::ptr_eq(victim, &calm.entry));
}

/// 200 peers connect 17 times a second each and say half a request; another one connects now and then and needs 50 ms for
/// its request: more time than the table lasts for all of them.
#[test]
fn two_hundred_peers_cannot_keep_another_out() {
    let table = table(28);
    let bounds = Bounds::new(28);
    let mut now = Instant::now();
    let mut tickets = Vec::new();
    let mut honest: Option<Ticket> = None;
    for connect in 0..200 * 200_u32 {
        tickets.extend(table.admit(remote((connect % 200) as u8), now));
        // Whoever was killed closes at once.
        tickets.retain(|ticket: &Ticket| !ticket.entry.is_killed());
        if connect % 3_400 == 3_000 {
            honest = table.admit(remote(201), now);
            assert!(honest.is_some(), "no room for whoever has none open");
        }
        if connect % 3_400 == 3_170 {
            let ticket = honest.take().expect("let in");
            assert!(!ticket.entry.is_killed(), "evicted after {connect} connects");
        }
        tickets.retain(|ticket: &Ticket| !ticket.entry.is_killed());
        assert!(table.open() <= 28, "{}", table.open());
        now += Duration::from_micros(294);
        if connect % 1_700 == 0 {
            table.sweep(bounds, now);
        }
    }
    let numbers = table.numbers();
    let evicted = numbers.ended.iter().find(|(name, _)| *name == "evicted");
    assert!(evicted.is_some_and(|(_, count)| *count > 30_000), "{numbers:?}");
}

#[test]
fn connects_are_forgotten() {
    let (table, now) = (table(8), Instant::now());
    for _ in 0..100 {
        drop(table.admit(remote(1), now));
    }
    assert_eq!(table.state().weight(remote(1)), 100 * CONNECT);
    for _ in 0..60 {
        table.sweep(Bounds::new(8), now);
    }
    assert!(table.state().recent.is_empty());
    for number in 0..2 * PEERS as u32 {
        drop(table.admit(Peer::of(std::net::Ipv4Addr::from_bits(number).into()), now));
    }
    assert_eq!(table.state().recent.len(), PEERS);
}

#[test]
fn a_smaller_table_lets_connections_go() {
    let (table, now) = (table(8), Instant::now());
    let tickets = [
        open(&table, remote(1), Phase::Answering, now),
        open(&table, remote(2), Phase::Reading, now),
        open(&table, remote(2), Phase::Reading, now),
    ];
    let bounds = Bounds {
        connections: 1,
        per_peer: 1,
    };
    table.sweep(bounds, now);
    let killed = tickets.each_ref().map(|ticket| ticket.entry.is_killed());
    assert_eq!(killed, [false, true, true]);
    drop(tickets);
    assert_eq!((table.open(), table.state().per_peer.len()), (0, 0));
}

#[test]
fn streams_are_bounded_in_all_and_by_peer() {
    let (table, now) = (table(128), Instant::now());
    let stream = |peer| {
        let ticket = table.admit(peer, now).expect("room");
        table.stream(&ticket.entry, now).then_some(ticket)
    };
    let of_one: Vec<_> = (0..10).filter_map(|_| stream(remote(1))).collect();
    assert_eq!(of_one.len(), STREAMS_PER_PEER);
    let of_others: Vec<_> = (0..20).filter_map(|_| stream(Peer::Loopback)).collect();
    assert_eq!(of_others.len(), STREAMS - STREAMS_PER_PEER);
    drop(of_one);
    assert!(stream(remote(2)).is_some());
}

#[test]
fn a_connection_goes_through_its_phases() {
    let (table, now) = (table(8), Instant::now());
    let ticket = table.admit(remote(1), now).expect("room");
    let entry = &ticket.entry;
    let phase = || entry.activity().phase;
    assert_eq!(phase(), Phase::Reading);
    entry.requested(now);
    entry.flushed(now);
    assert_eq!(phase(), Phase::Answering, "flushed before it was answered");
    entry.wrote(false, now);
    entry.wrote(false, now + SECOND);
    assert_eq!(entry.activity().blocked, Some(now));
    entry.wrote(true, now + SECOND);
    assert_eq!(entry.activity().blocked, None);
    entry.answered();
    entry.flushed(now);
    assert_eq!(phase(), Phase::Idle);
    entry.received(now);
    assert_eq!(phase(), Phase::Reading);
}
