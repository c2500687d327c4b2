//! What is run on each kernel, and the words that ask for it: `close-storm --minutes 5 connect` is two jobs, one with
//! options of its own. Pure.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};

use super::{FUNCTIONS, SCENARIOS, VM_ONLY};

/// Looks at the kernel; always the first.
const DOCTOR: &str = "doctor";
/// Options of the lab that take no value.
const FLAGS: [&str; 1] = ["--short"];
/// Seconds that one job may take under emulation, beside what its options ask for.
const LIMIT: u64 = 900;

/// All of a run.
#[derive(Debug)]
pub(super) struct Jobs {
    pub(super) hopline: PathBuf,
    pub(super) lab: PathBuf,
    /// In the order in which they run.
    pub(super) list: Vec<Job>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `hopline doctor`.
    Doctor,
    /// A function of the guest's script.
    Function,
    /// A scenario of the lab, with these options.
    Scenario(Vec<String>),
}

impl Job {
    fn doctor() -> Self {
        Self {
            name: DOCTOR,
            kind: Kind::Doctor,
        }
    }

    /// As it runs when no options are given.
    fn of(name: &str) -> Option<Self> {
        if name == DOCTOR {
            return Some(Self::doctor());
        }
        if let Some((name, _)) = FUNCTIONS.iter().find(|(known, _)| *known == name) {
            let kind = Kind::Function;
            return Some(Self { name, kind });
        }
        let (name, options) = SCENARIOS.iter().chain(VM_ONLY).find(|(known, _)| *known == name)?;
        let kind = Kind::Scenario(options.iter().map(ToString::to_string).collect());
        Some(Self { name, kind })
    }

    /// The longest that it may take, in seconds.
    pub(super) fn limit(&self) -> u64 {
        LIMIT + 60 * self.minutes()
    }

    /// The minutes that it is asked to last.
    pub(super) fn minutes(&self) -> u64 {
        let Kind::Scenario(options) = &self.kind else { return 0 };
        let mut words = options.iter();
        while let Some(word) = words.next() {
            let value = if word == "--minutes" {
                words.next().map(String::as_str)
            } else {
                word.strip_prefix("--minutes=")
            };
            if let Some(minutes) = value.and_then(|value| value.parse().ok()) {
                return minutes;
            }
        }
        0
    }
}

/// The jobs that these words ask for; without any, all that fit an emulated machine.
pub(super) fn asked_for(words: &[String]) -> Result<Vec<Job>> {
    let mut jobs = vec![Job::doctor()];
    if words.is_empty() {
        let usual = FUNCTIONS.iter().filter(|(_, usual)| *usual).map(|(name, _)| *name);
        let scenarios = SCENARIOS.iter().map(|(name, _)| *name);
        jobs.extend(usual.chain(scenarios).filter_map(Job::of));
        return Ok(jobs);
    }
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let mut job = Job::of(word).with_context(|| {
            let known = FUNCTIONS.iter().map(|(name, _)| *name);
            let known: Vec<&str> = known
                .chain(SCENARIOS.iter().chain(VM_ONLY).map(|(name, _)| *name))
                .collect();
            format!(
                "no scenario {word} for the VMs; there are: {DOCTOR}, {}",
                known.join(", ")
            )
        })?;
        let mut options = Vec::new();
        while let Some(option) = words.next_if(|word| word.starts_with("--")) {
            options.push(option.clone());
            if !FLAGS.contains(&option.as_str()) && !option.contains('=') {
                options.extend(words.next().cloned());
            }
        }
        if !options.is_empty() {
            // Instead of the usual ones: the lab takes none twice.
            match &mut job.kind {
                Kind::Scenario(usual) => *usual = options,
                Kind::Doctor | Kind::Function => bail!("{word} has no options"),
            }
        }
        if job.kind == Kind::Doctor {
            continue;
        }
        ensure!(
            jobs.iter().all(|other| other.name != job.name),
            "{word} is named twice: a run keeps one result of each"
        );
        jobs.push(job);
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, options and limits of all jobs but the doctor, as one line.
    fn check(words: &str, expected: Result<&str, &str>) {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let jobs = asked_for(&words).map(|jobs| {
            assert_eq!(jobs[0], Job::doctor());
            let shown = jobs[1..].iter().map(|job| match &job.kind {
                Kind::Scenario(options) => format!("{}{options:?}{}", job.name, job.limit()),
                _ => job.name.to_owned(),
            });
            shown.collect::<Vec<_>>().join(" ")
        });
        match (jobs, expected) {
            (Ok(jobs), Ok(expected)) => assert_eq!(jobs, expected),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (jobs, _) => panic!("{words:?}: {jobs:?}"),
        }
    }

    #[test]
    fn options_belong_to_the_scenario_before_them() {
        check("connect stuck", Ok("connect[]900 stuck[]900"));
        check(
            "close-storm --minutes 30 connect",
            Ok("close-storm[\"--minutes\", \"30\"]2700 connect[]900"),
        );
        check(
            "close-storm --sabotage drop --minutes=5 timeline --short names",
            Ok(
                "close-storm[\"--sabotage\", \"drop\", \"--minutes=5\"]1200 timeline[\"--short\"]900 names[\"--short\"]900",
            ),
        );
        check("flood --seconds 60", Ok("flood[\"--seconds\", \"60\"]900"));
        check("doctor", Ok(""));
        check("whole_node second_boot", Ok("whole_node second_boot"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        check("conect", Err("no scenario conect"));
        check("close-storm --minutes 5 conect", Err("no scenario conect"));
        check("--minutes 5", Err("no scenario --minutes"));
        check("doctor --short", Err("doctor has no options"));
        check("rtt rtt", Err("rtt is named twice"));
    }

    #[test]
    fn without_words_all_that_fit_run() {
        let jobs = asked_for(&[]).expect("no words are no error");
        let named = |name: &str| jobs.iter().any(|job| job.name == name);
        assert!(SCENARIOS.iter().all(|(name, _)| named(name)) && named("whole_node"));
        assert!(VM_ONLY.iter().all(|(name, _)| !named(name)) && !named("second_boot"));
    }
}
