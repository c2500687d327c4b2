//! Prometheus, Alertmanager and who is notified, as people run them beside hopline: the real programs with the files of
//! `deploy/`. Only the addresses in these files are replaced: what is scraped, where alerts and notifications go.
//!
//! All of it listens on loopback, in the lab's own cgroup, and ends with the lab.

mod alertmanager;
pub(crate) mod dashboards;
pub(crate) mod exposition;
mod falsified;
mod http;
pub(crate) mod pictures;
mod prometheus;
mod webhook;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

pub(crate) use alertmanager::Alertmanager;
pub(crate) use falsified::Falsified;
pub(crate) use prometheus::Prometheus;
pub(crate) use webhook::{Alert, Notification, Webhook};

use crate::hopline::tail;
use crate::lab::Lab;
use crate::process::{self, Process};

/// How long either may take until it is ready.
const START: Duration = Duration::from_secs(30);

/// A port that is free now.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// `text` with each of these replaced; what is not there to be replaced is an error, so that a changed file is noticed.
fn substitute(text: &str, changes: &[(&str, &str)]) -> Result<String> {
    let mut text = text.to_owned();
    for (from, to) in changes {
        ensure!(text.contains(from), "`{from}` is not in the file of deploy/ any more");
        text = text.replace(from, to);
    }
    Ok(text)
}

/// Starts a server of this name and waits until `/-/ready` of `address` answers.
fn start(lab: &Lab, mut command: Command, directory: &Path, address: SocketAddr) -> Result<Process> {
    let log = directory.join("log");
    let output = File::create(&log)?;
    command
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let mut server = Process::spawn(command, None, &lab.tools)?;
    let ready = process::poll(START * lab.patience(), || {
        if let Some(status) = server.ended()? {
            bail!("it ended with {status}: {}", tail(&log));
        }
        Ok(http::get(address, "/-/ready").is_ok_and(|(status, _)| status == 200))
    })?;
    ensure!(ready, "it is not ready: {}", tail(&log));
    Ok(server)
}
