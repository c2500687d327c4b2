//! `cargo xtask image`: the OCI archive of hopline without a container engine, and its check by reading it again.
//!
//! `root` lays out the files, `archive` packs them, `check` reads the archive as if it came from elsewhere,
//! `containerd` has it imported and run. The Dockerfile takes the same files from `--root`, so both images are one. Same
//! sources and tools give the same bytes.

mod archive;
mod check;
mod containerd;
mod root;
mod sbom;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{build, process, workspace};

/// What the image is called where no registry is: `localhost/` keeps every runtime from asking one.
pub(crate) const NAME: &str = "localhost/hopline";
/// This version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The program's place, and the image's entry point.
const PROGRAM: &str = "/usr/local/bin/hopline";

/// Make the container image as an OCI archive, no container engine needed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask image\n  ctr -n k8s.io images import target/image/hopline.oci.tar\n  \
                        podman load -i target/image/hopline.oci.tar"
)]
pub(crate) struct Arguments {
    /// The archive [default: target/image/hopline.oci.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Lay out the files of the image here and end: for the Dockerfile.
    #[arg(long, value_name = "FOLDER", conflicts_with = "output")]
    root: Option<PathBuf>,
    /// Take this program instead of building it.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Fetch the tool for the list of components (SBOM) when it is missing; CI=true does so, too.
    #[arg(long)]
    fetch: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => build::agent()?,
    };
    let fetch = arguments.fetch || std::env::var_os("CI").is_some_and(|value| value == "true");
    let bom = sbom::make(fetch)?;
    if let Some(folder) = &arguments.root {
        return root::lay_out(folder, &binary, bom.as_deref());
    }
    let output = arguments
        .output
        .clone()
        .unwrap_or_else(|| workspace::target().join("image/hopline.oci.tar"));
    if let Some(folder) = output.parent() {
        fs::create_dir_all(folder)?;
    }
    let directory = tempfile::tempdir()?;
    let folder = directory.path().join("root");
    root::lay_out(&folder, &binary, bom.as_deref())?;
    archive::pack(&folder, directory.path(), &output)?;
    check::check(&output)?;
    containerd::check(&output)?;
    println!("{} holds {NAME}:{VERSION}", output.display());
    Ok(())
}

/// Seconds since the epoch of the last commit: what an image is dated with, so that it can be made again.
fn date() -> Result<u64> {
    if let Some(given) = std::env::var_os("SOURCE_DATE_EPOCH") {
        return given.to_string_lossy().parse().context("reading SOURCE_DATE_EPOCH");
    }
    let mut git = Command::new("git");
    let shown = process::output(git.current_dir(workspace::root()).args(["log", "-1", "--format=%ct"]));
    // A source tree without its history.
    Ok(shown.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0))
}

/// The commit, where there is one.
fn revision() -> String {
    let mut git = Command::new("git");
    let shown = process::output(git.current_dir(workspace::root()).args(["rev-parse", "HEAD"]));
    shown.map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// The program's SHA-256 of a file, in hexadecimal.
fn sha256(file: &std::path::Path) -> Result<String> {
    let printed = process::output(Command::new("sha256sum").arg(file))?;
    let digest = printed.split_whitespace().next().unwrap_or_default();
    // A name with odd characters makes it begin with a backslash.
    Ok(digest.trim_start_matches('\\').to_owned())
}
