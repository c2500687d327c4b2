//! The shape of a dashboard: what Grafana accepts silently and shows wrongly, and the conventions that all three share. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Grafana 11 and later read these.
const SCHEMAS: std::ops::RangeInclusive<u64> = 39..=42;
/// Columns of Grafana's grid.
const COLUMNS: u64 = 24;
/// The longest uid that Grafana takes.
const LONGEST_UID: usize = 40;
/// Panels that are there.
const KINDS: [&str; 4] = ["heatmap", "stat", "table", "timeseries"];

/// The elements of a list; none where there is no list.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Complaints about one dashboard; `uids` are those of all.
pub(super) fn check(name: &str, dashboard: &Value, uids: &BTreeSet<&str>) -> Vec<String> {
    let mut complaints = head(dashboard, uids);
    let variables = variables(dashboard, &mut complaints);
    let mut ids = BTreeSet::new();
    let mut taken: BTreeMap<(u64, u64), &str> = BTreeMap::new();
    for panel in list(&dashboard["panels"]) {
        let title = panel["title"].as_str().unwrap_or_default();
        if title.is_empty() {
            complaints.push("a panel without a title".to_owned());
        }
        if !panel["id"].as_u64().is_some_and(|id| ids.insert(id)) {
            complaints.push(format!("{title}: its id is not its own"));
        }
        complaints.extend(place(panel, title, &mut taken));
        if panel["type"] != "row" {
            complaints.extend(content(panel, title, &variables));
        }
    }
    complaints
        .into_iter()
        .map(|complaint| format!("{name}: {complaint}"))
        .collect()
}

fn head(dashboard: &Value, uids: &BTreeSet<&str>) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut expect = |holds: bool, what: &str| {
        if !holds {
            complaints.push(what.to_owned());
        }
    };
    let text = |key: &str| dashboard[key].as_str().unwrap_or_default();
    expect(
        (1..=LONGEST_UID).contains(&text("uid").len()),
        "its uid is none, or too long",
    );
    expect(dashboard["id"].is_null(), "has the id of some Grafana");
    expect(dashboard["editable"] == false, "is editable: changes would be lost");
    expect(dashboard["graphTooltip"] == 1, "no shared crosshair");
    expect(
        text("refresh") == "30s" && dashboard["time"]["from"] == "now-1h",
        "another refresh or time",
    );
    expect(
        dashboard["schemaVersion"]
            .as_u64()
            .is_some_and(|version| SCHEMAS.contains(&version)),
        "another schema",
    );
    expect(
        list(&dashboard["tags"]).iter().any(|tag| tag == "hopline"),
        "no tag hopline",
    );
    expect(
        !text("title").is_empty() && !text("description").is_empty(),
        "no title or description",
    );
    expect(
        dashboard["__inputs"].is_null(),
        "was exported for sharing: __inputs cannot be provisioned",
    );
    let links = list(&dashboard["links"]);
    expect(links.len() + 1 == uids.len(), "does not lead to all others");
    for link in links {
        let leads = link["url"].as_str().and_then(|url| url.strip_prefix("/d/"));
        expect(
            leads.is_some_and(|uid| uids.contains(uid)),
            "leads to no dashboard of these",
        );
        expect(link["includeVars"] == true, "its links forget the variables");
    }
    complaints
}

/// Names of the variables.
fn variables<'a>(dashboard: &'a Value, complaints: &mut Vec<String>) -> BTreeSet<&'a str> {
    let all = list(&dashboard["templating"]["list"]);
    if all
        .first()
        .is_none_or(|first| first["type"] != "datasource" || first["name"] != "datasource")
    {
        complaints.push("the first variable is not the data source".to_owned());
    }
    for variable in all {
        let name = variable["name"].as_str().unwrap_or_default();
        if variable["multi"] == true && variable["allValue"].as_str().unwrap_or_default().is_empty() {
            complaints.push(format!("${name}: all of them would be listed one by one"));
        }
        if variable["type"] == "query" && !is_own(&variable["datasource"]) {
            complaints.push(format!("${name}: another data source than $datasource"));
        }
    }
    all.iter().filter_map(|variable| variable["name"].as_str()).collect()
}

fn is_own(source: &Value) -> bool {
    source["type"] == "prometheus" && source["uid"] == "${datasource}"
}

/// Within the grid, and on nobody else's place.
fn place<'a>(panel: &Value, title: &'a str, taken: &mut BTreeMap<(u64, u64), &'a str>) -> Vec<String> {
    let number = |key: &str| panel["gridPos"][key].as_u64();
    let (Some(x), Some(y), Some(width), Some(height)) = (number("x"), number("y"), number("w"), number("h")) else {
        return vec![format!("{title}: no place")];
    };
    let mut complaints = Vec::new();
    if width == 0 || height == 0 || x + width > COLUMNS {
        complaints.push(format!("{title}: beyond the grid"));
    }
    for cell in (x..x + width).flat_map(|column| (y..y + height).map(move |row| (column, row))) {
        if let Some(other) = taken.insert(cell, title) {
            complaints.push(format!("{title}: on the place of {other}"));
            break;
        }
    }
    complaints
}

fn content(panel: &Value, title: &str, variables: &BTreeSet<&str>) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut expect = |holds: bool, what: &str| {
        if !holds {
            complaints.push(format!("{title}: {what}"));
        }
    };
    let kind = panel["type"].as_str().unwrap_or_default();
    expect(KINDS.contains(&kind), "another type of panel");
    expect(
        !panel["description"].as_str().unwrap_or_default().is_empty(),
        "no description",
    );
    expect(is_own(&panel["datasource"]), "another data source than $datasource");
    let unit = panel["fieldConfig"]["defaults"]["unit"].as_str();
    let unit = unit.or(panel["options"]["yAxis"]["unit"].as_str());
    expect(unit.is_some_and(|unit| !unit.is_empty()), "no unit");
    let targets = list(&panel["targets"]);
    expect(!targets.is_empty(), "no query");
    let mut references = BTreeSet::new();
    for target in targets {
        let query = target["expr"].as_str().unwrap_or_default();
        expect(!query.is_empty(), "an empty query");
        expect(is_own(&target["datasource"]), "a query to another data source");
        expect(
            references.insert(target["refId"].as_str().unwrap_or_default()),
            "two queries of one name",
        );
        let instant = matches!(kind, "stat" | "table");
        expect(
            target["instant"] == instant,
            "its query is instant and should not be, or the other way round",
        );
        expect(
            kind != "heatmap" || target["format"] == "heatmap",
            "buckets that are no heatmap",
        );
        let window = if instant { "$__range" } else { "$__rate_interval" };
        for inside in query.split('[').skip(1).filter_map(|rest| rest.split(']').next()) {
            expect(inside == window, &format!("a window of {inside}, not {window}"));
        }
        for used in used_variables(query) {
            expect(
                variables.contains(used) || used.starts_with("__"),
                &format!("no variable ${used}"),
            );
        }
    }
    complaints
}

fn used_variables(query: &str) -> impl Iterator<Item = &str> {
    query.split('$').skip(1).map(|rest| {
        let end = rest.find(|character: char| !(character.is_alphanumeric() || character == '_'));
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_fault_is_found() {
        let panel = |id: u64, x: u64, query: &str| {
            json!({
                "id": id, "title": format!("panel {id}"), "type": "timeseries", "description": "",
                "gridPos": {"x": x, "y": 0, "w": 12, "h": 8}, "datasource": {"type": "prometheus", "uid": "abc"},
                "targets": [{"expr": query, "refId": "A", "instant": false, "datasource": {"type": "prometheus", "uid": "${datasource}"}}],
            })
        };
        let dashboard = json!({
            "uid": "x", "id": 7, "editable": true, "links": [{"url": "/d/nobody"}],
            "templating": {"list": [{"name": "a", "type": "query", "multi": true}]},
            "panels": [panel(1, 0, "rate(up[5m])"), panel(1, 6, "up{a=\"$b\"}"), panel(2, 20, "up")],
        });
        let found = check("x.json", &dashboard, &["x", "y"].into()).join("\n");
        for part in [
            "id of some Grafana",
            "is editable",
            "no tag hopline",
            "leads to no dashboard",
            "forget the variables",
            "not the data source",
            "$a: all of them",
            "its id is not its own",
            "on the place of panel 1",
            "panel 2: beyond the grid",
            "no description",
            "no unit",
            "panel 1: a window of 5m",
            "no variable $b",
        ] {
            assert!(found.contains(part), "{part}: {found}");
        }
    }
}
