//! What a guest left in its results directory: the hook that serves each feature, and PASS or FAIL for each job.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::jobs::Jobs;

/// What `hopline doctor --json` prints.
#[derive(Debug, Deserialize)]
struct Doctor {
    features: Vec<Feature>,
}

#[derive(Debug, Deserialize)]
struct Feature {
    #[serde(rename = "feature")]
    name: String,
    hook: String,
    enabled: bool,
    reason: String,
}

/// Last lines of a job without a verdict that are shown; all of it stays in the file.
const SHOWN: usize = 25;

/// Prints the results of one kernel and gives the number of failed checks.
pub(super) fn print(release: &str, jobs: &Jobs, directory: &Path) -> usize {
    let mut failed = 0;
    match features(directory) {
        Ok(doctor) => {
            println!("\n{release}: hooks");
            for Feature {
                name,
                hook,
                enabled,
                reason,
            } in &doctor.features
            {
                let hook = if *enabled { hook.as_str() } else { "-" };
                println!("  {name:<20} {hook:<36} {reason}");
            }
            for lost in doctor.features.iter().filter(|feature| !feature.enabled) {
                println!("FAIL {release} feature {}: {}", lost.name, lost.reason);
                failed += 1;
            }
            // Every series has fentry; another hook there would be a silent fallback.
            let syn = doctor.features.iter().find(|feature| feature.name == "syn");
            if syn.is_none_or(|syn| syn.hook != "fentry/tcp_connect") {
                println!("FAIL {release} feature syn: not served by fentry/tcp_connect");
                failed += 1;
            }
        }
        Err(error) => println!("{release}: {error:#}"),
    }
    println!("\n{release}: results (logs in {})", directory.display());
    for name in jobs.list.iter().map(|job| job.name) {
        let status = fs::read_to_string(directory.join(format!("{name}.status"))).unwrap_or_default();
        let log = fs::read_to_string(directory.join(format!("{name}.log"))).unwrap_or_default();
        if status.trim() == "0" {
            let last = log
                .lines()
                .last()
                .filter(|line| line.starts_with("PASS"))
                .unwrap_or_default();
            println!("PASS {release} {name}  {}", last.trim_start_matches("PASS").trim());
            continue;
        }
        failed += 1;
        for line in telling_lines(&log) {
            println!("    {line}");
        }
        println!(
            "FAIL {release} {name}: {}",
            match status.trim() {
                "" if directory.join(format!("{name}.log")).exists() => "did not end".to_owned(),
                "" => "did not run".to_owned(),
                status => format!("status {status}"),
            }
        );
    }
    failed
}

/// What the lab marked as wrong; of a job that did not get that far, its last words.
fn telling_lines(log: &str) -> Vec<&str> {
    let marked: Vec<&str> = log.lines().filter(|line| line.contains("FAIL")).collect();
    if !marked.is_empty() {
        return marked;
    }
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].to_vec()
}

fn features(directory: &Path) -> Result<Doctor> {
    let log = fs::read_to_string(directory.join("doctor.log")).context("hopline doctor left nothing")?;
    // Log lines may stand before and after the object.
    let object = &log[log.find('{').unwrap_or_default()..];
    let doctor = serde_json::Deserializer::from_str(object).into_iter().next();
    doctor
        .context("no object")?
        .with_context(|| format!("hopline doctor printed: {log}"))
}
