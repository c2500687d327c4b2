//! When a spike begins and when it is over.
use super::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const PLACE: Place = (7, 0);

fn verdict(delta_ms: u64, retransmits: u64) -> Verdict {
    Verdict {
        p50_ns: (10 + delta_ms) * MS,
        baseline_ns: 10 * MS,
        samples: 9,
        retransmits,
    }
}

fn detector(retransmits_above: Option<u32>, hold: Duration) -> Spikes<()> {
    Spikes::new(SpikeSettings {
        retransmits_above,
        hold,
        ..SpikeSettings::default()
    })
}

#[test]
fn conditions() {
    let with = SpikeSettings::default();
    let without = SpikeSettings {
        retransmits_above: None,
        ..with
    };
    for (settings, delta_ms, retransmits, expected) in [
        (with, 201, 6, State::Spike),
        (with, 201, 5, State::Between),
        (with, 200, 6, State::Between),
        (with, 100, 600, State::Calm),
        (with, 0, 0, State::Calm),
        (without, 201, 0, State::Spike),
        (without, 101, 0, State::Between),
        (without, 100, 0, State::Calm),
    ] {
        assert_eq!(
            settings.state(&verdict(delta_ms, retransmits)),
            expected,
            "{delta_ms} {retransmits}"
        );
    }
}

#[test]
fn a_condition_must_hold_for_as_long_as_is_asked() {
    let settings = SpikeSettings {
        hold: Duration::from_secs(3),
        ..SpikeSettings::default()
    };
    let mut since_ns = None;
    let mut at = |second: u64, delta_ms| settings.holds(&verdict(delta_ms, 6), &mut since_ns, second * SECOND);
    assert!(!at(1, 300) && !at(3, 300) && at(4, 300) && at(5, 300));
    assert!(!at(6, 0) && !at(7, 300) && !at(9, 300) && at(10, 300));
}

/// A connection that is judged every second, as the pipeline does it: the seconds at which a spike began and was over.
fn course(deltas_ms: impl IntoIterator<Item = Option<u64>>) -> Vec<(u64, &'static str)> {
    let mut spikes = detector(None, Duration::ZERO);
    let mut told = Vec::new();
    let (cookie, mut since_ns) = (1, None);
    for (second, delta_ms) in (1..).zip(deltas_ms) {
        let now_ns = second * SECOND;
        if let Some(delta_ms) = delta_ms {
            let verdict = verdict(delta_ms, 0);
            if spikes.shows(cookie) {
                spikes.again(cookie, &verdict, now_ns);
            } else if spikes.settings().holds(&verdict, &mut since_ns, now_ns)
                && spikes.connection_spikes(PLACE, cookie, &verdict, now_ns)
            {
                spikes.begin(PLACE, Some(cookie), &verdict, (), now_ns).expect("room");
                told.push((second, "spike"));
            }
        }
        let (over, _) = spikes.over(now_ns);
        told.extend(over.iter().map(|(.., how)| (second, how.name())));
    }
    told
}

#[test]
fn courses() {
    let some = |deltas: &[u64]| deltas.iter().map(|delta| Some(*delta)).collect::<Vec<_>>();
    assert_eq!(course(some(&[0, 0, 300, 300, 0])), [(3, "spike"), (5, "calm")]);
    // Around the threshold it does not flap.
    assert_eq!(
        course(some(&[0, 201, 199, 202, 198, 101, 100])),
        [(2, "spike"), (7, "calm")]
    );
    // Nothing more is heard.
    let silent = some(&[300]).into_iter().chain([None; 12]);
    assert_eq!(course(silent), [(1, "spike"), (11, "silent")]);
    assert_eq!(course(some(&[0, 150, 199, 200])), []);
}

#[test]
fn one_spike_for_all_connections_of_a_destination() {
    let mut spikes = detector(None, Duration::ZERO);
    let bad = verdict(300, 0);
    assert!(spikes.connection_spikes(PLACE, 1, &bad, SECOND));
    spikes.begin(PLACE, Some(1), &bad, (), SECOND).expect("room");
    assert!(!spikes.connection_spikes(PLACE, 2, &verdict(500, 0), SECOND));
    assert!(!spikes.destination(PLACE, &bad, SECOND));
    let (_, incident) = spikes.incidents().next().expect("one");
    assert_eq!(
        (incident.connections(), incident.is_whole(), incident.peak_ns),
        (2, true, 510 * MS)
    );
    spikes.again(1, &verdict(0, 0), 2 * SECOND);
    spikes.leave(2, Ended::Closed);
    assert!(
        spikes.over(2 * SECOND).0.is_empty(),
        "the destination's own window still shows it"
    );
    assert!(!spikes.destination(PLACE, &verdict(10, 0), 3 * SECOND));
    let (over, _) = spikes.over(3 * SECOND);
    assert_eq!(over.len(), 1);
    assert_eq!((over[0].1.raised_ns, over[0].2), (SECOND, Ended::Calm));
    assert!(spikes.connections().is_empty() && spikes.destinations().is_empty());
}

#[test]
fn a_destination_by_itself() {
    let mut spikes = detector(Some(5), Duration::from_secs(2));
    assert!(!spikes.destination(PLACE, &verdict(300, 9), SECOND));
    assert!(!spikes.destination(PLACE, &verdict(300, 9), 2 * SECOND));
    assert!(spikes.destination(PLACE, &verdict(300, 9), 3 * SECOND));
    spikes
        .begin(PLACE, None, &verdict(300, 9), (), 3 * SECOND)
        .expect("room");
    // The path is still slow, and no longer loses: it goes on.
    assert!(!spikes.destination(PLACE, &verdict(300, 0), 4 * SECOND));
    assert!(spikes.over(4 * SECOND).0.is_empty());
    assert!(spikes.over(14 * SECOND).0.iter().all(|(.., how)| *how == Ended::Silent));
    assert_eq!(spikes.incidents().count(), 0);
}

#[test]
fn room_is_bounded() {
    let mut spikes = detector(None, Duration::ZERO);
    let bad = verdict(300, 0);
    for number in 0..MOST_INCIDENTS as u32 + 3 {
        spikes.begin((number, 0), Some(number.into()), &bad, (), SECOND);
    }
    assert_eq!((spikes.incidents().count(), spikes.refused()), (MOST_INCIDENTS, 3));
    for cookie in 10_000..12_000 {
        spikes.connection_spikes((0, 0), cookie, &bad, SECOND);
    }
    assert_eq!(spikes.connections().len(), MOST_INCIDENTS + MOST_CONNECTIONS - 1);
}
