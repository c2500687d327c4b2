//! The dashboards of `deploy/grafana`: every query of every panel, with Grafana's variables replaced as it would.

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Their names and files.
pub(super) const DASHBOARDS: [(&str, &str); 3] = [
    (
        "Destinations",
        include_str!("../../../deploy/grafana/dashboards/hopline-destinations.json"),
    ),
    (
        "Destination",
        include_str!("../../../deploy/grafana/dashboards/hopline-destination.json"),
    ),
    (
        "Agent health",
        include_str!("../../../deploy/grafana/dashboards/hopline-agent.json"),
    ),
];

/// One query.
#[derive(Debug)]
pub(crate) struct Query {
    /// Dashboard, panel, and which query of it.
    pub(crate) name: String,
    pub(crate) expression: String,
}

/// All of them. `range` is what the dashboard looks back on.
pub(crate) fn queries(role: &str, range: &str) -> Result<Vec<Query>> {
    let mut queries = Vec::new();
    for (dashboard, text) in DASHBOARDS {
        let json: Value = serde_json::from_str(text).with_context(|| format!("reading the dashboard {dashboard}"))?;
        let panels = json["panels"].as_array().context("no panels")?.iter();
        let annotations = json["annotations"]["list"].as_array().into_iter().flatten();
        let mut add = |title: &str, target: &Value| {
            if let Some(expression) = target["expr"].as_str() {
                let reference = target["refId"].as_str().unwrap_or("annotation");
                queries.push(Query {
                    name: format!("{dashboard}: {title} ({reference})"),
                    expression: substitute(expression, role, range),
                });
            }
        };
        for panel in panels {
            let title = panel["title"].as_str().unwrap_or_default();
            for target in panel["targets"].as_array().into_iter().flatten() {
                add(title, target);
            }
        }
        for annotation in annotations {
            add(annotation["name"].as_str().unwrap_or_default(), annotation);
        }
    }
    Ok(queries)
}

/// Variables that select all.
pub(super) fn substitute(expression: &str, role: &str, range: &str) -> String {
    let all = ["$cluster", "$instance", "$group", "$namespace", "$destination"];
    let mut text = expression
        .replace("$__rate_interval", "1m")
        .replace("$__range", range)
        .replace("$role", role);
    for variable in all {
        text = text.replace(variable, ".*");
    }
    text
}

impl Query {
    /// Without the comparison that keeps trouble alone: whether the panel could show something, were there something.
    pub(crate) fn without_comparison(&self) -> Option<&str> {
        let text = self.expression.trim_end();
        [" > 0", " == 0"].iter().find_map(|ending| text.strip_suffix(ending))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_replaced() {
        let queries = queries("client", "5m").expect("dashboards");
        assert!(queries.len() > 60, "{}", queries.len());
        for query in &queries {
            assert!(!query.expression.contains('$'), "{}: {}", query.name, query.expression);
        }
        assert!(queries.iter().any(|query| query.without_comparison().is_some()));
    }
}
