//! Programs that do nothing, on the hooks of hopline's: what a hook and its statistics cost with nothing behind them.
//!
//! The lab attaches them (`lab internal empty`); it and this file agree on their names.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::process::Running;

/// Starts the name of each of them.
pub(super) const PREFIX: &str = "empty_";

/// Attached while it lives.
#[derive(Debug)]
pub(super) struct Empties {
    _lab: Running,
}

impl Empties {
    /// Attaches one on each hook that the kernel takes; those on cgroups on `cgroup`. What it does not take goes to `said`.
    pub(super) fn attach(lab: &Path, cgroup: &Path, said: Stdio) -> Result<Self> {
        let mut command = Command::new(lab);
        command.args(["internal", "empty", "--cgroup"]).arg(cgroup);
        // They stay until its stdin closes, however this process ends.
        let mut running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(said))?;
        let stdout = running.child.stdout.take().context("stdout is piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "the lab could not attach empty programs");
        Ok(Self { _lab: running })
    }
}

/// Name of the empty program beside `program`: the kernel keeps 15 bytes, and the end tells more than the begin.
pub(super) fn name_beside(program: &str) -> String {
    const KEPT: usize = 9;
    format!("{PREFIX}{}", &program[program.len().saturating_sub(KEPT)..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_lab() {
        for (program, empty) in [
            ("sock_ops", "empty_sock_ops"),
            ("sched_process_fork", "empty_cess_fork"),
        ] {
            assert_eq!(name_beside(program), empty);
        }
    }
}
