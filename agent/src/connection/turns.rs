//! Durations of one connection's turns.
use sketches_ddsketch::{Config, DDSketch};

/// A sketch with 1 % error; nothing for the many connections that have no turns.
#[derive(Default)]
pub struct Turns(Option<Box<DDSketch>>);

/// Most bins of a sketch: 1 % steps over more than nine decades.
const BINS: u32 = 1_100;
const ERROR: f64 = 0.01;
/// Shorter ones are all the same.
const SHORTEST_US: f64 = 1.0;

impl Turns {
    /// One more turn.
    pub fn add(&mut self, turn_us: u32) {
        self.0
            .get_or_insert_with(|| Box::new(DDSketch::new(Config::new(ERROR, BINS, SHORTEST_US))))
            .add(f64::from(turn_us));
    }

    /// The quantile `q`, from 0 to 1, in microseconds: the smallest turn that no more than the rest exceeds (nearest
    /// rank), so that the upper quantiles of a few turns are the longest.
    pub fn quantile_us(&self, q: f64) -> Option<u64> {
        let sketch = self.0.as_ref()?;
        let last = sketch.count().saturating_sub(1);
        let rank = (q * sketch.count() as f64).ceil() - 1.0;
        // The sketch rounds `q * last` down.
        let q = if last == 0 { 0.0 } else { (rank + 0.5) / last as f64 };
        let quantile = sketch.quantile(q.clamp(0.0, 1.0)).ok().flatten()?;
        Some(quantile.round() as u64)
    }
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Turns").field(&self.quantile_us(0.5)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_turns() {
        let mut turns = Turns::default();
        turns.add(10_000);
        turns.add(50_000);
        let near = |q, exact: f64| (turns.quantile_us(q).expect("there are turns") as f64 / exact - 1.0).abs() <= 0.011;
        assert!(near(0.5, 10_000.0) && near(0.95, 50_000.0) && near(1.0, 50_000.0) && near(0.0, 10_000.0));
    }

    #[test]
    fn quantiles_within_one_percent() {
        let mut turns = Turns::default();
        assert_eq!(turns.quantile_us(0.5), None);
        for turn_us in 1..=1_000 {
            turns.add(turn_us * 100);
        }
        for (q, exact) in [(0.5, 50_000.0), (0.95, 95_000.0)] {
            let measured = turns.quantile_us(q).expect("there are turns") as f64;
            assert!((measured / exact - 1.0).abs() <= 0.011, "{q}: {measured}");
        }
    }
}
