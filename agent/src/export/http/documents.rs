//! Response bodies that are large or dear: made one at a time, shared by all who asked before, bounded while they are sent.
//!
//! A thousand scrapes at once cost two bodies: the one under way when they came, and the one made for all of them. Making
//! rests in between, so that no reader can keep the agent busy.
use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until, timeout},
};

use super::limits::{BODY_AGE, BODY_BYTES, BUSY, MAX_REST, REST};

/// Which body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    OpenMetrics,
    ClassicMetrics,
    Destinations,
    Groups,
    Totals,
    Paths,
    Sockets,
    TlsTargets,
    Events,
}

/// Content type and bytes as they are made.
pub(super) type Made = (&'static str, Vec<u8>);

/// A body that is there.
#[derive(Debug)]
pub(super) struct Document {
    /// Tells it from all others.
    pub(super) number: u64,
    pub(super) content_type: &'static str,
    bytes: Vec<u8>,
    /// Nothing in it is older.
    begun: Instant,
}

impl Document {
    /// Its bytes, not copied; it lives until the last reader has them.
    pub(super) fn body(self: &Arc<Self>) -> Bytes {
        Bytes::from_owner(Shared(Arc::clone(self)))
    }
}

struct Shared(Arc<Document>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// Bounds, which tests choose smaller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) bytes: usize,
    pub(super) busy: Duration,
    pub(super) max_rest: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: BODY_BYTES,
            busy: BUSY,
            max_rest: MAX_REST,
        }
    }
}

/// All bodies that somebody may still read.
#[derive(Debug)]
pub(super) struct Documents {
    limits: Limits,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The latest of each kind, for those who asked before it was begun and for hard times.
    latest: HashMap<Kind, Arc<Document>>,
    /// Whatever a reader may still hold, the oldest first.
    sent: Vec<Weak<Document>>,
    made: u64,
    /// No other is begun before.
    rests_until: Option<Instant>,
}

impl Documents {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: Arc::default(),
        }
    }

    /// A body that holds all that was known when it was asked for; a second older while readers hold more than there may
    /// be. `revoke` is given the document whose readers have to go. `None` when it takes too long or cannot be made.
    pub(super) async fn get<F>(
        &self,
        kind: Kind,
        revoke: impl FnOnce(u64),
        make: impl FnOnce() -> F + Send + 'static,
    ) -> Option<Arc<Document>>
    where
        F: Future<Output = Option<Made>> + Send,
    {
        let asked = Instant::now();
        let lock = timeout(self.limits.busy, Arc::clone(&self.state).lock_owned());
        let mut state = lock.await.ok()?;
        let fresh = state.latest.get(&kind).filter(|latest| latest.begun >= asked);
        if let Some(fresh) = fresh {
            return Some(Arc::clone(fresh));
        }
        if state.sent_bytes() > self.limits.bytes {
            state.forget_old();
            if let Some(latest) = state.latest.get(&kind) {
                return Some(Arc::clone(latest));
            }
            if let Some(oldest) = state.sent.iter().find_map(Weak::upgrade) {
                revoke(oldest.number);
            }
        }
        // A task of its own: whoever asked may go, and another that is begun then would be a second one at the same time.
        let max_rest = self.limits.max_rest;
        let making = tokio::spawn(async move {
            if let Some(until) = state.rests_until {
                sleep_until(until).await;
            }
            let begun = Instant::now();
            let written = make().await;
            state.rests_until = Some(Instant::now() + (begun.elapsed() * REST).min(max_rest));
            let (content_type, bytes) = written?;
            state.made += 1;
            let document = Arc::new(Document {
                number: state.made,
                content_type,
                bytes,
                begun,
            });
            state.sent.push(Arc::downgrade(&document));
            state.latest.insert(kind, Arc::clone(&document));
            Some(document)
        });
        making.await.ok()?
    }

    /// Lets go of what nobody will be given any more. Called now and then.
    pub(super) fn forget_old(&self) {
        // Held while one is made: that one is young.
        if let Ok(mut state) = self.state.try_lock() {
            state.forget_old();
        }
    }
}

impl State {
    fn forget_old(&mut self) {
        self.latest.retain(|_, latest| latest.begun.elapsed() < BODY_AGE);
        self.sent.retain(|document| document.strong_count() > 0);
    }

    /// Bytes that readers hold, or may be given.
    fn sent_bytes(&mut self) -> usize {
        self.sent.retain(|document| document.strong_count() > 0);
        let documents = self.sent.iter().filter_map(Weak::upgrade);
        documents
            .map(|document| document.bytes.len() + size_of::<Document>())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use tokio::time::sleep;

    use super::*;

    const LONG: Duration = Duration::from_millis(20);
    const LIMITS: Limits = Limits {
        bytes: 200,
        busy: Duration::from_secs(1),
        max_rest: Duration::from_millis(30),
    };

    /// Asks; the body takes a while and holds the number of those made before.
    async fn ask(documents: &Documents, made: &Arc<AtomicU64>, revoked: &AtomicU64) -> Option<Arc<Document>> {
        let made = Arc::clone(made);
        let write = || async move {
            sleep(LONG).await;
            let number = made.fetch_add(1, Relaxed);
            Some(("text/plain", vec![number as u8; 80]))
        };
        let revoke = |number| revoked.store(number, Relaxed);
        documents.get(Kind::Totals, revoke, write).await
    }

    #[tokio::test]
    async fn many_who_ask_at_once_share_one() {
        let documents = Documents::new(LIMITS);
        let (made, revoked) = (Arc::default(), AtomicU64::new(0));
        let asks = (0..50).map(|_| ask(&documents, &made, &revoked));
        let got = futures_util::future::join_all(asks).await;
        assert!(got.iter().all(Option::is_some));
        assert_eq!(made.load(Relaxed), 1);
        // Whoever comes afterwards gets another one.
        let later = ask(&documents, &made, &revoked).await.expect("a body");
        assert_eq!((later.body()[0], made.load(Relaxed)), (1, 2));
    }

    #[tokio::test]
    async fn who_goes_does_not_start_two_at_once() {
        let documents = Documents::new(LIMITS);
        let (made, revoked) = (Arc::default(), AtomicU64::new(0));
        let begin = Instant::now();
        for _ in 0..20 {
            // Gone before it is made.
            drop(timeout(Duration::from_millis(5), ask(&documents, &made, &revoked)).await);
        }
        assert!(ask(&documents, &made, &revoked).await.is_some());
        assert!(begin.elapsed() >= (LONG + LIMITS.max_rest) * (made.load(Relaxed) as u32 - 1));
    }

    #[tokio::test]
    async fn bodies_that_nobody_takes_are_bounded() {
        let documents = Documents::new(LIMITS);
        let (made, revoked) = (Arc::default(), AtomicU64::new(0));
        let held = [
            ask(&documents, &made, &revoked).await,
            ask(&documents, &made, &revoked).await,
        ];
        // Two are more than there may be: the next reader shares the second while it is young ...
        let third = ask(&documents, &made, &revoked).await.expect("a body");
        assert_eq!((third.number, revoked.load(Relaxed)), (2, 0));
        // ... and then the oldest has to go.
        sleep(BODY_AGE).await;
        let fourth = ask(&documents, &made, &revoked).await.expect("a body");
        assert_eq!((fourth.number, revoked.load(Relaxed)), (3, 1));
        drop((held, third, fourth));
        sleep(BODY_AGE).await;
        documents.forget_old();
        assert_eq!(documents.state.lock().await.sent_bytes(), 0);
    }

    #[tokio::test]
    async fn who_waits_too_long_is_told() {
        let documents = Documents::new(LIMITS);
        let slow = documents.get(
            Kind::Totals,
            |_| {},
            || async {
                sleep(LIMITS.busy * 3).await;
                Some(("text/plain", Vec::new()))
            },
        );
        let (made, revoked) = (Arc::default(), AtomicU64::new(0));
        let (slow, busy) = tokio::join!(slow, ask(&documents, &made, &revoked));
        assert!(slow.is_some() && busy.is_none());
    }
}
