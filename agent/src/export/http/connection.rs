//! One connection: HTTP/1.1 by hyper over a transport that notes what the peer sends and takes.
//!
//! Knows no addresses and opens nothing: any transport will do (TCP today). How long it may take is `table`'s to say.
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, Response, StatusCode, header},
    response::IntoResponse as _,
};
use bytes::Bytes;
use hyper::{
    body::{Body as _, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    counts::{End, Refusal},
    limits::HEAD_BYTES,
    table::{Entry, Table, Ticket},
};

/// What a listener accepts.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// From now on closing drops what was not sent, at once: a peer that takes nothing must not keep the kernel's memory.
    fn reset_on_close(&self);
}

impl Transport for TcpStream {
    fn reset_on_close(&self) {
        if let Err(error) = self.set_zero_linger() {
            tracing::debug!(%error, "a connection is closed without a reset");
        }
    }
}

/// Serves until either side ends the connection, or the table does.
pub(super) async fn serve<T: Transport>(transport: T, ticket: Ticket, table: Arc<Table>, router: Router) {
    let entry = Arc::clone(&ticket.entry);
    let service = service_fn({
        let entry = Arc::clone(&entry);
        move |request| answer(request, Arc::clone(&entry), Arc::clone(&table), router.clone())
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None) // `table` knows an idle connection from a half-sent request.
        .max_buf_size(HEAD_BYTES)
        .serve_connection(
            TokioIo::new(Watched {
                transport,
                entry: Arc::clone(&entry),
            }),
            service,
        );
    tokio::select! {
        served = connection => entry.ended(match served {
            Ok(()) => End::Finished,
            Err(error) if error.is_parse() => End::Malformed,
            Err(_) => End::Aborted,
        }),
        () = entry.killed() => {}
    }
    // The transport is closed by now: only then is there room for another.
    drop(ticket);
}

/// One request.
async fn answer(
    mut request: Request<Incoming>,
    entry: Arc<Entry>,
    table: Arc<Table>,
    router: Router,
) -> Result<Response<Answer>, std::convert::Infallible> {
    entry.requested(Instant::now());
    let mut response = if request.body().is_end_stream() {
        request.extensions_mut().insert(Arc::clone(&entry));
        TowerToHyperService::new(router).call(request).await?
    } else {
        table.counts.refused(Refusal::Body);
        (StatusCode::PAYLOAD_TOO_LARGE, "requests have no body here\n").into_response()
    };
    if !response.status().is_success() {
        // Whoever got nothing has no claim to a place.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    Ok(response.map(|body| Answer { body, entry }))
}

/// A response body that says when all of it has been made.
struct Answer {
    body: Body,
    entry: Arc<Entry>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.entry.answered();
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A transport that notes what happens on it.
struct Watched<T: Transport> {
    transport: T,
    entry: Arc<Entry>,
}

impl<T: Transport> Watched<T> {
    /// Whether the peer took some of what was offered.
    fn noted(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => self.entry.wrote(false, Instant::now()),
            Poll::Ready(Ok(bytes)) if *bytes > 0 => self.entry.wrote(true, Instant::now()),
            Poll::Ready(_) => {}
        }
        written
    }
}

impl<T: Transport> Drop for Watched<T> {
    fn drop(&mut self) {
        if self.entry.is_killed() {
            self.transport.reset_on_close();
        }
    }
}

impl<T: Transport> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.transport).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.entry.received(Instant::now());
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Transport> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write(cx, bytes);
        self.noted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write_vectored(cx, parts);
        self.noted(written)
    }

    /// Without it hyper copies each body once more.
    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    /// Called when hyper has handed over all that it had.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
        self.entry.flushed(Instant::now());
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}

/// Lets a connection go that was not let in.
pub(super) fn refuse(transport: &impl Transport) {
    transport.reset_on_close();
}
