//! Who makes the sockets that stay, each under a name of its own.

use anyhow::{Context as _, Result};

use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::Process;
use crate::router::{ALL, Fault, PortFault, RouterSettings};
use crate::topology::{Family, Pair, busy_loopback};
use crate::traffic::stay::DeadWrite;

pub(super) const CLOSE_WAIT: u64 = 500;
pub(super) const SILENT: u64 = 300;
pub(super) const DRIPPING: u64 = 50;
pub(super) const UNREUSED: u64 = 200;
pub(super) const HALF_OPEN: u64 = 7;
pub(super) const DEAD: u64 = 3;
/// Ports that a connect may be given, and connects that find none.
pub(super) const PORTS: u64 = 10;
pub(super) const WITHOUT_PORT: u64 = 2;
/// Twelve ports, of which two are reserved.
const RANGE: &str = "40000 40011";
const RESERVED: &str = "40003,40007-40007";

pub(super) const PORT_OF_HELD: u16 = 8_002;
pub(super) const PORT_OF_FULL: u16 = 8_003;
pub(super) const PORT_OF_PORTS: u16 = 8_004;
pub(super) const PORT_OF_CLOSING: u16 = 8_001;
const PORT_OF_ECHO: u16 = 8_005;
const PORT_OF_HALF: u16 = 8_006;
/// Places in the full queue, and connects before it.
const BACKLOG: u32 = 4;
const KNOCKING: u32 = 20;
/// Before the write on a dead connection: longer than between two reports.
const DEAD_PAUSE_MS: u64 = 3_000;

/// Names of the processes.
pub(super) struct Names;

impl Names {
    /// All servers of the lab's own have its name.
    pub(super) const SERVER: &str = "lab";
    pub(super) const LEAK: &str = "lab-leak";
    pub(super) const FULL: &str = "lab-full";
    pub(super) const PORTS: &str = "lab-ports";
    pub(super) const CHURN: &str = "lab-churn";
    pub(super) const DEAD: &str = "lab-dead";
}

/// Namespaces; a process stays in each.
pub(super) struct Places {
    pub(super) busy: NetNs,
    /// With few ports.
    pub(super) ports: NetNs,
    /// Where nothing is reset but dead connections.
    pub(super) dead: NetNs,
    /// SYN-ACKs do not arrive.
    pub(super) pair: Pair,
}

impl Places {
    pub(super) fn new(lab: &Lab) -> Result<Self> {
        let ports = NetNs::new()?;
        ports.sysctl("net.ipv4.ip_local_port_range", RANGE)?;
        ports.sysctl("net.ipv4.ip_local_reserved_ports", RESERVED)?;
        let faults = vec![PortFault {
            port: PORT_OF_HALF,
            fault: Fault::SwallowSynAck { first: ALL },
        }];
        let settings = RouterSettings {
            faults,
            ..RouterSettings::default()
        };
        Ok(Self {
            busy: busy_loopback()?,
            ports,
            dead: NetNs::new()?,
            pair: Pair::new(lab, &settings)?,
        })
    }
}

/// Running processes; dropped, they end.
pub(super) struct Cells {
    knocking: Option<Process>,
    dead: Process,
    _held: Vec<Process>,
}

impl Cells {
    pub(super) fn start(lab: &Lab, places: &Places) -> Result<Self> {
        let loopback = |port: u16| format!("127.0.0.1:{port}");
        // Those that are left over in two states are IPv6.
        let at = |port: u16| match port {
            PORT_OF_CLOSING => format!("[::1]:{port}"),
            _ => loopback(port),
        };
        let half = Family::Ipv4.server(PORT_OF_HALF).to_string();
        let mut held = Vec::new();
        let mut start = |netns: &NetNs, words: &str| -> Result<()> {
            let words: Vec<&str> = words.split(' ').collect();
            let mut process = lab.helper(&words, netns, &lab.traffic)?;
            while process.line()? != "ready" {}
            held.push(process);
            Ok(())
        };
        let servers = [
            (PORT_OF_CLOSING, "close-first"),
            (PORT_OF_HELD, "hold"),
            (PORT_OF_ECHO, "echo"),
        ];
        let listen = servers.map(|(port, behaviour)| format!("{}/{behaviour}", at(port)));
        start(&places.busy, &format!("serve {}", listen.join(" ")))?;
        start(&places.ports, &format!("serve {}/hold", loopback(PORT_OF_PORTS)))?;
        start(
            &places.dead,
            &format!("serve {}/close-first", loopback(PORT_OF_CLOSING)),
        )?;
        start(&places.pair.server, &format!("serve {half}/hold"))?;
        let full = loopback(PORT_OF_FULL);
        start(
            &places.busy,
            &format!("stay listen --at {full} --count {BACKLOG} --comm {}", Names::FULL),
        )?;

        let connect = |port: u16, count: u64, end: &str, comm: &str| {
            format!("connect --to {} --count {count} --end {end} --comm {comm}", at(port))
        };
        let leak = connect(PORT_OF_CLOSING, CLOSE_WAIT, "hold --exchange 8", Names::LEAK);
        start(&places.busy, &leak)?;
        start(&places.busy, &connect(PORT_OF_HELD, SILENT, "hold", "lab-silent"))?;
        let held_at = loopback(PORT_OF_HELD);
        start(
            &places.busy,
            &format!("stay drip --at {held_at} --count {DRIPPING} --comm lab-drip"),
        )?;
        let all_ports = connect(PORT_OF_PORTS, PORTS + WITHOUT_PORT, "hold", Names::PORTS);
        start(&places.ports, &all_ports)?;
        start(
            &places.pair.client,
            &format!("stay pile --at {half} --count {HALF_OPEN} --comm lab-half"),
        )?;

        let one_way = |netns: &NetNs, words: String| {
            let words: Vec<&str> = words.split(' ').collect();
            lab.helper(&words, netns, &lab.traffic)
        };
        let knock = format!("stay pile --at {full} --count {KNOCKING} --comm lab-knock");
        let mut knocking = one_way(&places.busy, knock)?;
        knocking.wait_for("ready")?;
        let churn = connect(PORT_OF_ECHO, UNREUSED, "first --exchange 100", Names::CHURN);
        one_way(&places.busy, churn)?.finish()?;
        let at = loopback(PORT_OF_CLOSING);
        let pause = DEAD_PAUSE_MS;
        let dead = format!(
            "stay dead --at {at} --count {DEAD} --pause-ms {pause} --comm {}",
            Names::DEAD
        );
        Ok(Self {
            knocking: Some(knocking),
            dead: one_way(&places.dead, dead)?,
            _held: held,
        })
    }

    /// What was written on dead connections.
    pub(super) fn dead_writes(&mut self) -> Result<Vec<DeadWrite>> {
        let mut writes = Vec::new();
        loop {
            let line = self.dead.line()?;
            if line == "ready" {
                return Ok(writes);
            }
            writes.push(serde_json::from_str(&line).context("dead write")?);
        }
    }

    /// Nobody connects to the full queue any more.
    pub(super) fn stop_knocking(&mut self) -> Result<()> {
        if let Some(knocking) = self.knocking.take() {
            knocking.finish()?;
        }
        Ok(())
    }
}
