//! HTTP in clear: answers that are none, every status of a kept connection, unusual heads, HTTP/2 whose frames can be read.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::run::Site;
use crate::capture::clear::{ByConnection, Clear};
use crate::hopline::Record;
use crate::lab::Tolerance;
use crate::process::{self, Process};
use crate::topology::SERVER4;
use crate::verdict::{Verdict, percentile};

/// Ports of the cells, by what is spoken there.
pub(super) const HTTP1: RangeInclusive<u16> = 9110..=9149;
pub(super) const HTTP2: RangeInclusive<u16> = 9100..=9109;
const LIMIT: Duration = Duration::from_secs(30);
const NODE: &str = "h2.js";

/// What listens.
#[derive(Clone, Copy, Debug)]
enum Server {
    /// `http1.py`
    Http1,
    /// `h2.js`
    Http2,
}

/// What asks.
#[derive(Clone, Copy, Debug)]
enum Client {
    /// curl with these options and targets, on one connection.
    Curl(&'static [&'static str], &'static [&'static str]),
    /// `raw.py` with this kind of head.
    Raw(&'static str),
    /// `h2.js` with a pause between requests.
    Node { pause_ms: u64 },
}

/// One connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    name: &'static str,
    port: u16,
    server: Server,
    client: Client,
    /// Exchanges that the capture has to show.
    exchanges: usize,
    /// Host that hopline reads in the first request; HTTP/2's are not read.
    host: Option<&'static str>,
}

const SERVER: Option<&str> = Some("10.99.2.2");
const RAW: Option<&str> = Some("raw.programs.test");

pub(super) const CELLS: &[Cell] = &[
    http2("h2 in clear, node to node", 9100, Client::Node { pause_ms: 200 }),
    http2(
        "h2 in clear, node to node without a pause",
        9101,
        Client::Node { pause_ms: 0 },
    ),
    // curl 7.88 cannot use such a connection twice.
    Cell {
        exchanges: 1,
        ..http2(
            "h2 in clear, curl to node",
            9102,
            Client::Curl(&["--http2-prior-knowledge"], &["/think/80"]),
        )
    },
    http1(
        "statuses",
        9110,
        Client::Curl(
            &[],
            &[
                "/status/200",
                "/status/404",
                "/status/503",
                "/status/404",
                "/status/302",
                "/status/429",
            ],
        ),
        6,
        SERVER,
    ),
    http1(
        "100 Continue",
        9111,
        Client::Curl(&["--data", "asked", "-H", "Expect: 100-continue"], &["/continue"; 3]),
        3,
        SERVER,
    ),
    http1("103 Early Hints", 9112, Client::Curl(&[], &["/hints"; 3]), 3, SERVER),
    http1(
        "103 and its answer at once",
        9113,
        Client::Curl(&[], &["/together"; 3]),
        3,
        SERVER,
    ),
    http1("an empty line first", 9114, Client::Raw("crlf"), 2, RAW),
    http1("PROPFIND", 9115, Client::Raw("propfind"), 2, RAW),
    http1("Host behind 3 000 bytes", 9116, Client::Raw("long"), 2, RAW),
    http1("a head byte by byte", 9117, Client::Raw("bytes"), 2, RAW),
];

const fn http1(name: &'static str, port: u16, client: Client, exchanges: usize, host: Option<&'static str>) -> Cell {
    Cell {
        name,
        port,
        server: Server::Http1,
        client,
        exchanges,
        host,
    }
}

const fn http2(name: &'static str, port: u16, client: Client) -> Cell {
    Cell {
        name,
        port,
        server: Server::Http2,
        client,
        exchanges: 5,
        host: None,
    }
}

impl Cell {
    pub(super) fn run(&self, site: &Site<'_>) -> Result<()> {
        let _server = self.serve(site).with_context(|| format!("{}: server", self.name))?;
        self.ask(site).with_context(|| format!("{}: client", self.name))
    }

    fn serve(&self, site: &Site<'_>) -> Result<Process> {
        let mut command = match self.server {
            Server::Http1 => {
                let mut command = Command::new("python3");
                command.arg(site.programs.join("http1.py"));
                command
            }
            Server::Http2 => node(site, "serve"),
        };
        command
            .args([SERVER4.to_string(), self.port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(site.lab.file(format!("server-{}.log", self.port)))?);
        let server = Process::spawn(command, Some(&site.pair.server), &site.lab.traffic)?;
        let listens = process::poll(LIMIT * site.lab.patience(), || site.pair.server.listens(self.port))?;
        ensure!(listens, "nothing listens on port {}", self.port);
        Ok(server)
    }

    fn ask(&self, site: &Site<'_>) -> Result<()> {
        let address = SocketAddr::new(SERVER4.into(), self.port);
        let (host, port) = (SERVER4.to_string(), self.port.to_string());
        let mut command = match self.client {
            Client::Curl(options, targets) => {
                let mut command = Command::new("curl");
                command
                    .args(["--silent", "--show-error", "--max-time", "60"])
                    .args(options);
                for target in targets {
                    command.args(["-o", "/dev/null", &format!("http://{address}{target}")]);
                }
                command
            }
            Client::Raw(how) => {
                let mut command = Command::new("python3");
                command.arg(site.programs.join("raw.py")).args([&host, &port, how]);
                command
            }
            Client::Node { pause_ms } => {
                let mut command = node(site, "ask");
                command.args([
                    &host,
                    &port,
                    "/think/2",
                    &self.exchanges.to_string(),
                    &pause_ms.to_string(),
                ]);
                command
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut process = Process::spawn(command, Some(&site.pair.client), &site.lab.traffic)?;
        let status = process.wait(LIMIT * site.lab.patience())?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    pub(super) fn judge(
        &self,
        verdict: &mut Verdict,
        tolerance: Tolerance,
        role: &str,
        truth: &ByConnection,
        records: &[Record],
    ) {
        let name = |what: &str| format!("{} ({role}): {what}", self.name);
        let of_cell = |record: &&Record| record.role == role && record.server_port() == self.port;
        let recorded: Vec<&Record> = records.iter().filter(of_cell).collect();
        verdict.count(name("records"), recorded.len() as u64, 1);
        let Some(record) = recorded.first() else { return };
        let Some(truth) = truth.get(&record.addresses()) else {
            verdict.trouble(name("not in the capture"));
            return;
        };
        verdict.count(
            name("exchanges captured"),
            truth.exchanges_us.len() as u64,
            self.exchanges as u64,
        );
        let Some((ttfb_us, turns_us)) = truth.exchanges_us.split_first() else {
            return;
        };
        verdict.text(name("basis"), record.ttfb_basis.clone().unwrap_or_default(), "exact");
        let measured = record.phases_us.ttfb.map_or(f64::NAN, |us| us as f64);
        verdict.time_us(name("ttfb"), measured, *ttfb_us, tolerance.of_phase_us(*ttfb_us));
        verdict.count(
            name("turns"),
            record.turns.count.unwrap_or_default(),
            turns_us.len() as u64,
        );
        let mut turns_us = turns_us.to_vec();
        let quantiles = if turns_us.is_empty() {
            vec![]
        } else {
            vec![(50, record.turns.p50_us), (95, record.turns.p95_us)]
        };
        for (percent, us) in quantiles {
            let truth_us = percentile(&mut turns_us, percent);
            let us = us.map_or(f64::NAN, |us| us as f64);
            verdict.time_us(
                name(&format!("turns p{percent}")),
                us,
                truth_us,
                tolerance.of_phase_us(truth_us),
            );
        }
        if matches!(self.server, Server::Http1) {
            self.judge_statuses(verdict, &name, truth, record);
        }
    }

    /// What is known is right; the status behind an interim response in the same packet is not read.
    fn judge_statuses(&self, verdict: &mut Verdict, name: &dyn Fn(&str) -> String, truth: &Clear, record: &Record) {
        let http = record.http.as_ref();
        verdict.text(
            name("host"),
            http.and_then(|http| http.host.clone()).unwrap_or_default(),
            self.host.unwrap_or_default(),
        );
        let mut expected: BTreeMap<u16, u64> = BTreeMap::new();
        for status in &truth.statuses {
            *expected.entry(*status).or_default() += 1;
        }
        let told = http.map(|http| http.responses.clone()).unwrap_or_default();
        if self.name.starts_with("103 and") {
            let known: u64 = told.values().sum();
            verdict.at_most(name("statuses"), known as f64, truth.statuses.len() as f64, "");
            return;
        }
        verdict.text(name("statuses"), format!("{told:?}"), format!("{expected:?}"));
    }
}

fn node(site: &Site<'_>, what: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(site.programs.join(NODE)).arg(what);
    command
}
