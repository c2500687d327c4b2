//! The dashboards with Grafana's own types and Prometheus' own grammar, where node is there: `@grafana/schema` by the TypeScript
//! compiler, every query by `lezer-promql`. The packages stay outside of the checkout; `--fetch` installs them.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::Dashboard;
use crate::promql::Query;
use crate::{process, workspace};

/// Versions that were tried together; Grafana 13.2's packages cannot all be had.
const PACKAGES: [&str; 6] = [
    "@grafana/schema@13.1.1",
    "typescript@7.0.2",
    "@prometheus-io/lezer-promql@0.314.0",
    "@lezer/common",
    "@lezer/lr",
    "@lezer/highlight",
];

/// JSON has strings where the schema has enumerations. What Grafana itself writes beside the schema's keys, in variables and
/// annotations, is let through.
const TYPES: &str = "\
import type { Dashboard } from '@grafana/schema';
type Strict<T> = T extends string ? `${T}` : T extends (infer U)[] ? Strict<U>[]
  : T extends object ? { [K in keyof T]: Strict<T[K]> } : T;
type Loose<T> = T extends string ? `${T}` : T extends (infer U)[] ? Loose<U>[]
  : T extends object ? { [K in keyof T]: Loose<T[K]> } & { [key: string]: unknown } : T;
type Exported = Strict<Omit<Dashboard, 'annotations' | 'templating'>> & Loose<Pick<Dashboard, 'annotations' | 'templating'>>;
export const dashboard: Exported = ";

/// Reads expressions as JSON, says where each has something that the grammar does not know.
const PARSER: &str = "\
import { parser } from '@prometheus-io/lezer-promql';
import { readFileSync } from 'node:fs';
for (const { place, text } of JSON.parse(readFileSync(process.argv[2], 'utf8'))) {
  let wrong = text.trim() === '' ? 0 : -1;
  parser.parse(text).iterate({ enter: (node) => { if (node.type.isError && wrong < 0) wrong = node.from; } });
  if (wrong >= 0) console.log(`${place}: not PromQL at ${wrong}: ${text}`);
}
console.log('done');
";

/// Complaints of both; nothing, with the reason, where they cannot be had.
pub(super) fn check(dashboards: &[Dashboard], queries: &[Query], fetch: bool) -> Result<Vec<String>> {
    let (Some(node), Some(npm)) = (process::find("node"), process::find("npm")) else {
        println!("skipped: types and grammar need node and npm");
        return Ok(Vec::new());
    };
    let cache = workspace::tools("dashboards");
    if fetch && !is_there(&cache) {
        fs::create_dir_all(&cache)?;
        let words = [
            "install",
            "--ignore-scripts",
            "--legacy-peer-deps",
            "--no-audit",
            "--no-fund",
            "--silent",
        ];
        process::run(Command::new(npm).current_dir(&cache).args(words).args(PACKAGES))?;
    }
    if !is_there(&cache) {
        println!("skipped: types and grammar need packages of npm (35 MB; `--fetch` installs them)");
        return Ok(Vec::new());
    }
    let mut complaints = types(&node, &cache, dashboards)?;
    complaints.extend(grammar(&node, &cache, queries)?);
    println!(
        "dashboards-check: types of @grafana/schema, {} queries by lezer-promql: {} complaints",
        queries.len(),
        complaints.len()
    );
    Ok(complaints)
}

fn is_there(cache: &Path) -> bool {
    let needed = [
        "@grafana/schema",
        "typescript",
        "@prometheus-io/lezer-promql",
        "@lezer/lr",
    ];
    needed.iter().all(|name| cache.join("node_modules").join(name).is_dir())
}

/// Each dashboard as a constant of its type.
fn types(node: &Path, cache: &Path, dashboards: &[Dashboard]) -> Result<Vec<String>> {
    // Below the packages, so that they are found.
    let folder = tempfile::Builder::new().prefix("types-").tempdir_in(cache)?;
    let mut files = Vec::new();
    for dashboard in dashboards {
        let file = folder.path().join(dashboard.name.replace(".json", ".ts"));
        fs::write(&file, format!("{TYPES}{};\n", dashboard.json))?;
        files.push(file);
    }
    let words = [
        "--noEmit",
        "--skipLibCheck",
        "--strict",
        "--module",
        "esnext",
        "--moduleResolution",
        "bundler",
    ];
    let output = Command::new(node)
        .current_dir(cache)
        .arg("node_modules/typescript/bin/tsc")
        .args(words)
        .args(files)
        .output()
        .context("starting tsc")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let mut complaints: Vec<String> = said
        .lines()
        .filter(|line| line.contains("error TS"))
        .map(str::to_owned)
        .collect();
    if !output.status.success() && complaints.is_empty() {
        complaints.push(format!("tsc ended with {}: {said}", output.status));
    }
    Ok(complaints)
}

fn grammar(node: &Path, cache: &Path, queries: &[Query]) -> Result<Vec<String>> {
    let folder = tempfile::Builder::new().prefix("grammar-").tempdir_in(cache)?;
    let [script, input] = ["parse.mjs", "queries.json"].map(|name| folder.path().join(name));
    fs::write(&script, PARSER)?;
    let all: Vec<_> = queries
        .iter()
        .map(|query| json!({"place": query.place, "text": query.text}))
        .collect();
    fs::write(&input, serde_json::to_string(&all)?)?;
    let said = process::output(Command::new(node).arg(script).arg(input))?;
    let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
    if lines.pop().as_deref() != Some("done") {
        lines.push("lezer-promql did not get to the end".to_owned());
    }
    Ok(lines)
}
