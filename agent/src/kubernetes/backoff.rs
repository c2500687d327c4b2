//! Pauses between attempts: each twice as long as the last, up to half a minute, and by chance up to half shorter, so that
//! the agents of many nodes do not come back all at once.
use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// Counts the failures since the last success.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It works again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures += 1;
        // The keys of a new hasher are random.
        let chance = (RandomState::new().hash_one(self.failures) >> 40) as f64 / f64::from(1 << 24);
        whole.mul_f64(1.0 - chance / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_varies_and_starts_again() {
        let mut backoff = Backoff::default();
        for whole_ms in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            let pause = backoff.next();
            let whole = Duration::from_millis(whole_ms);
            assert!(pause <= whole && pause >= whole / 2, "{pause:?} of {whole:?}");
        }
        (0..100).for_each(|_| assert!(backoff.next() <= LONGEST));
        let pauses: std::collections::HashSet<Duration> = (0..20).map(|_| backoff.next()).collect();
        assert!(pauses.len() > 10, "by chance");
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
