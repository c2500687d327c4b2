//! The client in Go, built where a Go that offers a post-quantum key share is installed.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use super::word;
use crate::lab::{Lab, Tolerance};
use crate::netns::NetNs;
use crate::openssl::{self, Said};
use crate::tools;

const SOURCE: &str = include_str!("client.go");
/// The first release that offers X25519MLKEM768.
const MINOR: u32 = 24;

/// Builds it; nothing where there is no such Go. In an emulated machine compiling would take its whole time.
pub(super) fn build(lab: &Lab) -> Result<Option<PathBuf>> {
    let Some(go) = find().filter(|_| lab.tolerance == Tolerance::Host) else {
        return Ok(None);
    };
    let source = lab.file("client.go");
    fs::write(&source, SOURCE)?;
    let program = lab.file("go-client");
    tools::output_of(
        Command::new(go)
            .args(["build", "-o"])
            .arg(&program)
            .arg(&source)
            .env("CGO_ENABLED", "0")
            .env("GOTOOLCHAIN", "local"),
    )?;
    Ok(Some(program))
}

/// Makes one connection.
pub(super) fn fetch(
    lab: &Lab,
    netns: &NetNs,
    program: &Path,
    to: SocketAddr,
    server_name: &str,
    keys: &Path,
) -> Result<Said> {
    let mut command = Command::new(program);
    command
        .args([to.to_string(), server_name.to_owned(), word(keys)])
        .stdin(Stdio::null());
    openssl::finish(lab, netns, command, &lab.file(format!("{server_name}.log")))
}

/// A Go that is new enough, in PATH or where its own archive goes.
fn find() -> Option<&'static str> {
    ["go", "/usr/local/go/bin/go"].into_iter().find(|go| {
        let version = Command::new(go).arg("version").env("GOTOOLCHAIN", "local").output();
        version.is_ok_and(|output| minor(&String::from_utf8_lossy(&output.stdout)).is_some_and(|minor| minor >= MINOR))
    })
}

/// Of `go version go1.26.8 linux/amd64` the 26.
fn minor(version: &str) -> Option<u32> {
    version.split("go1.").nth(1)?.split(['.', ' ']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_minor_version_is_read() {
        assert_eq!(super::minor("go version go1.26.8 linux/amd64"), Some(26));
        assert_eq!(super::minor("go version go1.19 linux/amd64"), Some(19));
    }
}
