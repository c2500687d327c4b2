//! How much of the processors' time the host of a virtual machine gave to others: `steal` of proc(5).
//!
//! Of the time in which somebody here wanted to run: an idle machine has nothing to be taken away, and a lab is idle mostly.

use std::fs;

/// Time of all processors since the machine started, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Processors {
    /// All but idle time, what was stolen too.
    wanted: u64,
    stolen: u64,
}

impl Processors {
    /// Now; nothing where the kernel does not say.
    pub(super) fn read() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::parse(&text).unwrap_or_default()
    }

    /// `cpu  user nice system idle iowait irq softirq steal guest guest_nice`; guests are in user already.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let [user, nice, system, _idle, _iowait, irq, softirq, stolen, ..] = ticks[..] else {
            return None;
        };
        Some(Self {
            wanted: user + nice + system + irq + softirq + stolen,
            stolen,
        })
    }

    /// Percent of the time that was wanted since then.
    pub(super) fn stolen_since(self, before: Self) -> f64 {
        let wanted = self.wanted.saturating_sub(before.wanted).max(1);
        self.stolen.saturating_sub(before.stolen) as f64 * 100.0 / wanted as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_was_stolen() {
        let before = Processors::parse("cpu  10 0 10 70 9 0 0 10 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n");
        let after = Processors::parse("cpu  30 5 40 999 99 5 15 35 5 0\n");
        let percent = after.expect("a line").stolen_since(before.expect("a line"));
        assert!((percent - 25.0).abs() < f64::EPSILON, "{percent}");
        assert_eq!(Processors::parse("intr 1"), None);
    }
}
