//! The container runtime by its CRI socket: all pods with their names, labels, containers and addresses.
//!
//! No events: containerd before 1.7 has none. It is asked every few seconds, and when somebody meets a pod that is not known.
use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    time::Duration,
};

use prost::Message;
use tokio::time::timeout;
use tonic::{
    Code, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{
    convert,
    failure::Failure,
    messages::{
        ListContainersRequest, ListContainersResponse, ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxStatus,
        PodSandboxStatusRequest, PodSandboxStatusResponse, SANDBOX_READY,
    },
    settings::Settings,
};
use crate::workloads::Pod;

/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// What the kubelet takes of the runtime: more would not be a node's.
const ANSWER_BYTES: usize = 16 << 20;

/// The runtime of this node.
#[derive(Debug)]
pub(super) struct Runtime {
    sockets: Vec<PathBuf>,
    annotations: BTreeSet<String>,
    channel: Option<Grpc<Channel>>,
    /// What does not change while a sandbox is there, by its id.
    statuses: HashMap<String, PodSandboxStatus>,
}

impl Runtime {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            sockets: settings.cri_sockets.clone(),
            annotations: settings.annotations.clone(),
            channel: None,
            statuses: HashMap::new(),
        }
    }

    /// Whether there is a socket.
    pub(super) fn exists(&self) -> bool {
        self.socket().is_some()
    }

    /// All pods now; `None` when there is nobody to ask.
    pub(super) async fn list(&mut self) -> Option<Result<Vec<Pod>, Failure>> {
        if !self.exists() {
            self.channel = None;
            return None;
        }
        let pods = self.ask().await;
        if pods.is_err() {
            self.channel = None;
        }
        Some(pods)
    }

    fn socket(&self) -> Option<&PathBuf> {
        self.sockets.iter().find(|socket| socket.exists())
    }

    async fn ask(&mut self) -> Result<Vec<Pod>, Failure> {
        let sandboxes: ListPodSandboxResponse = self.call("ListPodSandbox", ListPodSandboxRequest {}).await?;
        let containers: ListContainersResponse = self.call("ListContainers", ListContainersRequest {}).await?;
        let mut known = std::mem::take(&mut self.statuses);
        let mut pods: HashMap<Box<str>, (bool, i64, Pod)> = HashMap::new();
        for sandbox in sandboxes.items {
            let id = sandbox.id.clone();
            let status = match known.remove(&id) {
                Some(status) => Some(status),
                None => self.status(&id).await?,
            };
            let order = (sandbox.state == SANDBOX_READY, sandbox.created_at);
            let pod = convert::of_sandbox(sandbox, status.as_ref(), &containers.containers, &self.annotations);
            // An address that is not there yet may come; what has one stays as it is.
            if let Some(status) = status.filter(|status| status.network.is_some()) {
                self.statuses.insert(id, status);
            }
            // A sandbox that died is replaced by another of the same pod: the one that lives counts.
            if let Some(pod) = pod
                && pods
                    .get(&pod.uid)
                    .is_none_or(|(is_ready, created, _)| (*is_ready, *created) < order)
            {
                pods.insert(pod.uid.clone(), (order.0, order.1, pod));
            }
        }
        Ok(pods
            .into_values()
            .map(|(is_ready, _, pod)| Pod {
                is_over: !is_ready,
                ..pod
            })
            .collect())
    }

    /// `None` when it has gone meanwhile.
    async fn status(&mut self, id: &str) -> Result<Option<PodSandboxStatus>, Failure> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
        };
        match self
            .try_call::<_, PodSandboxStatusResponse>("PodSandboxStatus", request)
            .await?
        {
            Ok(answer) => Ok(answer.status),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(refused("PodSandboxStatus", &status)),
        }
    }

    async fn call<Q, A>(&mut self, method: &str, request: Q) -> Result<A, Failure>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let answer = self.try_call(method, request).await?;
        answer.map_err(|status| refused(method, &status))
    }

    /// What the runtime answered, be it no.
    async fn try_call<Q, A>(&mut self, method: &str, request: Q) -> Result<Result<A, Status>, Failure>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let asked = async {
            let channel = self.channel().await?;
            channel
                .ready()
                .await
                .map_err(|error| Failure::new("unreachable", format!("the CRI socket: {error}")))?;
            let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}"))
                .map_err(|error| Failure::new("configuration", error.to_string()))?;
            let answer = channel
                .unary(tonic::Request::new(request), path, ProstCodec::<Q, A>::default())
                .await;
            Ok(answer.map(tonic::Response::into_inner))
        };
        match timeout(ANSWER_LIMIT, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::timeout("the container runtime", ANSWER_LIMIT)),
        }
    }

    async fn channel(&mut self) -> Result<&mut Grpc<Channel>, Failure> {
        let channel = if let Some(channel) = self.channel.take() {
            channel
        } else {
            let socket = self.socket().cloned().unwrap_or_default();
            let unreachable = |error: tonic::transport::Error| {
                Failure::new("unreachable", format!("the CRI socket {}: {error}", socket.display()))
            };
            let channel = Endpoint::from_shared(format!("unix://{}", socket.display()))
                .map_err(unreachable)?
                .connect()
                .await
                .map_err(unreachable)?;
            Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES)
        };
        Ok(self.channel.insert(channel))
    }
}

fn refused(method: &str, status: &Status) -> Failure {
    let reason = match status.code() {
        Code::Unavailable => "unreachable",
        Code::DeadlineExceeded => "timeout",
        _ => "refused",
    };
    Failure::new(
        reason,
        format!("{method} of the container runtime: {}", status.message()),
    )
}
