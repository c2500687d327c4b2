//! The families about network paths, as of the last trace of each. Bounded by the paths that the pipeline remembers.
use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::own::{counters, gauges};
use crate::{aggregate::Snapshot, path::PathSnapshot};

/// A hop of a path: the path, its number, its address.
type Hop<'a> = (&'a PathSnapshot, String, String, String);

fn labels<'a>((path, port, hop, address): &'a Hop<'_>) -> [(&'static str, &'a str); 7] {
    [
        ("destination", &path.destination),
        ("destination_port", port),
        ("group", &path.group),
        ("hop", hop),
        ("address", address),
        // Empty outside Kubernetes, as for every gauge.
        ("source_namespace", ""),
        ("source_workload", ""),
    ]
}

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let paths = one_each(&snapshot.paths.paths);
    let (mut rtt, mut loss) = (Vec::new(), Vec::new());
    for path in &paths {
        // Silent hops have no address, so no series.
        for hop in &path.path.hops {
            let Some(address) = hop.address else { continue };
            let place = (*path, path.port.to_string(), hop.hop.to_string(), address.to_string());
            if let Some(times) = hop.rtt_us {
                rtt.push((place.clone(), times.p50 as f64 / 1e6));
            }
            if let Some(ratio) = hop.loss {
                loss.push((place, ratio));
            }
        }
    }
    gauges(
        encoder,
        "hopline_path_hop_rtt_seconds",
        "Median round trip to each hop of a network path in its last trace.",
        rtt.iter().map(|(place, seconds)| (labels(place), *seconds)),
    )?;
    gauges(
        encoder,
        "hopline_path_hop_loss_ratio",
        "Part of the probes that the path lost up to each hop in its last trace.",
        loss.iter().map(|(place, ratio)| (labels(place), *ratio)),
    )?;
    let ports: Vec<String> = paths.iter().map(|path| path.port.to_string()).collect();
    counters(
        encoder,
        "hopline_path_changes",
        "Changes of the route to a destination.",
        paths.iter().zip(&ports).map(|(path, port)| {
            let labels = [
                ("destination", path.destination.as_str()),
                ("destination_port", port.as_str()),
                ("group", path.group.as_str()),
                ("source_namespace", ""),
                ("source_workload", ""),
            ];
            (labels, path.changes)
        }),
    )?;
    let sums = &snapshot.paths;
    let sent = (sums.probes + sums.failed > 0).then_some(([("result", "sent")], sums.probes));
    let failed = (sums.failed > 0).then_some(([("result", "trace_failed")], sums.failed));
    counters(
        encoder,
        "hopline_path_probes",
        "Probes for network paths that left, and traces that could not begin.",
        sent.into_iter().chain(failed),
    )
}

/// One path for each destination: a name with several addresses, or seen from several namespaces, shows the last one.
fn one_each(all: &[PathSnapshot]) -> Vec<&PathSnapshot> {
    let mut sorted: Vec<&PathSnapshot> = all.iter().collect();
    let key = |path: &PathSnapshot| (path.destination.clone(), path.port, path.group.clone());
    sorted.sort_by_key(|path| (key(path), std::cmp::Reverse(path.traced_ns)));
    sorted.dedup_by_key(|path| key(path));
    sorted
}
