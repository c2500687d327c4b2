//! Times of tcp, tls, first byte and turns, of every TLS stack that is common, against a decrypted capture on the same side.
//!
//! A cell is a client, a server, a version of TLS and of HTTP, the server's think time and the path's delay. Not every
//! client meets every server: on the wire a timeline is the client's flights and the server's, and where one ends the
//! other begins, so each client against nginx and each server against two clients of different make (curl with OpenSSL,
//! Go) has every flight of every stack in it. Java alone meets Go's server instead: neither it nor nginx writes the keys
//! that decrypting needs. Every cell has a server port of its own, by which its connections are known in captures and
//! records. Each connection is new, with a full handshake, and carries three requests, so two turns follow the first byte.
//!
//! The JDK's server sends one ticket that looks like an answer; how often hopline cannot tell is reported apart.

mod cells;
mod clients;
mod compare;
pub(super) mod programs;
mod servers;

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use cells::{Cell, Choice, PORTS};
use clients::Site;

use crate::capture::{self, Capture, decrypted};
use crate::hopline::Trace;
use crate::lab::{Lab, Tolerance};
use crate::router::{DEVICE, RouterSettings};
use crate::topology::Pair;
use crate::verdict::Verdict;

pub(super) const TOOLS: &[&str] = &[
    "ip",
    "tcpdump",
    "tshark",
    "openssl",
    "nginx",
    "curl",
    "gnutls-cli",
    "node",
    "python3",
    "java",
];

/// Requests on each connection.
const REQUESTS: usize = 3;

/// How much of the matrix is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    delays_ms: &'static [u64],
    /// Connections of each cell.
    connections: usize,
    choice: Choice,
}

impl Extent {
    fn of(lab: &Lab) -> Self {
        if !lab.short {
            return Self {
                delays_ms: &[0, 20],
                connections: 30,
                choice: Choice::All,
            };
        }
        let (connections, choice) = match lab.tolerance {
            Tolerance::Host => (10, Choice::Short),
            Tolerance::Vm => (4, Choice::Least),
        };
        Self {
            delays_ms: &[20],
            connections,
            choice,
        }
    }
}

/// Builds the programs where the scenario looks for them.
pub(super) fn build_programs() -> Result<()> {
    programs::build(&std::env::current_exe()?).map(drop)
}

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let extent = Extent::of(lab);
    let programs = programs::build(lab.executable())?;
    for delay_ms in extent.delays_ms {
        let cells = cells::all(extent.choice);
        path(lab, verdict, &programs, &cells, *delay_ms, extent.connections)?;
    }
    Ok(())
}

/// All cells of one path.
fn path(
    lab: &Lab,
    verdict: &mut Verdict,
    programs: &Path,
    cells: &[Cell],
    delay_ms: u64,
    connections: usize,
) -> Result<()> {
    let begin = Instant::now();
    // Half of it each way.
    let settings = RouterSettings {
        delay_us: delay_ms * 500,
        ..RouterSettings::default()
    };
    let pair = Pair::new(lab, &settings)?;
    let site = Site {
        lab,
        pair: &pair,
        programs,
        keylog: lab.file(format!("keys-{delay_ms}")),
        connections,
        delay_ms,
    };
    let servers = servers::start(&site)?;
    let at_client = Capture::start_long(lab, &format!("client-{delay_ms}"), &pair.client, DEVICE)?;
    let at_server = Capture::start_long(lab, &format!("server-{delay_ms}"), &pair.server, DEVICE)?;
    let trace = Trace::start(lab, &format!("timeline-{delay_ms}"), lab.traffic.path())?;

    let mut own_times = HashMap::new();
    for cell in cells {
        own_times.insert(cell.port, clients::run(&site, cell)?);
    }
    // What closes late is closed now.
    drop(servers);
    trace.wait_for(2 * connections * cells.len())?;
    let mut records = trace.finish()?;
    // What was listed as waiting for a while is told of again at its end.
    records.retain(|record| record.event == "finished");
    let files = [("client", at_client.end()?), ("server", at_server.end()?)];
    let run_s = begin.elapsed().as_secs_f64();

    let mut ambiguous = compare::Ambiguous::default();
    for (role, file) in &files {
        let begin = Instant::now();
        let truth = compare::Truth {
            handshakes: capture::conversations(file)?,
            exchanges: decrypted::read(file, &site.keylog, &PORTS)?,
        };
        let took = begin.elapsed().as_secs_f64();
        verdict.note(format!("{delay_ms} ms: reading the {role}'s capture"), took, "s");
        compare::print_head(role, delay_ms);
        for cell in cells {
            let compared = compare::Compared {
                tolerance: lab.tolerance,
                cell,
                role,
                delay_ms,
                connections,
            };
            let own = own_times.get(&cell.port).filter(|_| *role == "client");
            verdict.fold(|verdict| compared.judge(verdict, &truth, &records, own, &mut ambiguous))?;
        }
    }
    ambiguous.judge(verdict, delay_ms);
    verdict.note(format!("{delay_ms} ms: traffic of {} cells", cells.len()), run_s, "s");
    Ok(())
}
