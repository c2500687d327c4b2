//! One connection to the small API server: HTTP/1.1 requests one after the other, the last of them perhaps a watch.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::{Change, Shared};

/// A watch is told where it stands this often.
const BOOKMARK: Duration = Duration::from_secs(1);
/// It looks this often whether its end has come.
const LOOK: Duration = Duration::from_millis(20);

type Tls = StreamOwned<ServerConnection, TcpStream>;

/// A request's head.
struct Request {
    path: String,
    query: HashMap<String, String>,
    authorization: String,
}

pub(super) fn serve(shared: &Shared, stream: TcpStream, config: Arc<ServerConfig>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(config)?, stream));
    while let Some(request) = read(&mut stream)? {
        let out = stream.get_mut();
        let slow = shared.lock().faults.slow;
        if !slow.is_zero() {
            thread::sleep(slow);
        }
        let is_watch = request.query.contains_key("watch");
        let resource = request.path.rsplit('/').next().unwrap_or_default().to_owned();
        let verb = if is_watch { "watch" } else { "list" };
        let expected = {
            let mut state = shared.lock();
            state.asked.insert((resource, verb.to_owned()));
            format!("Bearer {}", state.token)
        };
        if request.authorization != expected {
            answer(out, 401, &status(401, "Unauthorized"))?;
        } else if request.path != "/api/v1/pods" {
            answer(
                out,
                404,
                &status(404, "the server could not find the requested resource"),
            )?;
        } else if is_watch {
            return watch(shared, &request, out);
        } else {
            list(shared, &request, out)?;
        }
    }
    Ok(())
}

/// `None` at the end of the connection.
fn read(stream: &mut BufReader<Tls>) -> Result<Option<Request>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let first = lines.first().context("a request without a line")?;
    let mut words = first.split(' ');
    let (method, target) = (words.next(), words.next().context("a request without a target")?);
    if method != Some("GET") {
        bail!("only GET is served: {first}");
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let header = |name: &str| {
        let value = |line: &String| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        };
        lines.iter().find_map(value).unwrap_or_default()
    };
    Ok(Some(Request {
        path: path.to_owned(),
        query: pairs.map(|(key, value)| (key.to_owned(), decoded(value))).collect(),
        authorization: header("authorization"),
    }))
}

/// `%3D` is `=`, and so on.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|code| u8::from_str_radix(str::from_utf8(code).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message})
}

fn answer(out: &mut Tls, code: u16, body: &Value) -> Result<()> {
    let body = body.to_string();
    let length = body.len();
    let head = format!("HTTP/1.1 {code} x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    out.write_all(head.as_bytes())?;
    out.write_all(body.as_bytes())?;
    Ok(out.flush()?)
}

/// Whether the request asks for pods of this one's node.
fn is_selected(request: &Request, pod: &Value) -> bool {
    match request.query.get("fieldSelector") {
        None => true,
        Some(selector) => selector
            .strip_prefix("spec.nodeName=")
            .is_some_and(|node| pod["spec"]["nodeName"] == node),
    }
}

fn list(shared: &Shared, request: &Request, out: &mut Tls) -> Result<()> {
    let (version, pods) = {
        let state = shared.lock();
        let pods: Vec<Arc<Value>> = state.pods.values().cloned().collect();
        (state.version, pods)
    };
    let selected: Vec<&Value> = pods
        .iter()
        .map(|pod| &**pod)
        .filter(|pod| is_selected(request, pod))
        .collect();
    // As the real one: from its cache (version 0) there are no pages.
    let is_cached = request
        .query
        .get("resourceVersion")
        .is_some_and(|version| version == "0");
    let limit = request.query.get("limit").and_then(|limit| limit.parse().ok());
    let limit = limit.filter(|_| !is_cached).unwrap_or(usize::MAX);
    let from: usize = request
        .query
        .get("continue")
        .and_then(|from| from.parse().ok())
        .unwrap_or(0);
    let items: Vec<&Value> = selected.iter().skip(from).take(limit).copied().collect();
    let next = from + items.len();
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if next < selected.len() {
        metadata["continue"] = next.to_string().into();
    }
    answer(
        out,
        200,
        &json!({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items}),
    )
}

fn watch(shared: &Shared, request: &Request, out: &mut Tls) -> Result<()> {
    let from: u64 = request
        .query
        .get("resourceVersion")
        .and_then(|version| version.parse().ok())
        .unwrap_or(0);
    let seconds = request
        .query
        .get("timeoutSeconds")
        .and_then(|seconds| seconds.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(300));
    let is_gone = from < shared.lock().forgotten;
    out.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")?;
    out.flush()?;
    if is_gone {
        let gone = json!({"type": "ERROR", "object": status(410, "too old resource version")});
        line(out, &gone)?;
        return finish(out);
    }
    shared.lock().watches += 1;
    let followed = follow(shared, request, out, from, end);
    shared.lock().watches -= 1;
    followed?;
    finish(out)
}

fn follow(shared: &Shared, request: &Request, out: &mut Tls, mut from: u64, end: Instant) -> Result<()> {
    let mut bookmark = Instant::now() + BOOKMARK;
    let generation = shared.lock().generation;
    while Instant::now() < end {
        let (due, cuts) = {
            let mut state = shared.lock();
            if state.is_over || state.generation != generation {
                bail!("ended on purpose");
            }
            let is_new = |change: &Change| change.version > from && change.due <= Instant::now();
            if !state.changes.iter().any(is_new) {
                let waited = shared.changed.wait_timeout(state, LOOK);
                state = waited.expect("nobody panics with the state in hand").0;
            }
            // In their order: a late one holds up those after it.
            let due: Vec<Change> = state
                .changes
                .iter()
                .filter(|change| change.version > from)
                .take_while(|change| change.due <= Instant::now())
                .cloned()
                .collect();
            let cuts = !due.is_empty() && state.faults.cuts > 0;
            state.faults.cuts -= usize::from(cuts);
            (due, cuts)
        };
        for change in due {
            from = change.version;
            if is_selected(request, &change.object) {
                let told = json!({"type": change.kind, "object": *change.object});
                if cuts {
                    // A chunk that is whole, with half of a line in it; then nothing more, not even the end.
                    let text = told.to_string();
                    chunk(out, &text.as_bytes()[..text.len() / 2])?;
                    out.sock.shutdown(Shutdown::Both)?;
                    bail!("cut on purpose");
                }
                line(out, &told)?;
            }
        }
        if Instant::now() >= bookmark {
            bookmark = Instant::now() + BOOKMARK;
            let metadata = json!({"resourceVersion": from.to_string(), "creationTimestamp": null});
            let object = json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata});
            line(out, &json!({"type": "BOOKMARK", "object": object}))?;
        }
    }
    Ok(())
}

fn line(out: &mut Tls, value: &Value) -> Result<()> {
    chunk(out, format!("{value}\n").as_bytes())
}

fn chunk(out: &mut Tls, bytes: &[u8]) -> Result<()> {
    out.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
    out.write_all(bytes)?;
    out.write_all(b"\r\n")?;
    Ok(out.flush()?)
}

fn finish(out: &mut Tls) -> Result<()> {
    out.write_all(b"0\r\n\r\n")?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_codes() {
        assert_eq!(decoded("spec.nodeName%3Dlab-node"), "spec.nodeName=lab-node");
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%zz%4"), "%zz%4");
    }
}
