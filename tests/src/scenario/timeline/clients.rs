//! Runs each client: all connections of a cell by one process where the client can, else a process for each.

use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::REQUESTS;
use super::cells::{Cell, Client, Http, Tls};
use super::servers::program;
use crate::lab::Lab;
use crate::process::Process;
use crate::topology::{Pair, SERVER4};

/// Name in every certificate and `ClientHello`.
pub(super) const NAME: &str = "timeline.test";
/// What every answer ends with.
const ANSWER: &str = "answered";
const LIMIT: Duration = Duration::from_mins(1);

/// Where the cells of one path are run.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) lab: &'a Lab,
    pub(super) pair: &'a Pair,
    pub(super) programs: &'a Path,
    /// Keys of all connections.
    pub(super) keylog: PathBuf,
    pub(super) connections: usize,
    pub(super) delay_ms: u64,
}

/// curl's own times of one new connection, milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnTimes {
    pub(super) tcp: f64,
    pub(super) tls: f64,
    pub(super) ttfb: f64,
}

impl Site<'_> {
    /// Where a program's complaints go.
    pub(super) fn log(&self, name: &str) -> Result<File> {
        let file = self.log_path(name);
        Ok(OpenOptions::new().create(true).append(true).open(file)?)
    }

    /// The end of them.
    pub(super) fn tail(&self, name: &str) -> String {
        let text = fs::read_to_string(self.log_path(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join(" | ")
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.lab.file(format!("timeline-{}-{name}.log", self.delay_ms))
    }

    fn spawn(&self, mut command: Command, cell: &Cell) -> Result<Process> {
        command
            .env("SSLKEYLOGFILE", &self.keylog)
            .stderr(self.log(cell.client.name())?);
        Process::spawn(command, Some(&self.pair.client), &self.lab.traffic)
    }

    /// Connections at a time: those that mostly wait do not disturb each other.
    fn parallel(&self, cell: &Cell) -> usize {
        match (cell.think_ms, self.delay_ms) {
            (0, 0) => 1,
            (0, _) | (_, 0) => 5,
            _ => 10,
        }
    }
}

/// Makes all connections of a cell; fails when one of them does.
pub(super) fn run(site: &Site<'_>, cell: &Cell) -> Result<Vec<OwnTimes>> {
    let made = match cell.client {
        Client::Curl => many(site, cell, || curl(site, cell)),
        Client::Gnutls | Client::Openssl => many(site, cell, || typed(site, cell)).map(|_| Vec::new()),
        Client::Go | Client::Python | Client::Node | Client::Java => batch(site, cell).map(|()| Vec::new()),
    };
    made.with_context(|| format!("{}: {}", cell.name(site.delay_ms), site.tail(cell.client.name())))
}

/// All connections by one process.
fn batch(site: &Site<'_>, cell: &Cell) -> Result<()> {
    let script = |name: &str| site.programs.join(name);
    let mut command = match cell.client {
        Client::Python => program("python3", &[script("client.py").as_os_str()]),
        Client::Node => {
            let keylog = format!("--tls-keylog={}", site.keylog.display());
            program("node", &[keylog.as_ref(), script("client.js").as_os_str()])
        }
        Client::Java => {
            let hosts = site.lab.file("hosts");
            fs::write(&hosts, format!("{SERVER4} {NAME}\n"))?;
            let hosts = format!("-Djdk.net.hosts.file={}", hosts.display());
            program(
                "java",
                &[
                    hosts.as_ref(),
                    "-cp".as_ref(),
                    site.programs.as_os_str(),
                    "Client".as_ref(),
                ],
            )
        }
        Client::Go | Client::Curl | Client::Gnutls | Client::Openssl => Command::new(script("go-client")),
    };
    command
        .args([
            &SERVER4.to_string(),
            &cell.port.to_string(),
            NAME,
            cell.tls.name(),
            cell.http.name(),
        ])
        .arg(format!("/think/{}", cell.think_ms))
        .args([site.connections, site.parallel(cell), REQUESTS].map(|number| number.to_string()))
        .arg(&site.keylog)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let status = site.spawn(command, cell)?.wait(LIMIT * site.lab.patience())?;
    ensure!(status.success(), "{} ended with {status}", cell.client.name());
    Ok(())
}

/// A process for each connection, some at a time.
fn many<T: Send>(site: &Site<'_>, cell: &Cell, one: impl Fn() -> Result<T> + Sync) -> Result<Vec<T>> {
    let parallel = site.parallel(cell);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..parallel)
            .map(|worker| {
                let share = (site.connections + worker) / parallel;
                let one = &one;
                scope.spawn(move || (0..share).map(|_| one()).collect::<Result<Vec<T>>>())
            })
            .collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().expect("a worker reports its trouble")?);
        }
        Ok(all)
    })
}

fn curl(site: &Site<'_>, cell: &Cell) -> Result<OwnTimes> {
    let url = format!("https://{NAME}:{}/think/{}", cell.port, cell.think_ms);
    let http = match cell.http {
        Http::V1 => "--http1.1",
        Http::V2 => "--http2",
    };
    let least = match cell.tls {
        Tls::V12 => "--tlsv1.2",
        Tls::V13 => "--tlsv1.3",
    };
    let mut command = Command::new("curl");
    command
        .args([
            "--silent",
            "--show-error",
            "--fail",
            "--insecure",
            "--max-time",
            "60",
            http,
            least,
            "--tls-max",
            cell.tls.name(),
        ])
        .args(["--resolve", &format!("{NAME}:{}:{SERVER4}", cell.port)])
        .args([
            "-w",
            "%{num_connects} %{time_connect} %{time_appconnect} %{time_pretransfer} %{time_starttransfer}\n",
        ]);
    for _ in 0..REQUESTS {
        command.args(["-o", "/dev/null", &url]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let output = site.spawn(command, cell)?.finish()?;
    let lines: Vec<Vec<f64>> = output
        .lines()
        .map(|line| line.split(' ').map(|number| Ok(number.parse()?)).collect())
        .collect::<Result<_>>()?;
    // Counts of new connections: 1, then 0.
    let connects = lines.iter().filter_map(|line| line.first()).sum::<f64>() as usize;
    ensure!(
        lines.len() == REQUESTS && connects == 1,
        "curl did not reuse its connection: {output}"
    );
    let [_, connect, appconnect, pretransfer, starttransfer] = lines[0][..] else {
        anyhow::bail!("curl said {output}");
    };
    Ok(OwnTimes {
        tcp: connect * 1e3,
        tls: (appconnect - connect) * 1e3,
        ttfb: (starttransfer - pretransfer) * 1e3,
    })
}

/// A client that sends what is typed: the next request is typed when the last answer is there.
fn typed(site: &Site<'_>, cell: &Cell) -> Result<()> {
    let (address, port) = (SocketAddr::new(SERVER4.into(), cell.port), cell.port.to_string());
    let mut command;
    if cell.client == Client::Gnutls {
        let priority = format!("NORMAL:-VERS-ALL:+VERS-TLS{}", cell.tls.name());
        command = Command::new("gnutls-cli");
        command.args(["--insecure", "--alpn", cell.http.alpn(), "--priority", &priority]);
        command.args(["--sni-hostname", NAME, "-p", &port, &SERVER4.to_string()]);
    } else {
        let version = if cell.tls == Tls::V12 { "-tls1_2" } else { "-tls1_3" };
        command = Command::new("openssl");
        command.args([
            "s_client",
            "-quiet",
            version,
            "-servername",
            NAME,
            "-alpn",
            cell.http.alpn(),
        ]);
        command
            .args(["-connect", &address.to_string(), "-keylogfile"])
            .arg(&site.keylog);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = site.spawn(command, cell)?;
    for request in 1..=REQUESTS {
        let connection = if request == REQUESTS { "close" } else { "keep-alive" };
        process.say(&format!(
            "GET /think/{} HTTP/1.1\r\nHost: {NAME}\r\nConnection: {connection}\r\n\r\n",
            cell.think_ms
        ))?;
        while process.line()? != ANSWER {}
    }
    // The server closes, and then so do they: with an error where the server forgot the close_notify.
    let status = process.wait(LIMIT * site.lab.patience())?;
    ensure!(status.success(), "{} ended with {status}", cell.client.name());
    Ok(())
}
