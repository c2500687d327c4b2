//! One run of `hopline compare --json`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::sabotage;
use crate::lab::Lab;
use crate::names::Names;
use crate::netns::NetNs;
use crate::process::Process;

/// What it gave.
#[derive(Debug)]
pub(crate) struct Compare {
    pub(crate) exit: i32,
    /// The best first, as printed.
    pub(crate) rows: Vec<Row>,
    /// What it said to the user.
    pub(crate) stderr: String,
}

#[derive(Debug, Deserialize)]
struct Document {
    rows: Vec<Row>,
}

/// One URL.
#[derive(Debug, Deserialize)]
pub(crate) struct Row {
    pub(crate) url: String,
    pub(crate) requests: u64,
    pub(crate) ok: u64,
    pub(crate) measured: u64,
    pub(crate) failures: BTreeMap<String, u64>,
    pub(crate) phases_us: BTreeMap<String, Option<Quantiles>>,
    pub(crate) tls: Option<Tls>,
    pub(crate) best: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: u64,
    pub(crate) p95: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Tls {
    pub(crate) version: Option<String>,
    pub(crate) chain: Option<Chain>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Chain {
    pub(crate) complete: bool,
    pub(crate) missing: Option<String>,
    pub(crate) subject: String,
    pub(crate) expires_days: i64,
}

impl Compare {
    /// Runs it in `netns`; the keys of its connections go to `keys`, `name` tells runs of one lab apart. With `names` it
    /// resolves by them.
    pub(crate) fn run(
        lab: &Lab,
        name: &str,
        (netns, names): (&NetNs, Option<&Names>),
        keys: &Path,
        words: &[String],
    ) -> Result<Self> {
        let [output, log] = ["json", "log"].map(|kind| lab.file(format!("{name}.{kind}")));
        let plain = lab.hopline(&["compare", "--json"]);
        let mut command = match names {
            Some(names) => names.command(plain.get_program()),
            None => Command::new(plain.get_program()),
        };
        command
            .args(plain.get_args())
            .args(words)
            .env("SSLKEYLOGFILE", keys)
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .stderr(File::create(&log)?);
        let mut process = Process::spawn(command, Some(netns), &lab.tools)?;
        let status = process.wait(Duration::from_mins(1) * lab.patience())?;
        let stderr = fs::read_to_string(&log)?;
        let exit = status.code().context("hopline compare was killed")?;
        let Document { mut rows } = serde_json::from_str(&fs::read_to_string(&output)?)
            .with_context(|| format!("hopline compare ended with {exit}: {}", stderr.trim()))?;
        sabotage::falsify_rows(lab.sabotage, &mut rows);
        Ok(Self { exit, rows, stderr })
    }
}
