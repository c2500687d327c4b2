//! Starts a cell's server, runs its client to the end, and stops the server.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::cells::{Cell, Client, EXCHANGES, Server};
use crate::lab::Lab;
use crate::process::{self, Process};
use crate::topology::{Pair, SERVER4};

pub(super) const NAME: &str = "programs.test";
/// Between lines that are typed.
const PAUSE: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(30);

/// Where the cells are run.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) lab: &'a Lab,
    pub(super) pair: &'a Pair,
    pub(super) programs: &'a Path,
    pub(super) envoy: Option<PathBuf>,
    /// Keys of all connections.
    pub(super) keylog: PathBuf,
}

impl Site<'_> {
    pub(super) fn run(&self, cell: &Cell) -> Result<()> {
        let _server = self.serve(cell).with_context(|| format!("{}: server", cell.name))?;
        self.ask(cell).with_context(|| format!("{}: client", cell.name))
    }

    fn serve(&self, cell: &Cell) -> Result<Process> {
        let address = SocketAddr::new(SERVER4.into(), cell.port);
        let (certificate, key) = (self.lab.file("cert.pem"), self.lab.file("key.pem"));
        let mut command;
        match cell.server {
            Server::Rev(options) => {
                command = Command::new("openssl");
                command.args(["s_server", "-rev", "-quiet", "-accept", &address.to_string()]);
                command.arg("-cert").arg(certificate).arg("-key").arg(key).args(options);
            }
            Server::Short { alpn, think_ms } => {
                command = Command::new("python3");
                command.arg(self.programs.join("short.py"));
                command
                    .args([SERVER4.to_string(), cell.port.to_string()])
                    .arg(certificate);
                command.arg(key).arg(&self.keylog).arg(think_ms.to_string()).args(alpn);
            }
            Server::Envoy => {
                let binary = self.envoy.as_deref().context("Envoy is not installed")?;
                command = Command::new(binary);
                let file = self.lab.file(format!("envoy-{}.json", cell.port));
                fs::write(&file, envoy_configuration(cell.port, &certificate, &key))?;
                command.args([
                    "--concurrency",
                    "1",
                    "--disable-hot-restart",
                    "--log-level",
                    "error",
                    "-c",
                ]);
                command.arg(file);
            }
            Server::Go => {
                command = Command::new(self.programs.join("go-server"));
                command.args([&SERVER4.to_string(), &cell.port.to_string(), "1"]);
                command.args([certificate, key, self.keylog.clone()]);
            }
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(self.lab.file(format!("server-{}.log", cell.port)))?);
        let server = Process::spawn(command, Some(&self.pair.server), &self.lab.traffic)?;
        let listens = process::poll(LIMIT * self.lab.patience(), || self.pair.server.listens(cell.port))?;
        ensure!(listens, "nothing listens on {address}");
        Ok(server)
    }

    fn ask(&self, cell: &Cell) -> Result<()> {
        let (address, url) = (
            SocketAddr::new(SERVER4.into(), cell.port),
            format!("https://{SERVER4}:{}/think/2", cell.port),
        );
        let mut command;
        match cell.client {
            Client::Typed(options) => return self.type_lines(address, options),
            Client::Go { tls, pause_ms } => {
                command = Command::new(self.programs.join("go-pooled"));
                command.args([&url, tls, &EXCHANGES.to_string(), &format!("{pause_ms}ms")]);
                command.arg(&self.keylog);
            }
            Client::Curl { http, rate } => {
                command = Command::new("curl");
                command.args([
                    "--silent",
                    "--show-error",
                    "--fail",
                    "--insecure",
                    http,
                    "--max-time",
                    "60",
                ]);
                command.args(rate.iter().flat_map(|rate| ["--rate", *rate]));
                for _ in 0..EXCHANGES {
                    command.args(["-o", "/dev/null", &url]);
                }
                command.env("SSLKEYLOGFILE", &self.keylog);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut process = Process::spawn(command, Some(&self.pair.client), &self.lab.traffic)?;
        let status = process.wait(LIMIT * self.lab.patience())?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    /// A line, its answer, a pause.
    fn type_lines(&self, address: SocketAddr, options: &[&str]) -> Result<()> {
        let mut command = Command::new("openssl");
        command
            .args([
                "s_client",
                "-quiet",
                // Its input ends, and so does it.
                "-no_ign_eof",
                "-connect",
                &address.to_string(),
                "-servername",
                NAME,
                "-keylogfile",
            ])
            .arg(&self.keylog)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = Process::spawn(command, Some(&self.pair.client), &self.lab.traffic)?;
        for line in 0..EXCHANGES {
            thread::sleep(PAUSE);
            process.say(&format!("line {line}\n"))?;
            let answer = process.line()?;
            ensure!(answer == format!("{line} enil"), "the answer was {answer}");
        }
        thread::sleep(PAUSE);
        process.finish().map(drop)
    }
}

fn envoy_configuration(port: u16, certificate: &Path, key: &Path) -> String {
    serde_json::json!({"static_resources": {"listeners": [{
        "address": {"socket_address": {"address": SERVER4.to_string(), "port_value": port}},
        "filter_chains": [{
            "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "clients",
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                    {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "good"}}}
                ]}]},
                "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                }}],
            }}],
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_certificates": [{"certificate_chain": {"filename": certificate}, "private_key": {"filename": key}}],
                },
            }},
        }],
    }]}})
    .to_string()
}
