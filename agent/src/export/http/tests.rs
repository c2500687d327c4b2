//! The whole server on loopback, with limits of a second and less.
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::spawn_blocking,
    time::{Instant, timeout},
};

use super::{routes::tests::Starting, *};
use crate::export::human::tests::record;

const SHORT: Timeouts = Timeouts {
    header: Duration::from_millis(300),
    idle: Duration::from_millis(900),
    request: Duration::from_secs(30),
    write: Duration::from_millis(600),
};
/// Much longer than any of these, and than a sweep.
const LONG: Duration = Duration::from_secs(20);

/// Starts a server; its address, and the agent behind it.
fn start() -> (SocketAddr, Starting) {
    let listener = listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let agent = Starting::new();
    tokio::spawn(serve(listener, agent.clone(), 10_000, SHORT));
    (address, agent)
}

/// The answer to `GET path`, head and body.
async fn get(address: SocketAddr, path: &'static str, host: &'static str) -> String {
    let asked = spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).expect("connect");
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read");
        answer
    });
    asked.await.expect("no panic")
}

/// How many connections ended so, as the metrics say.
async fn count(address: SocketAddr, labels: &str) -> u64 {
    let text = get(address, "/metrics", "localhost").await;
    let line = text.lines().find(|line| line.contains(labels));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.and_then(|value| value.parse().ok()).expect("a counter")
}

/// Everything that the server still says, until it closes; a reset is an end, too.
async fn rest(stream: &mut tokio::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = timeout(LONG, stream.read_to_end(&mut bytes)).await;
    drop(read.expect("the server closes"));
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn connect(address: SocketAddr, say: &str) -> tokio::net::TcpStream {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connect");
    stream.write_all(say.as_bytes()).await.expect("write");
    stream
}

#[tokio::test]
async fn answers() {
    let (address, _agent) = start();
    for (path, host, status, part) in [
        ("/livez", "localhost", 200, "ok"),
        ("/readyz", "localhost", 503, "starting"),
        ("/metrics", "127.0.0.1", 200, "hopline_build_info"),
        (
            "/metrics",
            "127.0.0.1",
            200,
            "hopline_agent_http_connections_limit{} 128",
        ),
        ("/api/v1/destinations", "[::1]:1", 200, "[]"),
        ("/api/v1/destinations?by=group", "localhost", 200, "[]"),
        ("/api/v1/destinations?by=name", "localhost", 400, "by=group"),
        ("/api/v1/events", "localhost", 200, "[{\"event\":\"stuck\","),
        ("/api/v1/totals", "localhost", 200, "\"truth\""),
        ("/api/v1/sockets", "localhost", 200, "\"listeners\""),
        ("/nothing", "localhost", 404, ""),
        ("/metrics", "evil.example", 421, "loopback"),
    ] {
        let answer = get(address, path, host).await;
        assert!(answer.starts_with(&format!("HTTP/1.0 {status} ")), "{path}: {answer}");
        assert!(answer.contains(part), "{path}: {answer}");
    }
    assert_eq!(count(address, "refused_total{reason=\"host\"}").await, 1);
}

#[tokio::test]
async fn the_reader_chooses_the_format() {
    let (address, _agent) = start();
    for (accept, kind) in [
        ("application/openmetrics-text", "application/openmetrics-text;"),
        ("application/openmetrics-text;q=0", "text/plain;"),
    ] {
        let request =
            format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
        let answer = rest(&mut connect(address, &request).await).await;
        assert!(answer.contains(&format!("content-type: {kind}")), "{accept}: {answer}");
    }
}

#[tokio::test]
async fn half_a_request_does_not_stay() {
    let (address, _agent) = start();
    let mut half = connect(address, "GET /livez HTTP/1.1\r\nHost: loc").await;
    let mut silent = connect(address, "").await;
    assert_eq!(rest(&mut half).await, "");
    assert_eq!(rest(&mut silent).await, "");
    assert_eq!(count(address, "result=\"header_timeout\"").await, 2);
}

#[tokio::test]
async fn a_connection_is_kept_for_a_while() {
    let (address, _agent) = start();
    let request = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut kept = connect(address, request).await;
    // Longer than a request head may take.
    sleep(SHORT.header + SWEEP).await;
    kept.write_all(request.as_bytes()).await.expect("still open");
    let answers = rest(&mut kept).await;
    assert_eq!(answers.matches("200 OK").count(), 2, "{answers}");
    assert_eq!(count(address, "result=\"idle_timeout\"").await, 1);
}

#[tokio::test]
async fn bodies_and_long_heads_are_refused() {
    let (address, _agent) = start();
    let with_body = "GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n";
    let answer = rest(&mut connect(address, with_body).await).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let mut long = connect(address, "GET /livez HTTP/1.1\r\nHost: localhost\r\n").await;
    // The server closes before it has read all of it.
    let line = format!("X: {}\r\n", "x".repeat(4_000));
    for _ in 0..100 {
        if long.write_all(line.as_bytes()).await.is_err() {
            break;
        }
    }
    assert!(!rest(&mut long).await.contains("200 OK"));
    assert_eq!(count(address, "result=\"malformed\"").await, 1);
    assert_eq!(count(address, "refused_total{reason=\"body\"}").await, 1);
}

#[tokio::test]
async fn a_reader_that_takes_nothing_does_not_stay() {
    let (address, agent) = start();
    let mut stream = connect(address, "GET /api/v1/connections HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    stream.readable().await.expect("an answer begins");
    let begin = Instant::now();
    while agent.told.receiver_count() > 0 {
        assert!(begin.elapsed() < LONG, "the stream is still open");
        drop(agent.told.send(Arc::new(Output::Finished(Box::new(record())))));
        tokio::task::yield_now().await;
    }
    assert_eq!(count(address, "result=\"write_timeout\"").await, 1);
    rest(&mut stream).await;
}

#[tokio::test]
async fn a_reader_that_takes_all_stays() {
    let (address, agent) = start();
    let mut stream = connect(address, "GET /api/v1/connections HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let begin = Instant::now();
    let mut buffer = vec![0; 1 << 16];
    while begin.elapsed() < SHORT.idle + SHORT.write + SWEEP {
        drop(agent.told.send(Arc::new(Output::Finished(Box::new(record())))));
        let read = timeout(LONG, stream.read(&mut buffer)).await;
        assert!(read.expect("events come").expect("no reset") > 0);
    }
    assert_eq!(agent.told.receiver_count(), 1);
}

#[tokio::test]
async fn a_server_ends_when_it_is_dropped() {
    let listener = listen("[::1]:0".parse().expect("an address")).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = super::start(listener, Starting::new(), 10_000).expect("a thread");
    assert!(get(address, "/livez", "localhost").await.ends_with("ok\n"));
    drop(server);
    let begin = Instant::now();
    while TcpStream::connect(address).is_ok() {
        assert!(begin.elapsed() < LONG, "it still listens");
        sleep(Duration::from_millis(10)).await;
    }
}
