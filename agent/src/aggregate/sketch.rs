//! Quantiles with at most 1 % error, from a mergeable sketch. Empty ones cost a pointer.
use sketches_ddsketch::{Config, DDSketch};

/// Quantiles, seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// Durations of one destination and phase.
#[derive(Default)]
pub(super) struct Sketch(Option<Box<DDSketch>>);

impl Sketch {
    pub(super) fn observe(&mut self, duration_ns: u64) {
        // The default configuration has a relative error of 1 % and at most 2048 bins.
        self.0
            .get_or_insert_with(|| Box::new(DDSketch::new(Config::defaults())))
            .add(duration_ns as f64 / 1e9);
    }

    /// So many of the same duration.
    pub(super) fn observe_many(&mut self, duration_ns: u64, count: u64) {
        self.0
            .get_or_insert_with(|| Box::new(DDSketch::new(Config::defaults())))
            .add_with_count(duration_ns as f64 / 1e9, count);
    }

    /// `None` without any observation.
    pub(super) fn quantiles(&self) -> Option<Quantiles> {
        let sketch = self.0.as_deref()?;
        let quantile = |q| sketch.quantile(q).ok().flatten();
        Some(Quantiles {
            p50: quantile(0.5)?,
            p95: quantile(0.95)?,
            p99: quantile(0.99)?,
        })
    }
}

impl std::fmt::Debug for Sketch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Sketch").field(&self.quantiles()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_one_percent() {
        let mut sketch = Sketch::default();
        assert_eq!(sketch.quantiles(), None);
        (1..=10_000_u64).for_each(|value| sketch.observe(value * 10_000));
        let Quantiles { p50, p95, p99 } = sketch.quantiles().expect("there are observations");
        for (measured, truth) in [(p50, 0.05), (p95, 0.095), (p99, 0.099)] {
            assert!((measured / truth - 1.0).abs() <= 0.01, "{measured} for {truth}");
        }
    }
}
