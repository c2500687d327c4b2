//! `PromQL` in files of `deploy/`: whether it parses (promtool), and whether its metrics and labels are hopline's.
//!
//! Reads names out of expressions by their letters; what an expression means is not known here. Called by `alerts_check`
//! and `dashboards_check`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{process, workspace};

/// Labels of hopline's metrics, those that a scraper adds, and those that the recording rules make.
const LABELS: &[&str] = &[
    "alertname",
    "alertstate",
    "closed_by",
    "cluster",
    "declaration",
    "destination",
    "destination_port",
    "direction",
    "error",
    "family",
    "feature",
    "from",
    "group",
    "hook",
    "instance",
    "job",
    "kind",
    "le",
    "of",
    "phase",
    "process",
    "program",
    "qtype",
    "rcode",
    "reason",
    "resumed",
    "role",
    "rule",
    "severity",
    "source_namespace",
    "source_workload",
    "state",
    "status",
    "tls_version",
    "to",
    "type",
    "version",
];

/// An expression and where it stands, for complaints.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) place: String,
    pub(crate) text: String,
}

/// What expressions may name.
#[derive(Debug)]
pub(crate) struct Names {
    metrics: BTreeSet<String>,
    recorded: BTreeSet<String>,
}

impl Names {
    /// From the agent's source and the names that recording rules make.
    pub(crate) fn read(recorded: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut exported = BTreeSet::new();
        collect_exported(&workspace::root().join("agent/src"), &mut exported)?;
        Ok(Self {
            metrics: exported,
            recorded: recorded.into_iter().collect(),
        })
    }

    /// What `query` names that nobody exports or records, and labels that no series has.
    pub(crate) fn complaints(&self, query: &Query) -> Vec<String> {
        let text = without_strings(&query.text);
        let metrics = words(&text).filter(|word| word.starts_with("hopline_") || word.contains(':'));
        let unknown = metrics.filter(|word| !self.recorded.contains(*word) && !is_among(word, &self.metrics));
        let mut complaints: Vec<String> = unknown
            .map(|word| format!("{}: no such metric: {word}", query.place))
            .collect();
        let labels = labels(&text);
        let unknown = labels.iter().filter(|label| !LABELS.contains(label));
        complaints.extend(unknown.map(|label| format!("{}: no such label: {label}", query.place)));
        complaints
    }
}

/// Whether the agent exports `name`: counters get their ending, histograms their series, on the way out.
fn is_among(name: &str, exported: &BTreeSet<String>) -> bool {
    let endings = ["", "_total", "_bucket", "_sum", "_count"];
    endings
        .iter()
        .filter_map(|ending| name.strip_suffix(ending))
        .any(|stem| exported.contains(stem))
}

/// Names of metrics in the source below `directory`: strings that are one.
fn collect_exported(directory: &Path, names: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect_exported(&path, names)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let quoted = text.split('"').filter(|word| word.starts_with("hopline_"));
            let metrics = quoted.filter(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
            names.extend(metrics.map(str::to_owned));
        }
    }
    Ok(())
}

/// The expression with empty strings.
fn without_strings(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        out.push(character);
        if character == '"' {
            while let Some(inside) = characters.next() {
                match inside {
                    '\\' => drop(characters.next()),
                    '"' => break,
                    _ => {}
                }
            }
            out.push('"');
        }
    }
    out
}

fn is_in_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_' || character == ':'
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character| !is_in_word(character))
        .filter(|word| word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_'))
}

/// Names in matchers and in lists after `by`, `on` and their like.
fn labels(text: &str) -> Vec<&str> {
    let matchers = text.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let mut labels: Vec<&str> = matchers
        .flat_map(|inside| inside.split(','))
        .filter_map(|matcher| matcher.split(['=', '!']).next())
        .collect();
    for (at, _) in text.match_indices('(') {
        let before = text[..at].trim_end();
        let word = before.rsplit(|character| !is_in_word(character)).next();
        if matches!(
            word,
            Some("by" | "without" | "on" | "ignoring" | "group_left" | "group_right")
        ) {
            labels.extend(text[at + 1..].split(')').next().unwrap_or_default().split(','));
        }
    }
    let mut labels: Vec<&str> = labels
        .iter()
        .map(|label| label.trim())
        .filter(|label| !label.is_empty())
        .collect();
    labels.sort_unstable();
    labels.dedup();
    labels
}

/// Has promtool parse all of them at once; gives what it complains of.
pub(crate) fn parse_all(promtool: &Path, queries: &[Query]) -> Result<Vec<String>> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("queries.yaml");
    // Rules without an expression of use: promtool has no other way to parse only.
    let mut text = "groups:\n  - name: queries\n    rules:\n".to_owned();
    for (number, query) in queries.iter().enumerate() {
        let quoted = serde_json::to_string(&query.text)?;
        writeln!(text, "      - {{record: \"query:{number}\", expr: {quoted}}}")?;
    }
    fs::write(&file, text)?;
    let Err(error) = process::output(
        Command::new(promtool)
            .args(["check", "rules", "--lint=none"])
            .arg(&file),
    ) else {
        return Ok(Vec::new());
    };
    let message = format!("{error:#}");
    let named = queries.iter().enumerate().filter(|(number, _)| {
        let name = format!("\"query:{number}\"");
        message.contains(&name)
    });
    let mut complaints: Vec<String> = named
        .map(|(number, query)| {
            let line = message
                .lines()
                .find(|line| line.contains(&format!("\"query:{number}\"")));
            format!("{}: {}", query.place, line.unwrap_or_default().trim())
        })
        .collect();
    if complaints.is_empty() {
        complaints.push(message);
    }
    Ok(complaints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_of_an_expression() {
        let names = Names {
            metrics: ["hopline_tcp_rtt_seconds", "hopline_fallbacks"]
                .map(str::to_owned)
                .into(),
            recorded: ["a:b:rate5m".to_owned()].into(),
        };
        let check = |text: &str, expected: &[&str]| {
            let query = Query {
                place: "here".to_owned(),
                text: text.to_owned(),
            };
            let expected: Vec<String> = expected.iter().map(|complaint| format!("here: {complaint}")).collect();
            assert_eq!(names.complaints(&query), expected, "{text}");
        };
        check("sum by (le, role) (rate(hopline_tcp_rtt_seconds_bucket[5m]))", &[]);
        check("hopline_fallbacks_total{from=\"hopline_x{y=\"} / 2 > a:b:rate5m", &[]);
        check("hopline_nothing > 0", &["no such metric: hopline_nothing"]);
        check("a:b:rate1m", &["no such metric: a:b:rate1m"]);
        check("up{pot=~\"x\", job!=\"y\"}", &["no such label: pot"]);
        check("a:b:rate5m and on(destination, prot) up", &["no such label: prot"]);
    }
}
