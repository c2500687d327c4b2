//! What a process will do, and what hopline must say of each of its connections: both are written down together, before
//! anything runs.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::place::{self, NAMED_PORT, OPEN_PORT, PLAIN_PORT, Place};
use crate::cgroup::Cgroup;
use crate::lab::Lab;
use crate::process::Process;
use crate::traffic::names::steps::{How, Ran, Speak, Step, Target, Took};

/// Local ports of connections, each used once in a scenario: a record is known by it.
#[derive(Debug)]
pub(in crate::scenario) struct Ports(u16);

impl Ports {
    pub(in crate::scenario) fn new() -> Self {
        Self(10_000)
    }

    fn next(&mut self) -> u16 {
        self.0 += 1;
        self.0
    }
}

/// The lookup whose time is the connection's `dns` phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::scenario) struct Lookup {
    /// Number of the step.
    pub(in crate::scenario) step: usize,
    pub(in crate::scenario) name: String,
    /// What the resolver waited before it answered.
    pub(in crate::scenario) delay_us: u64,
}

/// What hopline must say of a connection.
#[derive(Clone, Debug)]
pub(in crate::scenario) struct Expected {
    /// What it is an example of.
    pub(in crate::scenario) cell: &'static str,
    pub(in crate::scenario) local_port: u16,
    pub(in crate::scenario) remote: SocketAddr,
    pub(in crate::scenario) host: String,
    /// `sni`, `http`, `dns` or `ip`.
    pub(in crate::scenario) source: &'static str,
    /// `None` for bare addresses, which need no proof.
    pub(in crate::scenario) verified: Option<bool>,
    pub(in crate::scenario) lookup: Option<Lookup>,
}

/// Where a connection goes.
#[derive(Clone, Debug)]
pub(in crate::scenario) struct Destination<'a> {
    pub(in crate::scenario) name: &'a str,
    pub(in crate::scenario) address: IpAddr,
    pub(in crate::scenario) delay_us: u64,
}

/// One process.
#[derive(Debug, Default)]
pub(in crate::scenario) struct Script {
    pub(in crate::scenario) steps: Vec<Step>,
    pub(in crate::scenario) expected: Vec<Expected>,
}

/// A connection with who made it and how long its lookup took.
#[derive(Clone, Debug)]
pub(in crate::scenario) struct Truth {
    pub(in crate::scenario) expected: Expected,
    pub(in crate::scenario) pid: u32,
    pub(in crate::scenario) took: Took,
}

/// A Host header's name, without its port.
fn host_name(host: &str) -> String {
    host.split(':').next().unwrap_or_default().to_ascii_lowercase()
}

impl Script {
    /// Asks; gives the lookup for the connection that comes of it.
    pub(in crate::scenario) fn resolve(&mut self, to: &Destination<'_>, how: How) -> Lookup {
        self.steps.push(Step::Resolve {
            name: to.name.to_owned(),
            ipv6: to.address.is_ipv6(),
            how,
        });
        Lookup {
            step: self.steps.len() - 1,
            name: to.name.to_ascii_lowercase(),
            delay_us: to.delay_us,
        }
    }

    /// Queries and answers on the wire.
    pub(in crate::scenario) fn datagrams(&self) -> u64 {
        let datagrams = |step: &Step| match step {
            Step::Resolve {
                how: How::BothFamilies, ..
            } => 4,
            Step::Resolve { .. } => 2,
            Step::Connect { .. } | Step::Pause { .. } => 0,
        };
        self.steps.iter().map(datagrams).sum()
    }

    pub(in crate::scenario) fn pause_ms(&mut self, ms: u64) {
        self.steps.push(Step::Pause { ms });
    }

    /// Connects to an address, whatever it was resolved for. The name is what was said, else `named`, else none.
    pub(in crate::scenario) fn connect(
        &mut self,
        cell: &'static str,
        ports: &mut Ports,
        address: IpAddr,
        speak: Speak,
        named: Option<&str>,
    ) -> &mut Expected {
        let local_port = ports.next();
        let (host, source, port) = match (&speak, named) {
            (Speak::Tls(name), _) => (name.to_ascii_lowercase(), "sni", NAMED_PORT),
            (Speak::Http(host), _) => (host_name(host), "http", NAMED_PORT),
            (Speak::Plain, Some(name)) => (name.to_ascii_lowercase(), "dns", PLAIN_PORT),
            (Speak::Plain, None) => (address.to_string(), "ip", PLAIN_PORT),
        };
        self.steps.push(Step::Connect {
            to: Target::Address(address),
            port,
            local_port,
            speak,
            stay: false,
        });
        let at = self.expected.len();
        self.expected.push(Expected {
            cell,
            local_port,
            remote: SocketAddr::new(address.to_canonical(), port),
            host,
            source,
            verified: (source != "ip").then_some(named.is_some()),
            lookup: None,
        });
        &mut self.expected[at]
    }

    /// Connects to what the last lookup of this name gave; with that lookup as its phase, or with none.
    pub(in crate::scenario) fn connect_to(
        &mut self,
        cell: &'static str,
        ports: &mut Ports,
        to: &Destination<'_>,
        speak: Speak,
        lookup: Option<Lookup>,
    ) {
        self.connect(cell, ports, to.address, speak, Some(to.name)).lookup = lookup;
        if let Some(Step::Connect { to: target, .. }) = self.steps.last_mut() {
            *target = Target::Name(to.name.to_owned());
        }
    }

    /// The last connection stays until its process ends.
    pub(in crate::scenario) fn stay(&mut self) {
        if let (Some(Step::Connect { port, stay, .. }), Some(expected)) =
            (self.steps.last_mut(), self.expected.last_mut())
        {
            (*port, *stay) = (OPEN_PORT, true);
            expected.remote.set_port(OPEN_PORT);
        }
    }

    pub(in crate::scenario) fn start(&self, lab: &Lab, name: &str, place: &Place, cgroup: &Cgroup) -> Result<Process> {
        place.start(lab, name, cgroup, &self.steps)
    }

    /// What was expected and what was done, connection by connection.
    pub(in crate::scenario) fn truths(&self, ran: &Ran) -> Vec<Truth> {
        let took = |expected: &Expected| {
            let step = expected.lookup.as_ref().map(|lookup| lookup.step);
            step.and_then(|step| ran.took.get(step)).copied().unwrap_or_default()
        };
        self.expected
            .iter()
            .map(|expected| Truth {
                expected: expected.clone(),
                pid: ran.pid,
                took: took(expected),
            })
            .collect()
    }

    /// Runs it alone, to its end.
    pub(in crate::scenario) fn run(&self, lab: &Lab, name: &str, place: &Place, cgroup: &Cgroup) -> Result<Vec<Truth>> {
        Ok(self.truths(&place::finish(self.start(lab, name, place, cgroup)?)?))
    }
}
