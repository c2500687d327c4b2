//! Under which destination a connection is counted, and whose it is.
use std::sync::Arc;

use agent_ebpf::connection::ConnectionState;

use super::{resolution::opened_ns, talk::Claim};
use crate::{
    aggregate::{DestinationKey, Name},
    attribution::Process,
    connection::{Endpoints, Role},
    groups::Group,
    workloads::{Pod, Workload, Workloads},
};

/// A client's destination is the host that it asked for, else the address; a server's is its workload, else the process
/// that listens, and its port.
pub(super) fn key(
    role: Role,
    owner: &Process,
    state: &ConnectionState,
    host: Option<&Arc<str>>,
    group: &Group,
    pod: Option<&Pod>,
) -> DestinationKey {
    let endpoints = Endpoints::of(state);
    if role == Role::Server {
        return server_key(owner, endpoints.local.port, group, pod);
    }
    let wanted = endpoints.wanted();
    DestinationKey {
        role,
        name: host.map_or(Name::Address(wanted.address), |host| Name::Host(Arc::clone(host))),
        port: wanted.port,
        group: Arc::clone(&group.name),
        source: source(pod),
    }
}

/// A server's destination is itself.
pub(super) fn server_key(owner: &Process, port: u16, group: &Group, pod: Option<&Pod>) -> DestinationKey {
    DestinationKey {
        role: Role::Server,
        name: Name::Process(server_name(owner, pod)),
        port,
        group: Arc::clone(&group.name),
        source: source(pod),
    }
}

/// What a server is called: its workload, outside of pods its process.
pub(super) fn server_name(owner: &Process, pod: Option<&Pod>) -> Arc<str> {
    pod.map_or_else(|| owner.name(), |pod| Arc::clone(&pod.workload.name))
}

/// Whose something is that a pod did.
pub(super) fn source(pod: Option<&Pod>) -> Option<Arc<Workload>> {
    pod.map(|pod| Arc::clone(&pod.workload))
}

/// The pod of this node that had the address that a client asked for, when it asked.
pub(super) fn pod_at(workloads: &Workloads, state: &ConnectionState) -> Option<Claim> {
    let pod = workloads.at_address(Endpoints::of(state).wanted().address, opened_ns(state))?;
    Some(Claim {
        host: format!("{}.{}.pod", pod.name, pod.workload.namespace).into(),
        source: "kubernetes",
        verified: true,
    })
}
