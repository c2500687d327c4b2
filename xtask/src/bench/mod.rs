//! `cargo xtask bench`: what hopline costs the programs that it watches, as ratios from one run.
//!
//! `traffic` and `lasting` make the load, `programs` reads the kernel's statistics of its programs, `empty` puts programs
//! beside them that do nothing. Absolute times are of this machine on this day; compare the columns of one run only.

mod datagrams;
mod empty;
mod https;
mod lasting;
mod programs;
mod ratios;
mod replay;
mod sandbox;
mod tls;
mod traffic;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Subcommand, ValueEnum as _};

use crate::process::Running;
use crate::setup::{self, Purpose};
use crate::{build, run};

use empty::Empties;
use sandbox::{Sandbox, Side};
use traffic::Load;

/// Measure what hopline costs.
#[derive(Debug, clap::Args)]
#[command(after_help = "HOPLINE_BIN in the environment names another build to measure.")]
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
    /// The same of connections that last.
    #[command(hide = true)]
    Lasting(lasting::Arguments),
}

#[derive(Debug, clap::Args)]
struct KernelArguments {
    /// Connections: connect, exchange a byte each way, close.
    #[arg(long, default_value_t = 30_000)]
    connections: u32,
    /// Turns of each side in a round of a load on lasting connections: 2 000 round trips, or 160 MiB.
    #[arg(long, default_value_t = 20)]
    turns: u32,
    /// Requests and responses on one TLS connection.
    #[arg(long, default_value_t = 30_000)]
    tls_round_trips: u32,
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
        What::Lasting(lasting) => lasting::run(lasting),
    }
}

fn kernel(arguments: &KernelArguments) -> Result<()> {
    setup::ensure_ready(&[Purpose::Build, Purpose::Bench], arguments.consent)?;
    ensure!(nix::unistd::geteuid().is_root(), "loading kernel programs needs root");
    ensure!(
        arguments.rounds > 0 && arguments.turns > 0,
        "at least one round, and one turn"
    );
    let mut loads = vec![
        Load::Connections {
            count: arguments.connections,
        },
        Load::Dns {
            count: arguments.datagrams,
        },
        Load::Datagrams {
            count: arguments.datagrams,
        },
        Load::Https { count: arguments.https },
        Load::TlsRoundTrips {
            count: arguments.tls_round_trips,
        },
    ];
    let mut lasting = lasting::Load::value_variants().to_vec();
    if !arguments.load.is_empty() {
        let known = loads
            .iter()
            .map(|load| load.name())
            .chain(lasting.iter().map(|load| load.name()));
        let known: Vec<String> = known.collect();
        if let Some(unknown) = arguments.load.iter().find(|wanted| !known.contains(wanted)) {
            bail!("no load {unknown}; there are: {}", known.join(", "));
        }
        loads.retain(|load| arguments.load.contains(&load.name()));
        lasting.retain(|load| arguments.load.contains(&load.name()));
    }
    let lab = build::lab()?;
    let mut bench = Bench {
        hopline: build::agent_under_test()?,
        sandbox: Sandbox::new()?,
        awake: awake(&lab)?,
        lab,
    };
    bench.cost(&quiet(), &lasting, arguments.turns, &loads)?;
    ratios::of_lasting(&bench, &lasting, arguments.turns, arguments.rounds)?;
    ratios::of(&bench, &loads, arguments.rounds)?;
    loads.retain(|load| tls::concerns(*load));
    tls::compare(&bench, &loads, arguments.rounds)?;
    let ended = bench.awake.wait_for(Duration::ZERO)?;
    ensure!(ended.is_none(), "nobody kept the processors awake: the lab has ended");
    Ok(())
}

/// What is compared, and where.
#[derive(Debug)]
struct Bench {
    hopline: PathBuf,
    lab: PathBuf,
    sandbox: Sandbox,
    awake: Running,
}

impl Bench {
    /// hopline on its side.
    fn agent(&self, more: &[String]) -> Result<run::Agent> {
        let cgroup = self.sandbox.cgroup(Side::Hopline);
        run::Agent::start(&self.hopline, free_address()?, Some(cgroup), more)
    }

    /// Empty programs on one of the sides.
    fn empties(&self, side: Side, said: Stdio) -> Result<Empties> {
        Empties::attach(&self.lab, self.sandbox.cgroup(side), said)
    }

    /// Runs each load once under the agent with the kernel's statistics on, and an empty program beside each of its own.
    fn cost(&self, more: &[String], lasting: &[lasting::Load], turns: u32, loads: &[Load]) -> Result<()> {
        let _statistics = programs::Statistics::enable()?;
        let others = programs::list()?;
        let agent = self.agent(more)?;
        let empties = self.empties(Side::Hopline, Stdio::inherit())?;
        let measure = |name: String, operations: u32, run: &dyn Fn() -> Result<()>| -> Result<()> {
            let before = programs::list()?;
            run()?;
            let after = programs::list()?;
            println!(
                "\n{name}, with BPF statistics, whose own cost is in every run, also of the empty program on the hook"
            );
            let ran = programs::difference(&others, &before, &after);
            print!("{}", programs::table(&ran, operations));
            Ok(())
        };
        for load in lasting {
            let operations = load.operations() * (turns + 1);
            measure(format!("{operations} {load}"), operations, &|| {
                self.sandbox.take_turns(*load, turns, &[Side::Hopline]).map(drop)
            })?;
        }
        for load in loads {
            measure(load.to_string(), load.operations(), &|| {
                self.sandbox.run(*load).map(drop)
            })?;
        }
        drop((empties, agent));
        Ok(())
    }
}

/// Keeps a virtual machine's processors from sleeping until its stdin closes: its host gives one that slept to others,
/// and is late to give it back. Round trips sleep at each step.
fn awake(lab: &Path) -> Result<Running> {
    Running::start(Command::new(lab).args(["internal", "awake"]).stdin(Stdio::piped()))
}

/// The agent's words between the figures would only hide them; what this kernel does not serve, `doctor` tells.
fn quiet() -> [String; 2] {
    ["--log-level", "error"].map(String::from)
}

/// An address on loopback that nobody listens on.
fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
