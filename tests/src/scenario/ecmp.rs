//! Two equal paths with different delays: each trace stays on one of them.

use std::collections::HashSet;

use anyhow::Result;

use super::path::start_to;
use crate::capture::Capture;
use crate::capture::path::{Probes, router};
use crate::hopline::PathRecord;
use crate::lab::Lab;
use crate::router::{DEVICE, Hop, RouterSettings};
use crate::topology::{Family, Pair};
use crate::verdict::{Verdict, percentile};

const PORT: u16 = 8080;
const TRACES: usize = 12;
/// What clocks may make of a router's delay; the paths are 30 apart.
const TOO_EARLY_MS: f64 = 0.5;
/// Traces until both paths have come up: which one a trace is on is decided by its ports.
const MOST_TRACES: usize = 40;
/// Number and delay of the second router, by path.
const SECOND: [(u8, u64); 2] = [(2, 10_000), (12, 40_000)];

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let hop = |number, delay_us| Hop {
        number,
        delay_us,
        ..Hop::default()
    };
    let route = |(number, delay_us): (u8, u64)| vec![hop(1, 1_000), hop(number, delay_us), hop(number + 1, 1_000)];
    let pair = Pair::new(
        lab,
        &RouterSettings {
            routes: SECOND.map(route).to_vec(),
            ..RouterSettings::default()
        },
    )?;
    for family in [Family::Ipv4, Family::Ipv6] {
        let name = family.name();
        let capture = Capture::start_path(lab, name, &pair.client, DEVICE)?;
        let mut paths = Vec::new();
        let mut second = HashSet::new();
        while paths.len() < TRACES || second.len() < 2 && paths.len() < MOST_TRACES {
            paths.push(start_to(lab, &pair, family.server(PORT), &["--count", "5", "--interval", "50ms"])?.finish()?);
            let hops = paths.iter().flat_map(|path| &path.hops);
            second = hops.filter(|hop| hop.number == 2).map(|hop| hop.address).collect();
        }
        let truth = Probes::read(&capture.end()?, 4)?;
        let mut seen = HashSet::new();
        for (number, path) in paths.iter().enumerate() {
            let name = format!("{name} trace {number}");
            verdict.fold(|verdict| seen.insert(compare(lab, verdict, family, &name, path, &truth)));
            // A path by the flow's ports: what the capture saw of this one's.
            let of_trace = truth.sent.iter().filter(|probe| probe.source_port == path.source_port);
            let by_second: HashSet<_> = of_trace
                .filter(|probe| probe.ttl == 2)
                .filter_map(|probe| Some(probe.answer?.from))
                .collect();
            let shown = path.hops.iter().find(|hop| hop.number == 2).and_then(|hop| hop.address);
            let agrees = by_second.len() == 1 && shown.is_some_and(|address| by_second.contains(&address));
            verdict.fold(|verdict| {
                verdict.count(format!("{name}: as in the capture"), u64::from(agrees), 1);
            });
        }
        verdict.at_least(format!("{name}: traces"), paths.len() as f64, TRACES as f64, "");
        verdict.count(format!("{name}: paths that were seen"), seen.len() as u64, 2);
    }
    Ok(())
}

/// Which path the trace was on: all of it must be.
fn compare(
    lab: &Lab,
    verdict: &mut Verdict,
    family: Family,
    name: &str,
    path: &PathRecord,
    truth: &Probes,
) -> Option<u8> {
    verdict.count(format!("{name}: reached"), u64::from(path.reached), 1);
    verdict.count(format!("{name}: hops"), path.hops.len() as u64, 4);
    let several = path.hops.iter().filter(|hop| hop.addresses.len() > 1).count();
    verdict.count(format!("{name}: hops with more than one address"), several as u64, 0);
    let address = |number: u8| {
        path.hops
            .iter()
            .find(|hop| hop.number == number)
            .and_then(|hop| hop.address)
    };
    let is_on = |(number, _): &&(u8, u64)| address(2) == Some(router(*number, family == Family::Ipv4));
    let Some((number, delay_us)) = SECOND.iter().find(is_on) else {
        verdict.trouble(format!("{name}: hop 2 is {:?}", address(2)));
        return None;
    };
    let third = address(3).map_or_else(String::new, |address| address.to_string());
    verdict.text(
        format!("{name}: hop 3"),
        third,
        router(number + 1, family == Family::Ipv4).to_string(),
    );
    for (at, configured_us) in [(2, 1_000 + delay_us), (3, 2_000 + delay_us), (4, 2_000 + delay_us)] {
        let of_hop = truth.of_hop(family == Family::Ipv4, at);
        let of_trace = of_hop.filter(|probe| probe.source_port == path.source_port);
        let mut times_us: Vec<f64> = of_trace.filter_map(|probe| Some(probe.answer?.round_trip_us)).collect();
        let truth_us = [1, 95].map(|percent| percentile(&mut times_us, percent));
        let rtt = path.hops.iter().find(|hop| hop.number == at).and_then(|hop| hop.rtt_us);
        let measured_us = rtt.map_or([f64::NAN; 2], |rtt| [rtt.min as f64, rtt.p95 as f64]);
        for (measured_us, truth_us) in measured_us.into_iter().zip(truth_us) {
            let tolerance_us = lab.tolerance.of_phase_us(truth_us);
            verdict.time_us(format!("{name}: hop {at}"), measured_us, truth_us, tolerance_us);
        }
        // A router may be late, never early: the other path's time would be.
        verdict.at_least(
            format!("{name}: hop {at} as configured"),
            measured_us[0] / 1e3,
            configured_us as f64 / 1e3 - TOO_EARLY_MS,
            "ms",
        );
    }
    Some(*number)
}
