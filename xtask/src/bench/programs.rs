//! What the kernel counts for each BPF program while `kernel.bpf_stats_enabled` is on, asked through bpftool.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::process;

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The kernel's statistics are on while it lives; then they are as they were.
#[derive(Debug)]
pub(super) struct Statistics {
    before: String,
}

impl Statistics {
    pub(super) fn enable() -> Result<Self> {
        let before = fs::read_to_string(SWITCH).with_context(|| format!("reading {SWITCH}"))?;
        fs::write(SWITCH, "1").with_context(|| format!("writing {SWITCH}"))?;
        Ok(Self { before })
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SWITCH, self.before.trim()) {
            eprintln!(
                "xtask: {SWITCH} could not be set back to {}: {error}",
                self.before.trim()
            );
        }
    }
}

/// One program, as `bpftool prog show -j` has it. Counters are left out until the first run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Program {
    id: u32,
    #[serde(default)]
    name: String,
    #[serde(default)]
    run_time_ns: u64,
    #[serde(default)]
    run_cnt: u64,
}

/// All programs of the kernel by id.
pub(super) fn list() -> Result<BTreeMap<u32, Program>> {
    let bpftool = process::find("bpftool").context("bpftool is not installed")?;
    let programs: Vec<Program> = serde_json::from_str(&process::output(
        Command::new(bpftool).args(["--json", "prog", "show"]),
    )?)?;
    Ok(programs.into_iter().map(|program| (program.id, program)).collect())
}

/// What ran between `before` and `after`, without the programs of `others`.
pub(super) fn difference(
    others: &BTreeMap<u32, Program>,
    before: &BTreeMap<u32, Program>,
    after: &BTreeMap<u32, Program>,
) -> Vec<Program> {
    let mut programs: Vec<Program> = after
        .values()
        .filter(|program| !others.contains_key(&program.id))
        .map(|program| {
            let (ns, runs) = before
                .get(&program.id)
                .map_or((0, 0), |before| (before.run_time_ns, before.run_cnt));
            let [run_time_ns, run_cnt] = [program.run_time_ns - ns, program.run_cnt - runs];
            Program {
                run_time_ns,
                run_cnt,
                ..program.clone()
            }
        })
        .collect();
    programs.sort_by_key(|program| std::cmp::Reverse(program.run_time_ns));
    programs
}

/// ns per run and runs per operation of each program, and their sum.
pub(super) fn table(programs: &[Program], operations: u32) -> String {
    let operations = f64::from(operations);
    let mut text = format!(
        "{:<28} {:>10} {:>16} {:>16}\n",
        "program", "ns/run", "runs/operation", "ns/operation"
    );
    let mut sum = 0.0;
    for Program {
        name,
        run_time_ns,
        run_cnt,
        ..
    } in programs
    {
        let [ns, runs] = [*run_time_ns as f64, *run_cnt as f64];
        let per_run = if *run_cnt == 0 {
            "-".to_owned()
        } else {
            format!("{:.0}", ns / runs)
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{name:<28} {per_run:>10} {:>16.3} {:>16.1}",
            runs / operations,
            ns / operations
        );
        sum += ns / operations;
    }
    let _ = writeln!(text, "{:<28} {:>10} {:>16} {sum:>16.1}", "all", "", "");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(rows: &[(u32, &str, u64, u64)]) -> BTreeMap<u32, Program> {
        let program = |&(id, name, run_time_ns, run_cnt): &(u32, &str, u64, u64)| {
            (
                id,
                Program {
                    id,
                    name: name.to_owned(),
                    run_time_ns,
                    run_cnt,
                },
            )
        };
        rows.iter().map(program).collect()
    }

    #[test]
    fn only_new_programs_and_new_runs_count() {
        let others = programs(&[(1, "foreign", 50, 5)]);
        let before = programs(&[(1, "foreign", 60, 6), (2, "connect4", 100, 1), (3, "idle", 0, 0)]);
        let after = programs(&[(1, "foreign", 90, 9), (2, "connect4", 700, 4), (3, "idle", 0, 0)]);
        let difference = difference(&others, &before, &after);
        assert_eq!(
            difference
                .iter()
                .map(|program| (program.name.as_str(), program.run_time_ns, program.run_cnt))
                .collect::<Vec<_>>(),
            [("connect4", 600, 3), ("idle", 0, 0)]
        );
        let table = table(&difference, 3);
        let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row, ["connect4", "200", "1.000", "200.0"]);
    }
}
