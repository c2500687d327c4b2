//! From a pod to the workload that it is a part of, by what the pod itself says: no second question to the API server.
//!
//! A `ReplicaSet` of a Deployment is `NAME-HASH`, and the pod has that hash as a label; a Job of a `CronJob` is `NAME-MINUTES`,
//! the minutes since the epoch at which it was due, so shortly before its pods were made. Neither is guessed from a
//! name alone: a Job that happens to end in digits keeps its own name.
use std::collections::BTreeMap;

/// Seconds by which a Job's pod may be later than the Job was due: a day of retries.
const LATEST_S: i64 = 24 * 3_600;
/// Clocks of controller and node may differ by so much, seconds.
const EARLIEST_S: i64 = 600;

/// Who controls a pod: its owner reference with `controller: true`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Controller<'a> {
    /// `ReplicaSet`, `StatefulSet`, `DaemonSet`, `Job`, `Node`, any other.
    pub kind: &'a str,
    /// Its name.
    pub name: &'a str,
}

/// What a pod says of where it is from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Who controls it, when the source tells.
    pub controller: Option<Controller<'a>>,
    /// When it was made, seconds since the epoch; 0: not known.
    pub created_unix_s: i64,
}

impl<'a> Origin<'a> {
    /// Name of the workload by the API: the controller, or what controls that; a pod on its own is its own workload.
    pub fn by_controller(&self) -> &'a str {
        match self.controller {
            None => self.name,
            Some(Controller {
                kind: "ReplicaSet",
                name,
            }) => self.without_hash(name).unwrap_or(name),
            Some(Controller { kind: "Job", name }) => self.without_due_time(name).unwrap_or(name),
            // A static pod: the kubelet's mirror of it is NAME-NODE.
            Some(Controller { kind: "Node", name }) => without_suffix(self.name, name).unwrap_or(self.name),
            Some(Controller { name, .. }) => name,
        }
    }

    /// The same by labels alone, which is all that a container runtime has: what the controllers of Kubernetes add.
    pub fn by_labels(&self) -> &'a str {
        let label = |key: &str| self.labels.get(key).map(String::as_str);
        if let Some(job) = label("batch.kubernetes.io/job-name").or_else(|| label("job-name")) {
            return self.without_due_time(job).unwrap_or(job);
        }
        // NAME-HASH-xxxxx
        let numbered = || self.name.rsplit_once('-').map(|(name, _)| name);
        if let Some(replica_set) = numbered()
            && let Some(name) = self.without_hash(replica_set)
        {
            return name;
        }
        // NAME-0 and NAME-xxxxx
        let is_set_member = label("statefulset.kubernetes.io/pod-name") == Some(self.name);
        let is_daemon = label("pod-template-generation").is_some() && label("controller-revision-hash").is_some();
        match numbered() {
            Some(name) if is_set_member || is_daemon => name,
            _ => self.name,
        }
    }

    fn without_hash<'b>(&self, replica_set: &'b str) -> Option<&'b str> {
        let hashes = ["pod-template-hash", "rollouts-pod-template-hash"];
        hashes
            .iter()
            .filter_map(|key| self.labels.get(*key))
            .find_map(|hash| without_suffix(replica_set, hash))
    }

    fn without_due_time<'b>(&self, job: &'b str) -> Option<&'b str> {
        let (name, minutes) = job.rsplit_once('-')?;
        let is_number = !minutes.is_empty() && minutes.bytes().all(|byte| byte.is_ascii_digit());
        let due_s = minutes.parse::<i64>().ok().filter(|_| is_number)?.checked_mul(60)?;
        let is_due = (-EARLIEST_S..=LATEST_S).contains(&self.created_unix_s.saturating_sub(due_s));
        (is_due && !name.is_empty()).then_some(name)
    }
}

/// `NAME` of `NAME-SUFFIX`.
fn without_suffix<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let name = text.strip_suffix(suffix)?.strip_suffix('-')?;
    (!name.is_empty() && !suffix.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21 15:00:00, in minutes 29 855 460 after the epoch.
    const NOW_S: i64 = 29_855_460 * 60;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn by_controller() {
        let check = |name: &str, text: &str, controller: Option<(&str, &str)>, expected: &str| {
            let origin = Origin {
                name,
                labels: &labels(text),
                controller: controller.map(|(kind, name)| Controller { kind, name }),
                created_unix_s: NOW_S + 30,
            };
            assert_eq!(origin.by_controller(), expected, "{name} {controller:?}");
        };
        check("toolbox", "", None, "toolbox");
        let hash = "pod-template-hash=5d4f8c7b9";
        check(
            "shop-5d4f8c7b9-x2x4z",
            hash,
            Some(("ReplicaSet", "shop-5d4f8c7b9")),
            "shop",
        );
        check("shop-old-x2x4z", hash, Some(("ReplicaSet", "shop-old")), "shop-old");
        check("shop-1-x2x4z", "", Some(("ReplicaSet", "shop-1")), "shop-1");
        check("-5d4f8c7b9-x", hash, Some(("ReplicaSet", "-5d4f8c7b9")), "-5d4f8c7b9");
        check("db-0", "", Some(("StatefulSet", "db")), "db");
        check("logs-abcde", "", Some(("DaemonSet", "logs")), "logs");
        check("backup-29855460-q", "", Some(("Job", "backup-29855460")), "backup");
        check("backup-29855400-q", "", Some(("Job", "backup-29855400")), "backup");
        check(
            "import-20261121-q",
            "",
            Some(("Job", "import-20261121")),
            "import-20261121",
        );
        check(
            "backup-29850000-q",
            "",
            Some(("Job", "backup-29850000")),
            "backup-29850000",
        );
        check("once-q", "", Some(("Job", "once")), "once");
        check("kube-proxy-node-7", "", Some(("Node", "node-7")), "kube-proxy");
        check("w-1", "", Some(("Workflow", "train")), "train");
    }

    #[test]
    fn by_labels() {
        let check = |name: &str, text: &str, expected: &str| {
            let origin = Origin {
                name,
                labels: &labels(text),
                controller: None,
                created_unix_s: NOW_S,
            };
            assert_eq!(origin.by_labels(), expected, "{name} {text}");
        };
        check("toolbox", "app=x", "toolbox");
        check("shop-5d4f8c7b9-x2x4z", "pod-template-hash=5d4f8c7b9", "shop");
        check("shop-other-x2x4z", "pod-template-hash=5d4f8c7b9", "shop-other-x2x4z");
        check("db-0", "statefulset.kubernetes.io/pod-name=db-0", "db");
        check(
            "logs-abcde",
            "controller-revision-hash=1 pod-template-generation=1",
            "logs",
        );
        check(
            "backup-29855460-q",
            "batch.kubernetes.io/job-name=backup-29855460",
            "backup",
        );
        check("backup-q", "job-name=backup", "backup");
    }
}
