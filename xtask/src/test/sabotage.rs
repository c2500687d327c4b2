//! Falsified output that the lab must catch: a scenario that passes all the same compares nothing.

use std::fs::File;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::Result;

use super::steps::{SCENARIO, scenarios};
use super::summary::Outcome;
use crate::process;

/// One of each kind here; `cargo xtask lab NAME --sabotage KIND` has the others.
const SABOTAGE: &[(&str, &str)] = &[
    ("connect", "shift"),
    ("churn", "swap"),
    ("failures", "drop"),
    ("stuck", "drop"),
    ("states", "drop"),
    ("fallback", "drop"),
    ("handshakes", "shift"),
    ("alerts", "swap"),
    ("compare", "swap"),
    ("budget", "drop"),
    ("timeline", "shift"),
    ("names", "swap"),
    ("hostile", "drop"),
    ("dns", "swap"),
    ("rtt", "shift"),
    ("idle", "shift"),
    ("busy", "shift"),
    ("retransmits", "drop"),
    ("spike", "drop"),
    ("kube-api", "swap"),
    ("pods", "swap"),
    ("path", "shift"),
    ("ecmp", "drop"),
    ("route-change", "drop"),
    ("proxy-chain", "swap"),
    ("tlsfail", "swap"),
    ("tls-safety", "drop"),
];

/// These runs wait most of the time, and nobody holds hopline to milliseconds in them: several at once.
const AT_ONCE: usize = 3;

/// Runs all; `command` makes the lab's command of some words.
pub(super) fn all_must_fail(command: &(impl Fn(&[&str]) -> Command + Sync)) -> Outcome {
    let (todo, missed) = (Mutex::new(SABOTAGE.iter()), Mutex::new(Vec::new()));
    let next = || todo.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((name, kind)) = next() {
                    if let Some(complaint) = must_fail(command, name, kind) {
                        println!("=== {complaint}");
                        missed.lock().unwrap_or_else(PoisonError::into_inner).push(complaint);
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if missed.is_empty() {
        Outcome::Passed
    } else {
        Outcome::Failed(missed.join("; "))
    }
}

/// A falsified run ends with 1 and says FAIL; gives a complaint about another end.
fn must_fail(command: &impl Fn(&[&str]) -> Command, name: &str, kind: &str) -> Option<String> {
    let begin = Instant::now();
    let mut command = command(&[name, "--sabotage", kind]);
    let short = scenarios().find(|(scenario, _)| *scenario == name);
    command.args(short.map_or(&[][..], |(_, options)| options));
    let shown = format!("lab {name} --sabotage {kind}");
    match complaint(&mut command) {
        Ok(None) => {
            println!("{shown}: caught ({:.1} s)", begin.elapsed().as_secs_f64());
            None
        }
        Ok(Some(complaint)) => Some(format!("{shown}: {complaint}")),
        Err(error) => Some(format!("{shown}: {error:#}")),
    }
}

/// Trouble means that the scenario did not get to its verdict, which proves nothing.
fn complaint(command: &mut Command) -> Result<Option<String>> {
    let directory = tempfile::tempdir()?;
    let [output, errors] = ["output", "errors"].map(|name| directory.path().join(name));
    command.stdout(File::create(&output)?).stderr(File::create(&errors)?);
    let status = process::run_for(command, SCENARIO)?;
    let output = std::fs::read_to_string(output)?;
    let last = output.lines().last().unwrap_or_default();
    let trouble = output.lines().find(|line| line.starts_with("trouble "));
    let caught = status.code() == Some(1) && last.starts_with("FAIL") && trouble.is_none();
    if !caught {
        println!("{}", std::fs::read_to_string(errors)?);
    }
    Ok((!caught).then(|| {
        format!(
            "{status}, last line `{last}`, {}",
            trouble.unwrap_or("no trouble").trim()
        )
    }))
}
