//! What must agree between rendered objects, and with the rest of the repository. Pure.

use serde_json::{Value, json};

/// The port of the agent's HTTP server.
const PORT: u64 = 9737;
/// Where the agent notes that it starts and ends: the default of `state_dir`.
const STATE: &str = "/var/lib/hopline";
/// All that least privilege adds; docs/install-kubernetes.md has the reasons.
const CAPABILITIES: [&str; 7] = [
    "BPF",
    "PERFMON",
    "NET_ADMIN",
    "SYS_PTRACE",
    "DAC_READ_SEARCH",
    "CHECKPOINT_RESTORE",
    "LEASE",
];

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// Whether a directory of the node holds what the agent notes.
fn keeps_state(container: &Value, volumes: &[Value]) -> bool {
    let is_kept = |mount: &Value| {
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
        mount["mountPath"] == STATE && volume.is_some_and(|volume| volume["hostPath"]["path"] == STATE)
    };
    let mounts = container["volumeMounts"].as_array().map(Vec::as_slice);
    mounts.unwrap_or_default().iter().any(is_kept)
}

/// Complaints about one kustomization.
pub(super) fn check(name: &str, objects: &[Value]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut expect = |holds: bool, what: &str| {
        if !holds {
            complaints.push(format!("{name}: {what}"));
        }
    };
    let of_kind = |kind| of_kind(objects, kind);
    let sets = of_kind("DaemonSet");
    let [set] = sets[..] else {
        return vec![format!("{name}: not one DaemonSet")];
    };
    let pod = &set["spec"]["template"];
    let container = &pod["spec"]["containers"][0];

    expect(
        container["image"] == concat!("localhost/hopline:", env!("CARGO_PKG_VERSION")),
        "the image's tag is not this version",
    );
    let version = &set["metadata"]["labels"]["app.kubernetes.io/version"];
    expect(version == env!("CARGO_PKG_VERSION"), "the label is not this version");
    let selector = &set["spec"]["selector"]["matchLabels"];
    expect(
        is_within(selector, &pod["metadata"]["labels"]),
        "the selector does not find its pods",
    );
    expect(
        selector["app.kubernetes.io/version"].is_null(),
        "the selector has the version",
    );
    for host in ["hostNetwork", "hostPID"] {
        expect(pod["spec"][host] == true, &format!("no {host}"));
    }
    expect(
        container["ports"][0]["containerPort"] == PORT,
        "another port than the agent's",
    );
    for (probe, path) in [
        ("startupProbe", "/livez"),
        ("readinessProbe", "/readyz"),
        ("livenessProbe", "/livez"),
    ] {
        expect(
            container[probe]["httpGet"]["path"] == path,
            &format!("{probe} does not ask {path}"),
        );
    }
    expect(
        container["resources"]["limits"]["memory"].is_string(),
        "no limit on memory",
    );

    let classes = of_kind("PriorityClass");
    let class = &pod["spec"]["priorityClassName"];
    expect(
        classes.iter().any(|one| one["metadata"]["name"] == *class),
        "its priority class is not there",
    );
    let accounts = of_kind("ServiceAccount");
    let account = &pod["spec"]["serviceAccountName"];
    expect(
        accounts.iter().any(|one| one["metadata"]["name"] == *account),
        "its account is not there",
    );
    // `lab kube-api` compares these verbs with those that the agent asks for.
    let rules = of_kind("ClusterRole").into_iter().map(|role| &role["rules"]);
    expect(
        rules.eq([&json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}])]),
        "its role is not to list and watch pods, and nothing else",
    );
    let bindings = of_kind("ClusterRoleBinding");
    expect(
        bindings.iter().any(|one| one["subjects"][0]["name"] == *account),
        "its account has no role",
    );
    let maps = of_kind("ConfigMap");
    let volumes = pod["spec"]["volumes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let map = volumes.iter().find_map(|volume| volume["configMap"]["name"].as_str());
    expect(
        maps.iter().any(|one| one["metadata"]["name"].as_str() == map),
        "its configuration is not there",
    );

    expect(
        keeps_state(container, volumes),
        "its history does not outlive the pod: no safe mode",
    );

    let security = &container["securityContext"];
    if security["privileged"] == false {
        let added = security["capabilities"]["add"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        expect(
            added.iter().map(Value::as_str).eq(CAPABILITIES.map(Some)) && security["capabilities"]["drop"][0] == "ALL",
            "other capabilities than documented",
        );
    } else {
        expect(!name.contains("privilege") && !name.contains("all"), "is privileged");
    }
    complaints.extend(monitors(name, objects, set));
    complaints
}

/// Complaints about objects of the Prometheus operator that should find the pods of `set`.
fn monitors(name: &str, objects: &[Value], set: &Value) -> Vec<String> {
    let pod = &set["spec"]["template"];
    let mut complaints = Vec::new();
    for monitor in objects.iter().filter(|object| object["kind"] == "PodMonitor") {
        let mut expect = |holds: bool, what: &str| {
            if !holds {
                complaints.push(format!("{name}: the PodMonitor {what}"));
            }
        };
        let selector = &monitor["spec"]["selector"]["matchLabels"];
        expect(
            is_within(selector, &pod["metadata"]["labels"]),
            "does not find the pods",
        );
        let port = &monitor["spec"]["podMetricsEndpoints"][0]["port"];
        let open = &pod["spec"]["containers"][0]["ports"][0]["name"];
        expect(port == open, "asks another port");
        let label = monitor["spec"]["jobLabel"].as_str().unwrap_or_default();
        expect(
            pod["metadata"]["labels"][label] == "hopline",
            "makes another job than hopline: no alert would know it",
        );
        let namespace = &set["metadata"]["namespace"];
        expect(
            monitor["metadata"]["namespace"] == *namespace,
            "is in another namespace",
        );
    }
    complaints
}

/// Whether `all` has each label of `some`, of which there is at least one.
fn is_within(some: &Value, all: &Value) -> bool {
    some.as_object()
        .is_some_and(|some| !some.is_empty() && some.iter().all(|(name, value)| all[name] == *value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_within_labels() {
        assert!(is_within(&json!({"a": "1"}), &json!({"a": "1", "b": "2"})));
        assert!(!is_within(&json!({"a": "2"}), &json!({"a": "1"})));
        assert!(!is_within(&json!({}), &json!({"a": "1"})));
        assert!(!is_within(&Value::Null, &json!({})));
    }

    #[test]
    fn an_empty_set_has_many_faults() {
        let found = check("x", &[json!({"kind": "DaemonSet"})]).join("\n");
        for part in [
            "tag",
            "hostPID",
            "startupProbe",
            "priority class",
            "configuration",
            "safe mode",
        ] {
            assert!(found.contains(part), "{part}: {found}");
        }
        assert_eq!(check("x", &[]).len(), 1);
    }
}
