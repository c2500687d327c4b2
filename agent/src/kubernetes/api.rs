//! The API server: one list of this node's pods, then a watch of what changes, for as long as the agent runs.
//!
//! The watch is our own loop over kube's requests, not kube's `watcher`: that does not tell whether a quiet watch works, and
//! hopline must say so. Every failure ends in a new client, which reads token and certificates again, after a pause.
use std::{future::Future, pin::pin, time::Duration};

use futures_util::TryStreamExt as _;
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
/// Pods in one page of a list.
const PAGE: u32 = 500;

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
            let (pods, listed) = limited("the list of pods", list(&client, &selector, settings)).await?;
            if tell.send(Told::Change(Change::All(Source::Api, pods))).await.is_err() {
                return Ok(());
            }
            version.insert(listed).clone()
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

/// All pods of the node, and from where on to watch. Version 0 is what the server has at hand: it need not ask etcd, which
/// hundreds of agents would notice.
async fn list(client: &Client, selector: &str, settings: &Settings) -> kube::Result<(Vec<Pod>, String)> {
    let mut pods = Vec::new();
    let mut next = None;
    loop {
        let params = ListParams {
            field_selector: Some(selector.to_owned()),
            limit: Some(PAGE),
            resource_version: next.is_none().then(|| "0".to_owned()),
            continue_token: next,
            ..ListParams::default()
        };
        let request = Request::new(PODS).list(&params).map_err(kube::Error::BuildRequest)?;
        let text = client.request_text(request).await?;
        let page: PodList = serde_json::from_str(&text).map_err(kube::Error::SerdeError)?;
        drop(text);
        let objects = page.items.unwrap_or_default();
        pods.extend(
            objects
                .into_iter()
                .filter_map(|object| convert::of_object(object, &settings.annotations)),
        );
        next = page.metadata.r#continue.filter(|token| !token.is_empty());
        if next.is_none() {
            return Ok((pods, page.metadata.resource_version.unwrap_or_default()));
        }
    }
}

async fn limited<T>(what: &str, work: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match timeout(ANSWER_LIMIT, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Failure::timeout(what, ANSWER_LIMIT)),
    }
}
