//! Round-trip times of one connection between two of its reports. Pure.
use agent_ebpf::connection::RttSamples;

/// What was measured between two reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RttWindow {
    /// Mean of the samples in this window, nanoseconds.
    pub mean_ns: u64,
    /// Smallest sample of the connection so far (the kernel keeps no minimum per window), microseconds.
    pub min_us: u32,
}

/// The samples that came since `before`; `None` when there was none.
pub fn rtt_window(before: &RttSamples, now: &RttSamples) -> Option<RttWindow> {
    let count = u64::from(now.count.checked_sub(before.count)?);
    let sum_us = now.sum_us.checked_sub(before.sum_us)?;
    let mean_ns = sum_us.saturating_mul(1_000).checked_div(count)?;
    Some(RttWindow {
        mean_ns,
        min_us: now.min_us,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        let samples = |count, sum_us, min_us| RttSamples {
            sum_us,
            count,
            min_us,
            last_us: 0,
            reserved: 0,
        };
        let check = |before, now, expected: Option<(u64, u32)>| {
            let expected = expected.map(|(mean_ns, min_us)| RttWindow { mean_ns, min_us });
            assert_eq!(rtt_window(&before, &now), expected);
        };
        check(samples(0, 0, 0), samples(0, 0, 0), None);
        check(samples(0, 0, 0), samples(2, 300, 100), Some((150_000, 100)));
        check(samples(2, 300, 100), samples(2, 300, 100), None);
        check(samples(2, 300, 100), samples(5, 301, 1), Some((333, 1)));
        // A counter that went back belongs to another life of the socket.
        check(samples(5, 301, 1), samples(2, 300, 1), None);
    }
}
