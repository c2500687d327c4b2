//! Pods as the API server gives them, and what hopline must call them: the lab's table of truth.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// The node of all pods here.
pub(crate) const NODE: &str = "lab-node";
/// The one annotation that the agent is told to keep, and its value's beginning.
pub(crate) const ANNOTATION: &str = "ci.example/job";

/// One pod and its names.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) uid: String,
    /// The uid in its cgroups: of a static pod the hash of its manifest.
    pub(crate) cgroup_uid: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) workload: String,
    pub(crate) container: String,
    pub(crate) container_id: String,
    pub(crate) address: Option<String>,
    owner: Option<(&'static str, String)>,
    labels: Value,
}

/// What a pod is owned by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
    CronJob,
    Static,
    Alone,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Deployment,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::Job,
        Self::CronJob,
        Self::Static,
        Self::Alone,
    ];
}

impl Pod {
    /// The pod of this number, of this kind.
    pub(crate) fn new(number: usize, kind: Kind) -> Self {
        let workload = format!("work{number}");
        let minutes = now_s() / 60;
        let (name, owner, labels) = match kind {
            Kind::Deployment => {
                let set = format!("{workload}-5d4f8c7b9{}", number % 10);
                let labels = json!({"pod-template-hash": format!("5d4f8c7b9{}", number % 10)});
                (format!("{set}-x2x4z"), Some(("ReplicaSet", set)), labels)
            }
            Kind::StatefulSet => {
                let owner = ("StatefulSet", workload.clone());
                (format!("{workload}-0"), Some(owner), json!({}))
            }
            Kind::DaemonSet => {
                let owner = ("DaemonSet", workload.clone());
                (format!("{workload}-ab1cd"), Some(owner), json!({}))
            }
            // A number that is no time.
            Kind::Job => {
                let owner = ("Job", workload.clone());
                (format!("{workload}-qwert"), Some(owner), json!({}))
            }
            Kind::CronJob => {
                let job = format!("{workload}-{minutes}");
                (format!("{job}-qwert"), Some(("Job", job)), json!({}))
            }
            Kind::Static => (format!("{workload}-{NODE}"), Some(("Node", NODE.to_owned())), json!({})),
            Kind::Alone => (workload.clone(), None, json!({})),
        };
        Self {
            cgroup_uid: match kind {
                Kind::Static => format!("{number:032x}"),
                _ => uid(number),
            },
            uid: uid(number),
            name,
            namespace: format!("team{}", number % 3),
            workload,
            container: format!("main{number}"),
            container_id: format!("{number:064x}"),
            address: None,
            owner,
            labels,
        }
    }

    pub(crate) fn at(mut self, address: &str) -> Self {
        self.address = Some(address.to_owned());
        self
    }

    /// The value of [`ANNOTATION`].
    pub(crate) fn annotation(&self) -> String {
        format!("job of {}", self.name)
    }

    /// Its directories below the lab's cgroup, as the kubelet's cgroupfs driver makes them.
    pub(crate) fn cgroup(&self) -> [String; 2] {
        [format!("pod{}", self.cgroup_uid), self.container_id.clone()]
    }

    /// As the API server gives it.
    pub(crate) fn object(&self) -> Value {
        let owners: Vec<Value> = self
            .owner
            .iter()
            .map(|(kind, name)| json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "controller": true}))
            .collect();
        let now = timestamp(now_s());
        let mut annotations = json!({ANNOTATION: self.annotation(), "secret.example/token": "not for records"});
        if self.cgroup_uid != self.uid {
            annotations["kubernetes.io/config.hash"] = self.cgroup_uid.as_str().into();
        }
        let status = json!({
            "phase": "Running", "startTime": now, "podIP": self.address,
            "podIPs": self.address.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
            "containerStatuses": [
                {"name": self.container, "containerID": format!("containerd://{}", self.container_id), "ready": true},
                {"name": "sidecar", "containerID": format!("containerd://{}", "f".repeat(64)), "ready": true},
            ],
        });
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": self.name, "namespace": self.namespace, "uid": self.uid, "creationTimestamp": now,
                "labels": self.labels, "ownerReferences": owners, "managedFields": [{"manager": "kubelet"}],
                "annotations": annotations,
            },
            "spec": {"nodeName": NODE, "containers": [{"name": self.container, "image": "x"}, {"name": "sidecar"}]},
            "status": status,
        })
    }
}

fn uid(number: usize) -> String {
    format!("{number:08x}-aaaa-4bbb-8ccc-dddddddddddd")
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// RFC 3339, by the civil-from-days algorithm.
fn timestamp(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400 + 719_468, unix_s % 86_400);
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(timestamp(1_795_273_199), "2026-11-21T14:59:59Z");
    }
}
