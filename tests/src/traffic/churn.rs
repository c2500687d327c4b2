//! Starts thousands of processes that live for one connection each, under a name of their own, and notes who they were.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::sys::wait::{WaitStatus, wait};
use serde::{Deserialize, Serialize};

use super::once;

/// Name that the spawner gives itself: the parent of every child.
pub(crate) const SPAWNER: &str = "lab-spawner";

/// Arguments of `lab internal churn`.
#[derive(Debug, clap::Args)]
pub(crate) struct ChurnArguments {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    count: u32,
    /// Processes at one time.
    #[arg(long, default_value_t = 4)]
    at_once: usize,
    /// An empty directory for one link per child: a process is named after the file it is started by.
    #[arg(long)]
    links: PathBuf,
}

/// One child: the spawner's own truth.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spawned {
    pub(crate) pid: u32,
    pub(crate) comm: String,
    /// Its local port; 0 when its connect failed.
    pub(crate) port: u16,
    /// From before its fork to after its end.
    pub(crate) lived_us: u64,
}

/// Spawns all, prints one [`Spawned`] per line.
pub(crate) fn run(arguments: &ChurnArguments) -> Result<()> {
    nix::sys::prctl::set_name(&std::ffi::CString::new(SPAWNER)?)?;
    let executable = std::env::current_exe()?;
    let names: Vec<String> = (0..arguments.count).map(|number| format!("once-{number}")).collect();
    for name in &names {
        std::os::unix::fs::symlink(&executable, arguments.links.join(name)).context("linking a child's name")?;
    }
    let (reader, writer) = std::io::pipe()?;
    let reports = thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut reader = reader;
        reader.read_to_end(&mut bytes).map(|_| bytes)
    });
    let mut spawned = Vec::new();
    let mut running: HashMap<i32, (usize, Instant)> = HashMap::new();
    for (number, name) in names.iter().enumerate() {
        while running.len() >= arguments.at_once {
            reap(&mut running, &mut spawned)?;
        }
        let from = Instant::now();
        let child = Command::new(arguments.links.join(name))
            .args([once::WORD, &arguments.to.to_string(), &number.to_string()])
            .stdin(Stdio::null())
            .stdout(File::from(std::os::fd::OwnedFd::from(writer.try_clone()?)))
            .spawn()
            .context("starting a child")?;
        spawned.push(Spawned {
            pid: child.id(),
            comm: name.clone(),
            port: 0,
            lived_us: 0,
        });
        running.insert(child.id().cast_signed(), (number, from));
    }
    while !running.is_empty() {
        reap(&mut running, &mut spawned)?;
    }
    drop(writer);
    let bytes = reports.join().expect("reading does not panic")?;
    for report in bytes.chunks_exact(once::REPORT_BYTES) {
        let (number, port) = report.split_at(4);
        let number = u32::from_le_bytes(number.try_into()?) as usize;
        spawned.get_mut(number).context("report of an unknown child")?.port = u16::from_le_bytes(port.try_into()?);
    }
    let lines: Vec<String> = spawned.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    println!("{}", lines.join("\n"));
    Ok(())
}

fn reap(running: &mut HashMap<i32, (usize, Instant)>, spawned: &mut [Spawned]) -> Result<()> {
    let status = wait()?;
    let (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) = status else {
        return Ok(());
    };
    if let Some((number, from)) = running.remove(&pid.as_raw()) {
        spawned[number].lived_us = from.elapsed().as_micros() as u64;
    }
    Ok(())
}
