//! Builds the Go and Java programs and puts those that need no building beside them. What is built is kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::lab::Lab;

/// File, source, and the command that builds it.
const PROGRAMS: [(&str, &str, &[&str]); 8] = [
    (
        "client.go",
        include_str!("../../../programs/client/client.go"),
        &["go", "build", "-o", "go-client"],
    ),
    (
        "server.go",
        include_str!("../../../programs/server/server.go"),
        &["go", "build", "-o", "go-server"],
    ),
    (
        "Client.java",
        include_str!("../../../programs/client/Client.java"),
        &["javac"],
    ),
    (
        "Server.java",
        include_str!("../../../programs/server/Server.java"),
        &["javac"],
    ),
    ("client.py", include_str!("../../../programs/client/client.py"), &[]),
    ("server.py", include_str!("../../../programs/server/server.py"), &[]),
    ("client.js", include_str!("../../../programs/client/client.js"), &[]),
    ("server.js", include_str!("../../../programs/server/server.js"), &[]),
];

/// The directory with all programs: beside this binary, so that a machine without compilers finds what another built.
pub(super) fn build(lab: &Lab) -> Result<PathBuf> {
    let directory = lab.executable().with_file_name("programs");
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    for (file, source, command) in PROGRAMS {
        let path = directory.join(file);
        // The copy of the source is written last: while it is there, what it says is built.
        if fs::read_to_string(&path).is_ok_and(|there| there == source) {
            continue;
        }
        if command.is_empty() {
            fs::write(&path, source)?;
        } else {
            compile(lab, &directory, file, source, command)?;
        }
    }
    Ok(directory)
}

fn compile(lab: &Lab, directory: &Path, file: &str, source: &str, command: &[&str]) -> Result<()> {
    let temporary = lab.file(file);
    fs::write(&temporary, source)?;
    let output = Command::new(command[0])
        .args(&command[1..])
        .arg(&temporary)
        .current_dir(directory)
        // One file and the standard library: no module, nothing to download.
        .envs([("GO111MODULE", "off"), ("GOTOOLCHAIN", "local")])
        .args((command[0] == "javac").then_some(["-d", "."]).into_iter().flatten())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} is needed to build {file}", command[0]))?;
    ensure!(
        output.status.success(),
        "{file}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    fs::rename(&temporary, directory.join(file))
        .or_else(|_| fs::write(directory.join(file), source))
        .with_context(|| format!("keeping {file}"))
}
