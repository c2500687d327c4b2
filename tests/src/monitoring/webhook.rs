//! Who is notified: takes what Alertmanager posts, with the time at which it came.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Deserialize;

use super::http;

/// One notification.
#[derive(Debug)]
pub(crate) struct Notification {
    pub(crate) at: Instant,
    /// Where it was posted: which receiver.
    pub(crate) path: String,
    pub(crate) posted: Posted,
}

/// What of Alertmanager's message is looked at.
#[derive(Debug, Deserialize)]
pub(crate) struct Posted {
    /// `firing` or `resolved`.
    pub(crate) status: String,
    pub(crate) alerts: Vec<Alert>,
}

/// One alert of a notification.
#[derive(Debug, Deserialize)]
pub(crate) struct Alert {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Notification {
    /// `firing page: HoplineRttSpike two.test:443`, one part for each alert.
    pub(crate) fn in_short(&self) -> String {
        let label = |alert: &Alert, name: &str| alert.labels.get(name).cloned().unwrap_or_default();
        let alerts: Vec<String> = self
            .posted
            .alerts
            .iter()
            .map(|alert| {
                let [name, destination, port, kind] =
                    ["alertname", "destination", "destination_port", "kind"].map(|name| label(alert, name));
                format!("{name} {destination}:{port}{kind}")
            })
            .collect();
        format!(
            "{} {}: {}",
            self.posted.status,
            self.path.trim_start_matches('/'),
            alerts.join(", ")
        )
    }
}

/// A running receiver.
#[derive(Debug)]
pub(crate) struct Webhook {
    pub(crate) address: SocketAddr,
    posted: Receiver<Notification>,
}

impl Webhook {
    pub(crate) fn start() -> Result<Self> {
        let (sender, posted) = mpsc::channel();
        let address = http::serve(move |request| {
            let notification = Notification {
                at: Instant::now(),
                path: request.path,
                posted: serde_json::from_slice(&request.body)?,
            };
            // Nobody listens any more: the scenario is over.
            drop(sender.send(notification));
            Ok(String::new())
        })?;
        Ok(Self { address, posted })
    }

    /// The next one, or nothing within `limit`.
    pub(crate) fn next(&self, limit: Duration) -> Option<Notification> {
        self.posted.recv_timeout(limit).ok()
    }

    /// All that came meanwhile.
    pub(crate) fn rest(&self) -> Vec<Notification> {
        self.posted.try_iter().collect()
    }
}
