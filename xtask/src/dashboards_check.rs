//! `cargo xtask dashboards-check`: the dashboards of `deploy/grafana`, without Grafana. Their shape is looked at in `shape`,
//! their queries are parsed by promtool, and what these name must exist. `types` asks Grafana's own; `--live` the lab.
//!
//! The JSON files are the source: people change a dashboard in Grafana and export it; what an export spoils is found here.

mod shape;
mod types;

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::promql::{self, Names, Query};
use crate::{alerts_check, lab, process, workspace};

/// Check the dashboards' shape and queries.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Fetch the packages for types and grammar when they are missing; CI=true does so, too.
    #[arg(long)]
    fetch: bool,
    #[command(flatten)]
    live: lab::Live,
}

/// One file.
#[derive(Debug)]
struct Dashboard {
    name: String,
    json: Value,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let dashboards = read()?;
    let uids: BTreeSet<&str> = dashboards.iter().filter_map(|one| one.json["uid"].as_str()).collect();
    let mut complaints = Vec::new();
    if uids.len() != dashboards.len() {
        complaints.push(format!("{} dashboards have {} uids", dashboards.len(), uids.len()));
    }
    for dashboard in &dashboards {
        complaints.extend(shape::check(&dashboard.name, &dashboard.json, &uids));
    }
    complaints.extend(links_of_alerts(&uids)?);
    let queries: Vec<Query> = dashboards
        .iter()
        .flat_map(|one| queries(&one.name, &one.json))
        .collect();
    let names = Names::read(alerts_check::recorded()?)?;
    complaints.extend(queries.iter().flat_map(|query| names.complaints(query)));
    match process::find("promtool") {
        Some(promtool) => complaints.extend(promql::parse_all(&promtool, &queries)?),
        None => println!("skipped: queries are parsed by promtool (Debian: prometheus)"),
    }
    let fetch = arguments.fetch || std::env::var_os("CI").is_some_and(|value| value == "true");
    complaints.extend(types::check(&dashboards, &queries, fetch)?);
    for complaint in &complaints {
        eprintln!("dashboards-check: {complaint}");
    }
    ensure!(complaints.is_empty(), "{} complaints", complaints.len());
    println!(
        "dashboards-check: {} dashboards, {} queries",
        dashboards.len(),
        queries.len()
    );
    arguments.live.run("dashboards")
}

fn read() -> Result<Vec<Dashboard>> {
    let folder = workspace::root().join("deploy/grafana/dashboards");
    let mut dashboards = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        dashboards.push(Dashboard {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            json: serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?,
        });
    }
    dashboards.sort_by(|a, b| a.name.cmp(&b.name));
    ensure!(!dashboards.is_empty(), "no dashboards at {}", folder.display());
    Ok(dashboards)
}

/// Dashboards that alerts lead to and nobody has.
fn links_of_alerts(uids: &BTreeSet<&str>) -> Result<Vec<String>> {
    let alerts = fs::read_to_string(workspace::root().join("deploy/prometheus/hopline.alerts.yaml"))?;
    let linked = alerts.split("}}/d/").skip(1);
    let linked: BTreeSet<&str> = linked.filter_map(|rest| rest.split(['?', '\'']).next()).collect();
    ensure!(!linked.is_empty(), "no alert leads to a dashboard");
    let missing = linked.iter().filter(|uid| !uids.contains(*uid));
    Ok(missing
        .map(|uid| format!("alerts lead to the dashboard {uid}"))
        .collect())
}

/// Every query of panels and annotations, with Grafana's variables replaced as it would.
fn queries(name: &str, dashboard: &Value) -> Vec<Query> {
    let panels = shape::list(&dashboard["panels"]).iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap_or_default();
        let targets = shape::list(&panel["targets"]).iter();
        targets.map(move |target| (title, target))
    });
    let annotations = shape::list(&dashboard["annotations"]["list"])
        .iter()
        .map(|one| ("annotations", one));
    let all = panels.chain(annotations).filter_map(|(title, target)| {
        let text = target["expr"].as_str()?;
        Some(Query {
            place: format!("{name}: {title}"),
            text: text.replace("$__rate_interval", "1m").replace("$__range", "1h"),
        })
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dashboards_are_sound() {
        let dashboards = read().expect("dashboards");
        let uids: BTreeSet<&str> = dashboards.iter().filter_map(|one| one.json["uid"].as_str()).collect();
        let names = Names::read(alerts_check::recorded().expect("rules")).expect("names");
        for one in &dashboards {
            assert_eq!(shape::check(&one.name, &one.json, &uids), Vec::<String>::new());
            let queries = queries(&one.name, &one.json);
            assert!(queries.len() > 10, "{}: {} queries", one.name, queries.len());
            let complaints: Vec<String> = queries.iter().flat_map(|query| names.complaints(query)).collect();
            assert_eq!(complaints, Vec::<String>::new());
        }
        assert_eq!(links_of_alerts(&uids).expect("alerts"), Vec::<String>::new());
    }
}
