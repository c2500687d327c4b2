//! A router between two namespaces: delay, jitter, loss, faults on the TCP handshake, TTL, on every kernel (netem is not
//! on all). It reads packets from a TUN device in each namespace and writes them to the other.

mod faults;
mod forward;
mod line;
mod reply;
mod route;
mod tun;

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::{Process, keep_across_exec};
pub(crate) use route::Hop;

/// How the path behaves. It goes to the router process as JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RouterSettings {
    /// Added to each packet, each way.
    pub(crate) delay_us: u64,
    /// Up to this much more, evenly spread; packets keep their order.
    pub(crate) jitter_us: u64,
    /// Routers on the way: each takes one from the TTL and answers for itself when it is used up. At least one.
    pub(crate) hops: u8,
    /// Start of the pseudo-random numbers for loss and jitter.
    pub(crate) seed: u64,
    /// What happens to connections of some server ports.
    pub(crate) faults: Vec<PortFault>,
    /// Addresses that are further away than the others: microseconds more, each way.
    pub(crate) further: Vec<(IpAddr, u64)>,
    /// Ways through routers that differ, instead of `delay_us` and `hops`; each connection keeps to one.
    pub(crate) routes: Vec<Vec<Hop>>,
}

/// What happens to the connections of one server port.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct PortFault {
    pub(crate) port: u16,
    pub(crate) fault: Fault,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Fault {
    /// The first SYNs of each connection vanish.
    SwallowSyn { first: u32 },
    /// The first SYN-ACKs of each connection vanish.
    SwallowSynAck { first: u32 },
    /// The client's first segments with payload vanish, retransmissions among them.
    SwallowPayload { first: u32 },
    /// SYNs are answered with ICMP host (IPv6: address) unreachable.
    Unreachable,
    /// The client's first segment after the SYN vanishes and both sides get a RST for it.
    ResetHandshake,
    /// Of a thousand segments with payload, this many vanish.
    Lose { per_mille: u32 },
    /// The client's first segment after the SYN vanishes when it has no payload: its first payload ends the handshake.
    SwallowFinalAck,
    /// Something happens at one segment with payload of each connection, counted from 1 in its direction.
    AtPayload {
        direction: Direction,
        number: u32,
        event: PayloadEvent,
    },
}

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

/// What happens at a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PayloadEvent {
    /// It vanishes.
    Drop,
    /// It arrives behind the next one with payload.
    Swap,
    /// It arrives twice.
    Duplicate,
    /// It arrives later by this much; what follows does not wait for it.
    Delay { us: u64 },
    /// A segment that its sender never sent goes before it, this far from it in sequence space: to the server a
    /// `ClientHello` with another name, to the client a fatal alert.
    Forge { offset: i32 },
}

/// Server name in forged hellos.
pub(crate) const FORGED_NAME: &str = "forged.lab.test";
/// TTL of forged segments as they arrive: nothing else has it, so a capture can tell them apart.
pub(crate) const FORGED_TTL: u8 = 77;

/// Every packet of a kind, for faults that count.
pub(crate) const ALL: u32 = u32::MAX;

/// Arguments of `lab internal router`.
#[derive(Debug, clap::Args)]
pub(crate) struct RouterArguments {
    /// Inherited descriptors of the two TUN devices.
    #[arg(num_args = 2)]
    devices: Vec<i32>,
    /// [`RouterSettings`] as JSON.
    #[arg(long)]
    settings: String,
}

/// Name of the TUN device in both namespaces.
pub(crate) const DEVICE: &str = "tun0";

/// Makes the two devices and starts the router process; the devices go with it.
pub(crate) fn start(lab: &Lab, client: &NetNs, server: &NetNs, settings: &RouterSettings) -> Result<Process> {
    let devices = [client.run(|| tun::create(DEVICE))?, server.run(|| tun::create(DEVICE))?];
    let mut command = Command::new(lab.executable());
    command
        .args(["internal", "router", "--settings"])
        .arg(serde_json::to_string(settings)?);
    for device in &devices {
        command.arg(keep_across_exec(device)?.to_string());
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut router = Process::spawn(command, None, &lab.tools)?;
    router.wait_for("ready").context("router")?;
    Ok(router)
}

/// The router process.
pub(crate) fn run(arguments: &RouterArguments) -> Result<()> {
    let settings: RouterSettings = serde_json::from_str(&arguments.settings).context("settings")?;
    let [client, server] = arguments.devices[..] else {
        anyhow::bail!("two devices are needed")
    };
    let devices = [tun::inherited(client), tun::inherited(server)];
    let changes = changes_of_stdin();
    println!("ready");
    line::run(&devices, &mut forward::Forwarder::new(settings, changes))
}

/// What changes while the router runs.
#[derive(Debug)]
enum Change {
    /// From now on this address is so much further away, each way, in microseconds.
    Further(IpAddr, u64),
    /// From now on these are the ways.
    Routes(Vec<Vec<Hop>>),
}

impl Change {
    /// `ADDRESS MICROSECONDS` or `routes JSON`.
    fn parse(line: &str) -> Option<Self> {
        let (first, rest) = line.split_once(' ')?;
        if first == "routes" {
            return serde_json::from_str(rest).ok().map(Self::Routes);
        }
        Some(Self::Further(first.parse().ok()?, rest.parse().ok()?))
    }
}

fn changes_of_stdin() -> Receiver<Change> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let change = Change::parse(&line);
            if change.is_none_or(|change| sender.send(change).is_err()) {
                return;
            }
        }
    });
    receiver
}
