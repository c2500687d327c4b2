//! The traffic's rate with hopline and without it, as ratios of runs that follow each other.

use std::process::Stdio;

use anyhow::Result;

use super::sandbox::Side;
use super::traffic::Load;
use super::{Bench, lasting, quiet};

/// In the order of the table.
const SIDES: [Side; 3] = [Side::Nothing, Side::Hopline, Side::Empty];

/// Connections that last: all sides at once, in turns of tens of milliseconds, and hopline anew for each round.
pub(super) fn of_lasting(bench: &Bench, loads: &[lasting::Load], turns: u32, rounds: usize) -> Result<()> {
    if loads.is_empty() {
        return Ok(());
    }
    println!("\nrate with and without hopline, of connections that take turns: {rounds} rounds of {turns} turns");
    head("95 % sure");
    for load in loads {
        let mut seconds = vec![Vec::new(); SIDES.len()];
        for _ in 0..rounds {
            let _agent = bench.agent(&quiet())?;
            // `cost` has said already what this kernel refuses.
            let _empties = bench.empties(Side::Empty, Stdio::null())?;
            let round = bench.sandbox.take_turns(*load, turns, &SIDES)?;
            for (side, turns) in seconds.iter_mut().zip(round) {
                side.extend(turns);
            }
        }
        let rate = |seconds: &f64| f64::from(load.operations()) / seconds;
        let rates: Vec<Vec<f64>> = seconds.iter().map(|side| side.iter().map(rate).collect()).collect();
        row(&load.to_string(), &rates, sure);
    }
    Ok(())
}

/// Each load without anything, with the agent, with an empty program on each hook, statistics off. The runs of a round
/// follow each other at once, their order turned round by round: what else the machine does changes slowly, and cancels.
/// What the empty programs cost is the price of the hooks; no agent that uses them can be below it.
pub(super) fn of(bench: &Bench, loads: &[Load], rounds: usize) -> Result<()> {
    if loads.is_empty() {
        return Ok(());
    }
    println!("\nrate with and without hopline, in {rounds} rounds; with an empty program on each hook in its place");
    head("middle half");
    for load in loads {
        // The first run warms caches and clocks.
        bench.sandbox.run(*load)?;
        let mut rates = vec![Vec::new(); SIDES.len()];
        for round in 0..rounds {
            for turn in 0..SIDES.len() {
                let place = (round + turn) % SIDES.len();
                let is = |side| SIDES[place] == side;
                let _agent = is(Side::Hopline).then(|| bench.agent(&quiet())).transpose()?;
                let _empties = is(Side::Empty)
                    .then(|| bench.empties(Side::Hopline, Stdio::null()))
                    .transpose()?;
                rates[place].push(bench.sandbox.run(*load)?.per_second());
            }
        }
        row(&load.to_string(), &rates, middle_half);
    }
    Ok(())
}

fn head(spread: &str) {
    println!(
        "{:<36} {:>12} {:>12} {:>9} {spread:>16} {:>9} {spread:>16}",
        "load", "without /s", "with /s", "ratio", "empty"
    );
}

fn row(load: &str, rates: &[Vec<f64>], spread: fn(&[f64]) -> String) {
    let [without, with, empty] = rates else { return };
    let hopline = ratios(with, without);
    let hooks = ratios(empty, without);
    println!(
        "{load:<36} {:>12.0} {:>12.0} {:>9.3} {:>16} {:>9.3} {:>16}",
        quantile(without, 0.5),
        quantile(with, 0.5),
        quantile(&hopline, 0.5),
        spread(&hopline),
        quantile(&hooks, 0.5),
        spread(&hooks),
    );
}

/// Each run by the one beside it.
pub(super) fn ratios(rates: &[f64], beside: &[f64]) -> Vec<f64> {
    rates.iter().zip(beside).map(|(rate, beside)| rate / beside).collect()
}

/// Between which values the median is with 95 % certainty, whatever the distribution (the sign test's interval).
fn sure(values: &[f64]) -> String {
    let half = 0.98 / (values.len() as f64).sqrt();
    format!(
        "{:.3}..{:.3}",
        quantile(values, (0.5 - half).max(0.0)),
        quantile(values, (0.5 + half).min(1.0))
    )
}

/// The quartiles, as the tables show them.
pub(super) fn middle_half(ratios: &[f64]) -> String {
    format!("{:.3}..{:.3}", quantile(ratios, 0.25), quantile(ratios, 0.75))
}

/// The value below which so much of them is.
pub(super) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len().saturating_sub(1)) as f64 * part;
    sorted.get(place.round() as usize).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_surer_the_more_values_there_are() {
        let few: Vec<f64> = (0..=16).map(f64::from).collect();
        let many: Vec<f64> = (0..=1_600).map(|value| f64::from(value) / 100.0).collect();
        assert_eq!([sure(&few), sure(&many)], ["4.000..12.000", "7.610..8.390"]);
    }

    #[test]
    fn quantiles_ignore_order_and_outliers() {
        let values = [9.0, 1.0, 2.0, 3.0, 100.0];
        for (part, value) in [(0.25, 2.0), (0.5, 3.0), (0.75, 9.0)] {
            assert!((quantile(&values, part) - value).abs() < f64::EPSILON);
        }
        assert!(quantile(&[], 0.5).is_nan());
    }
}
