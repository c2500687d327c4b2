//! The page of all metrics (`docs/metrics.md`), read from an exposition in which every family has data: what the page says is
//! what a scrape says. Called by `agent --print-metrics`.
use std::collections::{BTreeMap, BTreeSet};

use agent_ebpf::{
    event::{KINDS, kind_name},
    loss::{FAILURES, failure_name},
};

use super::{super::http, classic, encode};
use crate::{
    aggregate::Snapshot,
    selfmetrics::{FeatureState, KindCounts, ProcessStats, ProgramStats, SelfMetrics, TlsTarget, TlsTargets},
};

const HEAD: &str = "\
# Metrics

What `/metrics` exports, as OpenMetrics or in Prometheus' older text format, whichever the scraper asks for. This page is what
`hopline agent --print-metrics` prints, written by `cargo xtask deploy-check --write`.

Times are in seconds, sizes in bytes, ratios from 0 to 1. Histograms have the bounds 100 µs × 2^0 … 2^18 (26.2 s), and the series
`_bucket`, `_sum` and `_count`. `destination` is the name of a host, else its address; for `role=\"server\"` the workload, or
outside of pods the process that listens. `group` is empty for destinations in none, `source_namespace` and `source_workload` outside Kubernetes. Destinations for
which the series budget (`limits.series`) has no room are one, `destination=\"other\"`, without a port.

\"With data\" means that a family is left out of a scrape until it has something to show, and its series come one by one; \"always\"
that it is there from the first scrape on.
";

const FOOT: &str = "
`feature` and `hook` are those of `hopline doctor`; `qtype` and `rcode` have the names of the DNS registries, `rcode` `TIMEOUT` as
well. `rule` is `rtt_spike`.

## Not yet

Promised, and exported by no version so far: do not build on them.

| metric | what |
| --- | --- |";

/// Promised, and not exported yet.
const NOT_YET: &[(&str, &str)] = &[("hopline_contract_burn_ratio", "how much of a contract is used up")];

/// Families that need more than data, by the beginning of their names.
const CONDITIONS: &[(&str, &str)] = &[
    (
        "hopline_bpf_run",
        "while the kernel's BPF statistics are on (`sysctl kernel.bpf_stats_enabled=1`)",
    ),
    ("hopline_fallbacks", "with data; 200 label sets at most, then `other`"),
    (
        "hopline_undeclared",
        "with data, when the configuration declares destinations; 200 label sets at most, then `other`",
    ),
    (
        "hopline_kubernetes",
        "in Kubernetes, once somebody tells of pods or was asked to",
    ),
    ("hopline_rule_active", "while a rule is active"),
];

/// Labels whose values anybody can make, or the kernel, or the protocol: the specimen's tell nothing.
const OPEN: &[&str] = &[
    "le",
    "destination",
    "destination_port",
    "group",
    "source_namespace",
    "source_workload",
    "from",
    "to",
    "declaration",
    "process",
    "program",
    "hook",
    "feature",
    "version",
    "family",
    "qtype",
    "rcode",
    "rule",
];

/// One family as scraped.
#[derive(Debug, Default)]
struct Described {
    kind: String,
    help: String,
    /// Values by label, both in the order in which they come.
    labels: Vec<(String, BTreeSet<String>)>,
}

/// The page. `fresh` is the snapshot of a pipeline that has seen nothing.
pub fn reference(fresh: &Snapshot) -> String {
    let always = families(&classic(&encode(fresh, &own())));
    let all = families(&classic(&encode(&fresh.clone().with_one_of_everything(), &own())));
    let mut lines = Vec::new();
    let (about_itself, observed): (Vec<_>, Vec<_>) = all.iter().partition(|(name, _)| is_about_itself(name));
    for (title, families) in [
        ("What it observes", &observed),
        ("What it knows of itself", &about_itself),
    ] {
        lines.push(format!(
            "\n## {title}\n\n| metric | kind | labels | what | when |\n| --- | --- | --- | --- | --- |"
        ));
        for (name, family) in families {
            let labels: Vec<String> = family.labels.iter().map(|(label, _)| format!("`{label}`")).collect();
            lines.push(format!(
                "| `{name}` | {} | {} | {} | {} |",
                family.kind,
                labels.join(", "),
                family.help.trim_end_matches('.').replace('|', "\\|"),
                when(name, always.contains_key(*name))
            ));
        }
    }
    lines.push("\n## Values of labels\n\n| metric | label | values |\n| --- | --- | --- |".to_owned());
    for (name, family) in &all {
        for (label, values) in family
            .labels
            .iter()
            .filter(|(label, _)| !OPEN.contains(&label.as_str()))
        {
            let values: Vec<String> = values.iter().map(|value| shown(value)).collect();
            lines.push(format!("| `{name}` | `{label}` | {} |", values.join(", ")));
        }
    }
    lines.push(FOOT.to_owned());
    for (name, what) in NOT_YET {
        lines.push(format!("| `{name}` | {what} |"));
    }
    format!("{HEAD}{}\n", lines.join("\n"))
}

/// An empty one must be seen.
fn shown(value: &str) -> String {
    if value.is_empty() {
        "empty".to_owned()
    } else {
        format!("`{value}`")
    }
}

fn is_about_itself(name: &str) -> bool {
    const PREFIXES: [&str; 15] = [
        "process_",
        "hopline_agent_http_",
        "hopline_bpf_",
        "hopline_build_info",
        "hopline_dns_ignored",
        "hopline_dns_malformed",
        "hopline_events_",
        "hopline_feature_enabled",
        "hopline_hello_",
        "hopline_safe_mode",
        "hopline_series",
        "hopline_socket_sweep",
        "hopline_sockets_unattributed",
        "hopline_ticket_lengths",
        "hopline_kubernetes",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn when(name: &str, always: bool) -> &'static str {
    let condition = CONDITIONS.iter().find(|(prefix, _)| name.starts_with(prefix));
    match condition {
        Some((_, condition)) => condition,
        None if always => "always",
        None => "with data",
    }
}

/// The agent's own numbers with one of everything.
fn own() -> SelfMetrics {
    SelfMetrics {
        features: vec![FeatureState::default()],
        events: (0..)
            .take(KINDS)
            .filter_map(kind_name)
            .map(|kind| KindCounts {
                kind,
                ..KindCounts::default()
            })
            .collect(),
        failures: (0..FAILURES)
            .filter_map(failure_name)
            .map(|name| (name.to_owned(), 1))
            .collect(),
        programs: vec![ProgramStats {
            runs: 1,
            ..ProgramStats::default()
        }],
        process: ProcessStats {
            start_seconds: 1.0,
            ..ProcessStats::default()
        },
        tls_targets: TlsTargets {
            targets: vec![TlsTarget {
                library: "go",
                ..TlsTarget::default()
            }],
            refused: vec![("changed", 1)],
            ..TlsTargets::default()
        },
        http: Some(http::no_numbers()),
        ..SelfMetrics::default()
    }
}

/// What the classic text format says of each family.
fn families(text: &str) -> BTreeMap<String, Described> {
    let mut families: BTreeMap<String, Described> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            help.clone_into(&mut families.entry(name.to_owned()).or_default().help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            name.clone_into(&mut current);
            kind.clone_into(&mut families.entry(current.clone()).or_default().kind);
        } else if let Some((labels, _)) = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'))
            && let Some(family) = families.get_mut(&current)
        {
            add_labels(family, labels);
        }
    }
    families
}

/// `a="b",c="d"`: no value of the specimen holds a quote.
fn add_labels(family: &mut Described, labels: &str) {
    for (label, value) in labels.split("\",").filter_map(|pair| pair.split_once("=\"")) {
        if label == "le" {
            continue;
        }
        let value = value.trim_end_matches('"').to_owned();
        match family.labels.iter_mut().find(|(known, _)| known == label) {
            Some((_, values)) => drop(values.insert(value)),
            None => family.labels.push((label.to_owned(), BTreeSet::from([value]))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::pipeline::{Pipeline, PipelineSettings};

    fn page() -> String {
        reference(&Pipeline::new(PipelineSettings::default()).snapshot())
    }

    /// Strings in the exporter's sources that are names of metrics; counters are named without their ending there.
    fn named_in(directory: &Path, names: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).expect("sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                named_in(&path, names);
            } else if !path.ends_with("reference.rs") {
                let text = fs::read_to_string(&path).expect("text");
                let quoted = text.split('"').filter(|word| word.starts_with("hopline_"));
                let whole = quoted.filter(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
                names.extend(whole.map(str::to_owned));
            }
        }
    }

    #[test]
    fn every_family_of_the_exporter_is_on_the_page() {
        let mut names = BTreeSet::new();
        named_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/export"), &mut names);
        assert!(names.len() > 20, "{names:?}");
        let page = page();
        for name in names {
            let is_there = ["", "_total"]
                .iter()
                .any(|ending| page.contains(&format!("| `{name}{ending}` |")));
            assert!(is_there, "{name} is not in aggregate/specimen.rs");
        }
    }

    #[test]
    fn nothing_is_promised_that_is_there() {
        let page = page();
        let (exported, promised) = page.split_once("## Not yet").expect("two parts");
        for (name, _) in NOT_YET {
            assert!(promised.contains(name) && !exported.contains(name), "{name}");
        }
    }

    #[test]
    fn the_page_is_in_the_documentation() {
        let committed = include_str!("../../../../docs/metrics.md");
        assert!(committed == page(), "run `cargo xtask deploy-check --write`");
    }

    #[test]
    fn each_family_has_kind_help_and_labels() {
        let text = "# HELP a_total Help, with words.\n# TYPE a_total counter\na_total{x=\"1\",y=\"\"} 2\na_total{x=\"2\",y=\"\"} 2\n";
        let families = families(text);
        let family = &families["a_total"];
        assert_eq!(
            (family.kind.as_str(), family.help.as_str()),
            ("counter", "Help, with words.")
        );
        let values: Vec<_> = family
            .labels
            .iter()
            .map(|(label, values)| (label.as_str(), values.len()))
            .collect();
        assert_eq!(values, [("x", 2), ("y", 1)]);
    }
}
