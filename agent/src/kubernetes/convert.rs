//! From what the sources say to a pod of `workloads`. Total: what is missing or makes no sense is left out.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    messages::{Container as RuntimeContainer, NAMESPACE_MODE_NODE, PodSandbox, PodSandboxStatus},
    objects::{ContainerStatus, Named, PodObject},
};
use crate::workloads::{Container, Controller, Origin, Pod, Source, Workload};

/// Longest value of an annotation that is kept, bytes.
const ANNOTATION_BYTES: usize = 1_024;
/// Containers of a pod that are kept, ended ones included, and its addresses.
const MOST_CONTAINERS: usize = 64;
const MOST_ADDRESSES: usize = 16;
/// Under this annotation a static pod has the uid that its cgroups bear.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// A pod of the API server; `None` without a uid or a name.
pub(super) fn of_object(object: PodObject, annotations: &BTreeSet<String>) -> Option<Pod> {
    let PodObject { metadata, spec, status } = object;
    let (spec, status) = (spec.unwrap_or_default(), status.unwrap_or_default());
    let name = metadata.name.filter(|name| !name.is_empty())?;
    let uid = metadata.uid.filter(|uid| !uid.is_empty())?;
    let labels = metadata.labels.unwrap_or_default();
    let owners = metadata.owner_references.unwrap_or_default();
    let controller = owners.iter().find(|owner| owner.controller == Some(true));
    let origin = Origin {
        name: &name,
        labels: &labels,
        controller: controller.map(|owner| Controller {
            kind: &owner.kind,
            name: &owner.name,
        }),
        created_unix_s: metadata.creation_timestamp.map_or(0, |time| time.0.as_second()),
    };
    let workload = workload(
        metadata.namespace.as_deref().unwrap_or_default(),
        origin.by_controller(),
    );
    let all_annotations = metadata.annotations.unwrap_or_default();
    let is_in_host_network = spec.host_network == Some(true);
    let addresses = status.pod_ips.unwrap_or_default().into_iter().map(|one| one.ip);
    let addresses = addresses
        .chain([status.pod_ip])
        .flatten()
        .filter(|_| !is_in_host_network);
    let statuses = [
        status.container_statuses,
        status.init_container_statuses,
        status.ephemeral_container_statuses,
    ];
    let containers = statuses.into_iter().flatten().flatten().filter_map(container);
    Some(Pod {
        source: Source::Api,
        cgroup_uid: all_annotations.get(CONFIG_HASH).map(|hash| hash.as_str().into()),
        uid: uid.into(),
        workload,
        addresses: parsed(addresses),
        started_unix_ns: status
            .start_time
            .map_or(0, |time| time.0.as_second().saturating_mul(1_000_000_000)),
        is_over: metadata.deletion_timestamp.is_some()
            || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        containers: containers.take(MOST_CONTAINERS).collect(),
        only_container: match spec.containers.as_deref() {
            Some([Named { name }]) if spec.init_containers.is_none_or(|all| all.is_empty()) => {
                Some(name.as_str().into())
            }
            _ => None,
        },
        annotations: allowed(all_annotations, annotations),
        name: name.into(),
    })
}

/// A pod of the container runtime.
pub(super) fn of_sandbox(
    sandbox: PodSandbox,
    status: Option<&PodSandboxStatus>,
    containers: &[RuntimeContainer],
    annotations: &BTreeSet<String>,
) -> Option<Pod> {
    let metadata = sandbox.metadata.filter(|metadata| !metadata.uid.is_empty())?;
    let labels: BTreeMap<String, String> = sandbox.labels.into_iter().collect();
    let origin = Origin {
        name: &metadata.name,
        labels: &labels,
        controller: None,
        created_unix_s: sandbox.created_at / 1_000_000_000,
    };
    let options = status.and_then(|status| status.linux.as_ref()?.namespaces.as_ref()?.options.as_ref());
    let is_in_host_network = options.is_some_and(|options| options.network == NAMESPACE_MODE_NODE);
    let network = status
        .and_then(|status| status.network.as_ref())
        .filter(|_| !is_in_host_network);
    let addresses = network.into_iter().flat_map(|network| {
        let further = network.additional_ips.iter().map(|one| &one.ip);
        [&network.ip].into_iter().chain(further).cloned()
    });
    let containers = containers
        .iter()
        .filter(|container| container.pod_sandbox_id == sandbox.id)
        .filter_map(|container| {
            let name = match &container.metadata {
                Some(metadata) => &metadata.name,
                None => container.labels.get(CONTAINER_NAME)?,
            };
            Some(Container {
                id: container.id.as_str().into(),
                name: name.as_str().into(),
            })
        });
    Some(Pod {
        source: Source::Cri,
        cgroup_uid: None,
        uid: metadata.uid.as_str().into(),
        workload: workload(&metadata.namespace, origin.by_labels()),
        addresses: parsed(addresses),
        started_unix_ns: sandbox.created_at,
        is_over: false,
        containers: containers.take(MOST_CONTAINERS).collect(),
        only_container: None,
        annotations: allowed(sandbox.annotations, annotations),
        name: metadata.name.as_str().into(),
    })
}

fn workload(namespace: &str, name: &str) -> Arc<Workload> {
    Arc::new(Workload {
        namespace: namespace.into(),
        name: name.into(),
    })
}

/// Addresses, each once, in their order.
fn parsed(texts: impl Iterator<Item = String>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in texts.filter_map(|text| text.parse().ok()) {
        if addresses.len() < MOST_ADDRESSES && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// The container of a status, once it has an id: 64 hexadecimal digits behind the runtime's name.
fn container(status: ContainerStatus) -> Option<Container> {
    let id = status.container_id?;
    let id = id.rsplit('/').next().filter(|id| !id.is_empty())?;
    Some(Container {
        id: id.into(),
        name: status.name.into(),
    })
}

fn allowed(all: impl IntoIterator<Item = (String, String)>, keys: &BTreeSet<String>) -> BTreeMap<String, String> {
    all.into_iter()
        .filter(|(key, _)| keys.contains(key))
        .map(|(key, mut value)| {
            let mut end = value.len().min(ANNOTATION_BYTES);
            while !value.is_char_boundary(end) {
                end -= 1;
            }
            value.truncate(end);
            (key, value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{
        super::messages::{ContainerMetadata, PodSandboxMetadata, PodSandboxNetworkStatus},
        *,
    };

    fn object(value: Value) -> Option<Pod> {
        let object = serde_json::from_value(value).expect("a pod");
        of_object(object, &BTreeSet::from(["kept".to_owned()]))
    }

    #[test]
    fn a_pod_of_the_server() {
        let pod = object(json!({
            "metadata": {
                "name": "cart-5d4f-x", "namespace": "shop", "uid": "u", "creationTimestamp": "2026-11-21T15:00:00Z",
                "labels": {"pod-template-hash": "5d4f"}, "annotations": {"kept": "ä".repeat(600), "other": "x"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "cart-5d4f", "controller": true, "uid": "r"}],
            },
            "spec": {"containers": [{"name": "main", "image": "x"}], "initContainers": null, "nodeName": "n"},
            "status": {
                "phase": "Running", "startTime": "2026-11-21T15:00:01Z", "podIP": "10.0.0.7",
                "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}, {"ip": "no address"}, {}],
                "containerStatuses": [{"name": "main", "containerID": "containerd://abc"}, {"name": "waits"}],
                "initContainerStatuses": [{"name": "init", "containerID": "cri-o://def"}],
            },
        }));
        let pod = pod.expect("it has a name");
        assert_eq!((&*pod.workload.namespace, &*pod.workload.name), ("shop", "cart"));
        assert_eq!(pod.addresses.len(), 2);
        assert_eq!(pod.started_unix_ns, 1_795_273_201_000_000_000);
        assert_eq!(pod.container("abc"), Some("main"));
        assert_eq!(pod.container("def"), Some("init"));
        assert_eq!(pod.container("unknown"), Some("main"), "there is no other");
        assert_eq!(pod.annotations.len(), 1);
        assert_eq!(pod.annotations["kept"].len(), ANNOTATION_BYTES);
        assert!(!pod.is_over && pod.cgroup_uid.is_none());
    }

    #[test]
    fn odd_pods_of_the_server() {
        let with = |change: fn(&mut Value)| {
            let mut value = json!({
                "metadata": {"name": "n", "uid": "u", "annotations": {CONFIG_HASH: "h"}},
                "spec": {"hostNetwork": true, "containers": [{"name": "a"}, {"name": "b"}]},
                "status": {"phase": "Pending", "podIP": "10.0.0.1"},
            });
            change(&mut value);
            object(value)
        };
        let pod = with(|_| {}).expect("it has a name");
        assert!(pod.addresses.is_empty(), "the node's, not its own");
        assert_eq!((pod.cgroup_uid.as_deref(), pod.container("x")), (Some("h"), None));
        assert_eq!(&*pod.workload.name, "n");
        assert!(
            with(|pod| pod["metadata"]["deletionTimestamp"] = "2026-11-21T15:00:00Z".into())
                .is_some_and(|pod| pod.is_over)
        );
        assert!(with(|pod| pod["status"]["phase"] = "Failed".into()).is_some_and(|pod| pod.is_over));
        assert!(with(|pod| pod["status"] = Value::Null).is_some());
        assert!(with(|pod| pod["metadata"]["uid"] = Value::Null).is_none());
        assert!(with(|pod| pod["metadata"] = json!({})).is_none());
    }

    #[test]
    fn a_pod_of_the_runtime() {
        let sandbox = PodSandbox {
            id: "s".to_owned(),
            metadata: Some(PodSandboxMetadata {
                name: "cart-5d4f-x".to_owned(),
                uid: "u".to_owned(),
                namespace: "shop".to_owned(),
            }),
            created_at: 7,
            labels: HashMap::from([("pod-template-hash".to_owned(), "5d4f".to_owned())]),
            ..PodSandbox::default()
        };
        let status = PodSandboxStatus {
            network: Some(PodSandboxNetworkStatus {
                ip: "10.0.0.7".to_owned(),
                additional_ips: Vec::new(),
            }),
            linux: None,
        };
        let container = |sandbox: &str, name: &str| RuntimeContainer {
            id: format!("{name}-id"),
            pod_sandbox_id: sandbox.to_owned(),
            metadata: Some(ContainerMetadata { name: name.to_owned() }),
            ..RuntimeContainer::default()
        };
        let containers = [container("s", "main"), container("t", "other")];
        let pod = of_sandbox(sandbox.clone(), Some(&status), &containers, &BTreeSet::new()).expect("it has a uid");
        assert_eq!((&*pod.workload.name, pod.addresses.len()), ("cart", 1));
        assert_eq!(
            (pod.container("main-id"), pod.container("other-id")),
            (Some("main"), None)
        );
        let nameless = PodSandbox {
            metadata: None,
            ..sandbox
        };
        assert!(of_sandbox(nameless, None, &[], &BTreeSet::new()).is_none());
    }

    proptest! {
        #[test]
        fn any_strings_make_a_pod(name in ".{1,40}", kind in "(ReplicaSet|Job|Node|X)", owner in ".{0,40}", hash in ".{0,10}", ip in ".{0,20}") {
            let pod = object(json!({
                "metadata": {
                    "name": name, "uid": "u", "labels": {"pod-template-hash": hash}, "annotations": {"kept": owner},
                    "ownerReferences": [{"kind": kind, "name": owner, "controller": true}],
                },
                "status": {"podIP": ip, "containerStatuses": [{"name": "c", "containerID": ip}]},
            }));
            prop_assert_eq!(&*pod.expect("it has a name").name, name.as_str());
        }
    }
}
