//! Judges what hopline recorded of one cell's connection against the capture on that side.

use super::cells::{Cell, EXCHANGES};
use crate::capture::decrypted::ByConnection;
use crate::hopline::Record;
use crate::lab::Tolerance;
use crate::verdict::{Verdict, percentile};

/// Gives how many first bytes were ambiguous.
pub(super) fn judge(
    verdict: &mut Verdict,
    tolerance: Tolerance,
    cell: &Cell,
    role: &str,
    truth: &ByConnection,
    records: &[Record],
) -> u32 {
    let name = |what: &str| format!("{} ({role}): {what}", cell.name);
    let of_cell = |record: &&Record| record.role == role && record.server_port() == cell.port;
    let recorded: Vec<&Record> = records.iter().filter(of_cell).collect();
    verdict.count(name("records"), recorded.len() as u64, 1);
    let Some(record) = recorded.first() else { return 0 };
    let comm = if role == "client" {
        cell.client.comm()
    } else {
        cell.server.comm()
    };
    verdict.text(name("process"), record.process.comm.clone().unwrap_or_default(), comm);
    let exchanges = match truth.get(&record.addresses()) {
        Some(Ok(exchanges)) => exchanges,
        Some(Err(error)) => {
            verdict.trouble(format!("{}: {error:#}", name("the capture is no truth")));
            return 0;
        }
        None => {
            verdict.trouble(name("not in the capture"));
            return 0;
        }
    };
    let mut turns = exchanges.turns_us.clone();
    verdict.count(name("turns captured"), turns.len() as u64, EXCHANGES as u64 - 1);
    let counted = record.turns.count.unwrap_or_default();
    let may_lack_turns = cell.may_be_unknown || cell.may_lack_turns;
    if may_lack_turns {
        verdict.at_most(name("turns"), counted as f64, turns.len() as f64, "");
    } else {
        verdict.count(name("turns"), counted, turns.len() as u64);
    }
    let is_ambiguous = record.ttfb_basis.as_deref() == Some("ambiguous");
    if !is_ambiguous {
        let ttfb_us = record.phases_us.ttfb.map_or(f64::NAN, |us| us as f64);
        let allowed_us = tolerance.of_phase_us(exchanges.ttfb_us);
        verdict.time_us(name("ttfb"), ttfb_us, exchanges.ttfb_us, allowed_us);
    } else if !cell.may_be_unknown {
        verdict.text(name("basis of ttfb"), "ambiguous", "known");
    }
    for (percent, us) in [(50, record.turns.p50_us), (95, record.turns.p95_us)] {
        let truth_us = percentile(&mut turns, percent);
        let us = us.map_or(f64::NAN, |us| us as f64);
        let allowed_us = tolerance.of_phase_us(truth_us);
        let name = name(&format!("turns p{percent}"));
        if !may_lack_turns {
            verdict.time_us(name, us, truth_us, allowed_us);
        } else if !us.is_nan() {
            let [least_us, most_us] = [1, 100].map(|percent| percentile(&mut turns, percent));
            verdict.at_least(format!("{name}, least"), us, least_us - allowed_us, "us");
            verdict.at_most(format!("{name}, most"), us, most_us + allowed_us, "us");
        }
    }
    u32::from(is_ambiguous)
}
