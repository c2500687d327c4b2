//! What became of each step, and the table and last line that `test` ends with.

use std::fmt::{self, Display, Formatter};

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    /// On a later run; with the reason why the first one failed.
    PassedAgain(String),
    /// With the reason.
    Failed(String),
    /// With the reason.
    Skipped(String),
}

/// All steps so far.
#[derive(Debug, Default)]
pub(super) struct Summary {
    /// Name, outcome, seconds.
    rows: Vec<(String, Outcome, f64)>,
}

impl Summary {
    pub(super) fn add(&mut self, name: String, outcome: Outcome, seconds: f64) {
        self.rows.push((name, outcome, seconds));
    }

    pub(super) fn failed(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Failed(_)))
    }

    fn count(&self, wanted: impl Fn(&Outcome) -> bool) -> usize {
        self.rows.iter().filter(|(_, outcome, _)| wanted(outcome)).count()
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (name, outcome, seconds) in &self.rows {
            match outcome {
                Outcome::Passed => writeln!(f, "passed   {seconds:>6.1} s  {name}")?,
                Outcome::PassedAgain(reason) => {
                    writeln!(
                        f,
                        "AGAIN    {seconds:>6.1} s  {name}: passed on a later run, the first: {reason}"
                    )?;
                }
                Outcome::Failed(reason) => writeln!(f, "FAILED   {seconds:>6.1} s  {name}: {reason}")?,
                Outcome::Skipped(reason) => writeln!(f, "skipped           {name}: {reason}")?,
            }
        }
        let passed = self.count(|outcome| *outcome == Outcome::Passed);
        let skipped = self.count(|outcome| matches!(outcome, Outcome::Skipped(_)));
        let again = self.count(|outcome| matches!(outcome, Outcome::PassedAgain(_)));
        write!(f, "{} passed", passed + again)?;
        if again > 0 {
            write!(f, " ({again} on a later run)")?;
        }
        write!(f, ", {} failed, {skipped} skipped", self.failed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_steps() {
        let mut summary = Summary::default();
        summary.add("format".to_owned(), Outcome::Passed, 0.5);
        summary.add(
            "vm 6.1".to_owned(),
            Outcome::Skipped("no kernel cached".to_owned()),
            0.0,
        );
        summary.add(
            "lab churn".to_owned(),
            Outcome::Failed("exit status: 1".to_owned()),
            12.0,
        );
        let text = summary.to_string();
        assert_eq!(text.lines().last(), Some("1 passed, 1 failed, 1 skipped"));
        assert!(text.contains("skipped           vm 6.1: no kernel cached"), "{text}");
        assert_eq!(summary.failed(), 1);
        summary.add(
            "lab rtt".to_owned(),
            Outcome::PassedAgain("exit status: 1".to_owned()),
            70.0,
        );
        let text = summary.to_string();
        assert_eq!(
            text.lines().last(),
            Some("2 passed (1 on a later run), 1 failed, 1 skipped")
        );
        assert!(
            text.contains("AGAIN      70.0 s  lab rtt: passed on a later run"),
            "{text}"
        );
    }
}
