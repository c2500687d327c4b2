//! The HTTP server: metrics, health, and the API for people and programs on this machine.
//!
//! Loopback is shared by every process of the host and by every browser tab on it, so a request must name loopback in
//! its `Host` header (a page of another origin cannot). Records tell who talks to whom: beyond loopback only
//! `/metrics`, `/livez` and `/readyz` answer. Knows the agent as a [`Source`] only; started by `command`.
use std::{
    convert::Infallible,
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Json, Router,
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
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, broadcast},
};

use super::{json, prometheus, sockets};
use crate::{aggregate::Snapshot, pipeline::Output, selfmetrics::SelfMetrics};

/// Listeners of `/api/v1/connections` at once.
const STREAMS: usize = 16;

/// Whom the server asks.
pub trait Source: Clone + Send + Sync + 'static {
    /// Whether the programs are attached and the sockets opened before the start were looked for.
    fn is_ready(&self) -> bool;

    /// The pipeline's picture and the agent's own numbers; `None` at the end, or when too many ask at once.
    fn scrape(&self) -> impl Future<Output = Option<(Snapshot, SelfMetrics)>> + Send;

    /// Single connections as they come; `None` at the end.
    fn records(&self) -> Option<broadcast::Receiver<Arc<Output>>>;

    /// The last events, the oldest first; `None` at the end.
    fn events(&self) -> impl Future<Output = Option<Vec<Arc<Output>>>> + Send;

    /// A listener was too slow for so many records.
    fn missed(&self, records: u64);
}

/// What every request sees.
#[derive(Clone, Debug)]
struct Server<S> {
    agent: S,
    /// The address the server listens on.
    listen: SocketAddr,
    streams: Arc<Semaphore>,
}

/// Answers requests until the task is dropped.
pub async fn serve<S: Source>(listener: TcpListener, agent: S) -> std::io::Result<()> {
    let server = Server {
        agent,
        listen: listener.local_addr()?,
        streams: Arc::new(Semaphore::new(STREAMS)),
    };
    let router = Router::new()
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
        .with_state(server);
    axum::serve(listener, router).await
}

/// Who may ask for what.
async fn guard<S: Source>(State(server): State<Server<S>>, request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    match refusal(server.listen.ip(), host, request.uri()) {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    }
}

/// Why a request is refused, if it is.
fn refusal(listen: IpAddr, host: &str, uri: &Uri) -> Option<(StatusCode, &'static str)> {
    if listen.is_loopback() {
        let misdirected = (
            StatusCode::MISDIRECTED_REQUEST,
            "this server answers requests to a loopback address only\n",
        );
        return (!names_loopback(host)).then_some(misdirected);
    }
    let open = matches!(uri.path(), "/metrics" | "/livez" | "/readyz");
    (!open).then_some((
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
fn unavailable() -> Response {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "the agent is busy or ending; try again\n",
    )
        .into_response()
}

async fn readyz<S: Source>(State(server): State<Server<S>>) -> Response {
    if server.agent.is_ready() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response()
}

async fn metrics<S: Source>(State(server): State<Server<S>>, headers: HeaderMap) -> Response {
    let Some((snapshot, own)) = server.agent.scrape().await else {
        return unavailable();
    };
    // Thousands of series take milliseconds to write: not on the thread that reads the rings.
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let text = tokio::task::spawn_blocking(move || prometheus::scrape(&snapshot, &own, &accept)).await;
    match text {
        Ok((content_type, text)) => ([(header::CONTENT_TYPE, content_type)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "writing the metrics failed");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn destinations<S: Source>(State(server): State<Server<S>>, uri: Uri) -> Response {
    let write = match uri.query() {
        None | Some("" | "by=destination") => json::destinations,
        Some("by=group") => json::groups,
        Some(_) => return (StatusCode::BAD_REQUEST, "by=destination or by=group, no more\n").into_response(),
    };
    match server.agent.scrape().await {
        Some((snapshot, _)) => Json(write(&snapshot)).into_response(),
        None => unavailable(),
    }
}

/// The last events as a list, or as they come for those who accept a stream.
async fn events<S: Source>(State(server): State<Server<S>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if accept.is_some_and(|accept| accept.contains("text/event-stream")) {
        return stream_of(server, true);
    }
    match server.agent.events().await {
        Some(events) => ([(header::CONTENT_TYPE, "application/json")], json::events(&events)).into_response(),
        None => unavailable(),
    }
}

async fn totals<S: Source>(State(server): State<Server<S>>) -> Response {
    match server.agent.scrape().await {
        Some((snapshot, _)) => Json(json::totals(&snapshot)).into_response(),
        None => unavailable(),
    }
}

async fn paths<S: Source>(State(server): State<Server<S>>) -> Response {
    match server.agent.scrape().await {
        Some((snapshot, _)) => Json(json::paths(&snapshot)).into_response(),
        None => unavailable(),
    }
}

async fn sockets<S: Source>(State(server): State<Server<S>>) -> Response {
    match server.agent.scrape().await {
        Some((snapshot, _)) => Json(sockets::sockets(&snapshot)).into_response(),
        None => unavailable(),
    }
}

/// Files in which probes tell what a TLS library says.
async fn tls_targets<S: Source>(State(server): State<Server<S>>) -> Response {
    match server.agent.scrape().await {
        Some((_, own)) => Json(own.tls_targets).into_response(),
        None => unavailable(),
    }
}

/// Finished and stuck connections as they come. A listener that is too slow misses some and is told how many.
async fn connections<S: Source>(State(server): State<Server<S>>) -> Response {
    stream_of(server, false)
}

fn stream_of<S: Source>(server: Server<S>, events_only: bool) -> Response {
    let Ok(permit) = Arc::clone(&server.streams).try_acquire_owned() else {
        return (StatusCode::TOO_MANY_REQUESTS, "too many listeners already\n").into_response();
    };
    let Some(records) = server.agent.records() else {
        return unavailable();
    };
    let listening = Listening {
        records,
        agent: server.agent,
        events_only,
        _permit: permit,
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
    /// Given back when the listener goes.
    _permit: OwnedSemaphorePermit,
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
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
        sync::atomic::{AtomicU64, Ordering},
    };

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
                refusal.map(|(status, _)| status.as_u16()),
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
    struct Starting {
        told: broadcast::Sender<Arc<Output>>,
        missed: Arc<AtomicU64>,
    }

    impl Starting {
        fn new() -> Self {
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

    /// The answer to `GET path`, head and body.
    fn get(address: SocketAddr, path: &str, host: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("connect");
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read");
        answer
    }

    #[tokio::test]
    async fn answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(serve(listener, Starting::new()));
        for (path, host, status, part) in [
            ("/livez", "localhost", 200, "ok"),
            ("/readyz", "localhost", 503, "starting"),
            ("/metrics", "127.0.0.1", 200, "hopline_build_info"),
            ("/api/v1/destinations", "[::1]:1", 200, "[]"),
            ("/api/v1/destinations?by=group", "localhost", 200, "[]"),
            ("/api/v1/destinations?by=name", "localhost", 400, "by=group"),
            ("/api/v1/events", "localhost", 200, "[{\"event\":\"stuck\","),
            ("/api/v1/totals", "localhost", 200, "\"truth\""),
            ("/api/v1/sockets", "localhost", 200, "\"listeners\""),
            ("/nothing", "localhost", 404, ""),
            ("/metrics", "evil.example", 421, "loopback"),
        ] {
            let asked = tokio::task::spawn_blocking(move || get(address, path, host));
            let answer = asked.await.expect("no panic");
            assert!(answer.starts_with(&format!("HTTP/1.0 {status} ")), "{path}: {answer}");
            assert!(answer.contains(part), "{path}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_slow_listener_misses_some_and_is_told() {
        let agent = Starting::new();
        let streams = Arc::new(Semaphore::new(1));
        let records = agent.records().expect("records");
        let permit = Arc::clone(&streams).try_acquire_owned().expect("free");
        let mut listening = Listening {
            records,
            agent: agent.clone(),
            events_only: false,
            _permit: permit,
        };
        // One more than the channel holds: the oldest is gone.
        for _ in 0..3 {
            (_, listening) = next_event(listening).await.expect("an event");
        }
        assert_eq!(agent.missed.load(Ordering::Relaxed), 1);
        drop(listening);
        assert_eq!(streams.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_listener_of_events_gets_no_connections() {
        let agent = Starting::new();
        let records = agent.told.subscribe();
        for output in [Output::Finished(Box::new(record())), Output::Stuck(Box::new(record()))] {
            agent.told.send(Arc::new(output)).expect("somebody listens");
        }
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("free");
        let listening = Listening {
            records,
            agent,
            events_only: true,
            _permit: permit,
        };
        let (event, listening) = next_event(listening).await.expect("an event");
        let text = format!("{event:?}");
        assert!(text.contains("stuck") && !text.contains("finished"), "{text}");
        assert!(listening.records.is_empty());
    }
}
