//! Every route against a source that has not started; called by nothing else.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::export::human::tests::record;

#[test]
fn hosts() {
    for (host, loopback) in [
        ("127.0.0.1:9737", true),
        ("127.0.0.1", true),
        ("localhost:9737", true),
        ("LOCALHOST", true),
        ("[::1]:9737", true),
        ("[::1]", true),
        ("127.9.9.9:1", true),
        ("", false),
        ("evil.example", false),
        ("evil.example:9737", false),
        ("localhost.evil.example", false),
        ("10.0.0.1:9737", false),
        ("127.0.0.1.evil.example", false),
        ("127.0.0.1:evil", false),
    ] {
        assert_eq!(names_loopback(host), loopback, "{host}");
    }
}

#[test]
fn refusals() {
    let check = |listen: &str, host: &str, path: &'static str, status: Option<u16>| {
        let refusal = refusal(listen.parse().expect("an address"), host, &Uri::from_static(path));
        assert_eq!(
            refusal.map(|(_, status, _)| status.as_u16()),
            status,
            "{listen} {host} {path}"
        );
    };
    check("127.0.0.1", "127.0.0.1:9737", "/api/v1/connections", None);
    check("127.0.0.1", "evil.example", "/metrics", Some(421));
    check("::1", "localhost", "/", None);
    check("0.0.0.0", "10.0.0.1:9737", "/metrics", None);
    check("0.0.0.0", "10.0.0.1:9737", "/readyz", None);
    check("0.0.0.0", "127.0.0.1:9737", "/api/v1/totals", Some(403));
    check("10.0.0.1", "10.0.0.1", "/api/v1/connections", Some(403));
    check("10.0.0.1", "10.0.0.1", "/api/v1/events", Some(403));
    check("10.0.0.1", "10.0.0.1", "/api/v1/destinations", Some(403));
}

/// An agent that is not ready and has told three records to those who listened.
#[derive(Clone)]
pub(in super::super) struct Starting {
    pub(in super::super) told: broadcast::Sender<Arc<Output>>,
    missed: Arc<AtomicU64>,
}

impl Starting {
    pub(in super::super) fn new() -> Self {
        Self {
            told: broadcast::Sender::new(2),
            missed: Arc::default(),
        }
    }
}

impl Source for Starting {
    fn is_ready(&self) -> bool {
        false
    }

    fn missing_core(&self) -> Option<String> {
        None
    }

    async fn scrape(&self) -> Option<(Snapshot, SelfMetrics)> {
        Some((Snapshot::default(), SelfMetrics::default()))
    }

    fn records(&self) -> Option<broadcast::Receiver<Arc<Output>>> {
        let records = self.told.subscribe();
        for _ in 0..3 {
            self.told
                .send(Arc::new(Output::Finished(Box::new(record()))))
                .expect("somebody listens");
        }
        Some(records)
    }

    async fn events(&self) -> Option<Vec<Arc<Output>>> {
        Some(vec![Arc::new(Output::Stuck(Box::new(record())))])
    }

    fn missed(&self, records: u64) {
        self.missed.fetch_add(records, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_slow_listener_misses_some_and_is_told() {
    let agent = Starting::new();
    let records = agent.records().expect("records");
    let mut listening = Listening {
        records,
        agent: agent.clone(),
        events_only: false,
    };
    // One more than the channel holds: the oldest is gone.
    for _ in 0..3 {
        (_, listening) = next_event(listening).await.expect("an event");
    }
    assert_eq!(agent.missed.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_listener_of_events_gets_no_connections() {
    let agent = Starting::new();
    let records = agent.told.subscribe();
    for output in [Output::Finished(Box::new(record())), Output::Stuck(Box::new(record()))] {
        agent.told.send(Arc::new(output)).expect("somebody listens");
    }
    let listening = Listening {
        records,
        agent,
        events_only: true,
    };
    let (event, listening) = next_event(listening).await.expect("an event");
    let text = format!("{event:?}");
    assert!(text.contains("stuck") && !text.contains("finished"), "{text}");
    assert!(listening.records.is_empty());
}
