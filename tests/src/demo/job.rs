//! The build job of the demo as a tree of processes: `ci-runner`, a shell for each of its steps, and `fetch`, which is curl.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result};

use super::Network;
use super::mirrors::{FAST, HEAVY, SILENT, UNNAMED};
use crate::lab::Lab;
use crate::process::Process;

/// A running job. Its steps go on for as long as their `go` file is there.
#[derive(Debug)]
pub(crate) struct Job {
    runner: Process,
    go: PathBuf,
}

impl Job {
    /// Starts it; `keys` gets the secrets of its connections.
    pub(crate) fn start(lab: &Lab, network: &Network, keys: &str) -> Result<Self> {
        let certificates = &network.certificates;
        let directory = lab.file("job");
        fs::create_dir(&directory)?;
        let curl = ["/usr/bin/curl", "/bin/curl", "/usr/local/bin/curl"];
        let curl = curl
            .into_iter()
            .find(|path| fs::exists(path).unwrap_or(false))
            .context("curl")?;
        symlink(curl, directory.join("fetch"))?;
        // Some of its machines have the intermediate that one mirror lacks.
        let bundle = fs::read(certificates.file("root.pem"))?.into_iter();
        let bundle: Vec<u8> = bundle.chain(fs::read(certificates.file("intermediate.pem"))?).collect();
        fs::write(directory.join("both.pem"), bundle)?;
        fs::copy(certificates.file("root.pem"), directory.join("root.pem"))?;
        let fetch = "./fetch -4 -s -o /dev/null";
        let (fast, unnamed, heavy, silent) = (FAST.url(), UNNAMED.url(), HEAVY.url(), SILENT.url());
        let steps = [
            format!(
                "while [ -e go ]; do {fetch} -m 5 --cacert root.pem {fast}; \
                 {fetch} -m 5 --cacert root.pem {unnamed}; sleep 0.2; done"
            ),
            format!(
                "while [ -e go ]; do for bundle in both both both root; do \
                 {fetch} -m 5 --cacert $bundle.pem {heavy}; sleep 0.3; done; done"
            ),
            // The fallback list: one process that tries the next when the first one does not serve it.
            format!("while [ -e go ]; do {fetch} -m 7 --cacert root.pem {silent} -o /dev/null {fast}; sleep 1; done"),
        ];
        let mut runner = vec!["#!/bin/sh\n".to_owned()];
        for (number, step) in steps.iter().enumerate() {
            fs::write(directory.join(format!("step{number}.sh")), step)?;
            runner.push(format!("sh step{number}.sh &\n"));
        }
        runner.push("wait\n".to_owned());
        let program = directory.join("ci-runner");
        fs::write(&program, runner.concat())?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let go = directory.join("go");
        fs::write(&go, "")?;
        let mut command = network.names.command(program);
        command
            .env("SSLKEYLOGFILE", keys)
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let runner = Process::spawn(command, Some(&network.pair.client), &lab.traffic)?;
        Ok(Self { runner, go })
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> Result<bool> {
        Ok(self.runner.ended()?.is_none())
    }

    /// No step starts another fetch.
    pub(crate) fn end(&self) -> Result<()> {
        Ok(fs::remove_file(&self.go)?)
    }
}
