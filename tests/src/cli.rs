//! The command line: which scenario or helper to run, and the exit code. Called by `main` alone.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::awake::{self, Awake};
use crate::hopline::Sabotage;
use crate::lab::{Lab, Tolerance};
use crate::verdict::Verdict;
use crate::{container, demo, empty, nameserver, router, scenario, signals, tools, traffic};

/// Compare what hopline says with the truth, in network namespaces of the lab's own (run as root).
#[derive(Debug, Parser)]
#[command(
    name = "lab",
    after_help = "Examples:\n  lab --list\n  lab connect --json connect.json\n  lab churn --sabotage swap   # must end in FAIL"
)]
pub(crate) struct Cli {
    /// Scenario to run; see --list.
    scenario: Option<String>,
    /// List the scenarios.
    #[arg(long)]
    list: bool,
    /// Write every measured and every true value to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Falsify what hopline says, on purpose: the scenario must then end in FAIL.
    #[arg(long)]
    sabotage: Option<Sabotage>,
    /// Allowed deviation of times: of this machine, or of an emulated one.
    #[arg(long, default_value = "host")]
    tolerance: Tolerance,
    /// Length of a scenario that can be long or short: flood, replay, budget and hostile.
    #[arg(long)]
    seconds: Option<u64>,
    /// The same in minutes: close-storm.
    #[arg(long, conflicts_with = "seconds")]
    minutes: Option<u64>,
    /// Fewer cells and connections in a scenario that has a short form: timeline, names, dns, path and others.
    #[arg(long)]
    short: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What is no scenario.
#[derive(Debug, Subcommand)]
enum Command {
    /// Make a small network with destinations of every kind, and traffic to look at
    Demo(demo::DemoArguments),
    #[command(hide = true, subcommand)]
    Internal(Internal),
}

/// Processes that a scenario starts: not for users.
#[derive(Debug, Subcommand)]
enum Internal {
    Router(router::RouterArguments),
    Serve(traffic::server::ServeArguments),
    Connect(traffic::connect::ConnectArguments),
    Fill(traffic::fill::FillArguments),
    /// Answer the lookups of `fill`.
    FillResolver,
    Flood(traffic::flood::FloodArguments),
    Churn(traffic::churn::ChurnArguments),
    Hosts(traffic::hosts::HostsArguments),
    Many(traffic::many::ManyArguments),
    Race(traffic::race::RaceArguments),
    Raw(traffic::raw::RawArguments),
    Talk(traffic::talk::TalkArguments),
    Starve(traffic::starve::StarveArguments),
    Stay(traffic::stay::StayArguments),
    Storm(traffic::storm::StormArguments),
    Relay(traffic::relay::RelayArguments),
    Resolver(traffic::names::resolver::ResolverArguments),
    Steps(traffic::names::steps::StepsArguments),
    Noise(traffic::names::noise::NoiseArguments),
    Mutual(traffic::mutual::MutualArguments),
    Refuse(traffic::refuse::RefuseArguments),
    Pulse(traffic::pulse::PulseArguments),
    Burn(traffic::pulse::BurnArguments),
    Empty(empty::EmptyArguments),
    Dns(nameserver::DnsArguments),
    DnsAstray(nameserver::astray::AstrayArguments),
    InContainer(container::ContainerArguments),
    /// Keep the processors of a virtual machine from sleeping.
    Awake,
    /// Build the programs of other languages beside this one.
    Programs,
}

/// Parses and runs; 0 for PASS, 1 for FAIL and trouble, 2 (by clap) for wrong usage.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Command::Demo(arguments)) => demo::run(arguments).map(|()| true),
        Some(Command::Internal(internal)) => run_internal(internal).map(|()| true),
        None if cli.list || cli.scenario.is_none() => {
            scenario::list();
            Ok(true)
        }
        None => run_scenario(&cli),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_internal(internal: &Internal) -> anyhow::Result<()> {
    match internal {
        Internal::Router(arguments) => router::run(arguments),
        Internal::Serve(arguments) => traffic::server::run(arguments),
        Internal::Connect(arguments) => traffic::connect::run(arguments),
        Internal::Fill(arguments) => traffic::fill::run(arguments),
        Internal::FillResolver => traffic::fill::serve(),
        Internal::Flood(arguments) => traffic::flood::run(arguments),
        Internal::Churn(arguments) => traffic::churn::run(arguments),
        Internal::Hosts(arguments) => traffic::hosts::run(arguments),
        Internal::Many(arguments) => {
            traffic::many::run(arguments);
            Ok(())
        }
        Internal::Race(arguments) => traffic::race::run(arguments),
        Internal::Raw(arguments) => traffic::raw::run(arguments),
        Internal::Talk(arguments) => traffic::talk::run(arguments),
        Internal::Starve(arguments) => traffic::starve::run(arguments),
        Internal::Stay(arguments) => traffic::stay::run(arguments),
        Internal::Storm(arguments) => traffic::storm::run(arguments),
        Internal::Relay(arguments) => traffic::relay::run(arguments),
        Internal::Resolver(arguments) => traffic::names::resolver::run(arguments),
        Internal::Steps(arguments) => traffic::names::steps::run(arguments),
        Internal::Noise(arguments) => traffic::names::noise::run(arguments),
        Internal::Mutual(arguments) => traffic::mutual::run(arguments),
        Internal::Refuse(arguments) => traffic::refuse::run(arguments),
        Internal::Pulse(arguments) => traffic::pulse::run(arguments),
        Internal::Burn(arguments) => traffic::pulse::burn(arguments),
        Internal::Empty(arguments) => empty::run(arguments),
        Internal::Dns(arguments) => nameserver::run(arguments),
        Internal::DnsAstray(arguments) => nameserver::astray::run(arguments),
        Internal::InContainer(arguments) => container::run(arguments),
        Internal::Awake => awake::run(),
        Internal::Programs => scenario::build_programs(),
    }
}

/// Runs one scenario; trouble on the way is a FAIL with its reason, never a silent end.
fn run_scenario(cli: &Cli) -> anyhow::Result<bool> {
    let name = cli.scenario.as_deref().unwrap_or_default();
    let scenario = scenario::find(name)?;
    tools::check(scenario.tools)?;
    signals::block()?;
    let mut verdict = Verdict::new(scenario.name);
    let seconds = cli.seconds.or(cli.minutes.map(|minutes| minutes * 60));
    let outcome = Lab::set_up(cli.sabotage, cli.tolerance, seconds, cli.short).and_then(|lab| {
        lab.check_hopline()?;
        let _awake = Awake::keep(&lab)?;
        (scenario.run)(&lab, &mut verdict)
    });
    if let Err(error) = outcome {
        verdict.trouble(format!("{error:#}"));
    }
    verdict.print();
    if let Some(file) = &cli.json {
        verdict.write_json(file)?;
    }
    Ok(verdict.passed())
}
