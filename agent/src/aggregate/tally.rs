//! Counters outside the series budget, each family with a bound of its own: what is rare and must not lose its labels to
//! what is busy.
use std::{collections::BTreeMap, sync::Arc};

use crate::workloads::Workload;

/// What folded label values become.
const OTHER: &str = "other";

/// Labels that fold when there are too many.
pub trait Fold: Clone + Ord {
    /// The same without what anybody can make many of.
    fn folded(&self) -> Self;
}

/// Labels of `hopline_fallbacks_total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FallbackLabels {
    /// The group of both hosts.
    pub group: Arc<str>,
    /// Who did not serve.
    pub from: Arc<str>,
    /// Who was asked instead.
    pub to: Arc<str>,
    /// Whose process went on; `None` outside of pods.
    pub source: Option<Arc<Workload>>,
}

impl Fold for FallbackLabels {
    fn folded(&self) -> Self {
        Self {
            group: Arc::clone(&self.group),
            from: OTHER.into(),
            to: OTHER.into(),
            source: None,
        }
    }
}

/// Labels of `hopline_undeclared_total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UndeclaredLabels {
    /// The declaration that was not kept.
    pub declaration: Arc<str>,
    /// In what way.
    pub reason: &'static str,
    /// Name or address of the destination.
    pub destination: Arc<str>,
    /// Its port; `None` for `other`.
    pub port: Option<u16>,
    /// Its group, empty for none.
    pub group: Arc<str>,
    /// Whose connection it is; `None` outside of pods.
    pub source: Option<Arc<Workload>>,
}

impl Fold for UndeclaredLabels {
    fn folded(&self) -> Self {
        Self {
            declaration: Arc::clone(&self.declaration),
            reason: self.reason,
            destination: OTHER.into(),
            port: None,
            group: Arc::default(),
            source: None,
        }
    }
}

/// A bounded set of counters.
#[derive(Debug)]
pub struct Tally<K> {
    counts: BTreeMap<K, u64>,
    limit: usize,
}

impl<K: Fold> Tally<K> {
    /// At most `limit` counters that are not folded ones: of these there are as many as the configuration has groups or
    /// declarations.
    pub fn new(limit: usize) -> Self {
        Self {
            counts: BTreeMap::new(),
            limit,
        }
    }

    /// Counts one.
    pub fn add(&mut self, labels: K) {
        self.add_many(labels, 1);
    }

    /// Counts so many.
    pub fn add_many(&mut self, labels: K, count: u64) {
        let labels = if self.counts.contains_key(&labels) || self.counts.len() < self.limit {
            labels
        } else {
            labels.folded()
        };
        *self.counts.entry(labels).or_default() += count;
    }

    /// All counters, in the order of their labels.
    pub fn snapshot(&self) -> Arc<[(K, u64)]> {
        self.counts
            .iter()
            .map(|(labels, count)| (labels.clone(), *count))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_beyond_its_bound() {
        let mut tally = Tally::new(3);
        let labels = |from: usize| FallbackLabels {
            group: "go".into(),
            from: from.to_string().into(),
            to: "b".into(),
            source: None,
        };
        for from in 0..100 {
            tally.add(labels(from));
        }
        tally.add(labels(1));
        let counts: Vec<_> = tally
            .snapshot()
            .iter()
            .map(|(labels, count)| (labels.from.to_string(), labels.to.to_string(), *count))
            .collect();
        let of = |from: &str, to: &str, count| (from.to_owned(), to.to_owned(), count);
        assert_eq!(
            counts,
            [
                of("0", "b", 1),
                of("1", "b", 2),
                of("2", "b", 1),
                of("other", "other", 97)
            ]
        );
    }
}
