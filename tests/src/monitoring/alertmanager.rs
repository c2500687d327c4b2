//! A real Alertmanager with the routes, groups and inhibitions of `deploy/prometheus/alertmanager.yaml`.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{free_address, start, substitute};
use crate::lab::Lab;
use crate::process::Process;

const CONFIGURATION: &str = include_str!("../../../deploy/prometheus/alertmanager.yaml");

/// A running one.
#[derive(Debug)]
pub(crate) struct Alertmanager {
    _process: Process,
    pub(crate) address: SocketAddr,
}

impl Alertmanager {
    /// Starts one that notifies `webhook`.
    pub(crate) fn start(lab: &Lab, webhook: SocketAddr) -> Result<Self> {
        let directory = lab.file("alertmanager");
        fs::create_dir(&directory)?;
        let configuration = substitute(CONFIGURATION, &[("localhost:9099", &webhook.to_string())])?;
        fs::write(directory.join("alertmanager.yaml"), configuration)?;
        let address = free_address()?;
        let mut command = Command::new("prometheus-alertmanager");
        command
            .args(["--config.file=alertmanager.yaml", "--storage.path=data"])
            // Alone: no gossip with others.
            .args(["--cluster.listen-address=", &format!("--web.listen-address={address}")]);
        let process = start(lab, command, &directory, address).context("starting Alertmanager")?;
        Ok(Self {
            _process: process,
            address,
        })
    }
}
