//! What is asked of resolvers: queries and lookups by type and response code, and how long lookups take.
//!
//! Outside the budget of destinations, with a part of it of their own: there are few resolvers and many combinations of
//! type and code. What does not fit is counted under `other`, so the sums are exact.
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use super::{
    histogram::{BOUNDS_NS, Histogram},
    tally::{Fold, Tally},
};
use crate::{connection::Role, workloads::Workload};

/// What folded label values become.
const OTHER: &str = "other";
/// Time series of one histogram: its buckets, sum and count.
const HISTOGRAM_SERIES: usize = BOUNDS_NS.len() + 3;

/// One resolver, as it is labelled: for a client whom it asks, for a server itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResolverLabels {
    /// Which side was observed.
    pub role: Role,
    /// Address of the resolver; of a server the name of the process.
    pub destination: Arc<str>,
    /// Its port; `None` for `other`.
    pub port: Option<u16>,
    /// Its group.
    pub group: Arc<str>,
}

impl Fold for ResolverLabels {
    fn folded(&self) -> Self {
        Self {
            role: self.role,
            destination: OTHER.into(),
            port: None,
            group: Arc::default(),
        }
    }
}

/// Labels of `hopline_dns_queries_total` and `hopline_dns_lookups_total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DnsLabels {
    /// Who was asked.
    pub resolver: ResolverLabels,
    /// Type of the question.
    pub query_type: &'static str,
    /// Response code, or `TIMEOUT`.
    pub rcode: &'static str,
    /// Whose query it was, or whose resolver; `None` outside of pods.
    pub source: Option<Arc<Workload>>,
}

impl Fold for DnsLabels {
    fn folded(&self) -> Self {
        Self {
            resolver: self.resolver.folded(),
            source: None,
            ..self.clone()
        }
    }
}

/// The numbers of all resolvers.
#[derive(Debug)]
pub struct Resolvers {
    queries: Tally<DnsLabels>,
    lookups: Tally<DnsLabels>,
    durations: BTreeMap<ResolverLabels, Histogram>,
    max_durations: usize,
    /// Labels of the resolvers that were met last: one is asked again and again.
    known: BTreeMap<(Role, SocketAddr), ResolverLabels>,
}

impl Resolvers {
    /// At most about `max_series` time series.
    pub fn new(max_series: usize) -> Self {
        Self {
            queries: Tally::new(max_series / 4),
            lookups: Tally::new(max_series / 4),
            durations: BTreeMap::new(),
            max_durations: max_series / 2 / HISTOGRAM_SERIES,
            known: BTreeMap::new(),
        }
    }

    /// The labels of a resolver; `make` is asked when it was not met lately.
    pub fn labels(&mut self, role: Role, address: SocketAddr, make: impl FnOnce() -> ResolverLabels) -> ResolverLabels {
        const MOST_KNOWN: usize = 1_024;
        if self.known.len() >= MOST_KNOWN {
            self.known.clear();
        }
        self.known.entry((role, address)).or_insert_with(make).clone()
    }

    /// A query has ended.
    pub fn query(&mut self, labels: DnsLabels) {
        self.queries.add(labels);
    }

    /// A lookup has ended; `duration_ns` is `None` for one that nobody answered.
    pub fn lookup(&mut self, labels: DnsLabels, duration_ns: Option<u64>) {
        if let Some(duration_ns) = duration_ns {
            self.duration(&labels.resolver, duration_ns);
        }
        self.lookups.add(labels);
    }

    /// An answer took this long.
    pub fn duration(&mut self, resolver: &ResolverLabels, duration_ns: u64) {
        let fits = self.durations.contains_key(resolver) || self.durations.len() < self.max_durations;
        let labels = if fits { resolver.clone() } else { resolver.folded() };
        self.durations.entry(labels).or_default().observe(duration_ns);
    }

    /// All of it.
    pub fn snapshot(&self) -> ResolversSnapshot {
        ResolversSnapshot {
            queries: self.queries.snapshot(),
            lookups: self.lookups.snapshot(),
            durations: self
                .durations
                .iter()
                .map(|(labels, histogram)| (labels.clone(), histogram.clone()))
                .collect(),
        }
    }
}

/// The numbers of all resolvers at one moment.
#[derive(Clone, Debug, Default)]
pub struct ResolversSnapshot {
    /// Queries that have ended.
    pub queries: Arc<[(DnsLabels, u64)]>,
    /// Lookups that have ended.
    pub lookups: Arc<[(DnsLabels, u64)]>,
    /// From the first query of a lookup to the answer that decided it; of a server from a query to its answer.
    pub durations: Arc<[(ResolverLabels, Histogram)]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_resolvers_fold_and_nothing_is_lost() {
        let mut resolvers = Resolvers::new(400);
        for number in 0..1_000_u16 {
            let labels = DnsLabels {
                resolver: ResolverLabels {
                    role: Role::Client,
                    destination: number.to_string().into(),
                    port: Some(53),
                    group: "dns".into(),
                },
                query_type: "A",
                rcode: "NOERROR",
                source: None,
            };
            resolvers.query(labels.clone());
            resolvers.lookup(labels, Some(1_000_000));
        }
        let snapshot = resolvers.snapshot();
        assert!(snapshot.queries.len() <= 101 && snapshot.durations.len() <= 10);
        assert_eq!(snapshot.queries.iter().map(|(_, count)| count).sum::<u64>(), 1_000);
        assert_eq!(snapshot.lookups.iter().map(|(_, count)| count).sum::<u64>(), 1_000);
        let observed: u64 = snapshot.durations.iter().map(|(_, histogram)| histogram.count).sum();
        assert_eq!(observed, 1_000);
    }
}
