//! The API server: one list of this node's pods, then a watch of what changes, for as long as the agent runs.
//!
//! The watch is our own loop over kube's requests, not kube's `watcher`: that does not tell whether a quiet watch works, and
//! hopline must say so. Every failure ends in a new client, which reads token and certificates again, after a pause.
use std::{future::Future, io, pin::pin, time::Duration};

use futures_util::{AsyncBufRead, AsyncReadExt as _, TryStreamExt as _};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    core::{
        Request, WatchEvent,
        params::{ListParams, WatchParams},
    },
};
use tokio::{
    sync::mpsc::Sender,
    time::{Instant, sleep, timeout},
};

use super::{
    Told,
    backoff::Backoff,
    convert,
    failure::Failure,
    objects::{PodList, PodObject},
    settings::Settings,
};
use crate::workloads::{Change, Pod, Source};

const PODS: &str = "/api/v1/pods";
/// Longest wait for a list or for a watch to begin.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The server ends a watch after so long; the next goes on from there.
const WATCH_S: u32 = 120;
/// A watch that the server has not ended by then has lost its connection.
const WATCH_LIMIT: Duration = Duration::from_secs(WATCH_S as u64 + 15);
/// One that began works when it tells of something, or of no trouble for so long: that what it asks for is forgotten, the
/// server says after the beginning.
const SETTLED: Duration = Duration::from_secs(1);
/// One that ends this much earlier was cut.
const WATCH_EARLY: Duration = Duration::from_secs(5);
/// Pods in one page of a list, where the server makes pages at all.
const PAGE: u32 = 500;
/// The same once an answer was too long: so many of the largest objects that there can be fit.
const SMALL_PAGE: u32 = 4;
/// Longest answer that is read. Whoever may create pods may name a node in them, and give them a megabyte of annotations.
const ANSWER_BYTES: u64 = 8 << 20;

/// Runs until nobody listens.
pub(super) async fn run(settings: Settings, tell: Sender<Told>) {
    let mut backoff = Backoff::default();
    // How far the server's changes are known.
    let mut version = None;
    loop {
        let Err(failure) = follow(&settings, &tell, &mut version, &mut backoff).await else {
            return;
        };
        if failure.is_gone() {
            version = None;
        }
        if tell.send(Told::Failed(failure)).await.is_err() {
            return;
        }
        sleep(backoff.next()).await;
    }
}

/// Follows the server until something fails; `Ok` when nobody listens any more.
async fn follow(
    settings: &Settings,
    tell: &Sender<Told>,
    version: &mut Option<String>,
    backoff: &mut Backoff,
) -> Result<(), Failure> {
    let client = connect(settings).await?;
    let selector = format!("spec.nodeName={}", settings.node_name);
    loop {
        let from = if let Some(version) = version {
            version.clone()
        } else {
            let listed = limited("the list of pods", list(&client, &selector, settings)).await?;
            let all = Change::All(Source::Api, listed.pods);
            for change in [all, Change::LeftOut(listed.left_out)] {
                if tell.send(Told::Change(change)).await.is_err() {
                    return Ok(());
                }
            }
            version.insert(listed.version).clone()
        };
        let params = WatchParams {
            field_selector: Some(selector.clone()),
            timeout: Some(WATCH_S),
            bookmarks: true,
            ..WatchParams::default()
        };
        let request = Request::new(PODS)
            .watch(&params, &from)
            .map_err(|error| Failure::new("configuration", error.to_string()))?;
        let mut events = pin!(
            limited(
                "the beginning of the watch",
                client.request_events::<PodObject>(request)
            )
            .await?
        );
        let began = Instant::now();
        let mut is_settled = false;
        loop {
            let limit = if is_settled { WATCH_LIMIT } else { SETTLED };
            let waited = timeout(limit.saturating_sub(began.elapsed()), events.try_next()).await;
            let event = match waited {
                Ok(event) => event?,
                Err(_) if is_settled => return Err(Failure::timeout("the watch of pods", WATCH_LIMIT)),
                Err(_) => None,
            };
            let is_quiet = event.is_none() && !is_settled && began.elapsed() >= SETTLED;
            let is_told = event
                .as_ref()
                .is_some_and(|event| !matches!(event, WatchEvent::Error(_)));
            if !is_settled && (is_quiet || is_told) {
                is_settled = true;
                backoff.reset();
                if tell.send(Told::Watching).await.is_err() {
                    return Ok(());
                }
            }
            let Some(event) = event else {
                if is_quiet {
                    continue;
                }
                break;
            };
            let change = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    advance(version, object.metadata.resource_version.as_ref());
                    convert::of_object(object, &settings.annotations).map(|pod| Change::Seen(Box::new(pod)))
                }
                WatchEvent::Deleted(object) => {
                    advance(version, object.metadata.resource_version.as_ref());
                    object.metadata.uid.map(|uid| Change::Gone(uid.into()))
                }
                WatchEvent::Bookmark(bookmark) => {
                    advance(version, Some(&bookmark.metadata.resource_version));
                    None
                }
                WatchEvent::Error(status) => return Err(Failure::of_status(status.code, &status.message)),
            };
            if let Some(change) = change
                && tell.send(Told::Change(change)).await.is_err()
            {
                return Ok(());
            }
        }
        if began.elapsed() + WATCH_EARLY < WATCH_LIMIT.min(Duration::from_secs(WATCH_S.into())) {
            return Err(Failure::new("cut", "the watch of pods ended too early"));
        }
    }
}

fn advance(version: &mut Option<String>, to: Option<&String>) {
    if let Some(to) = to {
        *version = Some(to.clone());
    }
}

/// Reads address, certificates and token anew: all of them change in the life of an agent.
async fn connect(settings: &Settings) -> Result<Client, Failure> {
    let configuration = |text: String| Failure::new("configuration", text);
    let mut config = match &settings.kubeconfig {
        None => Config::incluster().map_err(|error| configuration(error.to_string()))?,
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| configuration(error.to_string()))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|error| configuration(error.to_string()))?
        }
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    // Failures are counted and told here, so nobody else may try again unseen.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// All pods of the node, as far as there is room.
#[derive(Default)]
struct Listed {
    pods: Vec<Pod>,
    bytes: usize,
    /// Pods that found no room.
    left_out: u64,
    /// From where on to watch.
    version: String,
}

/// Version 0 is what the server has at hand: it need not ask etcd, which hundreds of agents would notice, but it may take
/// no heed of pages then. Where that makes too long an answer, etcd is asked, in small pages.
async fn list(client: &Client, selector: &str, settings: &Settings) -> Result<Listed, Failure> {
    let mut listed = Listed::default();
    let mut next = None;
    let mut limit = PAGE;
    loop {
        let params = ListParams {
            field_selector: Some(selector.to_owned()),
            limit: Some(limit),
            resource_version: (next.is_none() && limit == PAGE).then(|| "0".to_owned()),
            continue_token: next,
            ..ListParams::default()
        };
        let request = Request::new(PODS).list(&params).map_err(kube::Error::BuildRequest)?;
        let Some(text) = whole(client.request_stream(request).await?).await? else {
            if limit == SMALL_PAGE {
                return Err(Failure::new(
                    "invalid",
                    "a few pods make too long an answer of the API server",
                ));
            }
            (listed, next, limit) = (Listed::default(), None, SMALL_PAGE);
            continue;
        };
        let page: PodList = serde_json::from_slice(&text).map_err(kube::Error::SerdeError)?;
        drop(text);
        for object in page.items.unwrap_or_default() {
            let Some(pod) = convert::of_object(object, &settings.annotations) else {
                continue;
            };
            if listed.bytes + pod.bytes() > settings.most_bytes {
                listed.left_out += 1;
                continue;
            }
            listed.bytes += pod.bytes();
            listed.pods.push(pod);
        }
        next = page.metadata.r#continue.filter(|token| !token.is_empty());
        if next.is_none() {
            listed.version = page.metadata.resource_version.unwrap_or_default();
            return Ok(listed);
        }
    }
}

/// All bytes of an answer; `None` when there are more than are read.
async fn whole(answer: impl AsyncBufRead) -> Result<Option<Vec<u8>>, Failure> {
    let mut bytes = Vec::new();
    let read = pin!(answer.take(ANSWER_BYTES + 1)).read_to_end(&mut bytes).await;
    read.map_err(|error: io::Error| Failure::new("cut", format!("the API server's answer broke: {error}")))?;
    Ok((bytes.len() as u64 <= ANSWER_BYTES).then_some(bytes))
}

async fn limited<T, E>(what: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, Failure>
where
    Failure: From<E>,
{
    match timeout(ANSWER_LIMIT, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Failure::timeout(what, ANSWER_LIMIT)),
    }
}
