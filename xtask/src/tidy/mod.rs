//! `cargo xtask tidy`: the rules of CONTRIBUTING.md that neither rustfmt nor clippy knows. Reads files, changes none.

mod modules;
mod text;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{process, workspace};

/// Check file headers, sizes, module dependencies and documentation.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

/// A file under version control (or about to be).
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Path from the root.
    path: String,
    text: String,
}

pub(crate) fn run(_arguments: &Arguments) -> Result<()> {
    let sources = sources()?;
    let mut complaints = text::check(&sources);
    complaints.extend(modules::check(&sources));
    complaints.extend(text::check_features_documented(&sources));
    println!("tidy: {}", text::sizes(&sources));
    if complaints.is_empty() {
        return Ok(());
    }
    for complaint in &complaints {
        eprintln!("tidy: {complaint}");
    }
    bail!("tidy: {} complaints", complaints.len());
}

/// Text files that git knows or would add.
fn sources() -> Result<Vec<Source>> {
    let root = workspace::root();
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let names = process::output(Command::new("git").current_dir(&root).args(list))?;
    let mut paths: Vec<&str> = names.split('\0').filter(|name| !name.is_empty()).collect();
    paths.sort_unstable();
    paths.dedup();
    let mut sources = Vec::new();
    for path in paths {
        let file: PathBuf = root.join(path);
        // Deleted but not committed yet.
        if !file.is_file() {
            continue;
        }
        let bytes = fs::read(&file).with_context(|| format!("reading {path}"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            sources.push(Source {
                path: path.to_owned(),
                text,
            });
        }
    }
    Ok(sources)
}
