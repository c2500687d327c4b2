//! How the sources do: the state for metrics, and one line in the log when it changes for the worse or back.
use std::collections::BTreeMap;

use super::failure::Failure;
use crate::workloads::{Source, SourceState};

/// The sources' states so far.
#[expect(clippy::struct_excessive_bools, reason = "independent facts about the sources")]
#[derive(Debug)]
pub(super) struct Report {
    has_api: bool,
    /// The runtime is not just tried.
    is_runtime_named: bool,
    working: Option<Source>,
    /// Why the API server does not tell, and why the runtime does not.
    api: Option<String>,
    runtime: Option<String>,
    failures: BTreeMap<&'static str, u64>,
    /// Something was logged as missing.
    is_missed: bool,
    /// Somebody told of pods.
    has_told: bool,
    /// Nothing was tried yet.
    is_new: bool,
    sent: Option<SourceState>,
}

impl Report {
    pub(super) fn new(has_api: bool, is_runtime_named: bool) -> Self {
        Self {
            has_api,
            is_runtime_named,
            working: None,
            api: None,
            runtime: None,
            failures: BTreeMap::new(),
            is_missed: false,
            has_told: false,
            is_new: true,
            sent: None,
        }
    }

    /// A source tells.
    pub(super) fn works(&mut self, source: Source) {
        self.is_new = false;
        self.has_told = true;
        self.working = Some(source);
        match source {
            Source::Api => self.api = None,
            Source::Cri => self.runtime = None,
        }
        // The runtime in place of the server is no more than half of what was lost.
        let is_best = source == Source::Api || !self.has_api;
        if is_best && std::mem::take(&mut self.is_missed) {
            tracing::info!(source = source.name(), "names of pods are known again");
        }
    }

    /// A source does not tell.
    pub(super) fn failed(&mut self, source: Source, failure: &Failure) {
        self.is_new = false;
        *self.failures.entry(failure.reason).or_default() += 1;
        if self.working == Some(source) {
            self.working = None;
        }
        match source {
            Source::Api => self.api = Some(failure.text.clone()),
            Source::Cri => self.runtime = Some(failure.text.clone()),
        }
        // A socket that happens to be there may be that of a runtime without pods.
        if self.is_asked() && !std::mem::replace(&mut self.is_missed, true) {
            tracing::warn!(
                source = source.name(),
                reason = failure.reason,
                "names of pods and workloads may be missing until it answers again: {}",
                failure.text
            );
        }
    }

    /// Somebody said that there are pods, or there were some.
    fn is_asked(&self) -> bool {
        self.has_api || self.is_runtime_named || self.has_told
    }

    /// The state, when it is another one than the last.
    pub(super) fn news(&mut self, has_runtime: bool) -> Option<SourceState> {
        let reason = match (self.working, &self.api, &self.runtime) {
            (Some(_), None, _) => String::new(),
            (Some(_), Some(api), _) => api.clone(),
            (None, None, None) if self.is_new => "nobody was asked yet".to_owned(),
            (None, api, runtime) => {
                let both: Vec<&str> = [api, runtime].into_iter().flatten().map(String::as_str).collect();
                both.join("; ")
            }
        };
        let state = SourceState {
            is_wanted: self.is_asked() || has_runtime && self.working.is_some(),
            is_expected: self.working.is_some() || self.is_new,
            source: self.working,
            reason,
            failures: self.failures.iter().map(|(reason, count)| (*reason, *count)).collect(),
        };
        let is_news = self.sent.as_ref() != Some(&state);
        is_news.then(|| {
            self.sent = Some(state.clone());
            state
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_the_server_to_the_runtime_and_back() {
        let mut report = Report::new(true, false);
        let state = report.news(true).expect("the first is news");
        assert!(state.is_wanted && state.is_expected && state.source.is_none());
        assert_eq!(report.news(true), None);

        report.works(Source::Api);
        let state = report.news(true).expect("it works");
        assert_eq!((state.source, state.reason.as_str()), (Some(Source::Api), ""));

        report.failed(Source::Api, &Failure::new("cut", "the watch broke"));
        let state = report.news(true).expect("it failed");
        assert_eq!((state.source, state.is_expected), (None, false));
        assert_eq!(state.failures, [("cut", 1)]);

        report.works(Source::Cri);
        let state = report.news(true).expect("the runtime tells");
        assert_eq!(
            (state.source, state.reason.as_str()),
            (Some(Source::Cri), "the watch broke")
        );
        assert!(report.is_missed);

        report.works(Source::Api);
        assert!(!report.is_missed);
        assert_eq!(report.news(true).map(|state| state.reason), Some(String::new()));
    }

    #[test]
    fn nobody_to_ask() {
        let mut report = Report::new(false, true);
        assert!(report.news(false).expect("the first is news").is_wanted);
        report.failed(Source::Cri, &Failure::new("unreachable", "no"));
        assert!(!report.news(true).expect("it does not answer").is_expected);

        let mut report = Report::new(false, false);
        assert!(
            !report.news(true).expect("the first is news").is_wanted,
            "only a socket"
        );
        report.failed(Source::Cri, &Failure::new("refused", "no such service"));
        assert!(!report.is_missed && !report.news(true).expect("it failed").is_wanted);
        report.works(Source::Cri);
        assert!(report.news(true).expect("it has pods").is_wanted);
        report.failed(Source::Cri, &Failure::new("unreachable", "no"));
        assert!(report.is_missed && report.news(true).expect("it failed").is_wanted);
    }
}
