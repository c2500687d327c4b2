//! Names under a budget: who keeps one, who takes whose, and that every sum stays exact whatever happens.
use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::aggregate::Name;

const SECOND: u64 = 1_000_000_000;

/// A xorshift generator: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

fn address(number: u32) -> DestinationKey {
    DestinationKey {
        role: Role::Client,
        name: Name::Address(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number))),
        port: 443,
        group: "".into(),
        source: None,
    }
}

fn host(name: &str) -> DestinationKey {
    DestinationKey {
        name: Name::Host(name.into()),
        ..address(0)
    }
}

/// One ordinary connection, from its opening to its end.
fn connection(series: &mut Series, key: DestinationKey, error: Option<ConnectError>, now_ns: u64) {
    let id = series.destination(key, now_ns);
    series.hold(id);
    let raised = series.enter(id, TcpState::Established);
    series.connected(id, error, now_ns);
    if error.is_none() {
        series.handshake(id, 2_000_000, now_ns);
        series.bytes(id, 10, 20, now_ns);
    }
    let outcome = error.map_or(Outcome::Ok, Outcome::from);
    series.ended(id, Ended::Established, Some(ClosedBy::Local), outcome, now_ns);
    series.leave(raised, TcpState::Established);
    series.release(id);
}

/// Makes trouble for a destination.
type Trouble<'a> = &'a dyn Fn(&mut Series, DestinationId);

fn has_name(series: &Series, name: &str) -> bool {
    let snapshot = series.snapshot(&[], 0);
    let mut names = snapshot.destinations.iter().map(|one| &*one.labels.destination);
    names.any(|one| one == name)
}

fn check_sums(series: &Series, max_series: usize) {
    let snapshot = series.snapshot(&[], 0);
    for family in Family::ALL {
        if let Some(totals) = snapshot.family_totals(family) {
            assert_eq!(totals.live + totals.expired, totals.truth, "{family:?}");
        }
    }
    for totals in &snapshot.totals {
        let mut sum = totals.series.clone();
        sum.add(&totals.expired);
        assert_eq!(sum, totals.truth);
    }
    check_budget(series, max_series);
    for family in Family::ALL.into_iter().filter(|family| family.has_role()) {
        let children = |one: &DestinationSnapshot| {
            let of_family = Child::all().filter(|child| child.family() == family && one.has(*child));
            of_family.map(Child::series).sum::<usize>()
        };
        let shown: usize = snapshot.destinations.iter().map(children).sum();
        assert_eq!(snapshot.families[family as usize].series, shown as u64, "{family:?}");
    }
}

fn check_budget(series: &Series, max_series: usize) {
    let all: u64 = series.families.iter().map(|family| family.series).sum();
    assert!(all <= max_series as u64, "{all} series");
    assert!(series.used <= series.budget);
}

/// A server has a full budget of hosts that it called once.
fn full_of_calm_ones() -> Series {
    let mut series = Series::new(Series::MIN_SERIES);
    for number in 0..100 {
        connection(&mut series, address(number), None, SECOND);
    }
    // Not one time series more fits.
    let by = |ended| ClosedBy::or_nobody().map(move |by| (ended, by));
    for (ended, by) in Ended::ALL.into_iter().flat_map(by) {
        for number in 0..5 {
            let id = series.destination(address(number), SECOND);
            series.ended(id, ended, by, Outcome::Ok, SECOND);
        }
    }
    assert!(!series.has_room(1, None));
    assert!(series.candidates > 50 && series.named > 5);
    series
}

#[test]
fn one_connection_takes_nobodys_name() {
    let mut series = full_of_calm_ones();
    connection(&mut series, host("calm.example"), None, 2 * SECOND);
    connection(&mut series, host("calm.example"), None, 4 * SECOND);
    series.advance(6 * SECOND);
    assert!(!has_name(&series, "calm.example"));
    check_sums(&series, Series::MIN_SERIES);
}

#[test]
fn the_busy_and_the_troubled_take_the_names_of_the_calm() {
    let retransmits = |series: &mut Series, id| series.retransmitted(id, Retransmit::Rto, 8, 2 * SECOND);
    let waits = |series: &mut Series, id| (2..8).for_each(|at| series.waits(id, Phase::Tls, at * SECOND));
    let slow = |series: &mut Series, id| {
        let calm = series.destination(address(1), 2 * SECOND);
        (0..200).for_each(|_| series.ttfb(calm, 2_000_000, 2 * SECOND));
        series.advance(4 * SECOND);
        (0..4).for_each(|_| series.ttfb(id, 900_000_000, 4 * SECOND));
    };
    let fails = |series: &mut Series, id| series.tls_failed(id, TlsFailure::Alert(48), 2 * SECOND);
    let busy = |series: &mut Series, id| {
        (0..20).for_each(|_| series.connected(id, None, 2 * SECOND));
    };
    let all: [(&str, Trouble<'_>); 5] = [
        ("retransmits", &retransmits),
        ("waits", &waits),
        ("slow", &slow),
        ("fails", &fails),
        ("busy", &busy),
    ];
    for (what, trouble) in all {
        let mut series = full_of_calm_ones();
        let id = series.destination(host("new.example"), 2 * SECOND);
        series.hold(id);
        trouble(&mut series, id);
        series.advance(10 * SECOND);
        // The id of a connection that is open already leads to the new name.
        series.connected(id, Some(ConnectError::Reset), 10 * SECOND);
        assert!(has_name(&series, "new.example"), "{what}");
        // The rest of its families needs more room than is free.
        connection(&mut series, host("new.example"), None, 10 * SECOND);
        series.advance(12 * SECOND);
        assert!(series.expired[0].connects() > 0, "{what}: nobody lost its name");
        check_sums(&series, Series::MIN_SERIES);
    }
}

#[test]
fn who_comes_back_starts_from_zero() {
    let mut series = full_of_calm_ones();
    // Fewer than there may be names: those in trouble keep theirs.
    for number in 200..230 {
        (0..3).for_each(|_| connection(&mut series, address(number), Some(ConnectError::Refused), 2 * SECOND));
    }
    series.advance(4 * SECOND);
    assert!(!has_name(&series, "10.0.0.1"));
    for at in 0..60 {
        connection(&mut series, address(1), None, (5 + at) * SECOND);
    }
    let snapshot = series.snapshot(&[], 0);
    let back = snapshot
        .destinations
        .iter()
        .find(|one| &*one.labels.destination == "10.0.0.1");
    let connects = back.expect("it is the busiest").counters.connects();
    assert!((1..=60).contains(&connects), "{connects}");
    check_sums(&series, Series::MIN_SERIES);
}

#[test]
fn gauges_follow_the_name() {
    let mut series = full_of_calm_ones();
    let id = series.destination(address(1), SECOND);
    let raised = series.enter(id, TcpState::Established);
    let shown = |series: &Series, name: &str| {
        let snapshot = series.snapshot(&[], 0);
        let mut all = snapshot.destinations.iter();
        all.find(|one| &*one.labels.destination == name)
            .map_or(0, |one| one.active[TcpState::Established as usize])
    };
    assert_eq!((shown(&series, "10.0.0.1"), shown(&series, "other")), (1, 0));
    for number in 200..260 {
        (0..3).for_each(|_| connection(&mut series, address(number), Some(ConnectError::Refused), 2 * SECOND));
    }
    series.advance(4 * SECOND);
    assert_eq!((shown(&series, "10.0.0.1"), shown(&series, "other")), (0, 1));
    let busy = series.destination(address(200), SECOND);
    let raised = series.move_gauge(raised, busy, TcpState::Established);
    assert_eq!(shown(&series, "other") + shown(&series, "10.0.0.200"), 1);
    series.leave(raised, TcpState::Established);
    assert_eq!(shown(&series, "other") + shown(&series, "10.0.0.200"), 0);
}

#[test]
fn an_address_as_host_is_the_address() {
    let mut series = Series::new(20_000);
    let id = series.destination(address(7), SECOND);
    assert_eq!(series.destination(host("10.0.0.7"), SECOND), id);
    assert_ne!(series.destination(host("seven.example"), SECOND), id);
}

#[test]
fn families_without_a_role_show_each_name_once() {
    let mut series = Series::new(20_000);
    let server = DestinationKey {
        role: Role::Server,
        name: Name::Process("nginx".into()),
        ..address(0)
    };
    for key in [host("nginx"), server] {
        let id = series.destination(key, SECOND);
        series.http_response(id, HttpStatus::ALL[1], SECOND);
        series.waits(id, Phase::Ttfb, SECOND);
    }
    let snapshot = series.snapshot(&[], SECOND);
    let all = without_role(&snapshot.destinations);
    assert_eq!((all.len(), all[0].http_responses[1]), (1, 2));
    assert_eq!(snapshot.families[Family::HttpResponses as usize].series, 1);
    assert_eq!(snapshot.families[Family::Waiting as usize].series, 1);
}

#[test]
fn a_workload_has_a_quarter() {
    let mut series = Series::new(20_000);
    let source = Some(Arc::new(Workload {
        namespace: "ci".into(),
        name: "build".into(),
    }));
    for number in 0..2_000 {
        let key = DestinationKey {
            source: source.clone(),
            ..address(number)
        };
        connection(&mut series, key, None, SECOND);
    }
    assert!(
        (series.budget / 5..=series.budget / 4).contains(&series.used),
        "{}",
        series.used
    );
    connection(&mut series, host("elsewhere.example"), None, SECOND);
    assert!(has_name(&series, "elsewhere.example"));
    check_sums(&series, 20_000);
}

#[test]
fn hosts_without_end_need_no_memory_without_end() {
    let mut series = Series::new(20_000);
    let mut most = 0;
    for number in 0..100_000_u64 {
        let now_ns = SECOND + number * 3_000_000;
        connection(&mut series, host(&format!("h{number}.example")), None, now_ns);
        connection(&mut series, host("busy.example"), None, now_ns);
        if number == 20_000 {
            most = series.slots.len();
        }
        check_budget(&series, 20_000);
    }
    assert_eq!(series.slots.len(), most, "flat after the first minute");
    assert_eq!(series.by_key.len(), series.named + series.candidates);
    assert!(has_name(&series, "busy.example"));
    check_sums(&series, 20_000);
}

/// Any observations in any order: sums and gauges are exact, the budget holds after each.
#[test]
fn random_observations_keep_the_sums() {
    let mut random = Random(88_172_645_463_325_252);
    let mut series = Series::new(1_500);
    let sources: Vec<_> = ["", "a", "b"]
        .map(|name| {
            let (namespace, name): (Arc<str>, Arc<str>) = ("n".into(), name.into());
            (!name.is_empty()).then(|| Arc::new(Workload { namespace, name }))
        })
        .into();
    let mut now_ns = SECOND;
    let mut open: Vec<(DestinationId, DestinationId, TcpState)> = Vec::new();
    let mut ids = Vec::new();
    for step in 0..24_000_u64 {
        now_ns += random.below(SECOND / 10);
        if ids.is_empty() || random.below(3) == 0 {
            // A few destinations are much busier than the rest.
            let most = random.of(&[10, 100, 30_000]);
            let key = DestinationKey {
                role: random.of(&Role::ALL),
                source: sources[random.below(3) as usize].clone(),
                ..address(random.below(most) as u32)
            };
            ids.push(series.destination(key, now_ns));
            if ids.len() > 500 {
                ids.swap_remove(random.below(500) as usize);
            }
        }
        let id = ids[random.below(ids.len() as u64) as usize];
        let duration_ns = 1 << random.below(40);
        match random.below(17) {
            0 => {
                let error = (random.below(2) == 0).then(|| random.of(&ConnectError::ALL));
                series.connected(id, error, now_ns);
            }
            1 => series.handshake(id, duration_ns, now_ns),
            2 => {
                let (version, resumed) = (random.of(&TlsVersion::ALL), random.below(2) == 0);
                let known = (random.below(4) > 0).then_some(duration_ns);
                series.tls_handshake(id, version, resumed, known, now_ns);
            }
            3 => series.tls_failed(id, TlsFailure::Alert(random.below(256) as u8), now_ns),
            4 => series.ttfb(id, duration_ns, now_ns),
            5 => series.ttfb_ambiguous(id, now_ns),
            6 => series.turn(id, duration_ns, now_ns),
            7 => series.turns_overlapped(id, random.below(3), now_ns),
            8 => series.http_response(id, random.of(&HttpStatus::ALL), now_ns),
            9 => {
                let window = RttWindow::of((duration_ns / 1_000) as u32, random.below(4) as u32);
                series.rtt(id, &window, now_ns);
            }
            10 => series.retransmitted(id, random.of(&Retransmit::ALL), random.below(9), now_ns),
            11 => series.bytes(id, random.below(99), random.below(99), now_ns),
            12 => series.segments(id, random.below(99), random.below(99), now_ns),
            13 => {
                let (ended, by) = (random.of(&Ended::ALL), Some(random.of(&ClosedBy::ALL)));
                series.ended(id, ended, by, random.of(&Outcome::ALL), now_ns);
            }
            15 => series.unanswered(id, random.of(&GaveUp::ALL), duration_ns, now_ns),
            14 => series.waits(id, random.of(&Phase::ALL), now_ns),
            _ if open.len() < 300 => {
                let state = random.of(&TcpState::ALL);
                series.hold(id);
                open.push((id, series.enter(id, state), state));
            }
            _ => {
                let (held, raised, state) = open.swap_remove(random.below(300) as usize);
                series.leave(raised, state);
                series.release(held);
            }
        }
        check_budget(&series, 1_500);
        if step % 1_024 == 0 {
            check_sums(&series, 1_500);
            let snapshot = series.snapshot(&[], now_ns);
            let shown: u64 = snapshot.destinations.iter().flat_map(|one| one.active).sum();
            assert_eq!(shown, open.len() as u64);
        }
        if step % 6_000 == 5_999 {
            now_ns += 3 * 3_600 * SECOND;
            series.expire(now_ns);
            check_sums(&series, 1_500);
            assert!(series.by_key.len() <= open.len(), "only who is held stays");
        }
    }
    for (held, raised, state) in open.drain(..) {
        series.leave(raised, state);
        series.release(held);
    }
    series.expire(now_ns + 3 * 3_600 * SECOND);
    check_sums(&series, 1_500);
    assert_eq!(
        (series.used, series.named, series.candidates, series.by_key.len()),
        (0, 0, 0, 0)
    );
    assert!(series.used_by.is_empty());
    let snapshot = series.snapshot(&[], now_ns);
    assert!(snapshot.totals.iter().all(|totals| totals.expired.connects() > 0));
    for family in Family::ALL {
        let folded = snapshot.families[family as usize].folded;
        assert!(snapshot.family_totals(family).is_none() || folded > 0, "{family:?}");
    }
}

/// All of a group is in its windows, whether its destinations have names or not; servers have no groups.
#[test]
fn groups_have_windows_of_their_own() {
    let mut series = Series::new(1_000);
    let mirror = |number: u32| DestinationKey {
        group: "go".into(),
        ..address(number)
    };
    series.set_slot(100);
    // More than there are names for.
    for number in 0..2_000 {
        let id = series.destination(mirror(number), 100 * SECOND);
        series.connected(id, None, 100 * SECOND);
        series.handshake(id, 2_000_000, 100 * SECOND);
        series.rtt_samples(id, 7_000_000, 3);
    }
    connection(&mut series, address(5_000), Some(ConnectError::Refused), 100 * SECOND);
    series.set_slot(101);
    let snapshot = series.snapshot(&[], 101 * SECOND);
    let [group] = &snapshot.groups[..] else {
        panic!("{:?}", snapshot.groups)
    };
    let count = |measure| group.window.measures[measure as usize].map(|(count, _)| count);
    assert_eq!(
        (
            &*group.group,
            group.window.counts.connects,
            group.window.counts.failures
        ),
        ("go", 2_000, 0)
    );
    assert_eq!(
        (count(Measure::Tcp), count(Measure::Rtt), count(Measure::Tls)),
        (Some(2_000), Some(6_000), None)
    );
    let p50 = group.quantiles[Measure::Rtt as usize].expect("samples").p50;
    assert!((p50 / 0.007 - 1.0).abs() <= 0.01, "{p50}");
    // Five seconds later the window is empty, and what was since the start is still there.
    series.set_slot(106);
    let later = &series.snapshot(&[], 106 * SECOND).groups[0];
    assert_eq!(
        (later.window.counts.connects, later.quantiles == group.quantiles),
        (0, true)
    );
    for group in 0..200 {
        let key = DestinationKey {
            group: format!("g{group}").into(),
            ..address(group)
        };
        let id = series.destination(key, 106 * SECOND);
        series.handshake(id, 1, 106 * SECOND);
    }
    assert_eq!(
        (series.snapshot(&[], 106 * SECOND).groups.len(), series.groups_refused()),
        (128, 73)
    );
}

/// Windows are judged while they have news, and by their place as long as it is the same destination.
#[test]
fn places_are_judged() {
    let mut series = Series::new(10_000);
    let id = series.destination(host("a.test"), SECOND);
    let place = id.place().expect("no `other`");
    for slot in 1..60 {
        series.set_slot(slot);
        series.rtt_samples(id, if slot < 55 { 10_000_000 } else { 90_000_000 }, 5);
    }
    let [(judged, verdict)] = series.judge(&[])[..] else {
        panic!("one has news")
    };
    assert_eq!((judged, verdict.samples), (place, 25));
    assert!(verdict.rtt_delta_ns().abs_diff(80_000_000) < 1_000_000, "{verdict:?}");
    series.set_active(place, true);
    series.set_slot(62);
    assert!(series.judge(&[]).is_empty());
    assert_eq!(series.judge(&[place]).len(), 1);
    assert!(
        series
            .key_of(place)
            .is_some_and(|key| key.name == Name::Host("a.test".into()))
    );
    assert_eq!(series.key_of((place.0, place.1 + 1)), None);
    assert_eq!(DestinationId { slot: 0, ..id }.place(), None);
}
