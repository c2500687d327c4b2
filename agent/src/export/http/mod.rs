//! The HTTP server, on a thread of its own: a flood of requests is late, the events of the kernel are not.
//!
//! `table` decides who may connect and for how long, `connection` speaks HTTP on one of them, `routes` answers,
//! `documents` bounds what answers cost. A further listener (a unix socket, TLS) is one more loop like [`accept`] with a
//! transport of its own. Knows the agent as a [`Source`] only; started by `command`.
mod connection;
mod counts;
mod documents;
mod limits;
mod peer;
mod routes;
mod table;

use std::{
    fs,
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use axum::Router;
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime,
    sync::{broadcast, oneshot},
    time::{MissedTickBehavior, interval, sleep},
};

pub use limits::NEEDED_DESCRIPTORS;

use self::{
    documents::Documents,
    limits::{BACKLOG, Bounds, RECEIVE_BUFFER, SEND_BUFFER, Timeouts},
    peer::Peer,
    routes::Server,
    table::Table,
};
use crate::{
    aggregate::Snapshot,
    pipeline::Output,
    privileges,
    selfmetrics::{HttpNumbers, SelfMetrics},
};

/// How often connections that take too long are looked for, and descriptors counted.
const SWEEP: Duration = Duration::from_millis(500);
/// Time without connections that were ended by force after which an attack is over.
const CALM: Duration = Duration::from_secs(5);
/// Pause after an accept that failed: what it lacks comes back when something else is closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Whom the server asks.
pub trait Source: Clone + Send + Sync + 'static {
    /// Whether the programs are attached and the sockets opened before the start were looked for.
    fn is_ready(&self) -> bool;

    /// Why no new connection can be seen, in one line; `None` when they can.
    fn missing_core(&self) -> Option<String>;

    /// The pipeline's picture and the agent's own numbers; `None` at the end.
    fn scrape(&self) -> impl Future<Output = Option<(Snapshot, SelfMetrics)>> + Send;

    /// Single connections as they come; `None` at the end.
    fn records(&self) -> Option<broadcast::Receiver<Arc<Output>>>;

    /// The last events, the oldest first; `None` at the end.
    fn events(&self) -> impl Future<Output = Option<Vec<Arc<Output>>>> + Send;

    /// A listener was too slow for so many records.
    fn missed(&self, records: u64);
}

/// A server that runs until this is dropped.
#[derive(Debug)]
pub struct Serving {
    _stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Serving {
    /// Pending as long as the server runs.
    pub async fn ended(&mut self) {
        // The other end says nothing: it goes with the thread, however that ends.
        drop((&mut self.ended).await);
    }
}

/// A socket that waits for connections, with bounds on what the kernel keeps for each of them.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    // Connections inherit both; set later, the first segments would find larger ones.
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Starts to answer requests, within the `descriptors` that this process may have open.
pub fn start<S: Source>(listener: TcpListener, agent: S, descriptors: usize) -> io::Result<Serving> {
    let listener = listener.into_std()?;
    let (stop, stopped) = oneshot::channel();
    let (running, ended) = oneshot::channel::<()>();
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()?;
    thread::Builder::new().name("http".to_owned()).spawn(move || {
        let served = runtime.block_on(async {
            let listener = TcpListener::from_std(listener)?;
            tokio::select! {
                served = serve(listener, agent, descriptors, Timeouts::default()) => served,
                // Told or dropped, both mean the end.
                _ = stopped => Ok(()),
            }
        });
        if let Err(error) = served {
            tracing::error!(%error, "the HTTP server cannot go on");
        }
        runtime.shutdown_background();
        drop(running);
    })?;
    Ok(Serving { _stop: stop, ended })
}

async fn serve<S: Source>(listener: TcpListener, agent: S, descriptors: usize, timeouts: Timeouts) -> io::Result<()> {
    let table = Arc::new(Table::new(bounds(descriptors, 0), timeouts));
    let documents = Arc::new(Documents::new(documents::Limits::default()));
    let router = routes::router(Server {
        agent,
        listen: listener.local_addr()?.ip(),
        table: Arc::clone(&table),
        documents: Arc::clone(&documents),
    });
    tokio::select! {
        never = accept(&listener, &table, &router) => never,
        never = keep_bounds(&table, &documents, descriptors) => never,
    }
}

/// Lets connections in, for ever.
async fn accept<T>(listener: &TcpListener, table: &Arc<Table>, router: &Router) -> T {
    loop {
        table.room().await;
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                table.counts.accept_error();
                // The peer may have gone meanwhile; nothing is wrong with that.
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) {
                    continue;
                }
                tracing::debug!(%error, "a connection was not accepted");
                // Most likely no descriptor is left: one that is worth little makes room, and the rest waits.
                table.evict_one(Instant::now());
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(ticket) = table.admit(Peer::of(address.ip()), Instant::now()) else {
            connection::refuse(&stream);
            continue;
        };
        tokio::spawn(connection::serve(stream, ticket, Arc::clone(table), router.clone()));
    }
}

/// Ends what takes too long, and keeps descriptors for the rest of the agent, whose need changes.
async fn keep_bounds<T>(table: &Table, documents: &Documents, descriptors: usize) -> T {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut storm = Storm::default();
    loop {
        ticks.tick().await;
        let now = Instant::now();
        table.sweep(bounds(descriptors, table.open()), now);
        documents.forget_old();
        if storm.is_over(table.forced(), now) {
            privileges::release_memory();
        }
    }
}

/// Whether strangers have just given up: then there is memory to give back.
#[derive(Debug, Default)]
struct Storm {
    /// Connections that were ended by force, since the start.
    forced: u64,
    /// The last time that there were more.
    last: Option<Instant>,
}

impl Storm {
    fn is_over(&mut self, forced: u64, now: Instant) -> bool {
        if forced > self.forced {
            self.forced = forced;
            self.last = Some(now);
        }
        self.last
            .take_if(|last| now.saturating_duration_since(*last) > CALM)
            .is_some()
    }
}

/// Bounds beside what is open now, of which `connections` are this server's.
fn bounds(descriptors: usize, connections: usize) -> Bounds {
    // Without a descriptor to look with there are too many open.
    let open = fs::read_dir("/proc/self/fd").map_or(descriptors, Iterator::count);
    Bounds::for_descriptors(descriptors, open.saturating_sub(connections))
}

/// Numbers of a server that has had no connection yet, for the page of all metrics.
pub(super) fn no_numbers() -> HttpNumbers {
    counts::Counts::default().numbers(0, 0)
}

#[cfg(test)]
mod tests;
