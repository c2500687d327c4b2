//! A real Prometheus with the configuration and rules of `deploy/prometheus`, and what it knows.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{free_address, http, start, substitute};
use crate::lab::Lab;
use crate::process::Process;

const CONFIGURATION: &str = include_str!("../../../deploy/prometheus/prometheus.yaml");
const RULES: [(&str, &str); 2] = [
    (
        "hopline.rules.yaml",
        include_str!("../../../deploy/prometheus/hopline.rules.yaml"),
    ),
    (
        "hopline.alerts.yaml",
        include_str!("../../../deploy/prometheus/hopline.alerts.yaml"),
    ),
];

/// One series of an answer, and its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Series {
    /// The value of a label, empty when it is not there.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// A running one.
#[derive(Debug)]
pub(crate) struct Prometheus {
    _process: Process,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts one that scrapes these agents and sends alerts there.
    pub(crate) fn start(lab: &Lab, agents: &[SocketAddr], alertmanager: SocketAddr) -> Result<Self> {
        let directory = lab.file("prometheus");
        fs::create_dir(&directory)?;
        for (name, text) in RULES {
            fs::write(directory.join(name), text)?;
        }
        let agents: Vec<String> = agents.iter().map(|address| format!("\"{address}\"")).collect();
        let configuration = substitute(
            CONFIGURATION,
            &[
                ("\"127.0.0.1:9737\"", &agents.join(", ")),
                ("127.0.0.1:9093", &alertmanager.to_string()),
            ],
        )?;
        fs::write(directory.join("prometheus.yaml"), configuration)?;
        let address = free_address()?;
        let mut command = Command::new("prometheus");
        command
            .args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"));
        let process = start(lab, command, &directory, address).context("starting Prometheus")?;
        Ok(Self {
            _process: process,
            address,
        })
    }

    /// What an expression gives now.
    pub(crate) fn query(&self, expression: &str) -> Result<Vec<Series>> {
        let path = format!("/api/v1/query?query={}", http::encoded(expression));
        let (status, body) = http::get(self.address, &path).context("asking Prometheus")?;
        ensure!(status == 200, "Prometheus answered {status} to `{expression}`: {body}");
        series(&serde_json::from_str(&body)?).with_context(|| format!("reading what `{expression}` gives"))
    }

    /// The data of an answer as it came; `options` are further ones of the API.
    pub(super) fn raw(&self, what: &str, expression: &str, options: &str) -> Result<Value> {
        let path = format!("/api/v1/{what}?query={}{options}", http::encoded(expression));
        let (status, body) = http::get(self.address, &path).context("asking Prometheus")?;
        ensure!(status == 200, "Prometheus answered {status} to `{expression}`: {body}");
        Ok(serde_json::from_str::<Value>(&body)?["data"].take())
    }

    /// The sum of what an expression gives now; NaN when that is nothing.
    pub(crate) fn value(&self, expression: &str) -> Result<f64> {
        let series = self.query(expression)?;
        let sum = series.iter().map(|series| series.value).sum();
        Ok(if series.is_empty() { f64::NAN } else { sum })
    }
}

fn series(answer: &Value) -> Result<Vec<Series>> {
    let result = &answer["data"]["result"];
    let number = |pair: &Value| -> Result<f64> { Ok(pair[1].as_str().context("no value")?.parse()?) };
    if answer["data"]["resultType"] == "scalar" {
        return Ok(vec![Series {
            labels: BTreeMap::new(),
            value: number(result)?,
        }]);
    }
    let all = result.as_array().context("no result")?.iter();
    all.map(|one| {
        Ok(Series {
            labels: serde_json::from_value(one["metric"].clone())?,
            value: number(&one["value"])?,
        })
    })
    .collect()
}
