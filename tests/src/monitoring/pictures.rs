//! Pictures of the dashboards for people to look at: what Prometheus answers to each panel, drawn by `panels.html` in a headless
//! Chromium. Grafana itself draws nothing here; titles, units, legends and columns are those of its files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Prometheus;
use super::dashboards::{DASHBOARDS, substitute};
use crate::lab::Lab;
use crate::process::Process;

const PAGE: &str = include_str!("panels.html");
/// Seconds between points of a line.
const STEP: u64 = 5;
/// As wide as the page, and a line of its grid.
const WIDTH: u64 = 1_620;
const LINE: u64 = 34;
const LIMIT: Duration = Duration::from_mins(1);

/// Where pictures go: beside the programs that made them.
pub(crate) fn folder(lab: &Lab) -> Result<PathBuf> {
    let target = lab.executable().parent().and_then(Path::parent);
    Ok(target.context("a program at the root")?.join("dashboards"))
}

/// One picture of each dashboard over the last seconds; their files.
pub(crate) fn draw(lab: &Lab, prometheus: &Prometheus, seconds: u64) -> Result<Vec<PathBuf>> {
    let folder = folder(lab)?;
    fs::create_dir_all(&folder)?;
    let to = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let from = to - seconds;
    let mut pictures = Vec::new();
    for (name, text) in DASHBOARDS {
        let dashboard: Value = serde_json::from_str(text)?;
        let mut panels = Vec::new();
        let mut lines = 0;
        for panel in dashboard["panels"].as_array().context("no panels")? {
            let place = &panel["gridPos"];
            lines = lines.max(place["y"].as_u64().unwrap_or(0) + place["h"].as_u64().unwrap_or(0));
            let targets = panel["targets"].as_array().into_iter().flatten();
            let results = targets.map(|target| answer(prometheus, target, (from, to)));
            panels.push(json!({"panel": panel, "results": results.collect::<Result<Vec<Value>>>()?}));
        }
        let data = json!({"title": dashboard["title"], "from": from, "to": to, "panels": panels});
        // Nothing in it ends the script.
        let page = PAGE.replace("/*DATA*/", &data.to_string().replace('<', "\\u003c"));
        let stem = name.to_lowercase().replace(' ', "-");
        let (html, png) = (lab.file(format!("{stem}.html")), folder.join(format!("{stem}.png")));
        fs::write(&html, page)?;
        drop(fs::remove_file(&png));
        screenshot(lab, &html, &png, lines * LINE + 60)?;
        pictures.push(png);
    }
    Ok(pictures)
}

fn answer(prometheus: &Prometheus, target: &Value, (from, to): (u64, u64)) -> Result<Value> {
    let expression = target["expr"].as_str().unwrap_or_default();
    let range = format!("{}s", (to - from).min(300));
    let expression = substitute(expression, "client", &range);
    let data = if target["instant"] == true {
        prometheus.raw("query", &expression, "")?
    } else {
        prometheus.raw(
            "query_range",
            &expression,
            &format!("&start={from}&end={to}&step={STEP}"),
        )?
    };
    // A scalar is one series without labels.
    let data = if data["resultType"] == "scalar" {
        json!([{"metric": {}, "value": data["result"]}])
    } else {
        data["result"].clone()
    };
    Ok(json!({"legend": target["legendFormat"], "ref": target["refId"], "data": data}))
}

fn screenshot(lab: &Lab, page: &Path, picture: &Path, height: u64) -> Result<()> {
    let mut command = Command::new("chromium");
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
        ])
        .arg(format!("--user-data-dir={}", lab.file("chromium").display()))
        .arg(format!("--window-size={WIDTH},{height}"))
        .arg("--virtual-time-budget=3000")
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("file://{}", page.display()))
        .env("HOME", lab.file("chromium"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status = Process::spawn(command, None, &lab.tools)?.wait(LIMIT)?;
    ensure!(
        status.success() && picture.exists(),
        "chromium ended with {status} and no picture"
    );
    Ok(())
}
