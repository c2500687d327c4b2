//! The window and the baseline of one connection: RTT and retransmissions, in as little as 100 000 open ones can have.
//!
//! Some 120 bytes and four for each step that its RTT was in, 350 at most. Made for a connection only once it is older than a window: those
//! that end before leave nothing.
use super::{
    BASELINE_SLOTS, WINDOW_SLOTS,
    rtt_delta::{Baseline, Verdict, verdict},
    words::Words,
};

/// Slots of a step of the baseline: four of them are kept, so that it covers seven and a half to ten minutes.
const STEP_SLOTS: u64 = BASELINE_SLOTS / STEPS;
const STEPS: u64 = 4;

/// One connection's RTT of late.
#[derive(Debug, Default)]
pub struct Connection {
    /// The last slots.
    window: Words<32>,
    /// What was in the window before, without what came while a rule was active.
    baseline: Words<24>,
    /// The newest slot of the window; its step is the newest of the baseline.
    latest: u64,
    /// Smallest sample ever; 0 for none.
    min_ns: u64,
    /// Segments sent again, by slot modulo the window.
    retransmits: [u16; WINDOW_SLOTS as usize],
    /// A rule is active: what leaves the window is not usual.
    active: bool,
    /// Something came since it was last judged, and it is on the list of those to judge.
    touched: bool,
    listed: bool,
    /// Since when a rule's condition has held, nanoseconds; kept here for its detector.
    pub held_since_ns: Option<u64>,
}

impl Connection {
    /// So many samples of this length.
    pub fn rtt(&mut self, sample_ns: u64, count: u32, slot: u64) {
        if count == 0 {
            return;
        }
        let slot = self.advance(slot);
        self.window.add(sample_ns, count, slot);
        self.touched = true;
    }

    /// The smallest sample since the connection was opened.
    pub fn set_min(&mut self, min_ns: u64) {
        self.min_ns = min_ns;
    }

    /// Segments were sent again.
    pub fn retransmitted(&mut self, segments: u64, slot: u64) {
        if segments == 0 {
            return;
        }
        let slot = self.advance(slot);
        let count = &mut self.retransmits[(slot % WINDOW_SLOTS) as usize];
        *count = count.saturating_add(u16::try_from(segments).unwrap_or(u16::MAX));
        self.touched = true;
    }

    /// Whether it is to be put on the list of those to judge: something came, and it is not there yet.
    pub fn enlist(&mut self) -> bool {
        let new = self.touched && !self.listed;
        self.listed |= new;
        new
    }

    /// A rule is active at this connection from now on, or no more.
    pub fn set_active(&mut self, active: bool) {
        self.active = active;
    }

    /// The last window beside what was usual before it.
    pub fn judge(&mut self, slot: u64) -> Option<Verdict> {
        self.advance(slot);
        (self.touched, self.listed) = (false, false);
        self.peek(slot)
    }

    /// The same of one that was judged of late; `None` of others.
    pub fn peek(&self, slot: u64) -> Option<Verdict> {
        if slot.saturating_sub(self.latest) >= WINDOW_SLOTS {
            return None;
        }
        let retransmits = self.retransmits.iter().map(|count| u64::from(*count)).sum();
        verdict(self.window.p50_ns(), self.window.count(), retransmits, self.baseline())
    }

    /// What is usual.
    fn baseline(&self) -> Baseline {
        Baseline {
            p50_ns: self.baseline.p50_ns(),
            samples: self.baseline.count(),
            min_ns: (self.min_ns != 0).then_some(self.min_ns),
        }
    }

    /// What is older than a window goes to the baseline. Time does not go back: gives the slot that it is by now.
    fn advance(&mut self, slot: u64) -> u64 {
        if slot <= self.latest {
            return self.latest;
        }
        let (latest, step) = (self.latest, slot / STEP_SLOTS);
        if step > latest / STEP_SLOTS {
            self.baseline.expire(latest / STEP_SLOTS, step, STEPS, |_| {});
        }
        let (baseline, active) = (&mut self.baseline, self.active);
        self.window.expire(latest, slot, WINDOW_SLOTS, |old| {
            let from = slot.saturating_sub(old.age) / STEP_SLOTS;
            if !active && step - from < STEPS {
                baseline.add(old.duration_ns, old.count, from);
            }
        });
        for passed in latest.saturating_add(1).max(slot.saturating_sub(WINDOW_SLOTS - 1))..=slot {
            self.retransmits[(passed % WINDOW_SLOTS) as usize] = 0;
        }
        self.latest = slot;
        slot
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn near(measured: u64, truth: u64) -> bool {
        measured.abs_diff(truth) * 100 <= truth
    }

    #[test]
    fn a_step_shows_and_is_not_usual_at_once() {
        let mut connection = Connection::default();
        connection.set_min(9 * MS);
        for slot in 1_000..1_060 {
            connection.rtt(10 * MS, 2, slot);
        }
        let calm = connection.judge(1_060).expect("enough samples");
        assert!(
            near(calm.p50_ns, 10 * MS) && near(calm.baseline_ns, 10 * MS),
            "{calm:?}"
        );
        assert_eq!(calm.rtt_delta_ns(), 0);
        for slot in 1_060..1_066 {
            connection.rtt(160 * MS, 2, slot);
            connection.retransmitted(2, slot);
        }
        let spike = connection.judge(1_065).expect("enough samples");
        assert!(near(spike.rtt_delta_ns(), 150 * MS), "{spike:?}");
        assert_eq!((spike.samples, spike.retransmits), (10, 10));
        // While a rule is active, what leaves the window is no baseline.
        connection.set_active(true);
        for slot in 1_066..1_300 {
            connection.rtt(160 * MS, 2, slot);
        }
        let still = connection.judge(1_300).expect("enough samples");
        assert!(near(still.baseline_ns, 10 * MS), "{still:?}");
    }

    proptest! {
        /// As long as there is room for every kind of sample, the median is that of the whole window.
        #[test]
        fn medians_are_those_of_all_samples(samples in prop::collection::vec((0_u64..20, 1_u64..1 << 40), 1..=32)) {
            let mut samples = samples;
            samples.sort_by_key(|(slot, _)| *slot);
            let (mut connection, last) = (Connection::default(), samples[samples.len() - 1].0);
            connection.set_min(1);
            for (slot, ns) in &samples {
                connection.rtt(*ns, 2, 1_000 + slot);
            }
            let mut exact: Vec<u64> = samples.iter().filter(|(slot, _)| slot + 5 > last).map(|(_, ns)| *ns).collect();
            exact.sort_unstable();
            prop_assume!(exact.len() >= 2);
            let median = exact[exact.len().div_ceil(2) - 1];
            let verdict = connection.judge(1_000 + last).expect("enough samples");
            prop_assert_eq!(verdict.samples, 2 * exact.len() as u64);
            prop_assert!(verdict.p50_ns.abs_diff(median) * 100 <= median);
        }
    }

    #[test]
    fn before_twenty_samples_the_minimum_counts() {
        let mut connection = Connection::default();
        connection.set_min(4 * MS);
        for slot in 10..20 {
            connection.rtt(10 * MS, 1, slot);
        }
        assert_eq!(connection.judge(20).map(|verdict| verdict.baseline_ns), Some(4 * MS));
    }

    #[test]
    fn a_baseline_is_forgotten_after_ten_minutes() {
        let mut connection = Connection::default();
        connection.set_min(MS);
        for slot in 0..100 {
            connection.rtt(10 * MS, 1, slot);
        }
        connection.set_active(true);
        let mut at = |slot| {
            (slot..slot + 4).for_each(|slot| connection.rtt(50 * MS, 1, slot));
            connection.judge(slot + 4).expect("enough samples").baseline_ns
        };
        assert!(near(at(440), 10 * MS));
        assert_eq!(at(800), MS);
    }

    #[test]
    fn silence_and_steps_back_invent_nothing() {
        let mut connection = Connection::default();
        connection.set_min(MS);
        (50..55).for_each(|slot| connection.rtt(10 * MS, 1, slot));
        // An event of a time that has passed counts now.
        connection.rtt(10 * MS, 1, 3);
        assert_eq!(connection.judge(54).map(|verdict| verdict.samples), Some(6));
        assert_eq!(connection.judge(20).map(|verdict| verdict.samples), Some(6));
        assert_eq!(
            (connection.peek(54).map(|verdict| verdict.samples), connection.peek(59)),
            (Some(6), None)
        );
        assert_eq!(connection.judge(70), None);
        assert!(!connection.enlist());
        connection.rtt(10 * MS, 3, u64::MAX);
        assert!(connection.enlist() && !connection.enlist());
        assert_eq!(connection.judge(u64::MAX).map(|verdict| verdict.samples), Some(3));
    }

    #[test]
    fn retransmissions_leave_with_their_window() {
        let mut connection = Connection::default();
        connection.set_min(MS);
        connection.retransmitted(4, 100);
        for (slot, expected) in [(101, 4), (104, 4), (105, 0), (106, 0)] {
            connection.rtt(10 * MS, 3, slot);
            assert_eq!(
                connection.judge(slot).map(|verdict| verdict.retransmits),
                Some(expected),
                "{slot}"
            );
        }
    }

    #[test]
    fn small() {
        assert!(size_of::<Connection>() <= 120, "{}", size_of::<Connection>());
    }
}
