//! `lab demo`: a build that hangs. Four package mirrors on a small network, each with a trouble of its own, and a job that
//! fetches from them. For `cargo xtask run --demo`.
//!
//! It prints what each mirror is, then `router ADDRESS MICROSECONDS` of each router on the way to them, `config FILE` and
//! `cgroup PATH` for whoever watches. It reads words from stdin, one a
//! line: `go` starts the job, `slow` moves a mirror 200 ms away. The end of stdin or of the time ends the job; then the
//! truth of its captures is printed. It starts no hopline and judges nothing.

pub(crate) mod job;
pub(crate) mod mirrors;
mod network;
mod truth;

use std::fs;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use self::job::Job;
use self::mirrors::{ADDED_US, ALL, FAST};
pub(crate) use self::network::Network;
use crate::capture::Capture;
use crate::certificates::Certificates;
use crate::lab::{Lab, Tolerance};
use crate::router::DEVICE;
use crate::topology::Pair;
use crate::{signals, tools};

/// Arguments of `lab demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArguments {
    /// How long the job runs, in seconds.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
}

const TOOLS: &[&str] = &[
    "ip", "nginx", "curl", "openssl", "dnsmasq", "unshare", "tcpdump", "tshark",
];
/// Every mirror's path is traced every few seconds.
const CONFIG: &str = "\
groups:
  mirrors: [\"*.mirror.lab.test\"]
paths:
  trace: all
  every: 3s
  probes_per_minute: 6000
  destination_probes_per_minute: 6000
  router_probes_per_minute: 6000
";
/// What is under way when the job ends comes to its end meanwhile.
const LAST_FETCHES: Duration = Duration::from_millis(700);
const LOOK: Duration = Duration::from_millis(200);

/// Makes the network, waits for the word, runs the job until the end; dropping the lab removes everything.
pub(crate) fn run(arguments: &DemoArguments) -> Result<()> {
    tools::check(TOOLS)?;
    signals::block()?;
    let lab = Lab::set_up(None, Tolerance::Host, Some(arguments.seconds), false)?;
    let mut network = Network::start(&lab, Certificates::make(&lab)?)?;
    let config = lab.file("hopline.yaml");
    fs::write(&config, CONFIG)?;

    println!("A build job fetches packages from four mirrors:");
    for mirror in ALL {
        println!("{}", mirror.legend());
    }
    println!("The way to them leads through four routers, of which the third is slow.");
    for (address, us) in mirrors::distances() {
        println!("router {address} {us}");
    }
    println!("config {}", config.display());
    println!("cgroup {}", lab.traffic.path().display());
    let input = words_of_stdin();
    if input.recv().is_err() {
        return Ok(());
    }
    let keys = lab.file("keys");
    let traffic = Capture::start_long(&lab, "demo", &network.pair.client, DEVICE)?;
    let lookups = Capture::start_dns(&lab, "lookups", &network.pair.client, "lo")?;
    let mut job = Job::start(&lab, &network, &keys.display().to_string())?;
    attend(&lab, &mut network.pair, &mut job, &input)?;
    job.end()?;
    thread::sleep(LAST_FETCHES);
    for line in truth::lines(&traffic.end()?, &lookups.end()?, &keys)? {
        println!("{line}");
    }
    Ok(())
}

/// One message per line; the channel closes when stdin does.
fn words_of_stdin() -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Until time is up or stdin closes.
fn attend(lab: &Lab, pair: &mut Pair, job: &mut Job, input: &Receiver<String>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(lab.seconds(300));
    while Instant::now() < end {
        ensure!(job.runs()?, "the demo's job ended early");
        match input.recv_timeout(LOOK) {
            Ok(word) if word == "slow" => pair.move_away(FAST.address.into(), ADDED_US)?,
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(())
}
