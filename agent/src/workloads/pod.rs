//! One pod, as far as hopline wants to know it.
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// The workload that a process belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Workload {
    /// Its Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// Who told of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// The container runtime, by its CRI socket.
    Cri,
    /// The API server, which knows more: it is not overruled by the runtime.
    Api,
}

impl Source {
    /// The name of its hook.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cri => "cri",
            Self::Api => "api",
        }
    }
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// 64 hexadecimal digits, without the runtime's name.
    pub id: Box<str>,
    /// Its name in the pod.
    pub name: Box<str>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Who told of it.
    pub source: Source,
    /// Its uid, which no other pod ever has.
    pub uid: Box<str>,
    /// The uid in its cgroups, where that is another one: that of a static pod is a hash of its manifest.
    pub cgroup_uid: Option<Box<str>>,
    /// Its name.
    pub name: Arc<str>,
    /// Who owns it, in the end: a Deployment, not its `ReplicaSet`.
    pub workload: Arc<Workload>,
    /// Its own addresses; none in the node's network, or not yet.
    pub addresses: Vec<IpAddr>,
    /// No container of it can have begun earlier, nanoseconds since the epoch; 0: not known.
    pub started_unix_ns: i64,
    /// It is being deleted, or its containers have ended for good: its addresses may be given to others.
    pub is_over: bool,
    /// Containers that were started, as far as they are known.
    pub containers: Vec<Container>,
    /// Its only container: has that name before the container is known by id.
    pub only_container: Option<Box<str>>,
    /// Annotations on the allow list.
    pub annotations: BTreeMap<String, String>,
}

impl Pod {
    /// About what it takes in memory: its texts, and what holds them.
    pub fn bytes(&self) -> usize {
        /// An allocation's own, and the place that refers to it.
        const EACH: usize = 48;
        let containers = self.containers.iter();
        let containers = containers.map(|one| 4 * EACH + 2 * one.id.len() + one.name.len() + self.uid.len());
        let annotations = self
            .annotations
            .iter()
            .map(|(key, value)| 2 * EACH + key.len() + value.len());
        let addresses = self.addresses.len() * (4 * EACH + self.uid.len());
        let names = self.name.len() + self.workload.name.len() + self.workload.namespace.len() + 4 * self.uid.len();
        size_of::<Self>() + 8 * EACH + names + addresses + containers.chain(annotations).sum::<usize>()
    }

    /// Name of the container with this id.
    pub fn container(&self, id: &str) -> Option<&str> {
        let known = self.containers.iter().find(|container| *container.id == *id);
        known
            .map(|container| &*container.name)
            .or(self.only_container.as_deref())
    }
}
