//! The families about clients' choices of destination: fallbacks and undeclared destinations. Each has a bound of its own.
use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::{own::counters, source};
use crate::aggregate::Snapshot;

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let fallbacks = snapshot.fallbacks.iter().map(|(labels, count)| {
        let [namespace, workload] = source(labels.source.as_deref());
        let group = ("group", &*labels.group);
        (
            [group, ("from", &labels.from), ("to", &labels.to), namespace, workload],
            *count,
        )
    });
    counters(
        encoder,
        "hopline_fallbacks",
        "Processes that went on to another host of a group since the first one did not serve them.",
        fallbacks,
    )?;
    let ports: Vec<String> = snapshot
        .undeclared
        .iter()
        .map(|(labels, _)| labels.port.map(|port| port.to_string()).unwrap_or_default())
        .collect();
    let undeclared = snapshot.undeclared.iter().zip(&ports).map(|((labels, count), port)| {
        let [namespace, workload] = source(labels.source.as_deref());
        let labels = [
            ("destination", &*labels.destination),
            ("destination_port", port.as_str()),
            ("group", &*labels.group),
            ("declaration", &*labels.declaration),
            ("reason", labels.reason),
            namespace,
            workload,
        ];
        (labels, *count)
    });
    counters(
        encoder,
        "hopline_undeclared",
        "Client connections to destinations outside a declaration, or whose declared name nothing else agrees with.",
        undeclared,
    )
}
