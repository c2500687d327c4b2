//! The archive as a node takes it: imported by a containerd of its own, with folders and a socket of its own, and run.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{NAME, PROGRAM, VERSION};
use crate::process::{self, Running};

const START: Duration = Duration::from_secs(20);
/// Of the container, in containerd and among the cgroups.
const NAMESPACE: &str = "hopline-check";

pub(super) fn check(archive: &Path) -> Result<()> {
    let tools = [process::find("containerd"), process::find("ctr"), process::find("runc")];
    let [Some(containerd), Some(ctr), Some(_)] = tools else {
        println!("skipped: containerd is not there (Debian: containerd runc)");
        return Ok(());
    };
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: containerd runs containers for root alone");
        return Ok(());
    }
    let outcome = import_and_run(archive, &containerd, &ctr);
    remove_cgroups();
    outcome
}

fn import_and_run(archive: &Path, containerd: &Path, ctr: &Path) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let folder = directory.path().display();
    let socket = directory.path().join("sock");
    let configuration = directory.path().join("config.toml");
    fs::write(
        &configuration,
        format!(
            "version = 2\nroot = \"{folder}/root\"\nstate = \"{folder}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = \"{}\"\n",
            socket.display()
        ),
    )?;
    let log = fs::File::create(directory.path().join("log"))?;
    let mut daemon = Command::new(containerd);
    daemon.arg("--config").arg(configuration).stdin(Stdio::null());
    let mut running = Running::start(daemon.stdout(log.try_clone()?).stderr(log))?;
    let call = |words: &[&str]| {
        let mut command = Command::new(ctr);
        command.arg("--address").arg(&socket).args(["--namespace", NAMESPACE]);
        process::output(command.args(words))
    };
    let begin = Instant::now();
    while call(&["version"]).is_err() {
        ensure!(begin.elapsed() < START, "containerd does not answer");
        thread::sleep(Duration::from_millis(100));
    }
    let image = format!("{NAME}:{VERSION}");
    let archive = archive.to_str().context("a path that is no text")?;
    call(&["images", "import", archive])?;
    let listed = call(&["images", "list", "--quiet"])?;
    ensure!(listed.trim() == image, "containerd lists {listed}");
    // Its snapshots by copying: whatever file system this is on.
    let run = [
        "run",
        "--rm",
        "--snapshotter",
        "native",
        &image,
        NAMESPACE,
        PROGRAM,
        "--version",
    ];
    let printed = call(&run)?;
    ensure!(
        printed.trim() == format!("hopline {VERSION}"),
        "in a container of containerd the program says {printed}"
    );
    println!("image: imported and run by containerd");
    running.stop()?;
    Ok(())
}

/// Containers leave the cgroup of their namespace behind, an empty folder in each hierarchy.
fn remove_cgroups() {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
    for hierarchy in hierarchies.map(|entry| entry.path()).chain([root.to_owned()]) {
        // Most have none.
        drop(fs::remove_dir(hierarchy.join(NAMESPACE)));
    }
}
