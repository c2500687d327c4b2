//! Pages of `docs/` that hopline prints itself: the configuration and the metrics. Written by `--write`, compared otherwise.
//! And the configuration that the base ships: the agent must read it.

use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::{process, workspace};

/// Every key of the configuration.
const CONFIGURATION: &str = "docs/configuration.md";
const CONFIGURATION_HEAD: &str = "\
# Configuration

One YAML file, given with `--config`; flags override it. Every key has a default. Unknown keys, wrong units and values that
cannot be are refused, with file, line and key. This page is what `hopline agent --print-config` prints, written by
`cargo xtask deploy-check --write`.

```yaml
";
/// Every family of metrics.
const METRICS: &str = "docs/metrics.md";

/// What is not as hopline says.
pub(super) fn check(write: bool) -> Result<Vec<String>> {
    let hopline = workspace::target().join("release/hopline");
    if !hopline.is_file() {
        println!("skipped: the pages that hopline prints and the shipped configuration need it (`cargo xtask build`)");
        return Ok(Vec::new());
    }
    let print = |what: &str| process::output(Command::new(&hopline).args(["agent", what]));
    let pages = [
        (
            CONFIGURATION,
            format!("{CONFIGURATION_HEAD}{}```\n", print("--print-config")?),
        ),
        (METRICS, print("--print-metrics")?),
    ];
    let mut complaints = Vec::new();
    for (page, made) in pages {
        let file = workspace::root().join(page);
        if write {
            fs::write(&file, &made)?;
            println!("wrote {page}");
        }
        if fs::read_to_string(file).unwrap_or_default() != made {
            complaints.push(format!(
                "{page} is not what hopline prints: run `cargo xtask deploy-check --write`"
            ));
        }
    }
    let file = workspace::root().join("deploy/kubernetes/base/hopline.yaml");
    let mut shipped = Command::new(&hopline);
    let read = process::output(shipped.args(["agent", "--print-config", "--config"]).arg(file));
    complaints.extend(read.err().map(|error| format!("{error:#}")));
    Ok(complaints)
}
