//! What `ss` says inside the namespaces.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::cells::{PORT_OF_FULL, PORT_OF_HELD, PORT_OF_PORTS, Places};
use crate::netns::NetNs;
use crate::tools;

/// States by hopline's name and by that of `ss`.
pub(super) const STATES: [(&str, &str); 7] = [
    ("established", "established"),
    ("close_wait", "close-wait"),
    ("syn_sent", "syn-sent"),
    ("syn_received", "syn-recv"),
    ("fin_wait2", "fin-wait-2"),
    ("time_wait", "time-wait"),
    ("listen", "listening"),
];

impl Places {
    /// Sockets in a state, in all namespaces.
    pub(super) fn count(&self, state: &str) -> Result<u64> {
        let namespaces = [
            &self.busy,
            &self.ports,
            &self.dead,
            &self.pair.client,
            &self.pair.server,
        ];
        let counts = namespaces.map(|netns| Ok(lines(netns, &["-Htan", "state", state])?.len() as u64));
        counts.into_iter().sum()
    }

    /// Connections of the server that holds: those that sent nothing and those that did.
    pub(super) fn held(&self) -> Result<(u64, u64)> {
        let port = format!("sport = :{PORT_OF_HELD}");
        let all = lines(&self.busy, &["-HtinO", "state", "established", &port])?;
        let spoke = all.iter().filter(|line| line.contains(" bytes_received:")).count();
        Ok(((all.len() - spoke) as u64, spoke as u64))
    }

    /// Local ports that connections to one destination have.
    pub(super) fn ports_used(&self) -> Result<u64> {
        let to = format!("dport = :{PORT_OF_PORTS}");
        let mut ports = Vec::new();
        for line in lines(&self.ports, &["-Htan", &to])? {
            let local = line.split_whitespace().nth(3).context("ss has no local address")?;
            ports.push(local.to_owned());
        }
        ports.sort();
        ports.dedup();
        Ok(ports.len() as u64)
    }

    /// Depth and limit of the full queue.
    pub(super) fn queue(&self) -> Result<(u64, u64)> {
        let port = format!("sport = :{PORT_OF_FULL}");
        let listeners = lines(&self.busy, &["-Htln", &port])?;
        let line = listeners.first().context("ss does not list the listener")?;
        let mut words = line.split_whitespace().skip(1);
        let mut number = || Ok::<_, anyhow::Error>(words.next().context("no number")?.parse()?);
        Ok((number()?, number()?))
    }
}

fn lines(netns: &NetNs, words: &[&str]) -> Result<Vec<String>> {
    let text = netns.run(|| tools::output_of(Command::new("ss").args(words)))?;
    Ok(text.lines().map(str::to_owned).collect())
}
