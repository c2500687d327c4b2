//! The client: look-up by the system's resolver, a new connection, TLS, one GET over HTTP/1.1, the body up to a bound.
//!
//! Addresses are tried one after the other, as most programs do; redirects are not followed.
use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request,
    client::conn::http1,
    header::{ACCEPT, CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use nix::{getsockopt_impl, sockopt_impl, sys::socket};
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream, lookup_host},
    pin,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    target::Target,
    trust::{Presented, Trust, TrustError},
};

/// More of a body is not read: time to first byte is what counts.
const BODY_BYTES: usize = 1 << 20;

sockopt_impl!(
    /// The number that the kernel gives a socket, and that the kernel programs know it by.
    Cookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_COOKIE,
    u64
);

/// A part of a request, in the order in which they come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// Looking the host up.
    #[default]
    Dns,
    /// Connecting.
    Tcp,
    /// The TLS handshake.
    Tls,
    /// Waiting for the answer.
    Ttfb,
    /// Reading the answer's body.
    Body,
}

impl Step {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ttfb => "ttfb",
            Self::Body => "body",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With an answer of this status, whole or read to the bound.
    Answered(u16),
    /// After the handshake, for the certificate's fault; nothing was asked for.
    Distrusted,
    /// The time was over in this step.
    TimedOut(Step),
    /// This step failed.
    Failed(Step),
}

/// What the client knows of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The last socket's cookie; `None` when none was opened.
    pub cookie: Option<u64>,
    /// How it ended.
    pub ending: Ending,
    /// What the server showed of itself.
    pub presented: Option<Presented>,
}

/// Why a step failed; for the log.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
    #[error(transparent)]
    Name(#[from] InvalidDnsNameError),
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// How far a request came.
#[derive(Debug, Default)]
struct Journey {
    step: Step,
    cookie: Option<u64>,
    presented: Option<Presented>,
}

/// Fetches; shared by threads.
#[derive(Debug)]
pub struct Client {
    /// Whom to trust; without it only `http` can be fetched.
    pub trust: Option<Arc<Trust>>,
    /// Ask for the page though the certificate has a fault.
    pub is_insecure: bool,
    /// Longest that a request may take.
    pub limit: Duration,
}

impl Client {
    /// One request, whatever becomes of it.
    pub async fn fetch(&self, target: &Target) -> Fetched {
        let mut journey = Journey::default();
        let ending = match timeout(self.limit, self.travel(target, &mut journey)).await {
            Ok(Ok(ending)) => ending,
            Ok(Err(error)) => {
                tracing::debug!(url = target.url, step = journey.step.name(), %error, "a request failed");
                Ending::Failed(journey.step)
            }
            Err(_) => Ending::TimedOut(journey.step),
        };
        let Journey { cookie, presented, .. } = journey;
        Fetched {
            cookie,
            ending,
            presented,
        }
    }

    async fn travel(&self, target: &Target, journey: &mut Journey) -> Result<Ending, FetchError> {
        let addresses = lookup_host((target.host.as_str(), target.port)).await?;
        journey.step = Step::Tcp;
        let stream = connect(addresses, &mut journey.cookie).await?;
        let Some(trust) = self.trust.as_deref().filter(|_| target.is_https) else {
            return ask(target, stream, &mut journey.step).await;
        };
        journey.step = Step::Tls;
        let name = ServerName::try_from(target.host.clone())?;
        let (onlooker, config) = trust.handshake()?;
        let stream = TlsConnector::from(config).connect(name, stream).await;
        journey.presented = trust.presented(&onlooker, now_unix_s());
        let stream = stream?;
        let has_fault = journey
            .presented
            .as_ref()
            .is_none_or(|presented| presented.fault.is_some());
        if has_fault && !self.is_insecure {
            return Ok(Ending::Distrusted);
        }
        ask(target, stream, &mut journey.step).await
    }
}

/// The first address that takes the connection; `cookie` is that of the last one tried.
async fn connect(addresses: impl Iterator<Item = SocketAddr>, cookie: &mut Option<u64>) -> io::Result<TcpStream> {
    let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "no addresses"));
    for address in addresses {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        *cookie = Some(socket::getsockopt(&socket, Cookie)?);
        // A request must not wait for the acknowledgment of the Finished before it.
        socket.set_nodelay(true)?;
        result = socket.connect(address).await;
        if result.is_ok() {
            break;
        }
    }
    result
}

async fn ask<S>(target: &Target, stream: S, step: &mut Step) -> Result<Ending, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    *step = Step::Ttfb;
    let request = Request::get(&target.path)
        .header(HOST, &target.authority)
        .header(USER_AGENT, concat!("hopline/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        *step = Step::Body;
        let status = answer.status().as_u16();
        let mut body = answer.into_body();
        let mut left = BODY_BYTES;
        while let Some(frame) = body.frame().await {
            left = left.saturating_sub(frame?.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return Ok((status, false));
            }
        }
        Ok::<_, FetchError>((status, true))
    };
    pin!(connection, exchange);
    let (status, _) = tokio::select! {
        result = &mut exchange => {
            let (status, is_whole) = result?;
            if is_whole {
                // Says goodbye; the answer stands however that goes.
                connection.await.ok();
            }
            (status, is_whole)
        }
        // What was read before the end is still to be taken.
        _ = &mut connection => exchange.await?,
    };
    Ok(Ending::Answered(status))
}

/// Certificates count in the time of the calendar.
fn now_unix_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs().cast_signed())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// One request to a server on the loopback that answers with these bytes and closes, or never when there are none.
    async fn check(answer: Option<&'static [u8]>, expected: Ending) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 4096];
            let length = stream.read(&mut request).expect("a request");
            match answer {
                // The client may have read enough.
                Some(answer) => drop(stream.write_all(answer)),
                None => drop(stream.read(&mut [0])),
            }
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let limit = Duration::from_millis(if answer.is_some() { 10_000 } else { 50 });
        let fetched = fetch(&format!("http://127.0.0.1:{port}/a?b"), limit).await;
        assert_eq!(fetched.ending, expected);
        assert!(fetched.cookie.is_some_and(|cookie| cookie != 0) && fetched.presented.is_none());
        let request = server.join().expect("no panic");
        assert!(request.starts_with("GET /a?b HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("host: 127.0.0.1:{port}\r\n")), "{request}");
    }

    async fn fetch(url: &str, limit: Duration) -> Fetched {
        let client = Client {
            trust: None,
            is_insecure: false,
            limit,
        };
        client.fetch(&Target::parse(url).expect("a URL")).await
    }

    #[tokio::test]
    async fn endings() {
        check(
            Some(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            Ending::Answered(200),
        )
        .await;
        check(Some(b"HTTP/1.0 200 OK\r\n\r\nuntil the end"), Ending::Answered(200)).await;
        check(
            Some(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"),
            Ending::Answered(503),
        )
        .await;
        check(
            Some(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"),
            Ending::Failed(Step::Body),
        )
        .await;
        check(Some(b""), Ending::Failed(Step::Ttfb)).await;
        check(Some(b"SSH-2.0-x\r\n"), Ending::Failed(Step::Ttfb)).await;
        check(None, Ending::TimedOut(Step::Ttfb)).await;
        // Longer than what is read of a body.
        let long = "HTTP/1.1 200 OK\r\n\r\n".to_owned() + &" ".repeat(2 * BODY_BYTES);
        check(Some(long.leak().as_bytes()), Ending::Answered(200)).await;
    }

    #[tokio::test]
    async fn nobody_listens() {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("an address").port()
        };
        let fetched = fetch(&format!("http://127.0.0.1:{port}/"), Duration::from_secs(10)).await;
        assert_eq!(fetched.ending, Ending::Failed(Step::Tcp));
        assert!(fetched.cookie.is_some());
    }
}
