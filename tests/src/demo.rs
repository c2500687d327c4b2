//! `lab demo`: a small network with destinations of every kind, and clients that call them. For `cargo xtask run --demo`.
//!
//! It prints what each address is and, as `cgroup PATH`, where the clients will run; a line on stdin starts them. The end
//! of stdin or of the time, or a signal, ends everything. It starts no hopline and judges nothing.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::lab::{Lab, Tolerance};
use crate::process::Process;
use crate::router::{ALL, Fault, PortFault, RouterSettings};
use crate::topology::Pair;
use crate::{nginx, signals, tools};

/// Arguments of `lab demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArguments {
    /// How long the clients call, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

const TOOLS: &[&str] = &["ip", "nginx", "curl"];

/// On the clients' own machine; the others are behind the router, which does its faults by port.
const NEAR: &str = "10.99.1.10:80";
const FAR: &str = "10.99.2.2:80";
const FAR6: &str = "[fd99:2::2]:80";
const CLOSED: &str = "10.99.2.2:81";
const SILENT: &str = "10.99.2.2:82";
const LOSSY: &str = "10.99.2.2:83";

/// Each way: half of what the legend says.
const DELAY_US: u64 = 20_000;
const LOST_PER_MILLE: u32 = 50;

const LEGEND: [(&str, &str); 6] = [
    (NEAR, "nginx on the clients' own machine, answers at once"),
    (FAR, "nginx 40 ms away (round trip)"),
    (FAR6, "the same nginx over IPv6"),
    (CLOSED, "no one listens here: every connect is refused"),
    (SILENT, "swallows every SYN: connects wait, and time out after 7 s"),
    (LOSSY, "echo server on a line that loses 5 % of the data"),
];

/// What `curl` fetches, in turn, one page every [`CURL_EVERY`].
const PAGES: [&str; 4] = [NEAR, FAR, NEAR, FAR6];
const CURL_EVERY: Duration = Duration::from_millis(100);

/// Connections of a generator's thread: longer than any demo.
const FOREVER: &str = "4294967295";
/// Generators beside it: address, threads, pause of a thread between two connections in ms, bytes to exchange.
const GENERATORS: [(&str, &str, u64, &str); 4] = [
    (NEAR, "1", 100, "0"),
    (CLOSED, "1", 300, "0"),
    (SILENT, "3", 1_000, "0"),
    (LOSSY, "2", 200, "4000"),
];

/// Makes the network, waits for the word, calls until the end; dropping the lab removes everything.
pub(crate) fn run(arguments: &DemoArguments) -> Result<()> {
    tools::check(TOOLS)?;
    signals::block()?;
    let lab = Lab::set_up(None, Tolerance::Host, Some(arguments.seconds), false)?;
    let fault = |to, fault| address(to).map(|to| PortFault { port: to.port(), fault });
    let pair = Pair::new(
        &lab,
        &RouterSettings {
            delay_us: DELAY_US,
            faults: vec![
                fault(SILENT, Fault::SwallowSyn { first: ALL })?,
                fault(
                    LOSSY,
                    Fault::Lose {
                        per_mille: LOST_PER_MILLE,
                    },
                )?,
            ],
            ..RouterSettings::default()
        },
    )?;
    // The network's servers are not watched: each connection is shown once, as its client saw it.
    pair.client.ip(&format!("addr add {}/32 dev lo", address(NEAR)?.ip()))?;
    // SYNs after 0, 1 and 3 s, the end after 7.
    pair.client.sysctl("net.ipv4.tcp_syn_retries", "2")?;
    let _near = nginx::start(&lab, "near", &pair.client, &[address(NEAR)?])?;
    let _far = nginx::start(&lab, "far", &pair.server, &[address(FAR)?, address(FAR6)?])?;
    let mut echo = lab.helper(&["serve", &format!("{LOSSY}/echo")], &pair.server, &lab.tools)?;
    echo.wait_for("ready")?;

    println!("The demo's network:");
    for (address, what) in LEGEND {
        println!("  {address:<16}  {what}");
    }
    println!("cgroup {}", lab.traffic.path().display());
    let input = lines_of_stdin();
    if input.recv().is_err() {
        return Ok(());
    }
    call(&lab, &pair, &input)
}

fn address(text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| format!("address {text}"))
}

/// One message per line; the channel closes when stdin does.
fn lines_of_stdin() -> Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if line.is_err() || sender.send(()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Starts the generators, then `curl` by `curl`, until time is up or stdin closes. Who still runs then is killed.
fn call(lab: &Lab, pair: &Pair, input: &Receiver<()>) -> Result<()> {
    let begin = Instant::now();
    let mut generators = Vec::new();
    for (to, threads, pause_ms, bytes) in GENERATORS {
        let interval_us = (pause_ms * 1_000).to_string();
        let mut command = Command::new(lab.executable());
        command.args(["internal", "connect", "--to", to, "--count", FOREVER]);
        command.args(["--threads", threads, "--interval-us", &interval_us, "--exchange", bytes]);
        generators.push(start(lab, pair, command)?);
    }
    let mut fetches: Vec<Process> = Vec::new();
    for page in PAGES.iter().cycle() {
        if begin.elapsed() >= Duration::from_secs(lab.seconds(60)) {
            break;
        }
        for generator in &mut generators {
            ensure!(generator.ended()?.is_none(), "a generator of the demo ended early");
        }
        // Those that have ended are reaped; how they ended is for hopline to tell.
        fetches.retain_mut(|fetch| matches!(fetch.ended(), Ok(None)));
        let mut curl = Command::new("curl");
        curl.args(["-s", "-g", "-o", "/dev/null", "--max-time", "5"])
            .arg(format!("http://{page}/"));
        fetches.push(start(lab, pair, curl)?);
        if input.recv_timeout(CURL_EVERY) == Err(RecvTimeoutError::Disconnected) {
            break;
        }
    }
    Ok(())
}

/// Starts a client; what it prints is nobody's business.
fn start(lab: &Lab, pair: &Pair, mut command: Command) -> Result<Process> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Process::spawn(command, Some(&pair.client), &lab.traffic)
}
