//! psql over TLS: a greeting in clear, then short messages with pauses. The truth is psql's own clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::run::Site;
use crate::hopline::{Agent, Record};
use crate::lab::Tolerance;
use crate::process::{self, Process};
use crate::topology::SERVER4;
use crate::verdict::Verdict;

const PORT: u16 = 9_432;
const QUERIES: usize = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// After the last query nothing waits for anything.
const IDLE_S: [u64; 2] = [9, 3];
/// Where Debian puts the server's programs, by version.
const VERSIONS: &str = "/usr/lib/postgresql";
const USER: &str = "postgres";

/// What psql said of its queries.
#[derive(Debug)]
pub(super) struct Database {
    times_us: Vec<f64>,
}

/// `None` where there is no server; says so.
pub(super) fn run(site: &Site<'_>, agent: &Agent, verdict: &mut Verdict) -> Result<Option<Database>> {
    let Some(programs) = server_programs() else {
        verdict.skip("psql", "no PostgreSQL server (postgresql)");
        return Ok(None);
    };
    let _server = serve(site, &programs)?;
    let mut command = Command::new("psql");
    command
        .args(["--no-psqlrc", "--quiet", "--tuples-only"])
        .arg(format!(
            "host={SERVER4} port={PORT} user={USER} dbname=postgres sslmode=require"
        ))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut psql = Process::spawn(command, Some(&site.pair.client), &site.lab.traffic)?;
    psql.say("\\timing on\n")?;
    let mut times_us = Vec::new();
    for _ in 0..QUERIES {
        psql.say("select 1;\n")?;
        times_us.push(told_us(&mut psql)?);
        thread::sleep(PAUSE);
    }
    thread::sleep(Duration::from_secs(IDLE_S[usize::from(site.lab.short)]));
    let waiting = agent.scrape()?.sum("hopline_connections_waiting", &[]);
    verdict.count("psql idle: connections that wait", waiting, 0);
    psql.finish()?;
    Ok(Some(Database { times_us }))
}

/// Of the next query: `Time: 0.586 ms`.
fn told_us(psql: &mut Process) -> Result<f64> {
    loop {
        let line = psql.line()?;
        if let Some(time) = line.strip_prefix("Time: ") {
            let ms = time.split(' ').next().context("a time")?;
            return Ok(ms.parse::<f64>()? * 1e3);
        }
    }
}

fn server_programs() -> Option<PathBuf> {
    let mut versions = fs::read_dir(VERSIONS).ok()?.flatten();
    versions.find_map(|version| {
        let programs = version.path().join("bin");
        programs.join("postgres").exists().then_some(programs)
    })
}

/// A new database; it runs as the user that the package made, as root it would not.
fn serve(site: &Site<'_>, programs: &Path) -> Result<(Process, tempfile::TempDir)> {
    let directory = tempfile::Builder::new().prefix("hopline-postgres-").tempdir()?;
    let data = directory.path().join("data");
    let own = |path: &Path| {
        let mut chown = Command::new("chown");
        chown.args(["-R", USER]).arg(path);
        crate::tools::output_of(&mut chown).map(drop)
    };
    for file in ["cert.pem", "key.pem"] {
        fs::copy(site.lab.file(file), directory.path().join(file))?;
    }
    own(directory.path())?;
    let as_user = |program: &str| {
        let mut command = Command::new("setpriv");
        command
            .args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"])
            .arg(programs.join(program))
            .current_dir(directory.path());
        command
    };
    let mut init = as_user("initdb");
    init.args(["--auth=trust", "--no-sync", "--locale=C", "-D"]).arg(&data);
    crate::tools::output_of(&mut init)?;
    fs::write(data.join("pg_hba.conf"), "hostssl all all 0.0.0.0/0 trust\n")?;
    let set = |name: &str, value: &str| format!("--{name}={value}");
    let file = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let mut server = as_user("postgres");
    server
        .arg("-D")
        .arg(&data)
        .args([
            set("listen_addresses", &SERVER4.to_string()),
            set("port", &PORT.to_string()),
            set("unix_socket_directories", ""),
            set("ssl", "on"),
            set("ssl_cert_file", &file("cert.pem")),
            set("ssl_key_file", &file("key.pem")),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(site.lab.file("postgres.log"))?);
    let server = Process::spawn(server, Some(&site.pair.server), &site.lab.traffic)?;
    let listens = process::poll(Duration::from_secs(30) * site.lab.patience(), || {
        site.pair.server.listens(PORT)
    })?;
    ensure!(
        listens,
        "PostgreSQL does not listen: {}",
        fs::read_to_string(site.lab.file("postgres.log"))?
    );
    Ok((server, directory))
}

impl Database {
    pub(super) fn judge(&self, verdict: &mut Verdict, tolerance: Tolerance, records: &[Record]) {
        for role in ["client", "server"] {
            let of_it = |record: &&Record| record.role == role && record.server_port() == PORT;
            let Some(record) = records.iter().find(of_it) else {
                verdict.trouble(format!("psql ({role}): no record"));
                continue;
            };
            let turns = record.turns.count.unwrap_or_default();
            // The first exchange is the authentication.
            verdict.count(format!("psql ({role}): turns"), turns, QUERIES as u64);
            let slowest_us = self.times_us.iter().copied().fold(0.0, f64::max);
            let p95_us = record.turns.p95_us.map_or(f64::NAN, |us| us as f64);
            verdict.at_most(
                format!("psql ({role}): turns p95"),
                p95_us,
                slowest_us + tolerance.of_phase_us(slowest_us),
                "us",
            );
        }
    }
}
