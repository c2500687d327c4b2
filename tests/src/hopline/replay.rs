//! One run of `hopline replay --json`.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Totals;
use crate::lab::Lab;

/// What it gave.
#[derive(Debug)]
pub(crate) struct Replay {
    /// `None` when it found nothing that it could read, and said so.
    pub(crate) totals: Option<Totals>,
    /// Whole frames.
    pub(crate) frames: u64,
    /// Places that were no frame.
    pub(crate) damaged_places: u64,
    /// What it said to the user.
    pub(crate) stderr: String,
}

impl Replay {
    /// Fails when replay ended in another way than the contract allows: a signal, a panic, silence.
    pub(crate) fn run(lab: &Lab, file: &Path) -> Result<Self> {
        let output = lab
            .hopline(&["replay", "--json"])
            .arg(file)
            .stdin(Stdio::null())
            .output()?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!stderr.contains("panicked"), "replay panicked: {stderr}");
        match output.status.code() {
            Some(0) => {
                let document: Value = serde_json::from_slice(&output.stdout).context("replay's JSON")?;
                let file = &document["recording"]["files"][0];
                let count = |key: &str| file[key].as_u64().with_context(|| format!("replay tells no {key}"));
                Ok(Self {
                    totals: Some(Totals::new(&document["totals"], lab.sabotage)),
                    frames: count("frames")?,
                    damaged_places: count("damaged_places")?,
                    stderr,
                })
            }
            Some(1) if !stderr.is_empty() => Ok(Self {
                totals: None,
                frames: 0,
                damaged_places: 1,
                stderr,
            }),
            code => anyhow::bail!("replay ended with {code:?}: {stderr}"),
        }
    }
}
