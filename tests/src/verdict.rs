//! What was compared in a scenario, as a table, as JSON, and as one line PASS or FAIL.
//!
//! A scenario that compared nothing fails: silence is no proof.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    #[serde(flatten)]
    finding: Finding,
    /// `None` where nothing was to be judged.
    ok: Option<bool>,
    /// Printed only when it is wrong.
    #[serde(skip)]
    folded: bool,
}

/// Objects with `measured` and `truth` can be judged again by whoever reads the JSON.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Finding {
    Count {
        measured: u64,
        truth: u64,
    },
    Time {
        measured: f64,
        truth: f64,
        unit: &'static str,
        tolerance_us: f64,
    },
    Text {
        measured: String,
        truth: String,
    },
    AtMost {
        measured: f64,
        at_most: f64,
        unit: &'static str,
    },
    AtLeast {
        measured: f64,
        at_least: f64,
        unit: &'static str,
    },
    Note {
        note: f64,
        unit: &'static str,
    },
    Skipped {
        skipped: String,
    },
    Trouble {
        trouble: String,
    },
}

/// All rows of one scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    scenario: &'static str,
    rows: Vec<Row>,
    #[serde(skip)]
    folding: bool,
}

impl Verdict {
    pub(crate) fn new(scenario: &'static str) -> Self {
        Self {
            scenario,
            rows: Vec::new(),
            folding: false,
        }
    }

    fn push(&mut self, name: impl Into<String>, finding: Finding, ok: Option<bool>) {
        self.rows.push(Row {
            name: name.into(),
            finding,
            ok,
            folded: self.folding,
        });
    }

    /// What `fill` adds is judged and written as JSON, but printed only where it is wrong: for thousands of rows.
    pub(crate) fn fold<T>(&mut self, fill: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.folding, true);
        let filled = fill(self);
        self.folding = before;
        filled
    }

    /// A count must be exact.
    pub(crate) fn count(&mut self, name: impl Into<String>, measured: u64, truth: u64) {
        self.push(name, Finding::Count { measured, truth }, Some(measured == truth));
    }

    /// A time must be within `tolerance_us` of the truth. NaN (nothing measured) is not.
    pub(crate) fn time_us(&mut self, name: impl Into<String>, measured: f64, truth: f64, tolerance_us: f64) {
        let ok = (measured - truth).abs() <= tolerance_us;
        self.push(
            name,
            Finding::Time {
                measured,
                truth,
                unit: "us",
                tolerance_us,
            },
            Some(ok),
        );
    }

    /// A word must be the same.
    pub(crate) fn text(&mut self, name: impl Into<String>, measured: impl Into<String>, truth: impl Into<String>) {
        let (measured, truth) = (measured.into(), truth.into());
        let ok = measured == truth;
        self.push(name, Finding::Text { measured, truth }, Some(ok));
    }

    pub(crate) fn at_most(&mut self, name: impl Into<String>, measured: f64, at_most: f64, unit: &'static str) {
        self.push(
            name,
            Finding::AtMost {
                measured,
                at_most,
                unit,
            },
            Some(measured <= at_most),
        );
    }

    pub(crate) fn at_least(&mut self, name: impl Into<String>, measured: f64, at_least: f64, unit: &'static str) {
        self.push(
            name,
            Finding::AtLeast {
                measured,
                at_least,
                unit,
            },
            Some(measured >= at_least),
        );
    }

    /// Printed, not judged.
    pub(crate) fn note(&mut self, name: impl Into<String>, note: f64, unit: &'static str) {
        self.push(name, Finding::Note { note, unit }, None);
    }

    /// What this machine cannot show, and why.
    pub(crate) fn skip(&mut self, name: impl Into<String>, reason: impl Into<String>) {
        self.push(name, Finding::Skipped { skipped: reason.into() }, None);
    }

    /// The scenario could not be carried through.
    pub(crate) fn trouble(&mut self, trouble: impl Into<String>) {
        self.push(
            "trouble",
            Finding::Trouble {
                trouble: trouble.into(),
            },
            Some(false),
        );
    }

    pub(crate) fn passed(&self) -> bool {
        self.rows.iter().any(|row| row.ok.is_some()) && self.rows.iter().all(|row| row.ok != Some(false))
    }

    /// The table and the last line.
    pub(crate) fn print(&self) {
        let shown = || self.rows.iter().filter(|row| !row.folded || row.ok == Some(false));
        let width = shown().map(|row| row.name.len()).max().unwrap_or_default().max(8);
        println!(
            "{:width$}  {:>16}  {:>16}  {:>14}",
            "compared", "measured", "truth", "deviation"
        );
        for row in shown() {
            let mark = if row.ok == Some(false) { "  <- FAIL" } else { "" };
            println!("{:width$}  {}{mark}", row.name, row.finding.columns());
        }
        let count = |wanted: Option<bool>| self.rows.iter().filter(|row| row.ok == wanted).count();
        let skipped = self
            .rows
            .iter()
            .filter(|row| matches!(row.finding, Finding::Skipped { .. }))
            .count();
        let (right, wrong) = (count(Some(true)), count(Some(false)));
        let word = if self.passed() { "PASS" } else { "FAIL" };
        println!(
            "{word} {}: {right} right, {wrong} wrong, {skipped} skipped",
            self.scenario
        );
    }

    pub(crate) fn write_json(&self, file: &Path) -> Result<()> {
        #[derive(Serialize)]
        struct Document<'a> {
            verdict: &'static str,
            #[serde(flatten)]
            all: &'a Verdict,
        }
        let document = Document {
            verdict: if self.passed() { "PASS" } else { "FAIL" },
            all: self,
        };
        let text = serde_json::to_string_pretty(&document)? + "\n";
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))
    }
}

impl Finding {
    fn columns(&self) -> String {
        match self {
            Self::Count { measured, truth } => {
                format!(
                    "{measured:>16}  {truth:>16}  {:>+14}",
                    i128::from(*measured) - i128::from(*truth)
                )
            }
            Self::Time {
                measured, truth, unit, ..
            } => format!(
                "{:>16}  {:>16}  {:>14}",
                format!("{measured:.1} {unit}"),
                format!("{truth:.1} {unit}"),
                format!("{:+.1} {unit}", measured - truth)
            ),
            Self::Text { measured, truth } => format!("{measured:>16}  {truth:>16}"),
            Self::AtMost {
                measured,
                at_most,
                unit,
            } => {
                format!(
                    "{:>16}  {:>16}",
                    format!("{measured:.2} {unit}"),
                    format!("<= {at_most:.2}")
                )
            }
            Self::AtLeast {
                measured,
                at_least,
                unit,
            } => {
                format!(
                    "{:>16}  {:>16}",
                    format!("{measured:.2} {unit}"),
                    format!(">= {at_least:.2}")
                )
            }
            Self::Note { note, unit } => format!("{:>16}", format!("{note:.2} {unit}")),
            Self::Skipped { skipped } => format!("skipped: {skipped}"),
            Self::Trouble { trouble } => trouble.clone(),
        }
    }
}

/// Nearest-rank percentile; NaN of nothing. The same rule is used for measured and true values.
pub(crate) fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * percent).div_ceil(100);
    rank.checked_sub(1).map_or(f64::NAN, |index| values[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_compared_is_no_pass() {
        let mut verdict = Verdict::new("x");
        verdict.note("rate", 1.0, "1/s");
        verdict.skip("mptcp", "not in this kernel");
        assert!(!verdict.passed());
        verdict.count("seen", 3, 3);
        assert!(verdict.passed());
        verdict.time_us("tcp p50", f64::NAN, 1.0, 100.0);
        assert!(!verdict.passed());
    }

    #[test]
    fn nearest_rank() {
        let mut values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(
            (percentile(&mut values, 50), percentile(&mut values, 95)),
            (100.0, 190.0)
        );
        assert!(percentile(&mut [], 50).is_nan());
    }

    #[test]
    fn folded_rows_are_judged() {
        let mut verdict = Verdict::new("x");
        verdict.fold(|verdict| verdict.count("seen", 1, 2));
        verdict.count("after", 2, 2);
        assert!(!verdict.passed());
        assert_eq!(
            verdict.rows.iter().map(|row| row.folded).collect::<Vec<_>>(),
            [true, false]
        );
    }
}
