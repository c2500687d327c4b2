//! OpenMetrics text of a snapshot and of the agent's own numbers, by prometheus-client's `Collector`.
//!
//! Sees the snapshot and [`SelfMetrics`] alone, and keeps nothing. Families without data are left out.
mod choices;
mod dns;
mod family;
mod legs;
mod own;
mod paths;
mod reference;
mod rules;
mod staying;

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};

pub use reference::reference;

use crate::{
    aggregate::{DestinationSnapshot, Family, Snapshot, without_role},
    selfmetrics::SelfMetrics,
    workloads::Workload,
};

/// `Content-Type` of what [`encode`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// `Content-Type` of what [`classic`] gives.
pub const CLASSIC_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The whole scrape and its `Content-Type`, as OpenMetrics or in the older text format.
pub fn scrape(snapshot: &Snapshot, own: &SelfMetrics, as_openmetrics: bool) -> (&'static str, String) {
    let text = encode(snapshot, own);
    if as_openmetrics {
        (CONTENT_TYPE, text)
    } else {
        (CLASSIC_CONTENT_TYPE, classic(&text))
    }
}

/// The whole scrape as OpenMetrics.
pub fn encode(snapshot: &Snapshot, own: &SelfMetrics) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape {
        snapshot: snapshot.clone(),
        own: own.clone(),
    }));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("writing into a String does not fail");
    text
}

/// The same in Prometheus' older text format, for readers that do not ask for OpenMetrics (curl, `promtool check
/// metrics`): there a counter's family is named with its suffix, and nothing marks the end.
pub fn classic(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    // A family's help comes before its type, which tells whether it is a counter.
    let mut help = None;
    for line in openmetrics.lines().filter(|line| *line != "# EOF") {
        if let Some(named) = line.strip_prefix("# HELP ") {
            help = named.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((name, help)) = help.take() {
                text.extend(["# HELP ", name, suffix, " ", help, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else {
            text.extend([line, "\n"]);
        }
    }
    text
}

/// What one scrape shows.
#[derive(Debug)]
struct Scrape {
    snapshot: Snapshot,
    own: SelfMetrics,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in Family::ALL {
            if self.snapshot.families[family as usize].series > 0 {
                encode_family(&mut encoder, family, &self.snapshot.destinations)?;
            }
        }
        choices::encode(&mut encoder, &self.snapshot)?;
        dns::encode(&mut encoder, &self.snapshot)?;
        paths::encode(&mut encoder, &self.snapshot)?;
        legs::encode(&mut encoder, &self.snapshot)?;
        rules::encode(&mut encoder, &self.snapshot)?;
        staying::encode(&mut encoder, &self.snapshot)?;
        own::encode(&mut encoder, &self.snapshot, &self.own)
    }
}

/// Every series of one family.
/// Labels of the workload that something is of; empty outside of pods.
fn source(source: Option<&Workload>) -> [(&'static str, &str); 2] {
    let (namespace, workload) = source.map_or(("", ""), |source| (&*source.namespace, &*source.name));
    [("source_namespace", namespace), ("source_workload", workload)]
}

fn encode_family(encoder: &mut DescriptorEncoder<'_>, family: Family, all: &[DestinationSnapshot]) -> fmt::Result {
    let (kind, help) = family::describe(family);
    // The encoder adds the suffix of a counter itself.
    let name = family.name().trim_end_matches("_total");
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    if family.has_role() {
        all.iter()
            .try_for_each(|destination| family::encode(&mut metric, family, destination))
    } else {
        let mut all = without_role(all).into_iter();
        all.try_for_each(|destination| family::encode_role_less(&mut metric, family, &destination))
    }
}
