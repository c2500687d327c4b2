//! The switches of the configuration: a library that is off and files that are excluded are left to the wire.

use std::fs;

use anyhow::Result;

use super::cells::{Client, Failure};
use super::clients::Programs;
use crate::certificates::Certificates;
use crate::hopline::Trace;
use crate::lab::Lab;
use crate::topology::Pair;
use crate::verdict::Verdict;

const OFF: &str = "tls:\n  probes: true\n  gnutls: false\n  exclude: [\"*/go-stripped*\"]\n";

/// A client, and the library that hopline must then name.
const EXPECTED: [(Client, &str); 4] = [
    (Client::Gnutls, "null"),
    (Client::GoStripped, "null"),
    (Client::GoPie, "null"),
    (Client::Go, "Go"),
];

pub(super) fn compare(
    lab: &Lab,
    verdict: &mut Verdict,
    pair: &Pair,
    certificates: &Certificates,
    programs: &Programs,
) -> Result<()> {
    let config = lab.file("switches.yaml");
    fs::write(&config, OFF)?;
    let trace = Trace::start_configured(lab, "switches", lab.traffic.path(), Some(&config))?;
    let names: Vec<String> = (0..EXPECTED.len())
        .map(|number| format!("s{number}.lab.test"))
        .collect();
    for ((client, _), name) in EXPECTED.iter().zip(&names) {
        let cell = (*client, Failure::Expired, true);
        super::fetch(lab, pair, certificates, programs, cell, name)?;
    }
    trace.wait_for(EXPECTED.len())?;
    let records = trace.finish()?;
    let by_name = super::by_name(&records);
    for ((client, expected), name) in EXPECTED.into_iter().zip(&names) {
        let tls = by_name.get(name.as_str()).and_then(|record| record.tls.as_ref());
        let library = tls.and_then(|tls| tls.library.as_deref()).unwrap_or("null");
        let library = library.split(' ').next().unwrap_or_default();
        verdict.text(format!("switches, {}", client.name()), library, expected);
    }
    Ok(())
}
