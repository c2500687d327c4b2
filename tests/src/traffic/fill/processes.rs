//! Processes that stay, each started by a path of its own that is as long as the kernel programs read one.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use super::stay;

/// What they are.
const PROGRAM: &str = "/bin/sleep";
/// They end with the lab's cgroup, or by themselves.
const SECONDS: &str = "600";
/// Length of a program's file name.
const NAME_BYTES: usize = 200;

pub(super) fn run(count: u32, links: Option<&Path>) -> Result<()> {
    let links = links.context("--links is missing")?;
    let mut children = Vec::new();
    let done = (0..count).try_for_each(|number| {
        let path = links.join(format!("{number:08}{}", "p".repeat(NAME_BYTES)));
        symlink(PROGRAM, &path)?;
        children.push(start(&path)?);
        Ok(())
    });
    let stayed = done.and_then(|()| stay(|| Ok(())));
    for child in &mut children {
        // One that has ended already is as good.
        child.kill().ok();
        child.wait()?;
    }
    stayed
}

fn start(path: &Path) -> Result<Child> {
    Command::new(path)
        .arg(SECONDS)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("starting a program")
}
