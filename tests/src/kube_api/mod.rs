//! A small API server: list and watch of pods as the real one does them, over TLS, with every way to fail at hand.
//!
//! What it keeps: versions that grow, a history of changes for watches that begin late, bookmarks, `410 Gone` for what is older
//! than the history, pages, field selectors by node, bearer tokens. It notes who asked for what.

mod connection;
pub(crate) mod objects;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::certificates::Certificates;

/// The name in its certificate.
pub(crate) const SERVER_NAME: &str = "kube.lab.test";

/// One change.
#[derive(Clone, Debug)]
struct Change {
    version: u64,
    /// When watches are told.
    due: Instant,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    kind: &'static str,
    object: Arc<Value>,
}

/// What goes wrong on purpose.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Connections are closed as soon as they come.
    pub(crate) is_away: bool,
    /// Each answer comes so much later.
    pub(crate) slow: Duration,
    /// Changes reach watches so much later.
    pub(crate) late: Duration,
    /// So many watches are cut in the middle of the next change that they are told, with their connections.
    pub(crate) cuts: usize,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    /// Changes up to this version are forgotten.
    forgotten: u64,
    pods: BTreeMap<String, Arc<Value>>,
    changes: Vec<Change>,
    faults: Faults,
    token: String,
    /// Every verb and resource that was asked for.
    asked: BTreeSet<(String, String)>,
    /// Watches that are open.
    watches: usize,
    /// Grows whenever all connections are ended.
    generation: u64,
    streams: Vec<TcpStream>,
    is_over: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with the state in hand")
    }
}

/// A running server; it ends when dropped.
#[derive(Debug)]
pub(crate) struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl ApiServer {
    /// Listens on loopback, with a certificate of the lab's authority.
    pub(crate) fn start(certificates: &Certificates, token: &str) -> Result<Self> {
        let chain = CertificateDer::pem_file_iter(certificates.file("good-chain.pem"))?.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file(certificates.file("leaf.key"))?;
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let config = Arc::new(config);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        token.clone_into(&mut shared.lock().token);
        let for_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut state = for_thread.lock();
                if state.is_over {
                    return;
                }
                if state.faults.is_away {
                    continue;
                }
                if let Ok(stream) = stream.try_clone() {
                    state.streams.push(stream);
                }
                drop(state);
                let (shared, config) = (Arc::clone(&for_thread), Arc::clone(&config));
                // Whoever breaks off has its reasons; the scenario judges what came of it.
                thread::spawn(move || drop(connection::serve(&shared, stream, config)));
            }
        });
        Ok(Self { shared, address })
    }

    /// A kubeconfig that leads here, with the token in a file of its own.
    pub(crate) fn write_kubeconfig(&self, certificates: &Certificates, file: &Path, token: &Path) -> Result<()> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {
                "server": format!("https://{}", self.address),
                "certificate-authority": certificates.file("root.pem"),
                "tls-server-name": SERVER_NAME,
            }}],
            "users": [{"name": "lab", "user": {"tokenFile": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        });
        fs::write(file, config.to_string()).context("writing a kubeconfig")
    }

    /// A pod is there, or has changed.
    pub(crate) fn put(&self, pod: &Value) {
        let mut state = self.shared.lock();
        state.put(pod.clone());
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Many at once.
    pub(crate) fn put_all(&self, pods: impl IntoIterator<Item = Value>) {
        let mut state = self.shared.lock();
        pods.into_iter().for_each(|pod| state.put(pod));
        drop(state);
        self.shared.changed.notify_all();
    }

    /// A pod has gone.
    pub(crate) fn delete(&self, uid: &str) {
        let mut state = self.shared.lock();
        if let Some(pod) = state.pods.remove(uid) {
            state.note("DELETED", (*pod).clone());
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// From now on this goes wrong.
    pub(crate) fn set_faults(&self, faults: Faults) {
        self.shared.lock().faults = faults;
        self.shared.changed.notify_all();
    }

    /// Ends every connection.
    pub(crate) fn disconnect(&self) {
        let mut state = self.shared.lock();
        state.generation += 1;
        for stream in state.streams.drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
        drop(state);
        self.shared.changed.notify_all();
        // A watch that is no more must not be taken for a new one.
        while self.watches() > 0 {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Forgets its history: watches must list again.
    pub(crate) fn compact(&self) {
        let mut state = self.shared.lock();
        // One more version than anybody has seen.
        state.version += 1;
        state.forgotten = state.version;
        state.changes.clear();
    }

    /// Only this token is good from now on.
    pub(crate) fn set_token(&self, token: &str) {
        token.clone_into(&mut self.shared.lock().token);
    }

    /// Watches that are open.
    pub(crate) fn watches(&self) -> usize {
        self.shared.lock().watches
    }

    /// Verbs and resources that were asked for.
    pub(crate) fn asked(&self) -> BTreeSet<(String, String)> {
        self.shared.lock().asked.clone()
    }
}

impl State {
    fn put(&mut self, pod: Value) {
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let kind = if self.pods.contains_key(&uid) {
            "MODIFIED"
        } else {
            "ADDED"
        };
        let pod = self.note(kind, pod);
        self.pods.insert(uid, pod);
    }

    fn note(&mut self, kind: &'static str, mut pod: Value) -> Arc<Value> {
        self.version += 1;
        pod["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = Arc::new(pod);
        self.changes.push(Change {
            version: self.version,
            due: Instant::now() + self.faults.late,
            kind,
            object: Arc::clone(&object),
        });
        object
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.disconnect();
        // It waits for one more connection.
        drop(TcpStream::connect(self.address));
    }
}
