//! The windows of one destination, or of a group of them: every measure, since the beginning and second by second.
use super::{
    BASELINE_SLOTS, Measure, WINDOW_SLOTS,
    rtt_delta::{Baseline, Verdict, verdict},
    sketch::{Quantiles, Sketch},
};

/// Slots that are kept: those of a window, and the present one.
const KEPT: usize = WINDOW_SLOTS as usize + 1;
/// Parts of a baseline: a minute each.
const MINUTES: u64 = BASELINE_SLOTS / 60;

/// What is counted in a window beside durations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowCounts {
    /// Segments sent again.
    pub retransmits: u64,
    /// Segments sent.
    pub segments_sent: u64,
    /// Connects that succeeded.
    pub connects: u64,
    /// Connections that ended and had served their purpose.
    pub ok: u64,
    /// Connections that ended and had not: each once.
    pub failures: u64,
}

/// A window as exporters see it: the last whole slots.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WindowSnapshot {
    /// Number of durations and their quantiles, by [`Measure`] `as usize`.
    pub measures: [Option<(u64, Quantiles)>; Measure::ALL.len()],
    /// Smallest RTT of the window with samples that is the last, nanoseconds.
    pub rtt_min_ns: Option<u64>,
    /// Mean deviation of RTT samples from their median, nanoseconds.
    pub rtt_jitter_ns: Option<u64>,
    /// What RTT is compared with, nanoseconds.
    pub rtt_baseline_ns: Option<u64>,
    /// What was counted.
    pub counts: WindowCounts,
}

/// One destination's durations.
#[derive(Debug, Default)]
pub struct Destination {
    since_start: [Sketch; Measure::ALL.len()],
    slots: [Option<Box<Slot>>; KEPT],
    /// RTT of the minutes before the window, and which minutes they are.
    baseline: [(u64, Sketch); MINUTES as usize],
    /// Smallest RTT of the last window that had one, and which slot it was found in.
    rtt_min: Option<(u64, u64)>,
    /// A rule is active: what leaves the window is not usual.
    active: bool,
}

#[derive(Debug, Default)]
struct Slot {
    number: u64,
    measures: [Sketch; Measure::ALL.len()],
    counts: WindowCounts,
}

impl Destination {
    /// So many durations of this length.
    pub fn observe(&mut self, measure: Measure, duration_ns: u64, count: u32, slot: u64) {
        self.since_start[measure as usize].add(duration_ns, count);
        self.slot(slot).measures[measure as usize].add(duration_ns, count);
    }

    /// The smallest RTT of a connection that had samples in this slot.
    pub fn rtt_min(&mut self, min_ns: u64, slot: u64) {
        self.rtt_min = match self.rtt_min {
            Some((least_ns, at)) if slot.saturating_sub(at) < WINDOW_SLOTS => Some((least_ns.min(min_ns), at)),
            _ => Some((min_ns, slot)),
        };
    }

    /// Counts in this slot.
    pub fn count(&mut self, slot: u64, add: impl FnOnce(&mut WindowCounts)) {
        add(&mut self.slot(slot).counts);
    }

    /// A rule is active here from now on, or no more.
    pub fn set_active(&mut self, active: bool) {
        self.active = active;
    }

    /// Quantiles since the beginning.
    pub fn since_start(&self, measure: Measure) -> Option<Quantiles> {
        self.since_start[measure as usize].quantiles()
    }

    /// Whether RTT came in this slot or the one before: only then is there anything to judge.
    pub fn has_news(&self, slot: u64) -> bool {
        let present = self.slots.iter().flatten().filter(|one| one.number + 1 >= slot);
        present
            .into_iter()
            .any(|one| !one.measures[Measure::Rtt as usize].is_empty())
    }

    /// The window that ends with this slot, beside what was usual before it.
    pub fn judge(&self, slot: u64) -> Option<Verdict> {
        let mut rtt = Sketch::default();
        let mut retransmits = 0;
        for one in self.between(slot.saturating_sub(WINDOW_SLOTS - 1), slot) {
            rtt.merge(&one.measures[Measure::Rtt as usize]);
            retransmits += one.counts.retransmits;
        }
        verdict(rtt.quantile_ns(0.5), rtt.count(), retransmits, self.baseline(slot))
    }

    /// What RTT is usual here.
    fn baseline(&self, slot: u64) -> Baseline {
        let mut all = Sketch::default();
        let minute = slot / 60;
        for (number, sketch) in &self.baseline {
            if minute.saturating_sub(*number) < MINUTES {
                all.merge(sketch);
            }
        }
        Baseline {
            p50_ns: all.quantile_ns(0.5),
            samples: all.count(),
            min_ns: None,
        }
    }

    /// The last window: the whole slots before this one.
    pub fn snapshot(&self, slot: u64) -> WindowSnapshot {
        let mut measures: [Sketch; Measure::ALL.len()] = Default::default();
        let mut counts = WindowCounts::default();
        for one in self.between(slot.saturating_sub(WINDOW_SLOTS), slot.saturating_sub(1)) {
            measures
                .iter_mut()
                .zip(&one.measures)
                .for_each(|(all, one)| all.merge(one));
            counts.retransmits += one.counts.retransmits;
            counts.segments_sent += one.counts.segments_sent;
            counts.connects += one.counts.connects;
            counts.failures += one.counts.failures;
            counts.ok += one.counts.ok;
        }
        let rtt = &measures[Measure::Rtt as usize];
        WindowSnapshot {
            rtt_min_ns: self.rtt_min.map(|(min_ns, _)| min_ns),
            rtt_jitter_ns: rtt.quantile_ns(0.5).and_then(|p50_ns| rtt.mean_deviation_ns(p50_ns)),
            rtt_baseline_ns: self.baseline(slot).usual_ns(),
            measures: measures.map(|sketch| Some((sketch.count(), sketch.quantiles()?))),
            counts,
        }
    }

    fn between(&self, first: u64, last: u64) -> impl Iterator<Item = &Slot> {
        let slots = self.slots.iter().flatten();
        slots
            .map(|slot| &**slot)
            .filter(move |slot| (first..=last).contains(&slot.number))
    }

    /// The numbers of this slot; what was in its place goes to the baseline.
    fn slot(&mut self, number: u64) -> &mut Slot {
        let place = &mut self.slots[(number % KEPT as u64) as usize];
        let slot = place.get_or_insert_with(|| {
            Box::new(Slot {
                number,
                ..Slot::default()
            })
        });
        if slot.number != number {
            let old = std::mem::take(&mut **slot);
            slot.number = number;
            if !self.active {
                let minute = old.number / 60;
                let (of, usual) = &mut self.baseline[(minute % MINUTES) as usize];
                // Older than what has its place by now: not usual any more.
                if minute >= *of {
                    if minute > *of {
                        (*of, *usual) = (minute, Sketch::default());
                    }
                    usual.merge(&old.measures[Measure::Rtt as usize]);
                }
            }
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn p50(snapshot: &WindowSnapshot, measure: Measure) -> Option<(u64, f64)> {
        snapshot.measures[measure as usize].map(|(count, quantiles)| (count, (quantiles.p50 * 1e3).round()))
    }

    #[test]
    fn a_window_is_the_whole_slots_before() {
        let mut destination = Destination::default();
        for slot in 100..110 {
            destination.observe(Measure::Tcp, (slot - 99) * 10 * MS, 2, slot);
            destination.count(slot, |counts| counts.connects += 1);
        }
        let snapshot = destination.snapshot(110);
        assert_eq!(p50(&snapshot, Measure::Tcp), Some((10, 80.0)));
        assert_eq!((snapshot.counts.connects, p50(&snapshot, Measure::Tls)), (5, None));
        // The present slot is not whole, and what is old has left.
        assert_eq!(p50(&destination.snapshot(109), Measure::Tcp), Some((10, 70.0)));
        assert_eq!(destination.snapshot(116).counts, WindowCounts::default());
        let whole = destination.since_start(Measure::Tcp).expect("observed");
        assert!((whole.p50 / 0.05 - 1.0).abs() <= 0.01, "{whole:?}");
    }

    #[test]
    fn rtt_beside_its_baseline() {
        let mut destination = Destination::default();
        for slot in 1..=40 {
            destination.observe(Measure::Rtt, 10 * MS, 5, slot);
        }
        let calm = destination.judge(40).expect("a baseline");
        assert_eq!((calm.samples, calm.rtt_delta_ns()), (25, 0));
        for slot in 41..=46 {
            destination.observe(Measure::Rtt, 90 * MS, 5, slot);
            destination.count(slot, |counts| counts.retransmits += 1);
        }
        let spike = destination.judge(46).expect("a baseline");
        let near =
            |verdict: Option<Verdict>| verdict.is_some_and(|verdict| verdict.rtt_delta_ns().abs_diff(80 * MS) <= MS);
        assert!(near(Some(spike)) && spike.retransmits == 5, "{spike:?}");
        // What is seen while a rule is active does not become usual, however long it lasts; and ten minutes later nothing is.
        destination.set_active(true);
        (47..400).for_each(|slot| destination.observe(Measure::Rtt, 90 * MS, 5, slot));
        assert!(near(destination.judge(399)));
        (400..900).for_each(|slot| destination.observe(Measure::Rtt, 90 * MS, 5, slot));
        assert_eq!(destination.judge(899), None);
    }

    proptest! {
        /// The window's median is that of all samples of its five seconds, whatever came before.
        #[test]
        fn medians_are_those_of_all_samples(samples in prop::collection::vec((0_u64..20, 1_u64..1 << 40), 1..400)) {
            let mut samples = samples;
            samples.sort_by_key(|(slot, _)| *slot);
            let (mut destination, last) = (Destination::default(), samples[samples.len() - 1].0);
            for (slot, ns) in &samples {
                destination.observe(Measure::Rtt, *ns, 1, 1_000 + slot);
            }
            let mut exact: Vec<u64> = samples.iter().filter(|(slot, _)| slot + 5 > last).map(|(_, ns)| *ns).collect();
            exact.sort_unstable();
            let median = exact[exact.len().div_ceil(2) - 1];
            let window = destination.snapshot(1_001 + last);
            let (count, quantiles) = window.measures[Measure::Rtt as usize].expect("samples");
            prop_assert_eq!(count, exact.len() as u64);
            prop_assert!((quantiles.p50 * 1e9 / median as f64 - 1.0).abs() <= 0.01);
            if let Some(verdict) = destination.judge(1_000 + last) {
                prop_assert_eq!(verdict.samples, exact.len() as u64);
                prop_assert!(verdict.p50_ns.abs_diff(median) * 100 <= median);
            }
        }
    }

    #[test]
    fn too_few_samples_are_no_baseline() {
        let mut destination = Destination::default();
        (1..=10).for_each(|slot| destination.observe(Measure::Rtt, 10 * MS, 3, slot));
        // Four slots have left the window for the baseline: twelve samples.
        assert_eq!(destination.judge(10), None);
        assert!(destination.has_news(10) && destination.has_news(11) && !destination.has_news(12));
    }

    #[test]
    fn the_smallest_of_a_window_begins_anew_with_the_next() {
        let mut destination = Destination::default();
        for (min_ns, slot, expected) in [(70, 1, 70), (50, 3, 50), (60, 5, 50), (80, 6, 80), (90, 7, 80)] {
            destination.rtt_min(min_ns, slot);
            assert_eq!(destination.snapshot(slot).rtt_min_ns, Some(expected), "{slot}");
        }
    }
}
