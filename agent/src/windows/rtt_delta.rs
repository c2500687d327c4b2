//! By how much the RTT of a window is above the usual one. Pure.

/// A baseline is made of at least so many samples.
pub const LEAST_SAMPLES: u64 = 20;
/// A window with fewer samples is not judged: a lone one may be a delayed ACK.
const LEAST_JUDGED: u64 = 3;

/// What was usual before the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Baseline {
    /// Median over the last ten minutes of windows without an active rule; `None` without any.
    pub p50_ns: Option<u64>,
    /// Samples that it is the median of.
    pub samples: u64,
    /// The smallest sample ever, at connection scope: stands in for a median of too few samples.
    pub min_ns: Option<u64>,
}

/// A window that has been compared with its baseline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The window's median.
    pub p50_ns: u64,
    /// What it is compared with.
    pub baseline_ns: u64,
    /// Samples in the window.
    pub samples: u64,
    /// Segments sent again in the window.
    pub retransmits: u64,
}

impl Verdict {
    /// `rtt_delta`: how far the window is above the baseline; 0 below it.
    pub fn rtt_delta_ns(&self) -> u64 {
        self.p50_ns.saturating_sub(self.baseline_ns)
    }
}

impl Baseline {
    /// What a window is compared with; `None` when nothing is known that one could rely on.
    pub fn usual_ns(&self) -> Option<u64> {
        self.p50_ns.filter(|_| self.samples >= LEAST_SAMPLES).or(self.min_ns)
    }
}

/// Compares a window with its baseline; `None` where there is nothing to compare.
pub fn verdict(p50_ns: Option<u64>, samples: u64, retransmits: u64, baseline: Baseline) -> Option<Verdict> {
    let p50_ns = p50_ns.filter(|_| samples >= LEAST_JUDGED)?;
    Some(Verdict {
        p50_ns,
        baseline_ns: baseline.usual_ns()?,
        samples,
        retransmits,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas() {
        let check = |window: (Option<u64>, u64), p50: Option<u64>, samples, min: Option<u64>, expected: Option<u64>| {
            let baseline = Baseline {
                p50_ns: p50,
                samples,
                min_ns: min,
            };
            let delta = verdict(window.0, window.1, 7, baseline).map(|verdict| verdict.rtt_delta_ns());
            assert_eq!(delta, expected, "{window:?} {baseline:?}");
        };
        check((Some(80), 10), Some(5), 20, Some(4), Some(75));
        // Too few samples: the connection's own minimum.
        check((Some(80), 10), Some(5), 19, Some(4), Some(76));
        check((Some(80), 10), None, 0, Some(4), Some(76));
        // At destination scope there is none.
        check((Some(80), 10), Some(5), 19, None, None);
        // Faster than usual.
        check((Some(3), 10), Some(5), 100, Some(3), Some(0));
        // A lone sample, or none at all.
        check((Some(200), 1), Some(5), 100, Some(3), None);
        check((None, 0), Some(5), 100, Some(3), None);
    }
}
