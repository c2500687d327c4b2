//! A histogram with the contract's bounds: 100 µs × 2^0 … 2^18. Integers only, so that sums are exact.

/// Number of finite bounds.
const FINITE: usize = 19;

/// Upper bounds of the buckets in nanoseconds; one more bucket has no bound.
pub const BOUNDS_NS: [u64; FINITE] = {
    let mut bounds = [0; FINITE];
    let mut index = 0;
    while index < FINITE {
        bounds[index] = 100_000 << index;
        index += 1;
    }
    bounds
};

/// Counts per bucket (not cumulative), their number and sum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Observations per bucket of [`BOUNDS_NS`], and those above the last bound.
    pub buckets: [u64; FINITE + 1],
    /// Number of observations.
    pub count: u64,
    /// Sum of all observations, nanoseconds.
    pub sum_ns: u64,
}

impl Histogram {
    /// Counts one observation.
    pub fn observe(&mut self, value_ns: u64) {
        self.observe_many(value_ns, 1);
    }

    /// Counts so many of the same value.
    pub fn observe_many(&mut self, value_ns: u64, count: u64) {
        self.buckets[BOUNDS_NS.partition_point(|bound| *bound < value_ns)] += count;
        self.count += count;
        self.sum_ns = self.sum_ns.saturating_add(value_ns.saturating_mul(count));
    }

    /// The upper bound of the bucket that holds this quantile, `percent` in a hundred: `None` when the last one does.
    pub fn bound_of(&self, percent: u64) -> Option<u64> {
        let mut below = 0;
        let buckets = self.buckets.iter().zip(BOUNDS_NS);
        buckets
            .into_iter()
            .find(|(count, _)| {
                below += **count;
                below.saturating_mul(100) >= self.count.saturating_mul(percent)
            })
            .map(|(_, bound)| bound)
    }

    /// Adds all observations of another.
    pub fn add(&mut self, other: &Self) {
        for (bucket, count) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += count;
        }
        self.count += other.count;
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_of_a_quantile() {
        let mut histogram = Histogram::default();
        (0..95).for_each(|_| histogram.observe(150_000));
        (0..5).for_each(|_| histogram.observe(1_000_000));
        assert_eq!(histogram.bound_of(95), Some(200_000));
        assert_eq!(histogram.bound_of(96), Some(1_600_000));
        (0..900).for_each(|_| histogram.observe(u64::MAX));
        assert_eq!(histogram.bound_of(95), None);
    }

    #[test]
    fn bounds_are_inclusive() {
        assert_eq!(BOUNDS_NS[18], 26_214_400_000);
        for (value_ns, bucket) in [
            (0, 0),
            (100_000, 0),
            (100_001, 1),
            (200_000, 1),
            (26_214_400_000, 18),
            (26_214_400_001, 19),
            (u64::MAX, 19),
        ] {
            let mut histogram = Histogram::default();
            histogram.observe(value_ns);
            assert_eq!(histogram.buckets[bucket], 1, "{value_ns} ns");
            assert_eq!((histogram.count, histogram.sum_ns), (1, value_ns));
        }
    }
}
