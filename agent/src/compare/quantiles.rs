//! Exact quantiles of a few durations: a sketch's error of 1 % is for those that are too many to keep.

/// Quantiles, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50: u64,
    /// 95th percentile.
    pub p95: u64,
}

impl Quantiles {
    /// By nearest rank: each is a duration that occurred. `None` without any.
    pub(super) fn of(durations_us: &mut [u64]) -> Option<Self> {
        durations_us.sort_unstable();
        let rank = |percent: usize| (durations_us.len() * percent).div_ceil(100).saturating_sub(1);
        Some(Self {
            p50: *durations_us.get(rank(50))?,
            p95: *durations_us.get(rank(95))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rank() {
        let check = |mut durations: Vec<u64>, expected: Option<(u64, u64)>| {
            let found = Quantiles::of(&mut durations).map(|quantiles| (quantiles.p50, quantiles.p95));
            assert_eq!(found, expected, "{durations:?}");
        };
        check(vec![], None);
        check(vec![7], Some((7, 7)));
        check(vec![2, 1], Some((1, 2)));
        check(vec![3, 1, 2], Some((2, 3)));
        check((1..=20).rev().collect(), Some((10, 19)));
        check((1..=100).collect(), Some((50, 95)));
    }
}
