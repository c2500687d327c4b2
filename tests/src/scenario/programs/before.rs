//! TLS that begins after something else: proxies' headers, STARTTLS, requests with and without an answer. What the
//! client measures is an upper bound, as it includes its own time; what the server waits is a lower one.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::DELAY_US;
use super::run::{NAME, Site};
use crate::hopline::Record;
use crate::process::{self, Process};
use crate::topology::SERVER4;
use crate::verdict::{Verdict, percentile};

const LIMIT: Duration = Duration::from_secs(30);
/// The server waits so long before each answer.
const THINK_US: f64 = 20_000.0;
/// Quantiles have an error of 1 %, clocks of two processes more than none.
const LEAST: f64 = 0.98;
const MOST: f64 = 1.02;
const SCRIPT: &str = "before.py";

/// One connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    /// What `before.py` calls it.
    how: &'static str,
    port: u16,
}

const fn cell(how: &'static str, port: u16) -> Cell {
    Cell { how, port }
}

pub(super) const CELLS: &[Cell] = &[
    cell("plain", 9200),
    cell("proxy1", 9201),
    cell("proxy1-same", 9202),
    cell("proxy2", 9203),
    cell("proxy2-same", 9204),
    cell("mysql", 9205),
    cell("starttls", 9206),
    cell("socks5", 9207),
    cell("connect", 9208),
    cell("connect-early", 9209),
    cell("segments", 9210),
    cell("records", 9211),
];

/// What the client measured, microseconds.
#[derive(Debug, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the unit of each")]
pub(super) struct Measured {
    tls_us: f64,
    ttfb_us: f64,
    turns_us: Vec<f64>,
}

impl Cell {
    pub(super) fn run(&self, site: &Site<'_>) -> Result<Measured> {
        self.measure(site).with_context(|| format!("TLS after {}", self.how))
    }

    fn measure(&self, site: &Site<'_>) -> Result<Measured> {
        let mut serve = self.script(site, "serve");
        serve
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(site.lab.file(format!("server-{}.log", self.port)))?);
        let _server = Process::spawn(serve, Some(&site.pair.server), &site.lab.traffic)?;
        let listens = process::poll(LIMIT * site.lab.patience(), || site.pair.server.listens(self.port))?;
        ensure!(listens, "nothing listens on port {}", self.port);
        let mut ask = self.script(site, "ask");
        ask.stdin(Stdio::null()).stdout(Stdio::piped());
        let client = Process::spawn(ask, Some(&site.pair.client), &site.lab.traffic)?;
        Ok(serde_json::from_str(&client.finish()?)?)
    }

    fn script(&self, site: &Site<'_>, what: &str) -> Command {
        let mut command = Command::new("python3");
        command
            .arg(site.programs.join(SCRIPT))
            .args([what, self.how, &SERVER4.to_string(), &self.port.to_string()])
            .args([site.lab.file("cert.pem"), site.lab.file("key.pem")]);
        command
    }

    pub(super) fn judge(&self, verdict: &mut Verdict, measured: &Measured, records: &[Record]) {
        for role in ["client", "server"] {
            let name = |what: &str| format!("TLS after {} ({role}): {what}", self.how);
            let of_cell = |record: &&Record| record.role == role && record.server_port() == self.port;
            let recorded: Vec<&Record> = records.iter().filter(of_cell).collect();
            verdict.count(name("records"), recorded.len() as u64, 1);
            let Some(record) = recorded.first() else { continue };
            // The server sees an exchange without the way to it and back.
            let way_us = if role == "server" { 0.0 } else { DELAY_US as f64 };
            let tls = record.tls.as_ref();
            verdict.text(
                name("name"),
                tls.and_then(|tls| tls.sni.clone()).unwrap_or_default(),
                NAME,
            );
            verdict.text(
                name("outcome"),
                tls.and_then(|tls| tls.outcome.clone()).unwrap_or_default(),
                "ok",
            );
            let mut between = |what: &str, us: Option<u64>, least_us: f64, most_us: f64| {
                let us = us.map_or(f64::NAN, |us| us as f64);
                verdict.at_least(name(what), us, least_us * LEAST, "us");
                verdict.at_most(name(what), us, most_us * MOST, "us");
            };
            if role == "client" {
                between("tls", record.phases_us.tls, way_us, measured.tls_us);
            }
            between("ttfb", record.phases_us.ttfb, THINK_US + way_us, measured.ttfb_us);
            let mut turns_us = measured.turns_us.clone();
            for (percent, us) in [(50, record.turns.p50_us), (95, record.turns.p95_us)] {
                let most_us = percentile(&mut turns_us, percent);
                between(&format!("turns p{percent}"), us, THINK_US + way_us, most_us);
            }
            verdict.text(name("basis"), record.ttfb_basis.clone().unwrap_or_default(), "inferred");
            verdict.count(
                name("turns"),
                record.turns.count.unwrap_or_default(),
                turns_us.len() as u64,
            );
        }
    }
}
