//! The families of call chains through a local proxy. They have a bound of their own.
use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::own::counters;
use crate::aggregate::{BOUNDS_NS, Histogram, Leg, LegLabels, Snapshot};

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let legs = &snapshot.legs;
    histograms(
        encoder,
        "hopline_leg_duration_seconds",
        "Seconds of each leg of a chain through a local proxy, request to answer; client_proxy is the sum of the others.",
        &legs.durations,
    )?;
    histograms(
        encoder,
        "hopline_leg_rtt_seconds",
        "Round trips on the connections of such a chain: the mean of each connection in each 5 s.",
        &legs.rtt,
    )?;
    let links = legs.links.iter().filter(|(_, count)| *count > 0);
    counters(
        encoder,
        "hopline_chain_links",
        "Exchanges of a proxy with an upstream while a client waited: linked with the client's, or not, in doubt.",
        links.map(|(result, count)| ([("result", *result)], *count)),
    )
}

fn histograms(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    all: &[(LegLabels, Leg, Histogram)],
) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    let bounds = BOUNDS_NS.map(|bound_ns| bound_ns as f64 / 1e9);
    for (labels, leg, histogram) in all {
        let port = labels.port.map(|port| port.to_string()).unwrap_or_default();
        let labels = [
            ("destination", &*labels.destination),
            ("destination_port", &port),
            ("group", &labels.group),
            ("leg", leg.name()),
        ];
        let infinite = [f64::INFINITY];
        let buckets: Vec<(f64, u64)> = bounds.into_iter().chain(infinite).zip(histogram.buckets).collect();
        let sum = histogram.sum_ns as f64 / 1e9;
        metric
            .encode_family(&labels)?
            .encode_histogram::<NoLabelSet>(sum, histogram.count, &buckets, None)?;
    }
    Ok(())
}
