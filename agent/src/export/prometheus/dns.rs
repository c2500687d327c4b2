//! The families of DNS: queries, lookups, and how long they take. They have a bound of their own.
use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::{own::counters, source};
use crate::aggregate::{BOUNDS_NS, DnsLabels, ResolverLabels, Snapshot};

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let dns = &snapshot.resolvers;
    by_code(
        encoder,
        "hopline_dns_queries",
        "DNS queries that were sent (role=client) or came in (role=server), by the code of their answer; TIMEOUT after 5 s.",
        &dns.queries,
    )?;
    by_code(
        encoder,
        "hopline_dns_lookups",
        "Names that programs resolved, search list and retries included, by how that ended.",
        &dns.lookups,
    )?;
    if dns.durations.is_empty() {
        return Ok(());
    }
    let help = "Seconds from the first query of a lookup to the answer that decided it; of a server to its answer.";
    let mut metric =
        encoder.encode_descriptor("hopline_dns_lookup_duration_seconds", help, None, MetricType::Histogram)?;
    let bounds = BOUNDS_NS.map(|bound_ns| bound_ns as f64 / 1e9);
    for (labels, histogram) in dns.durations.iter() {
        let port = port(labels);
        let buckets: Vec<(f64, u64)> = bounds
            .into_iter()
            .chain([f64::INFINITY])
            .zip(histogram.buckets)
            .collect();
        let sum = histogram.sum_ns as f64 / 1e9;
        metric
            .encode_family(&resolver(labels, &port))?
            .encode_histogram::<NoLabelSet>(sum, histogram.count, &buckets, None)?;
    }
    Ok(())
}

fn by_code(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, counts: &[(DnsLabels, u64)]) -> fmt::Result {
    let ports: Vec<String> = counts.iter().map(|(labels, _)| port(&labels.resolver)).collect();
    let all = counts.iter().zip(&ports).map(|((labels, count), port)| {
        let [destination, port, group, role] = resolver(&labels.resolver, port);
        let code = [("qtype", labels.query_type), ("rcode", labels.rcode)];
        let source = source(labels.source.as_deref());
        let labels = [destination, port, group, role, code[0], code[1], source[0], source[1]];
        (labels, *count)
    });
    counters(encoder, name, help, all)
}

fn resolver<'a>(labels: &'a ResolverLabels, port: &'a str) -> [(&'static str, &'a str); 4] {
    [
        ("destination", &labels.destination),
        ("destination_port", port),
        ("group", &labels.group),
        ("role", labels.role.name()),
    ]
}

fn port(labels: &ResolverLabels) -> String {
    labels.port.map(|port| port.to_string()).unwrap_or_default()
}
