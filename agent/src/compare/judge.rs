//! Conditions of `--fail-if` against the rows.
use super::Row;
use crate::cli::fail_if::{FailIf, Quantile, Quantity};

/// A condition that was looked at for a URL, and was not simply false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged<'a> {
    /// It holds: the value, in the quantity's unit.
    Holds(&'a FailIf, &'a Row, i64),
    /// There is no such value.
    NotMeasured(&'a FailIf, &'a Row),
}

/// Looks at every condition for every row.
pub fn judge<'a>(conditions: &'a [FailIf], rows: &'a [Row]) -> Vec<Judged<'a>> {
    let pairs = conditions
        .iter()
        .flat_map(|condition| rows.iter().map(move |row| (condition, row)));
    let judged = pairs.filter_map(|(condition, row)| match value(condition.quantity, row) {
        Some(value) => condition.holds(value).then_some(Judged::Holds(condition, row, value)),
        None => Some(Judged::NotMeasured(condition, row)),
    });
    judged.collect()
}

fn value(quantity: Quantity, row: &Row) -> Option<i64> {
    match quantity {
        Quantity::Phase(phase, quantile) => {
            let quantiles = row.phases.get(phase)?;
            let us = match quantile {
                Quantile::P50 => quantiles.p50,
                Quantile::P95 => quantiles.p95,
            };
            i64::try_from(us).ok()
        }
        Quantity::Failures => i64::try_from(row.requests - row.ok).ok(),
        Quantity::Expires => Some(row.presented.as_ref()?.chain.as_ref()?.expires_s),
    }
}
