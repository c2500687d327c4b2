//! Where names are asked for: a network namespace with a resolver and a server of its own, neither of them watched.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};

use crate::cgroup::Cgroup;
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::Process;
use crate::topology::busy_loopback;
use crate::traffic::names::resolver::Table;
use crate::traffic::names::steps::{Plan, Ran, Step};

/// Who answers.
pub(in crate::scenario) const RESOLVER: &str = "127.0.0.53:53";
/// Who answers, with a lie, what was asked of the first.
const LIAR: &str = "127.0.0.54:53";
/// Who does not.
pub(in crate::scenario) const SILENT: &str = "127.0.0.55:53";
/// Where hellos and requests are answered.
pub(in crate::scenario) const NAMED_PORT: u16 = 8443;
/// Where anything is answered by itself.
pub(in crate::scenario) const PLAIN_PORT: u16 = 7000;
/// Where anything is answered by itself, and the client closes.
pub(in crate::scenario) const OPEN_PORT: u16 = 7001;

/// One of them.
#[derive(Debug)]
pub(in crate::scenario) struct Place {
    pub(in crate::scenario) netns: NetNs,
    _server: Process,
    _resolver: Process,
}

impl Place {
    /// `name` tells the places of one lab apart.
    pub(in crate::scenario) fn new(lab: &Lab, name: &str, table: &Table, ipv6: &[Ipv6Addr]) -> Result<Self> {
        let netns = busy_loopback()?;
        for address in ipv6 {
            netns.ip(&format!("addr add {address}/128 dev lo nodad"))?;
        }
        let listen = [
            format!("[::]:{NAMED_PORT}/http"),
            format!("[::]:{PLAIN_PORT}/close-first"),
            format!("[::]:{OPEN_PORT}/echo"),
        ];
        let words = ["serve", &listen[0], &listen[1], &listen[2], "--acceptors", "4"];
        let mut server = lab.helper(&words, &netns, &lab.tools)?;
        server.wait_for("ready")?;
        let file = lab.file(format!("{name}.table"));
        fs::write(&file, serde_json::to_vec(table)?)?;
        let file = file.to_str().context("temporary directory")?;
        let words = [
            "resolver", "--listen", RESOLVER, "--table", file, "--liar", LIAR, "--silent", SILENT,
        ];
        let mut resolver = lab.helper(&words, &netns, &lab.tools)?;
        resolver.wait_for("ready")?;
        Ok(Self {
            netns,
            _server: server,
            _resolver: resolver,
        })
    }

    /// Starts a process that does these steps; `name` tells the processes of one lab apart.
    pub(in crate::scenario) fn start(&self, lab: &Lab, name: &str, cgroup: &Cgroup, steps: &[Step]) -> Result<Process> {
        let plan = Plan {
            resolver: resolver(),
            steps: steps.to_vec(),
        };
        let file = lab.file(format!("{name}.plan"));
        fs::write(&file, serde_json::to_vec(&plan)?)?;
        let file = file.to_str().context("temporary directory")?;
        lab.helper(&["steps", "--plan", file], &self.netns, cgroup)
    }
}

/// What such a process says at its end.
pub(in crate::scenario) fn finish(process: Process) -> Result<Ran> {
    serde_json::from_str(&process.finish()?).context("what a process did")
}

pub(in crate::scenario) fn resolver() -> SocketAddr {
    RESOLVER.parse().expect("an address")
}
