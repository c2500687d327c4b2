//! Pooled TLS connections of programs that nobody here wrote: a few short exchanges with pauses, as databases and health checks have
//! them. First bytes, turns and what counts as waiting, against a decrypted capture on the same side or the program's own clock.
//!
//! The kernel sees lengths alone. It knows HTTP/2's control frames from short answers by the hello, by the server's choice where
//! that can be read, and because clients of HTTP/2 acknowledge SETTINGS.

mod before;
mod cells;
mod clear;
mod compare;
mod postgres;
mod run;

use anyhow::Result;

use cells::{CELLS, Cell, ENVOY_CELLS, PORTS};

use crate::capture::{self, Capture, decrypted};
use crate::hopline::{Agent, AgentOptions, Trace};
use crate::lab::Lab;
use crate::openssl;
use crate::router::{DEVICE, RouterSettings};
use crate::topology::Pair;
use crate::verdict::Verdict;

/// Both ways together.
const DELAY_US: u64 = 4_000;

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let programs = super::timeline::programs::build(lab.executable())?;
    let settings = RouterSettings {
        delay_us: DELAY_US / 2,
        ..RouterSettings::default()
    };
    let pair = Pair::new(lab, &settings)?;
    let site = run::Site {
        lab,
        pair: &pair,
        programs: &programs,
        envoy: super::proxy_chain::envoy(),
        keylog: lab.file("keys"),
    };
    openssl::self_signed(lab, run::NAME)?;
    let at_client = Capture::start_long(lab, "client", &pair.client, DEVICE)?;
    let at_server = Capture::start_long(lab, "server", &pair.server, DEVICE)?;
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start(lab, "programs", lab.traffic.path())?;
    if site.envoy.is_none() {
        verdict.skip("envoy", super::proxy_chain::NO_ENVOY);
    }
    let cells: Vec<&Cell> = CELLS
        .iter()
        .chain(ENVOY_CELLS.iter().filter(|_| site.envoy.is_some()))
        .collect();
    for cell in &cells {
        site.run(cell)?;
    }
    for cell in clear::CELLS {
        cell.run(&site)?;
    }
    let measured: Vec<_> = before::CELLS
        .iter()
        .map(|cell| cell.run(&site))
        .collect::<Result<_>>()?;
    let database = postgres::run(&site, &agent, verdict)?;
    let connections = cells.len() + clear::CELLS.len() + before::CELLS.len() + usize::from(database.is_some());
    trace.wait_for(2 * connections)?;
    let mut records = trace.finish()?;
    records.retain(|record| record.event == "finished");
    let metrics = agent.scrape_drained()?;
    super::compare_losses(verdict, &metrics);
    agent.stop()?;

    let files = [("client", at_client.end()?), ("server", at_server.end()?)];
    let mut ambiguous = 0;
    for (role, file) in &files {
        let truth = decrypted::read(file, &site.keylog, &PORTS)?;
        for cell in &cells {
            ambiguous += compare::judge(verdict, lab.tolerance, cell, role, &truth, &records);
        }
        let truth = capture::clear::read(file, &clear::HTTP1, &clear::HTTP2)?;
        for cell in clear::CELLS {
            cell.judge(verdict, lab.tolerance, role, &truth, &records);
        }
    }
    for (cell, measured) in before::CELLS.iter().zip(&measured) {
        cell.judge(verdict, measured, &records);
    }
    verdict.note("ambiguous first bytes", f64::from(ambiguous), "");
    if let Some(database) = &database {
        database.judge(verdict, lab.tolerance, &records);
    }
    Ok(())
}
