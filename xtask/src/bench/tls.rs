//! What the probes in TLS libraries cost: hopline with `tls.probes` beside hopline without them.
//!
//! Reads are what costs after the handshake: the hook that ties a library's word to a connection runs at each of them.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::ratios::{middle_half, quantile, ratios};
use super::traffic::Load;
use super::{Bench, https, quiet};
use crate::process;

/// `SSL_write` and `SSL_read` of 64 bytes in turn, by two processes; the client says how many seconds that took.
const ROUND_TRIPS: &str = r#"
import os, socket, ssl, sys, time
key, certificate, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
listener = socket.create_server(("127.0.0.1", 0))
address, message = listener.getsockname(), b"7" * 64
if os.fork() == 0:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    stream = context.wrap_socket(listener.accept()[0], server_side=True)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while stream.read(64):
        stream.write(message)
    os._exit(0)
context = ssl.create_default_context(cafile=certificate)
context.check_hostname = False
stream = context.wrap_socket(socket.create_connection(address))
stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
begin = time.monotonic()
for _ in range(count):
    stream.write(message)
    stream.read(64)
print(time.monotonic() - begin)
stream.unwrap().close()
os.wait()
"#;

/// Makes `count` round trips on one TLS connection.
pub(super) fn round_trips(count: u32) -> Result<Duration> {
    let directory = tempfile::tempdir()?;
    let files = https::certificate(directory.path())?;
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", ROUND_TRIPS]).args(files).arg(count.to_string());
    let seconds = process::output(command.stdin(Stdio::null()))?;
    Ok(Duration::from_secs_f64(
        seconds.trim().parse().context("the seconds that it took")?,
    ))
}

/// Loads that probes in TLS libraries, and the hook at reads, can slow.
pub(super) fn concerns(load: Load) -> bool {
    matches!(load, Load::Https { .. } | Load::TlsRoundTrips { .. })
}

/// What each program and probe costs, and each load with the probes and without them, the agent on both sides. The hook at
/// reads runs for every connection of the node, in a cgroup that is watched or not: these loads cannot take turns.
pub(super) fn compare(bench: &Bench, loads: &[Load], rounds: usize) -> Result<()> {
    if loads.is_empty() {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let configuration = |probes: bool| -> Result<Vec<String>> {
        let file = directory.path().join(format!("{probes}.yaml"));
        fs::write(&file, format!("tls:\n  probes: {probes}\n"))?;
        let file = file.into_os_string().into_string().ok().context("the path is UTF-8")?;
        Ok(quiet().into_iter().chain(["--config".to_owned(), file]).collect())
    };
    let sides = [configuration(false)?, configuration(true)?];
    println!("\nwith probes in TLS libraries:");
    bench.cost(&sides[1], &[], 0, loads)?;
    println!("\nhopline with probes in TLS libraries beside hopline without, in {rounds} rounds");
    println!(
        "{:<36} {:>12} {:>12} {:>9} {:>16} {:>16}",
        "load", "off /s", "on /s", "ratio", "middle half", "more, each"
    );
    for load in loads {
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for turn in 0..rates.len() {
                let side = (round + turn) % rates.len();
                let agent = bench.agent(&sides[side])?;
                rates[side].push(bench.sandbox.run(*load)?.per_second());
                drop(agent);
            }
        }
        let [off, on] = &rates;
        let ratios = ratios(on, off);
        let more_us = 1e6 / quantile(on, 0.5) - 1e6 / quantile(off, 0.5);
        println!(
            "{:<36} {:>12.0} {:>12.0} {:>9.3} {:>16} {:>13.2} us",
            load.to_string(),
            quantile(off, 0.5),
            quantile(on, 0.5),
            quantile(&ratios, 0.5),
            middle_half(&ratios),
            more_us,
        );
    }
    Ok(())
}
