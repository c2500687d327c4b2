//! Gathers the records of ended connections by the cookies of their sockets.
use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{compare::Measured, pipeline::Output};

/// Of each connection what is of use, by its socket's cookie.
type Connections = BTreeMap<u64, Measured>;

/// The task that gathers; it ends when no more records can come.
#[derive(Debug)]
pub(super) struct Collector {
    connections: watch::Receiver<Connections>,
    task: JoinHandle<()>,
}

impl Collector {
    /// Begins to gather.
    pub(super) fn start(mut records: mpsc::Receiver<Vec<Output>>) -> Self {
        let (sender, connections) = watch::channel(Connections::new());
        let task = tokio::spawn(async move {
            while let Some(batch) = records.recv().await {
                let ended = batch.iter().filter_map(|output| match output {
                    Output::Finished(record) => Measured::of(record),
                    _ => None,
                });
                sender.send_modify(|connections| connections.extend(ended));
            }
        });
        Self { connections, task }
    }

    /// Waits until all of these have ended, at most for `limit`.
    pub(super) async fn wait(&mut self, cookies: &[u64], limit: Duration) {
        let all = self
            .connections
            .wait_for(|connections| cookies.iter().all(|cookie| connections.contains_key(cookie)));
        // What is missing then is told by whoever joins them.
        drop(timeout(limit, all).await);
    }

    /// All that came, once the agent has ended.
    pub(super) async fn finish(self) -> Result<Connections, anyhow::Error> {
        self.task.await.context("the collector broke; please report this")?;
        Ok(self.connections.borrow().clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::{compare::Measured, connection::record::TlsRecord, export::human::tests::record};

    #[test]
    fn of_a_record() {
        let check = |id: &str, expected: Option<u64>| {
            let mut record = record();
            id.clone_into(&mut record.id);
            assert_eq!(Measured::of(&record).map(|(cookie, _)| cookie), expected, "{id}");
        };
        check("6d1f-8a2b-4711", Some(4711));
        check("6d1f-8a2b-4711.2", Some(4711));
        check("4711", None);
        check("6d1f-x", None);

        let mut record = record();
        record.phases_us.ttfb = Some(5);
        record.ttfb_basis = Some("inferred");
        record.tls = Some(TlsRecord {
            version: Some("1.3".to_owned()),
            cipher: Some("TLS_AES_128_GCM_SHA256".to_owned()),
            sni: None,
            alpn: None,
            resumed: None,
            outcome: Some("ok".to_owned()),
            failed_by: None,
            library: None,
        });
        let (_, measured) = Measured::of(&record).expect("a cookie");
        assert_eq!(measured.phases_us.ttfb, Some(5));
        assert_eq!(measured.agreed.map(|(version, _)| version).as_deref(), Some("1.3"));
        record.ttfb_basis = Some("ambiguous");
        let (_, measured) = Measured::of(&record).expect("a cookie");
        assert_eq!(measured.phases_us.ttfb, None, "it may be no answer's");
    }
}
