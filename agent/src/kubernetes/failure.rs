//! Why a source did not answer as it should.
use std::time::Duration;

use crate::workloads::FAILURES;

/// One failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// One of a closed set, for the metric.
    pub(super) reason: &'static str,
    /// For people.
    pub(super) text: String,
}

impl Failure {
    /// What the server remembers does not reach back so far: list everything again.
    pub(super) const GONE: &'static str = "gone";

    pub(super) fn new(reason: &'static str, text: impl Into<String>) -> Self {
        debug_assert!(FAILURES.contains(&reason), "{reason}");
        Self {
            reason,
            text: text.into(),
        }
    }

    pub(super) fn timeout(what: &str, limit: Duration) -> Self {
        Self::new("timeout", format!("{what} took longer than {} s", limit.as_secs()))
    }

    pub(super) fn is_gone(&self) -> bool {
        self.reason == Self::GONE
    }

    /// By the HTTP status of an answer.
    pub(super) fn of_status(code: u16, message: &str) -> Self {
        let reason = match code {
            401 => "unauthorized",
            403 => "forbidden",
            410 => Self::GONE,
            429 => "throttled",
            500..=599 => "server",
            _ => "refused",
        };
        Self::new(
            reason,
            format!("the API server answered {code}: {}", shortened(message)),
        )
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        use kube::Error;
        match error {
            Error::Api(status) => Self::of_status(status.code, &status.message),
            Error::SerdeError(error) => Self::new("invalid", format!("the API server's answer: {error}")),
            Error::FromUtf8(error) => Self::new("invalid", format!("the API server's answer: {error}")),
            Error::ReadEvents(error) => Self::new("cut", format!("the watch of pods broke: {error}")),
            Error::Auth(error) => Self::new("configuration", format!("credentials: {error}")),
            Error::InferConfig(error) => Self::new("configuration", error.to_string()),
            Error::InferKubeconfig(error) => Self::new("configuration", error.to_string()),
            other => Self::new("unreachable", whole(&other)),
        }
    }
}

/// An error with its causes, which say more than it does itself.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    shortened(&text).to_owned()
}

/// No more of a message than a line of the log should hold.
fn shortened(text: &str) -> &str {
    const MOST: usize = 300;
    let line = text.lines().next().unwrap_or_default();
    let mut end = line.len().min(MOST);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    &line[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_short() {
        assert_eq!(shortened("one\ntwo"), "one");
        assert!(shortened(&"ä".repeat(400)).len() <= 300);
        assert_eq!(shortened(""), "");
    }

    #[test]
    fn statuses() {
        let reasons = [401, 403, 410, 429, 503, 404].map(|code| Failure::of_status(code, "").reason);
        assert_eq!(
            reasons,
            ["unauthorized", "forbidden", "gone", "throttled", "server", "refused"]
        );
    }
}
