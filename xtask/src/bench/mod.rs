//! `cargo xtask bench`: what hopline costs the programs that it watches, as ratios from one run.
//!
//! `traffic` makes the load, `programs` reads the kernel's statistics of its programs, `empty` puts programs beside them
//! that do nothing. Absolute times are of this
//! machine on this day; compare the columns of one run only.

mod datagrams;
mod empty;
mod https;
mod programs;
mod replay;
mod sandbox;
mod tls;
mod traffic;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Result, bail, ensure};
use clap::Subcommand;

use crate::setup::{self, Purpose};
use crate::{build, run};

use empty::Empties;
use sandbox::Sandbox;
use traffic::Load;

/// Sides of a round in [`ratios`]; the first is without anything.
const WITH: usize = 1;
/// Empty programs alone.
const EMPTY: usize = 2;

/// Measure what hopline costs.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Time per kernel program and per connection, and the traffic's rate with and without hopline.
    Kernel(KernelArguments),
    /// Events that one core applies from a recording, and memory with many open connections.
    Replay(replay::Arguments),
    /// The load itself, inside the bench's namespaces: not for users.
    #[command(hide = true)]
    Traffic(traffic::Arguments),
}

#[derive(Debug, clap::Args)]
struct KernelArguments {
    /// Connections: connect, exchange a byte each way, close.
    #[arg(long, default_value_t = 30_000)]
    connections: u32,
    /// Requests and responses on one connection.
    #[arg(long, default_value_t = 300_000)]
    round_trips: u32,
    /// MiB of one download, and of 16 at once.
    #[arg(long, default_value_t = 16_000)]
    bulk: u32,
    /// DNS queries, and as many datagrams of another kind.
    #[arg(long, default_value_t = 50_000)]
    datagrams: u32,
    /// HTTPS connections.
    #[arg(long, default_value_t = 500)]
    https: u32,
    /// Pairs of runs with and without hopline; the median of their ratios counts.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Only these loads; repeatable.
    #[arg(long, value_name = "NAME")]
    load: Vec<String>,
    #[command(flatten)]
    consent: setup::Consent,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        What::Kernel(kernel) => self::kernel(kernel),
        What::Replay(arguments) => replay::run(arguments),
        What::Traffic(traffic) => traffic::run(traffic),
    }
}

fn kernel(arguments: &KernelArguments) -> Result<()> {
    setup::ensure_ready(&[Purpose::Build, Purpose::Bench], arguments.consent)?;
    ensure!(nix::unistd::geteuid().is_root(), "loading kernel programs needs root");
    ensure!(arguments.rounds > 0, "at least one round");
    let [hopline, lab] = [build::agent()?, build::lab()?];
    let sandbox = Sandbox::new()?;
    let mut loads = vec![
        Load::Connections {
            count: arguments.connections,
        },
        Load::RoundTrips {
            count: arguments.round_trips,
        },
        Load::Bulk { count: arguments.bulk },
        Load::Streams { count: arguments.bulk },
        Load::FarRoundTrips {
            count: arguments.round_trips,
        },
        Load::FarBulk { count: arguments.bulk },
        Load::FarStreams { count: arguments.bulk },
        Load::Dns {
            count: arguments.datagrams,
        },
        Load::Datagrams {
            count: arguments.datagrams,
        },
        Load::Https { count: arguments.https },
        // An interpreter makes these: a few thousand a second.
        Load::TlsRoundTrips {
            count: arguments.round_trips / 10,
        },
    ];
    if !arguments.load.is_empty() {
        let name = |load: &Load| load.words()[0].clone();
        let known: Vec<String> = loads.iter().map(name).collect();
        if let Some(unknown) = arguments.load.iter().find(|wanted| !known.contains(wanted)) {
            bail!("no load {unknown}; there are: {}", known.join(", "));
        }
        loads.retain(|load| arguments.load.contains(&name(load)));
    }
    cost(&hopline, &lab, &sandbox, &loads)?;
    ratios([&hopline, &lab], &sandbox, &loads, arguments.rounds)?;
    loads.retain(|load| tls::CONCERNED.contains(&load.words()[0].as_str()));
    tls::ratios(&hopline, &sandbox, &loads, arguments.rounds)
}

/// Runs each load once under the agent with the kernel's statistics on, and with an empty program beside each of its own.
fn cost(hopline: &Path, lab: &Path, sandbox: &Sandbox, loads: &[Load]) -> Result<()> {
    let _statistics = programs::Statistics::enable()?;
    let others = programs::list()?;
    let quiet = quiet();
    let agent = run::Agent::start(hopline, free_address()?, Some(sandbox.cgroup()), &quiet)?;
    let empties = Empties::attach(lab, sandbox.cgroup(), Stdio::inherit())?;
    for load in loads {
        let before = programs::list()?;
        sandbox.run(*load)?;
        let after = programs::list()?;
        println!(
            "\n{load}, with BPF statistics, whose own cost is in every run, also of the empty program on the hook"
        );
        print!(
            "{}",
            programs::table(&programs::difference(&others, &before, &after), load.operations())
        );
    }
    drop((empties, agent));
    Ok(())
}

/// Runs each load without anything, with an empty program on each hook, and with the agent, statistics off. The runs of a
/// round follow each other at once, their order turned round by round: what else the machine does changes slowly, and
/// cancels. What the empty programs cost is the price of the hooks; no agent that uses them can be below it.
fn ratios([hopline, lab]: [&Path; 2], sandbox: &Sandbox, loads: &[Load], rounds: usize) -> Result<()> {
    println!("\nrate with and without hopline, in {rounds} rounds; with an empty program on each hook in its place");
    println!(
        "{:<36} {:>12} {:>12} {:>9} {:>16} {:>9} {:>16}",
        "load", "without /s", "with /s", "ratio", "middle half", "empty", "middle half"
    );
    for load in loads {
        // The first run warms caches and clocks.
        sandbox.run(*load)?;
        let mut rates = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..rounds {
            for turn in 0..rates.len() {
                let side = (round + turn) % rates.len();
                let _agent = (side == WITH)
                    .then(|| run::Agent::start(hopline, free_address()?, Some(sandbox.cgroup()), &quiet()))
                    .transpose()?;
                let _empties = (side == EMPTY)
                    // `cost` has said already what this kernel refuses.
                    .then(|| Empties::attach(lab, sandbox.cgroup(), Stdio::null()))
                    .transpose()?;
                rates[side].push(sandbox.run(*load)?.per_second());
            }
        }
        let [without, with, empty] = &rates;
        let ratio = |side: &[f64]| side.iter().zip(without).map(|(side, without)| side / without).collect();
        let (hopline, hooks): (Vec<f64>, Vec<f64>) = (ratio(with), ratio(empty));
        println!(
            "{:<36} {:>12.0} {:>12.0} {:>9.3} {:>16} {:>9.3} {:>16}",
            load.to_string(),
            quantile(without, 0.5),
            quantile(with, 0.5),
            quantile(&hopline, 0.5),
            middle_half(&hopline),
            quantile(&hooks, 0.5),
            middle_half(&hooks),
        );
    }
    Ok(())
}

/// The agent's words between the figures would only hide them.
fn quiet() -> [String; 2] {
    ["--log-level", "warn"].map(String::from)
}

/// The quartiles, as the tables show them.
fn middle_half(ratios: &[f64]) -> String {
    format!("{:.3}..{:.3}", quantile(ratios, 0.25), quantile(ratios, 0.75))
}

/// The value below which so much of them is.
fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len().saturating_sub(1)) as f64 * part;
    sorted.get(place.round() as usize).copied().unwrap_or(f64::NAN)
}

/// An address on loopback that nobody listens on.
fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_ignore_order_and_outliers() {
        let values = [9.0, 1.0, 2.0, 3.0, 100.0];
        for (part, value) in [(0.25, 2.0), (0.5, 3.0), (0.75, 9.0)] {
            assert!((quantile(&values, part) - value).abs() < f64::EPSILON);
        }
        assert!(quantile(&[], 0.5).is_nan());
    }
}
