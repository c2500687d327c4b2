//! Falsified output that the lab must catch: a scenario that passes all the same compares nothing.

use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use super::judged::judged;
use super::scenario;
use super::steps::scenarios;
use super::summary::Outcome;

/// One of each kind here; `cargo xtask lab NAME --sabotage KIND` has the others.
const SABOTAGE: &[(&str, &str)] = &[
    ("connect", "shift"),
    ("churn", "swap"),
    ("close-storm", "drop"),
    ("failures", "drop"),
    ("stuck", "drop"),
    ("states", "drop"),
    ("fallback", "drop"),
    ("handshakes", "shift"),
    ("alerts", "swap"),
    ("compare", "swap"),
    ("bounds", "drop"),
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
    ("programs", "drop"),
    ("proxy-chain", "swap"),
    ("tlsfail", "swap"),
    ("tls-safety", "drop"),
    ("safe-mode", "drop"),
    ("starve", "drop"),
    ("preempt-race", "drop"),
];

/// These runs wait most of the time, and nobody holds hopline to milliseconds in them: several at once.
const AT_ONCE: usize = 3;

/// Runs all; `command` makes the lab's command of some words.
pub(super) fn all_must_fail(command: &(impl Fn(&[&str]) -> Command + Sync)) -> Outcome {
    let (todo, found) = (Mutex::new(SABOTAGE.iter()), Mutex::new(Vec::new()));
    let next = || todo.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((name, kind)) = next() {
                    let outcome = judged(|| run(command, name, kind));
                    found.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let (mut failed, mut skipped) = (Vec::new(), Vec::new());
    for outcome in found.into_inner().unwrap_or_else(PoisonError::into_inner) {
        match outcome {
            Outcome::Passed | Outcome::PassedAgain(_) => {}
            Outcome::Failed(reason) => failed.push(reason),
            Outcome::Skipped(reason) => skipped.push(reason),
        }
    }
    match (failed.is_empty(), skipped.is_empty()) {
        (false, _) => Outcome::Failed(failed.join("; ")),
        (true, false) => Outcome::Skipped(skipped.join("; ")),
        (true, true) => Outcome::Passed,
    }
}

/// The scenario in its short form, falsified.
fn run(command: &impl Fn(&[&str]) -> Command, name: &str, kind: &str) -> Outcome {
    let begin = Instant::now();
    let mut command = command(&[name, "--sabotage", kind]);
    let short = scenarios().find(|(scenario, _)| *scenario == name);
    command.args(short.map_or(&[][..], |(_, options)| options));
    let shown = format!("lab {name} --sabotage {kind}");
    match scenario::must_fail(&mut command) {
        Outcome::Failed(complaint) => Outcome::Failed(format!("{shown}: {complaint}")),
        outcome => {
            println!("{shown}: caught ({:.1} s)", begin.elapsed().as_secs_f64());
            outcome
        }
    }
}
