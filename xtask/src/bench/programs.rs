//! What the kernel counts for each BPF program while `kernel.bpf_stats_enabled` is on, asked through bpftool.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::empty;
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

/// What the programs of `before` ran until `after`, without those of `others` and those that did not run. A program
/// that came or went in between is somebody else's.
pub(super) fn difference(
    others: &BTreeMap<u32, Program>,
    before: &BTreeMap<u32, Program>,
    after: &BTreeMap<u32, Program>,
) -> Vec<Program> {
    let mut programs: Vec<Program> = before
        .values()
        .filter(|program| !others.contains_key(&program.id))
        .filter_map(|before| {
            let after = after.get(&before.id)?;
            Some(Program {
                run_time_ns: after.run_time_ns - before.run_time_ns,
                run_cnt: after.run_cnt - before.run_cnt,
                ..after.clone()
            })
        })
        .filter(|program| program.run_cnt > 0)
        .collect();
    programs.sort_by_key(|program| std::cmp::Reverse(program.run_time_ns));
    programs
}

impl Program {
    fn ns_per_run(&self) -> f64 {
        self.run_time_ns as f64 / self.run_cnt as f64
    }
}

/// Each program beside the empty one on its hook, per run and per operation, and the sums. Without an empty one
/// nothing is taken off.
pub(super) fn table(programs: &[Program], operations: u32) -> String {
    let operations = f64::from(operations);
    let mut text = format!(
        "{:<26} {:>8} {:>14} {:>8} {:>16} {:>14} {:>16}\n",
        "program", "ns/run", "empty ns/run", "ratio", "runs/operation", "ns/operation", "net of empty"
    );
    let [mut sum, mut net_sum] = [0.0; 2];
    for program in programs
        .iter()
        .filter(|program| !program.name.starts_with(empty::PREFIX))
    {
        let beside = empty::name_beside(&program.name);
        let empty = programs
            .iter()
            .find(|other| other.name == beside)
            .map(Program::ns_per_run);
        let per_run = program.ns_per_run();
        let runs = program.run_cnt as f64 / operations;
        let [all, net] = [per_run * runs, (per_run - empty.unwrap_or(0.0)) * runs];
        let [empty_column, ratio] = empty.map_or(["-".to_owned(), "-".to_owned()], |empty| {
            [format!("{empty:.0}"), format!("{:.2}", per_run / empty)]
        });
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<26} {per_run:>8.0} {empty_column:>14} {ratio:>8} {runs:>16.3} {all:>14.1} {net:>16.1}",
            program.name
        );
        sum += all;
        net_sum += net;
    }
    let _ = writeln!(
        text,
        "{:<26} {:>8} {:>14} {:>8} {:>16} {sum:>14.1} {net_sum:>16.1}",
        "all", "", "", "", ""
    );
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
    fn only_runs_of_own_programs_between_the_two_count() {
        let others = programs(&[(1, "foreign", 50, 5)]);
        let before = programs(&[
            (1, "foreign", 60, 6),
            (2, "connect4", 100, 1),
            (3, "idle", 0, 0),
            (4, "gone", 9, 9),
        ]);
        let after = programs(&[
            (1, "foreign", 90, 9),
            (2, "connect4", 700, 4),
            (3, "idle", 0, 0),
            (5, "new", 9, 9),
        ]);
        let ran: Vec<(String, u64, u64)> = difference(&others, &before, &after)
            .into_iter()
            .map(|program| (program.name, program.run_time_ns, program.run_cnt))
            .collect();
        assert_eq!(ran, [("connect4".to_owned(), 600, 3)]);
    }

    #[test]
    fn a_program_stands_beside_the_empty_one_of_its_hook() {
        let ran = programs(&[
            (1, "tcp_retransmit_skb", 600, 3),
            (2, "empty_nsmit_skb", 160, 4),
            (3, "iter_tcp", 300, 1),
            (4, "empty_sock_ops", 70, 1),
        ]);
        let table = table(&ran.into_values().collect::<Vec<_>>(), 3);
        let rows: Vec<Vec<&str>> = table
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            rows,
            [
                vec!["tcp_retransmit_skb", "200", "40", "5.00", "1.000", "200.0", "160.0"],
                vec!["iter_tcp", "300", "-", "-", "0.333", "100.0", "100.0"],
                vec!["all", "300.0", "260.0"],
            ]
        );
    }
}
