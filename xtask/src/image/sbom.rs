//! The list of hopline's components (SBOM, `CycloneDX`), by cargo-cyclonedx. Without the tool the image has none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{process, workspace};

const TOOL: &str = "cargo-cyclonedx";
const TOOL_VERSION: &str = "0.5.9";
/// The tool writes one into the folder of every package of the workspace: of a copy, as a folder that changed is built anew.
const FILE: &str = "sbom.cdx";
const WORKSPACE: [&str; 6] = ["Cargo.toml", "Cargo.lock", "agent", "agent-ebpf", "tests", "xtask"];

/// The list as JSON.
pub(super) fn make(fetch: bool) -> Result<Option<String>> {
    let cache = workspace::cache("deploy-tools");
    let found = || -> Option<PathBuf> {
        let cached = cache.join("bin").join(TOOL);
        process::find(TOOL).or_else(|| cached.is_file().then_some(cached))
    };
    if found().is_none() && fetch {
        let mut install = workspace::cargo();
        install.args([
            "install",
            "--quiet",
            // It runs for a second: an optimizer would take minutes for that.
            "--debug",
            "--locked",
            TOOL,
            "--version",
            TOOL_VERSION,
            "--root",
        ]);
        process::run(install.arg(&cache))?;
    }
    let Some(tool) = found() else {
        println!("skipped: no list of components without {TOOL} (`--fetch` installs it)");
        return Ok(None);
    };
    let copy = tempfile::tempdir()?;
    let mut copying = Command::new("cp");
    copying.current_dir(workspace::root()).arg("-r").args(WORKSPACE);
    process::run(copying.arg(copy.path()))?;
    let mut command = Command::new(tool);
    command
        .current_dir(copy.path())
        .args(["cyclonedx", "--quiet", "--no-build-deps", "--format", "json"]);
    command.args([
        "--spec-version",
        "1.5",
        "--override-filename",
        FILE,
        "--manifest-path",
        "agent/Cargo.toml",
    ]);
    process::run(&mut command)?;
    let file = copy.path().join("agent").join(format!("{FILE}.json"));
    let text = fs::read_to_string(file).context("cargo-cyclonedx wrote nothing")?;
    Ok(Some(without_machine(&text, copy.path())))
}

/// Where the sources lie is nobody's business.
fn without_machine(text: &str, root: &Path) -> String {
    text.replace(&format!("file://{}", root.display()), "file:///hopline")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_this_machine_go() {
        let text = r#"{"bom-ref":"path+file:///x/y/agent#0.1.0"}"#;
        assert_eq!(
            without_machine(text, Path::new("/x/y")),
            r#"{"bom-ref":"path+file:///hopline/agent#0.1.0"}"#
        );
    }
}
