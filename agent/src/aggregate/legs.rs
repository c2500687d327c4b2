//! How long each leg of a call chain through a local proxy takes, by the upstream's destination.
//!
//! Outside the budget of destinations, with a bound of its own: what does not fit is counted under `other`.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{histogram::Histogram, tally::Fold};

/// Destinations with histograms of their own: each has five of them.
const MOST_DESTINATIONS: usize = 20;

/// A leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leg {
    /// The client's connection: from its request to its answer, at the proxy.
    ClientProxy,
    /// What the proxy itself added.
    Proxy,
    /// The connection to the upstream: from `connect` to its answer.
    ProxyUpstream,
}

impl Leg {
    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientProxy => "client_proxy",
            Self::Proxy => "proxy",
            Self::ProxyUpstream => "proxy_upstream",
        }
    }
}

/// Whom a chain leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LegLabels {
    /// Name or address of the upstream.
    pub destination: Arc<str>,
    /// Its port; `None` for `other`.
    pub port: Option<u16>,
    /// Its group, empty for none.
    pub group: Arc<str>,
}

impl Fold for LegLabels {
    fn folded(&self) -> Self {
        Self {
            destination: "other".into(),
            port: None,
            group: Arc::default(),
        }
    }
}

/// The numbers of all chains.
#[derive(Debug, Default)]
pub struct Legs {
    known: BTreeSet<LegLabels>,
    durations: BTreeMap<(LegLabels, Leg), Histogram>,
    rtt: BTreeMap<(LegLabels, Leg), Histogram>,
}

impl Legs {
    /// A leg took this long, once.
    pub fn duration(&mut self, labels: &LegLabels, leg: Leg, duration_ns: u64) {
        let labels = self.fold(labels);
        self.durations.entry((labels, leg)).or_default().observe(duration_ns);
    }

    /// Round trips on a leg's connection took this long in the mean of a window.
    pub fn rtt(&mut self, labels: &LegLabels, leg: Leg, mean_ns: u64) {
        let labels = self.fold(labels);
        self.rtt.entry((labels, leg)).or_default().observe(mean_ns);
    }

    /// All of it.
    pub fn snapshot(&self, links: [(&'static str, u64); 3]) -> LegsSnapshot {
        let all = |histograms: &BTreeMap<(LegLabels, Leg), Histogram>| {
            let copy = histograms.iter();
            copy.map(|((labels, leg), histogram)| (labels.clone(), *leg, histogram.clone()))
                .collect()
        };
        LegsSnapshot {
            durations: all(&self.durations),
            rtt: all(&self.rtt),
            links,
        }
    }

    fn fold(&mut self, labels: &LegLabels) -> LegLabels {
        if self.known.contains(labels) {
            return labels.clone();
        }
        if self.known.len() >= MOST_DESTINATIONS {
            return labels.folded();
        }
        self.known.insert(labels.clone());
        labels.clone()
    }
}

/// The numbers of all chains at one moment.
#[derive(Clone, Debug, Default)]
pub struct LegsSnapshot {
    /// What each leg took.
    pub durations: Arc<[(LegLabels, Leg, Histogram)]>,
    /// Round trips, each the mean of a window of a connection.
    pub rtt: Arc<[(LegLabels, Leg, Histogram)]>,
    /// Exchanges of proxies with upstreams while a client waited, by what became of the link.
    pub links: [(&'static str, u64); 3],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_destinations_fold_and_nothing_is_lost() {
        let mut legs = Legs::default();
        for number in 0..100_u16 {
            let labels = LegLabels {
                destination: number.to_string().into(),
                port: Some(80),
                group: Arc::default(),
            };
            legs.duration(&labels, Leg::Proxy, 1_000_000);
        }
        let snapshot = legs.snapshot([("linked", 0); 3]);
        assert_eq!(snapshot.durations.len(), MOST_DESTINATIONS + 1);
        assert_eq!(snapshot.durations.iter().map(|(.., one)| one.count).sum::<u64>(), 100);
    }
}
