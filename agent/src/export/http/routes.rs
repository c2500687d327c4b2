//! What the HTTP server answers: metrics, health, and the API for people and programs on this machine.
//!
//! Loopback is shared by every process of the host and by every browser tab on it, so a request must name loopback in
//! its `Host` header (a page of another origin cannot). Records tell who talks to whom: beyond loopback only
//! `/metrics`, `/livez` and `/readyz` answer. Knows the agent as a [`Source`] only.
use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Instant};

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
    routing::get,
};
use futures_util::stream;
use serde_json::json;
use tokio::sync::broadcast;

use super::{
    Source,
    counts::Refusal,
    documents::{Documents, Kind, Made},
    table::{Entry, Table},
};
use crate::{
    aggregate::Snapshot,
    export::{accept, json, prometheus, sockets},
    pipeline::Output,
    selfmetrics::SelfMetrics,
};

const JSON: &str = "application/json";

/// What every request sees.
#[derive(Clone, Debug)]
pub(super) struct Server<S> {
    pub(super) agent: S,
    /// The address the server listens on.
    pub(super) listen: IpAddr,
    pub(super) table: Arc<Table>,
    pub(super) documents: Arc<Documents>,
}

/// The connection that a request came on.
type Connection = Extension<Arc<Entry>>;

pub(super) fn router<S: Source>(server: Server<S>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics::<S>))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz::<S>))
        .route("/api/v1/destinations", get(destinations::<S>))
        .route("/api/v1/totals", get(totals::<S>))
        .route("/api/v1/sockets", get(sockets::<S>))
        .route("/api/v1/tls-targets", get(tls_targets::<S>))
        .route("/api/v1/paths", get(paths::<S>))
        .route("/api/v1/connections", get(connections::<S>))
        .route("/api/v1/events", get(events::<S>))
        .layer(middleware::from_fn_with_state(server.clone(), guard::<S>))
        .with_state(server)
}

/// Who may ask for what.
async fn guard<S: Source>(State(server): State<Server<S>>, request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    match refusal(server.listen, host, request.uri()) {
        Some((reason, status, text)) => {
            server.table.counts.refused(reason);
            (status, text).into_response()
        }
        None => next.run(request).await,
    }
}

/// Why a request is refused, if it is.
fn refusal(listen: IpAddr, host: &str, uri: &Uri) -> Option<(Refusal, StatusCode, &'static str)> {
    if listen.is_loopback() {
        let misdirected = (
            Refusal::Host,
            StatusCode::MISDIRECTED_REQUEST,
            "this server answers requests to a loopback address only\n",
        );
        return (!names_loopback(host)).then_some(misdirected);
    }
    let open = matches!(uri.path(), "/metrics" | "/livez" | "/readyz");
    (!open).then_some((
        Refusal::Path,
        StatusCode::FORBIDDEN,
        "beyond loopback only /metrics, /livez and /readyz answer\n",
    ))
}

/// Whether a `Host` header, with or without a port, is a loopback address or `localhost`.
fn names_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

async fn index() -> impl IntoResponse {
    "hopline\n\n/metrics              OpenMetrics\n/livez, /readyz       health\n/api/v1/destinations  per \
     destination, JSON\n/api/v1/connections   single connections, server-sent events\n/api/v1/events        the last \
     events, JSON or server-sent events\n/api/v1/paths         network paths hop by hop, JSON\n/api/v1/sockets       sockets that stay, JSON\n/api/v1/totals        sums, JSON\n"
}

/// The agent is ending, or too many ask at once.
fn unavailable(table: &Table) -> Response {
    table.counts.refused(Refusal::Busy);
    (
        StatusCode::SERVICE_UNAVAILABLE,
        [(header::RETRY_AFTER, "1")],
        "the agent is busy or ending; try again\n",
    )
        .into_response()
}

async fn readyz<S: Source>(State(server): State<Server<S>>) -> Response {
    let why = match server.agent.missing_core() {
        Some(why) => format!("{why}\n"),
        None if server.agent.is_ready() => return "ready\n".into_response(),
        None => "starting\n".to_owned(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

fn accepted(headers: &HeaderMap) -> &str {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.unwrap_or_default()
}

async fn metrics<S: Source>(
    State(server): State<Server<S>>,
    Extension(entry): Connection,
    headers: HeaderMap,
) -> Response {
    let kind = if accept::wants_openmetrics(accepted(&headers)) {
        Kind::OpenMetrics
    } else {
        Kind::ClassicMetrics
    };
    server
        .scraped(&entry, kind, move |snapshot, own| {
            let (content_type, text) = prometheus::scrape(snapshot, own, kind == Kind::OpenMetrics);
            (content_type, text.into_bytes())
        })
        .await
}

/// A value as JSON.
fn as_json(value: &impl serde::Serialize) -> Made {
    (JSON, serde_json::to_vec(value).expect("keys are strings"))
}

async fn destinations<S: Source>(State(server): State<Server<S>>, Extension(entry): Connection, uri: Uri) -> Response {
    let (kind, write): (_, fn(&Snapshot) -> serde_json::Value) = match uri.query() {
        None | Some("" | "by=destination") => (Kind::Destinations, json::destinations),
        Some("by=group") => (Kind::Groups, json::groups),
        Some(_) => return (StatusCode::BAD_REQUEST, "by=destination or by=group, no more\n").into_response(),
    };
    server
        .scraped(&entry, kind, move |snapshot, _| as_json(&write(snapshot)))
        .await
}

/// The last events as a list, or as they come for those who accept a stream.
async fn events<S: Source>(
    State(server): State<Server<S>>,
    Extension(entry): Connection,
    headers: HeaderMap,
) -> Response {
    if accept::names(accepted(&headers), "text/event-stream") {
        return stream_of(server, &entry, true);
    }
    let agent = server.agent.clone();
    let make = || async move {
        let events = agent.events().await?;
        Some((JSON, json::events(&events)))
    };
    server.document(&entry, Kind::Events, make).await
}

async fn totals<S: Source>(State(server): State<Server<S>>, Extension(entry): Connection) -> Response {
    let write = |snapshot: &Snapshot, _: &_| as_json(&json::totals(snapshot));
    server.scraped(&entry, Kind::Totals, write).await
}

async fn paths<S: Source>(State(server): State<Server<S>>, Extension(entry): Connection) -> Response {
    let write = |snapshot: &Snapshot, _: &_| as_json(&json::paths(snapshot));
    server.scraped(&entry, Kind::Paths, write).await
}

async fn sockets<S: Source>(State(server): State<Server<S>>, Extension(entry): Connection) -> Response {
    let write = |snapshot: &Snapshot, _: &_| as_json(&sockets::sockets(snapshot));
    server.scraped(&entry, Kind::Sockets, write).await
}

/// Files in which probes tell what a TLS library says.
async fn tls_targets<S: Source>(State(server): State<Server<S>>, Extension(entry): Connection) -> Response {
    let write = |_: &_, own: &SelfMetrics| as_json(&own.tls_targets);
    server.scraped(&entry, Kind::TlsTargets, write).await
}

impl<S: Source> Server<S> {
    /// A document that is written of what a scrape gives.
    async fn scraped(
        &self,
        entry: &Entry,
        kind: Kind,
        write: impl FnOnce(&Snapshot, &SelfMetrics) -> Made + Send + 'static,
    ) -> Response {
        let (agent, table) = (self.agent.clone(), Arc::clone(&self.table));
        let make = || async move {
            let (snapshot, mut own) = agent.scrape().await?;
            own.http = Some(table.numbers());
            // Thousands of series take milliseconds to write: not on the thread that accepts connections.
            let written = tokio::task::spawn_blocking(move || write(&snapshot, &own)).await;
            written
                .inspect_err(|error| tracing::error!(%error, "writing a response failed"))
                .ok()
        };
        self.document(entry, kind, make).await
    }

    async fn document<F>(&self, entry: &Entry, kind: Kind, make: impl FnOnce() -> F + Send + 'static) -> Response
    where
        F: Future<Output = Option<Made>> + Send,
    {
        let revoke = |number| self.table.revoke(number);
        match self.documents.get(kind, revoke, make).await {
            Some(document) => {
                entry.sends(document.number);
                ([(header::CONTENT_TYPE, document.content_type)], document.body()).into_response()
            }
            None => unavailable(&self.table),
        }
    }
}

/// Finished and stuck connections as they come. A listener that is too slow misses some and is told how many.
async fn connections<S: Source>(State(server): State<Server<S>>, Extension(entry): Connection) -> Response {
    stream_of(server, &entry, false)
}

fn stream_of<S: Source>(server: Server<S>, entry: &Entry, events_only: bool) -> Response {
    let Some(records) = server.agent.records() else {
        return unavailable(&server.table);
    };
    if !server.table.stream(entry, Instant::now()) {
        server.table.counts.refused(Refusal::Streams);
        return (
            StatusCode::TOO_MANY_REQUESTS,
            [(header::RETRY_AFTER, "10")],
            "too many listeners already\n",
        )
            .into_response();
    }
    let listening = Listening {
        records,
        agent: server.agent,
        events_only,
    };
    Sse::new(stream::unfold(listening, next_event))
        .keep_alive(KeepAlive::default())
        .into_response()
}

/// One listener of the stream.
struct Listening<S> {
    records: broadcast::Receiver<Arc<Output>>,
    agent: S,
    /// Connections and lookups are left out.
    events_only: bool,
}

async fn next_event<S: Source>(mut listening: Listening<S>) -> Option<(Result<Event, Infallible>, Listening<S>)> {
    let event = loop {
        let received = listening.records.recv().await;
        match received {
            Ok(output) if listening.events_only && !output.is_event() => {}
            received => break received,
        }
    };
    let event = match event {
        Ok(output) => {
            let mut line = Vec::new();
            json::record_line(&output, &mut line);
            Event::default().data(String::from_utf8_lossy(line.trim_ascii_end()))
        }
        Err(broadcast::error::RecvError::Lagged(missed)) => {
            listening.agent.missed(missed);
            Event::default().data(json!({ "event": "dropped", "count": missed }).to_string())
        }
        Err(broadcast::error::RecvError::Closed) => return None,
    };
    Some((Ok(event), listening))
}

#[cfg(test)]
pub(super) mod tests;
