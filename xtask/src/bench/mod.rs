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
mod traffic;

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Result, ensure};
use clap::Subcommand;

use crate::setup::{self, Purpose};
use crate::{build, run};

use empty::Empties;
use sandbox::Sandbox;
use traffic::{Load, Rate};

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
    #[arg(long, default_value_t = 4_000)]
    bulk: u32,
    /// DNS queries, and as many datagrams of another kind.
    #[arg(long, default_value_t = 50_000)]
    datagrams: u32,
    /// HTTPS connections.
    #[arg(long, default_value_t = 500)]
    https: u32,
    /// Runs with and without hopline; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
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
    let loads = [
        Load::Connections {
            count: arguments.connections,
        },
        Load::RoundTrips {
            count: arguments.round_trips,
        },
        Load::Bulk { count: arguments.bulk },
        Load::Streams { count: arguments.bulk },
        Load::Dns {
            count: arguments.datagrams,
        },
        Load::Datagrams {
            count: arguments.datagrams,
        },
        Load::Https { count: arguments.https },
    ];
    cost(&hopline, &lab, &sandbox, &loads)?;
    ratios(&hopline, &sandbox, &loads, arguments.rounds)
}

/// Runs each load once under the agent with the kernel's statistics on, and with an empty program beside each of its own.
fn cost(hopline: &Path, lab: &Path, sandbox: &Sandbox, loads: &[Load]) -> Result<()> {
    let _statistics = programs::Statistics::enable()?;
    let others = programs::list()?;
    let quiet = quiet();
    let agent = run::Agent::start(hopline, free_address()?, Some(sandbox.cgroup()), &quiet)?;
    let empties = Empties::attach(lab, sandbox.cgroup())?;
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

/// Runs each load with and without the agent in turn, statistics off.
fn ratios(hopline: &Path, sandbox: &Sandbox, loads: &[Load], rounds: usize) -> Result<()> {
    let quiet = quiet();
    let mut without = vec![Vec::new(); loads.len()];
    let mut with = vec![Vec::new(); loads.len()];
    for round in 0..=rounds {
        let bare = loads
            .iter()
            .map(|load| sandbox.run(*load))
            .collect::<Result<Vec<Rate>>>()?;
        let agent = run::Agent::start(hopline, free_address()?, Some(sandbox.cgroup()), &quiet)?;
        let watched = loads
            .iter()
            .map(|load| sandbox.run(*load))
            .collect::<Result<Vec<Rate>>>()?;
        drop(agent);
        // The first round warms caches and clocks.
        if round == 0 {
            continue;
        }
        for (index, (bare, watched)) in bare.iter().zip(&watched).enumerate() {
            without[index].push(bare.per_second());
            with[index].push(watched.per_second());
        }
    }
    println!("\nrate with and without hopline, interleaved, median of {rounds}");
    println!(
        "{:<28} {:>14} {:>14} {:>8} {:>16}",
        "load", "without /s", "with /s", "ratio", "ratio per round"
    );
    for (index, load) in loads.iter().enumerate() {
        let per_round: Vec<f64> = with[index]
            .iter()
            .zip(&without[index])
            .map(|(with, without)| with / without)
            .collect();
        let [without, with] = [median(&without[index]), median(&with[index])];
        let spread = format!(
            "{:.3}..{:.3}",
            smallest(&per_round),
            -smallest(&per_round.iter().map(|ratio| -ratio).collect::<Vec<_>>())
        );
        println!(
            "{:<28} {without:>14.0} {with:>14.0} {:>8.3} {spread:>16}",
            load.to_string(),
            with / without
        );
    }
    Ok(())
}

/// The agent's words between the figures would only hide them.
fn quiet() -> [String; 2] {
    ["--log-level", "warn"].map(String::from)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn smallest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// An address on loopback that nobody listens on.
fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_order_and_outliers() {
        assert!((median(&[9.0, 1.0, 2.0, 3.0, 100.0]) - 3.0).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan());
    }
}
