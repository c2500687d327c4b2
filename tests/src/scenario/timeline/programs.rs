//! Builds the Go and Java programs of this scenario, of `programs` and of `dns`, and puts those that need no building beside them. What is
//! built is kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::tools;

/// How a file becomes a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Script,
    Java,
    /// Go, with the name of the program.
    Go(&'static str),
}

const PROGRAMS: [(&str, &str, Kind); 17] = [
    (
        "client.go",
        include_str!("../../../programs/client/client.go"),
        Kind::Go("go-client"),
    ),
    (
        "server.go",
        include_str!("../../../programs/server/server.go"),
        Kind::Go("go-server"),
    ),
    (
        "Client.java",
        include_str!("../../../programs/client/Client.java"),
        Kind::Java,
    ),
    (
        "Server.java",
        include_str!("../../../programs/server/Server.java"),
        Kind::Java,
    ),
    (
        "client.py",
        include_str!("../../../programs/client/client.py"),
        Kind::Script,
    ),
    (
        "server.py",
        include_str!("../../../programs/server/server.py"),
        Kind::Script,
    ),
    (
        "client.js",
        include_str!("../../../programs/client/client.js"),
        Kind::Script,
    ),
    (
        "server.js",
        include_str!("../../../programs/server/server.js"),
        Kind::Script,
    ),
    (
        "pooled.go",
        include_str!("../../../programs/pooled/pooled.go"),
        Kind::Go("go-pooled"),
    ),
    (
        "short.py",
        include_str!("../../../programs/short/short.py"),
        Kind::Script,
    ),
    ("h2.js", include_str!("../../../programs/clear/h2.js"), Kind::Script),
    (
        "http1.py",
        include_str!("../../../programs/clear/http1.py"),
        Kind::Script,
    ),
    ("raw.py", include_str!("../../../programs/clear/raw.py"), Kind::Script),
    (
        "before.py",
        include_str!("../../../programs/clear/before.py"),
        Kind::Script,
    ),
    (
        "lookup.go",
        include_str!("../../../programs/lookup/lookup.go"),
        Kind::Go("go-lookup"),
    ),
    (
        "lookup.py",
        include_str!("../../../programs/lookup/lookup.py"),
        Kind::Script,
    ),
    (
        "lookup.js",
        include_str!("../../../programs/lookup/lookup.js"),
        Kind::Script,
    ),
];

/// The directory with all programs: beside `executable`, so that a machine without compilers finds what another built.
pub(in crate::scenario) fn build(executable: &Path) -> Result<PathBuf> {
    let directory = executable.with_file_name("programs");
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    for (file, source, kind) in PROGRAMS {
        let path = directory.join(file);
        if fs::read_to_string(&path).is_ok_and(|there| there == source) {
            continue;
        }
        compile(&directory, file, source, kind).with_context(|| format!("building {file}"))?;
        // Last: while it is there, what it says is built.
        fs::write(&path, source)?;
    }
    Ok(directory)
}

fn compile(directory: &Path, file: &str, source: &str, kind: Kind) -> Result<()> {
    let workshop = tempfile::tempdir()?;
    let workshop = workshop.path();
    fs::write(workshop.join(file), source)?;
    match kind {
        Kind::Script => Ok(()),
        Kind::Java => run(Command::new("javac").arg("-d").arg(directory).arg(file), workshop),
        Kind::Go(name) => {
            // A module of the compiler's own version: without one, Go behaves as its versions of years ago did.
            run(Command::new("go").args(["mod", "init", "timeline"]), workshop)?;
            run(
                // Without the C library Go resolves names itself.
                Command::new("go")
                    .env("CGO_ENABLED", "0")
                    .args(["build", "-o"])
                    .arg(directory.join(name)),
                workshop,
            )
        }
    }
}

fn run(command: &mut Command, directory: &Path) -> Result<()> {
    tools::output_of(command.current_dir(directory).env("GOTOOLCHAIN", "local")).map(drop)
}
