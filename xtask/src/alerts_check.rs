//! `cargo xtask alerts-check`: Prometheus' rules and alerts in `deploy/prometheus`. Lint and tests are promtool's; that
//! each alert has all its annotations and its runbook, and each runbook its alert, is found here.
//!
//! The operator's `PrometheusRule` holds the same groups: written from them by `--write`, compared otherwise.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::promql::{Names, Query};
use crate::{lab, process, workspace, yaml};

/// Rules, by file.
const RULES: &str = "hopline.rules.yaml";
const ALERTS: &str = "hopline.alerts.yaml";
const TESTS: &str = "hopline.alerts.test.yaml";
/// The same for the Prometheus operator.
const OPERATOR: &str = "deploy/kubernetes/components/prometheus-operator/prometheusrule.yaml";
const OPERATOR_HEAD: &str = "\
# Made by `cargo xtask alerts-check --write` from deploy/prometheus: change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: hopline
  namespace: hopline
  labels:
    app.kubernetes.io/name: hopline
    app.kubernetes.io/part-of: hopline
    app.kubernetes.io/component: alerts
spec:
  groups:
";
/// Labels that would make an alert of each agent.
const PER_AGENT: [&str; 4] = ["instance", "node", "pod", "source_workload"];

/// Lint and test the alerts; compare them with the runbooks.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Write the operator's `PrometheusRule` anew.
    #[arg(long)]
    write: bool,
    /// Take away each alert in turn: its tests must fail.
    #[arg(long)]
    sabotage: bool,
    #[command(flatten)]
    live: lab::Live,
}

/// Where the rules are.
fn folder() -> PathBuf {
    workspace::root().join("deploy/prometheus")
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let promtool = process::find("promtool").context("promtool is not there (Debian: prometheus)")?;
    if arguments.write {
        fs::write(workspace::root().join(OPERATOR), operator_rule()?)?;
        println!("wrote {OPERATOR}");
    }
    let mut complaints = Vec::new();
    let alerts = alerts()?;
    let names: BTreeSet<&str> = alerts.iter().filter_map(|alert| alert["alert"].as_str()).collect();
    for alert in &alerts {
        complaints.extend(check_alert(alert));
    }
    complaints.extend(runbooks_without_alert(&names)?);
    complaints.extend(names_in_queries(&alerts)?);
    let made = fs::read_to_string(workspace::root().join(OPERATOR)).unwrap_or_default();
    if made != operator_rule()? {
        complaints.push(format!(
            "{OPERATOR} is not what the rules are: run `cargo xtask alerts-check --write`"
        ));
    }
    for complaint in &complaints {
        eprintln!("alerts-check: {complaint}");
    }
    let lint = ["check", "rules", "--lint=all", "--lint-fatal", RULES, ALERTS];
    process::run(Command::new(&promtool).current_dir(folder()).args(lint))?;
    process::run(
        Command::new(&promtool)
            .current_dir(folder())
            .args(["check", "config", "prometheus.yaml"]),
    )?;
    match process::find("amtool") {
        Some(amtool) => process::run(
            Command::new(amtool)
                .current_dir(folder())
                .args(["check-config", "alertmanager.yaml"]),
        )?,
        None => println!("skipped: alertmanager.yaml is not checked without amtool (Debian: prometheus-alertmanager)"),
    }
    process::run(
        Command::new(&promtool)
            .current_dir(folder())
            .args(["test", "rules", TESTS]),
    )?;
    if arguments.sabotage {
        complaints.extend(survivors(&promtool, &names)?);
    }
    ensure!(complaints.is_empty(), "{} complaints", complaints.len());
    println!(
        "alerts-check: {} alerts, each with its tests and its runbook",
        names.len()
    );
    arguments.live.run("paging")
}

/// All rules of a file.
fn rules(file: &str) -> Result<Vec<Value>> {
    let documents = yaml::read(&folder().join(file))?;
    let groups = documents
        .iter()
        .filter_map(|document| document["groups"].as_array())
        .flatten();
    Ok(groups
        .filter_map(|group| group["rules"].as_array())
        .flatten()
        .cloned()
        .collect())
}

/// Rules of both files that have `key`: `alert` or `record`.
fn rules_with(key: &str) -> Result<Vec<Value>> {
    let mut all = rules(RULES)?;
    all.extend(rules(ALERTS)?);
    all.retain(|rule| rule[key].is_string());
    Ok(all)
}

fn alerts() -> Result<Vec<Value>> {
    rules_with("alert")
}

/// Names that the recording rules make.
pub(crate) fn recorded() -> Result<Vec<String>> {
    let rules = rules_with("record")?;
    Ok(rules
        .iter()
        .filter_map(|rule| rule["record"].as_str())
        .map(str::to_owned)
        .collect())
}

/// What one alert lacks.
fn check_alert(alert: &Value) -> Vec<String> {
    let name = alert["alert"].as_str().unwrap_or("an alert without a name");
    let mut complaints = Vec::new();
    let annotation = |key: &str| alert["annotations"][key].as_str().unwrap_or_default();
    for key in ["summary", "description", "runbook_url", "dashboard_url"] {
        if annotation(key).is_empty() {
            complaints.push(format!("{name}: no {key}"));
        }
    }
    let page = annotation("runbook_url")
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    if page != format!("{name}.md") {
        complaints.push(format!("{name}: its runbook_url ends in {page}"));
    } else if !workspace::root().join("docs/runbooks").join(&page).is_file() {
        complaints.push(format!("{name}: no docs/runbooks/{page}"));
    }
    if !matches!(
        alert["labels"]["severity"].as_str(),
        Some("critical" | "warning" | "info")
    ) {
        complaints.push(format!("{name}: severity is none of critical, warning, info"));
    }
    let expression = alert["expr"].as_str().unwrap_or_default();
    let kept = expression
        .match_indices("by (")
        .filter_map(|(at, _)| expression[at + 4..].split(')').next());
    for label in kept.flat_map(|list| list.split(',')).map(str::trim) {
        if PER_AGENT.contains(&label) {
            complaints.push(format!(
                "{name}: keeps {label}: every agent would make an alert of its own"
            ));
        }
    }
    complaints
}

/// Runbooks of alerts that are no longer there.
fn runbooks_without_alert(alerts: &BTreeSet<&str>) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    let folder = workspace::root().join("docs/runbooks");
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let alert = name.trim_end_matches(".md");
        if alert != "README" && !alerts.contains(alert) {
            complaints.push(format!("docs/runbooks/{name}: no such alert"));
        }
    }
    Ok(complaints)
}

/// Metrics and labels that do not exist.
fn names_in_queries(alerts: &[Value]) -> Result<Vec<String>> {
    let names = Names::read(recorded()?)?;
    let recording = rules_with("record")?;
    let queries = recording.iter().chain(alerts).map(|rule| Query {
        place: rule["record"]
            .as_str()
            .or(rule["alert"].as_str())
            .unwrap_or_default()
            .to_owned(),
        text: rule["expr"].as_str().unwrap_or_default().to_owned(),
    });
    Ok(queries.flat_map(|query| names.complaints(&query)).collect())
}

/// The operator's object with the groups of both files, comments included.
fn operator_rule() -> Result<String> {
    let mut made = OPERATOR_HEAD.to_owned();
    for file in [RULES, ALERTS] {
        let text = fs::read_to_string(folder().join(file)).with_context(|| format!("reading {file}"))?;
        let (_, groups) = text
            .split_once("\ngroups:\n")
            .with_context(|| format!("{file} has no groups"))?;
        for line in groups.lines() {
            if !line.is_empty() {
                made.push_str("  ");
                made.push_str(line);
            }
            made.push('\n');
        }
    }
    Ok(made)
}

/// Alerts whose tests pass without them.
fn survivors(promtool: &Path, alerts: &BTreeSet<&str>) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for alert in alerts {
        let directory = tempfile::tempdir()?;
        let write = |file: &str, text: String| fs::write(directory.path().join(file), text);
        write(RULES, fs::read_to_string(folder().join(RULES))?)?;
        let text = fs::read_to_string(folder().join(ALERTS))?;
        // Another name, and it is as good as gone.
        let gone = text.replace(&format!("- alert: {alert}\n"), "- alert: Gone\n");
        ensure!(gone != text, "{alert} is not where it was");
        write(ALERTS, gone)?;
        write(TESTS, tests_of(&fs::read_to_string(folder().join(TESTS))?, alert)?)?;
        let mut command = Command::new(promtool);
        if process::output(command.current_dir(directory.path()).args(["test", "rules", TESTS])).is_ok() {
            complaints.push(format!("{alert}: its tests pass without it"));
        } else {
            println!("{alert}: its tests notice that it is gone");
        }
    }
    Ok(complaints)
}

/// The head of the test file and the tests whose name begins with `alert`.
fn tests_of(text: &str, alert: &str) -> Result<String> {
    let start = "\n  - name: '";
    let Some((head, tests)) = text.split_once(start) else {
        bail!("{TESTS} has no tests");
    };
    let own: Vec<&str> = tests
        .split(start)
        .filter(|test| test.starts_with(&format!("{alert}:")))
        .collect();
    ensure!(!own.is_empty(), "{alert} has no test");
    Ok(format!("{head}{start}{}", own.join(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_per_agent_is_refused() {
        let alert = serde_json::json!({
            "alert": "HoplineX", "expr": "sum by (destination, node) (up) > 0", "labels": {"severity": "page"},
            "annotations": {"summary": "x", "runbook_url": "a/HoplineY.md", "dashboard_url": "x"},
        });
        let found = check_alert(&alert).join("\n");
        for part in ["no description", "ends in HoplineY.md", "severity", "keeps node"] {
            assert!(found.contains(part), "{part}: {found}");
        }
    }

    #[test]
    fn every_alert_has_its_tests() {
        for alert in alerts().expect("alerts") {
            let name = alert["alert"].as_str().expect("a name").to_owned();
            let text = fs::read_to_string(folder().join(TESTS)).expect("tests");
            let own = tests_of(&text, &name).expect("has tests");
            assert!(
                own.contains("exp_samples: []") && own.contains("alert_rule_test"),
                "{name}"
            );
        }
    }
}
