//! What `hopline compare` found: requests as the client knows them, joined with their connections as the kernel side
//! measured them, one row per URL, the best first. Pure.
mod judge;
mod quantiles;
mod row;

use std::collections::BTreeMap;

pub use judge::{Judged, judge};
pub use quantiles::Quantiles;
pub use row::{Phases, Row};

use crate::{
    connection::{ConnectionRecord, Outcome},
    fetch::{Ending, Fetched, Step, Target},
};

/// A [`ConnectionRecord`] as far as it is of use here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// As in the record, but for a first byte that may be no answer's.
    pub phases_us: Phases<u64>,
    outcome: Option<Outcome>,
    tls_outcome: Option<String>,
    /// TLS version and cipher suite.
    pub agreed: Option<(String, String)>,
}

impl Measured {
    /// What is of use, and the cookie of its socket, which joins it with a request: exact even where something between
    /// translates addresses.
    pub fn of(record: &ConnectionRecord) -> Option<(u64, Self)> {
        let (_, number) = record.id.rsplit_once('-')?;
        let cookie = number.split('.').next()?.parse().ok()?;
        let phases = &record.phases_us;
        let tls = record.tls.as_ref();
        let measured = Self {
            phases_us: Phases {
                dns: phases.dns,
                tcp: phases.tcp,
                tls: phases.tls,
                ttfb: phases.ttfb.filter(|_| record.ttfb_basis != Some("ambiguous")),
            },
            outcome: record.outcome,
            tls_outcome: tls.and_then(|tls| tls.outcome.clone()),
            agreed: tls.and_then(|tls| tls.version.clone().zip(tls.cipher.clone())),
        };
        Some((cookie, measured))
    }
}

/// One row for each target, the best first: those without failures, then those with some, then those that never gave an
/// answer; among them by the sum of the medians.
pub fn compare(targets: &[Target], requests: &[(usize, Fetched)], connections: &BTreeMap<u64, Measured>) -> Vec<Row> {
    let mut rows: Vec<Row> = targets
        .iter()
        .enumerate()
        .map(|(number, target)| {
            let own = requests.iter().filter(|(of, _)| *of == number).map(|(_, fetched)| {
                let measured = fetched.cookie.and_then(|cookie| connections.get(&cookie));
                (fetched, measured)
            });
            Row::new(target, own)
        })
        .collect();
    rows.sort_by_key(Row::rank);
    if let Some(best) = rows.first_mut() {
        best.is_best = best.ok > 0 && best.total_us().is_some();
    }
    rows
}

/// Why a request failed; `None` when it did not. What the connection says of it comes before what the client saw.
fn failure(fetched: &Fetched, measured: Option<&Measured>) -> Option<String> {
    const NO_ANSWER: &str = "no_answer";
    let tls = measured.and_then(|measured| measured.tls_outcome.as_deref());
    let step = match fetched.ending {
        Ending::Answered(status) if status < 400 => return None,
        Ending::Answered(status) => return Some(format!("http_{}xx", status / 100)),
        Ending::Distrusted => {
            let fault = fetched.presented.as_ref().and_then(|presented| presented.fault);
            return Some(fault.unwrap_or("cert_invalid").to_owned());
        }
        // That nothing came has one name, whoever gave up.
        Ending::TimedOut(Step::Tls) if tls == Some(NO_ANSWER) => return Some(NO_ANSWER.to_owned()),
        Ending::TimedOut(step) => return Some(format!("timeout_{}", step.name())),
        Ending::Failed(step) => step.name(),
    };
    let told = measured.and_then(|measured| match (measured.outcome?, &measured.tls_outcome) {
        (Outcome::Ok, _) => None,
        (Outcome::Tls, Some(why)) => Some(why.clone()),
        (outcome, _) => Some(outcome.name().to_owned()),
    });
    Some(told.unwrap_or_else(|| format!("{step}_failed")))
}

#[cfg(test)]
pub(crate) mod tests;
