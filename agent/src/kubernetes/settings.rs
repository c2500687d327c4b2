//! Where to ask, and for what: the configuration with the machine's own facts filled in.
use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
};

use crate::{
    config::{CriSocket, KubernetesConfig, Use},
    workloads::PODS_BYTES,
};

/// Where container runtimes listen: containerd, CRI-O, the containerd of k3s.
const SOCKETS: [&str; 3] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
];
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Where to ask, and for what.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// There is an API server to ask.
    pub has_api: bool,
    /// How to reach it and as whom; `None`: as the service account of the pod that hopline runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Sockets of container runtimes; the first that is there is asked.
    pub cri_sockets: Vec<PathBuf>,
    /// The runtime was asked for by name: that it does not answer is a failure.
    pub is_runtime_named: bool,
    /// Only pods of this node are asked for.
    pub node_name: String,
    /// Annotations that are kept, by their keys.
    pub annotations: BTreeSet<String>,
    /// What the pods of one list may take ([`crate::workloads::Pod::bytes`]); others are left out.
    pub most_bytes: usize,
}

impl Settings {
    /// What the configuration says, on a machine of this name.
    pub fn new(config: &KubernetesConfig, host_name: &str) -> Self {
        let in_cluster = env::var_os("KUBERNETES_SERVICE_HOST").is_some() && Path::new(TOKEN).exists();
        let environment = env::var("NODE_NAME").ok().filter(|name| !name.is_empty());
        Self {
            has_api: config.api == Use::Auto && (config.kubeconfig.is_some() || in_cluster),
            kubeconfig: config.kubeconfig.clone(),
            cri_sockets: match &config.cri_socket {
                CriSocket::Auto => SOCKETS.map(PathBuf::from).to_vec(),
                CriSocket::Off => Vec::new(),
                CriSocket::At(path) => vec![path.clone()],
            },
            is_runtime_named: matches!(config.cri_socket, CriSocket::At(_)),
            node_name: config
                .node_name
                .clone()
                .or(environment)
                .unwrap_or_else(|| host_name.to_owned()),
            annotations: config.annotations.clone(),
            most_bytes: PODS_BYTES,
        }
    }

    /// Whom hopline would ask, in words.
    pub fn describe(&self) -> String {
        let socket = self.cri_sockets.iter().find(|socket| socket.exists());
        let runtime = socket.map(|socket| format!("the container runtime at {}", socket.display()));
        match (self.has_api, runtime) {
            (true, None) => format!("from the API server, for node {}", self.node_name),
            (true, Some(runtime)) => format!("from the API server, for node {}, else {runtime}", self.node_name),
            (false, Some(runtime)) => format!("from {runtime}"),
            (false, None) => {
                "none: no service account, no kubeconfig, no CRI socket (`kubernetes` in the configuration)".to_owned()
            }
        }
    }
}
