//! What a record says of round trips beside what passed the same side's device.

use std::net::SocketAddr;

use crate::capture::{RoundTrip, RoundTrips};
use crate::hopline::Record;
use crate::verdict::{Verdict, percentile};

/// A connection is open for this long before hopline keeps single samples of it; what is younger is in its sums.
const YOUNG_NS: u64 = 250_000_000;

/// How far a quantile may be from the capture's: a part of it, or so much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tolerance {
    pub(crate) part: f64,
    pub(crate) least_us: f64,
}

/// Round trips that the capture has of a record's own segments.
pub(crate) fn truth<'a>(record: &Record, capture: &'a RoundTrips) -> &'a [RoundTrip] {
    let (local, remote): (SocketAddr, SocketAddr) = (record.local.into(), record.remote.into());
    capture.of(local, remote)
}

/// Those of them that are old enough to be in a histogram.
pub(crate) fn settled_us(truth: &[RoundTrip]) -> Vec<f64> {
    let begin_ns = truth.first().map_or(0, |trip| trip.sent_ns);
    let settled = truth.iter().filter(|trip| trip.sent_ns >= begin_ns + YOUNG_NS);
    settled.map(|trip| trip.us).collect()
}

/// Compares quantiles, folded; the deviations in per mille of what is allowed.
pub(crate) fn quantiles(
    verdict: &mut Verdict,
    name: &str,
    record: &Record,
    capture: &RoundTrips,
    percents: &[usize],
    tolerance: Tolerance,
) -> Vec<f64> {
    let mut truth = settled_us(truth(record, capture));
    let rtt = &record.tcp.rtt_us;
    let compared = percents.iter().map(|percent| {
        let measured = if *percent == 50 { rtt.p50 } else { rtt.p99 };
        let measured = measured.map_or(f64::NAN, |us| us as f64);
        let truth = percentile(&mut truth, *percent);
        let allowed = (truth * tolerance.part).max(tolerance.least_us);
        verdict.fold(|verdict| verdict.time_us(format!("{name} p{percent}"), measured, truth, allowed));
        (measured - truth).abs() / allowed
    });
    compared.collect()
}
