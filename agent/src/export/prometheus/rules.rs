//! The family of active rules: 1 where one is, nothing elsewhere. Bounded by the detector.
use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::own::gauges;
use crate::aggregate::Snapshot;

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let rules = &snapshot.active_rules;
    let ports: Vec<String> = rules.iter().map(|active| active.port.to_string()).collect();
    let active = rules.iter().zip(&ports).map(|(active, port)| {
        let labels = [
            ("destination", active.destination.as_str()),
            ("destination_port", port.as_str()),
            ("group", active.group.as_str()),
            ("rule", active.rule),
            // Empty outside Kubernetes, as for every gauge.
            ("source_namespace", ""),
            ("source_workload", ""),
        ];
        (labels, 1_u64)
    });
    gauges(
        encoder,
        "hopline_rule_active",
        "Rules that are active at a destination.",
        active,
    )
}
