//! Scenarios hold hopline to milliseconds, on machines that others use too: one that fails runs again, and the summary tells
//! of it. Where the host took the processors away, clocks and timers were no truth: such a failure proves nothing.

use super::processors::Processors;
use super::summary::Outcome;

/// Percent of the processor time wanted here that the host of a virtual machine may give to others while times are judged.
const MOST_STOLEN: f64 = 20.0;

/// Runs until it passes or fails twice in the same way: with the processors that it wanted, a failure; without, no verdict.
pub(super) fn judged(mut run: impl FnMut() -> Outcome) -> Outcome {
    let mut failures = Failures::default();
    loop {
        let before = Processors::read();
        let outcome = run();
        let stolen = Processors::read().stolen_since(before);
        if let Outcome::Failed(reason) = &outcome {
            println!("=== FAILED: {reason}; the host took {stolen:.0} % of the processor time wanted here");
        }
        if let Some(outcome) = failures.after(outcome, stolen) {
            return outcome;
        }
    }
}

/// How often a step failed so far.
#[derive(Default)]
struct Failures {
    calm: usize,
    /// Percent, of each that was not calm.
    stolen: Vec<String>,
    first: Option<String>,
}

impl Failures {
    /// What all runs are together, when no more is needed.
    fn after(&mut self, outcome: Outcome, stolen: f64) -> Option<Outcome> {
        let reason = match (outcome, self.first.take()) {
            (Outcome::Failed(reason), first) => {
                self.first = first.or_else(|| Some(reason.clone()));
                reason
            }
            (Outcome::Passed, Some(first)) => return Some(Outcome::PassedAgain(first)),
            (outcome, _) => return Some(outcome),
        };
        if stolen < MOST_STOLEN {
            self.calm += 1;
        } else {
            self.stolen.push(format!("{stolen:.0}"));
        }
        if self.calm == 2 {
            return Some(Outcome::Failed(reason));
        }
        (self.stolen.len() == 2).then(|| {
            let percent = self.stolen.join(" and ");
            Outcome::Skipped(format!(
                "no verdict: failed while the host took {percent} % of the processor time wanted here: {reason}"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What runs that fail are together, by the percent stolen in each.
    fn failing(stolen: &[f64]) -> Option<Outcome> {
        let mut failures = Failures::default();
        let outcomes = stolen
            .iter()
            .map(|stolen| failures.after(Outcome::Failed("x".to_owned()), *stolen));
        outcomes.last().flatten()
    }

    #[test]
    fn only_theft_excuses_and_only_calm_condemns() {
        let failed = Some(Outcome::Failed("x".to_owned()));
        assert_eq!(failing(&[0.0]), None);
        assert_eq!(failing(&[90.0]), None);
        assert_eq!(failing(&[0.0, 19.0]), failed);
        assert_eq!(failing(&[90.0, 19.0]), None);
        assert_eq!(failing(&[90.0, 19.0, 19.0]), failed);
        assert!(matches!(failing(&[20.0, 20.0]), Some(Outcome::Skipped(_))));
        assert!(matches!(failing(&[19.0, 20.0, 20.0]), Some(Outcome::Skipped(_))));
    }

    #[test]
    fn what_passes_in_the_end_tells_why_it_failed_first() {
        let mut failures = Failures::default();
        assert_eq!(failures.after(Outcome::Failed("first".to_owned()), 0.0), None);
        assert_eq!(failures.after(Outcome::Failed("second".to_owned()), 90.0), None);
        let outcome = failures.after(Outcome::Passed, 0.0);
        assert_eq!(outcome, Some(Outcome::PassedAgain("first".to_owned())));
    }

    #[test]
    fn what_passes_runs_once() {
        let mut runs = 0;
        let outcome = judged(|| {
            runs += 1;
            Outcome::Passed
        });
        assert_eq!((outcome, runs), (Outcome::Passed, 1));
    }
}
