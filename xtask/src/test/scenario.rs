//! Runs of the lab: one that must pass, and one whose falsified output it must catch.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::Result;

use super::summary::Outcome;
use crate::process;

const LIMIT: Duration = Duration::from_mins(5);
/// Of the rows that are wrong, so many are named in the summary.
const NAMED: usize = 3;

/// Passes when the scenario does; a failure names the first rows that are wrong.
pub(super) fn must_pass(command: &mut Command) -> Outcome {
    let (status, output) = match run(command) {
        Ok(ran) => ran,
        Err(error) => return Outcome::Failed(format!("{error:#}")),
    };
    print!("{output}");
    if status.success() {
        return Outcome::Passed;
    }
    Outcome::Failed(format!("{status}{}", wrong_rows(&output)))
}

fn wrong_rows(output: &str) -> String {
    let rows = || output.lines().filter_map(|line| line.strip_suffix("  <- FAIL"));
    let named = rows()
        .take(NAMED)
        .map(|row| row.split_whitespace().collect::<Vec<_>>().join(" "));
    let more = rows().count().saturating_sub(NAMED);
    let more = (more > 0).then(|| format!("{more} more"));
    named.chain(more).map(|part| "; ".to_owned() + &part).collect()
}

/// Passes when the scenario ends with 1 and says FAIL. Trouble means that it did not get to its verdict, which proves nothing.
pub(super) fn must_fail(command: &mut Command) -> Outcome {
    match complaint(command) {
        Ok(None) => Outcome::Passed,
        Ok(Some(complaint)) => Outcome::Failed(complaint),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

fn complaint(command: &mut Command) -> Result<Option<String>> {
    let errors = tempfile::tempfile()?;
    let (status, output) = run(command.stderr(errors.try_clone()?))?;
    let last = output.lines().last().unwrap_or_default();
    let trouble = output.lines().find(|line| line.starts_with("trouble "));
    if status.code() == Some(1) && last.starts_with("FAIL") && trouble.is_none() {
        return Ok(None);
    }
    println!("{output}{}", read(errors)?);
    let trouble = trouble.unwrap_or("no trouble").trim();
    Ok(Some(format!("{status}, last line `{last}`, {trouble}")))
}

/// To its end, with what it printed.
fn run(command: &mut Command) -> Result<(ExitStatus, String)> {
    let output = tempfile::tempfile()?;
    let status = process::run_for(command.stdout(output.try_clone()?), LIMIT)?;
    Ok((status, read(output)?))
}

fn read(mut file: File) -> Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failure_names_the_first_wrong_rows() {
        let table = "right  1  1\na row:  2   3  <- FAIL\nb  <- FAIL\nc  <- FAIL\nd  <- FAIL\nFAIL x";
        let outcome = must_pass(&mut shell(&format!("echo '{table}'; exit 1")));
        let reason = "exit status: 1; a row: 2 3; b; c; 1 more".to_owned();
        assert_eq!(outcome, Outcome::Failed(reason));
        assert_eq!(must_pass(&mut shell("echo PASS x")), Outcome::Passed);
    }

    #[test]
    fn only_a_verdict_catches() {
        assert_eq!(must_fail(&mut shell("echo FAIL x; exit 1")), Outcome::Passed);
        for script in [
            "echo PASS x",
            "echo FAIL x",
            "echo FAIL x; exit 101",
            "echo 'trouble  no agent'; echo FAIL x; exit 1",
        ] {
            let outcome = must_fail(&mut shell(script));
            assert!(matches!(outcome, Outcome::Failed(_)), "{script}: {outcome:?}");
        }
    }
}
