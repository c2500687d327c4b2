//! `cargo xtask`: everything a developer or CI does with this repository, one file or folder per subcommand.
//!
//! It only calls other programs and reads what they print; what hopline does and what is true is known to `agent` and to
//! the lab (`tests/`). Nothing here is part of a release.

#![forbid(unsafe_code)]

mod alerts_check;
mod bench;
mod build;
mod dashboards_check;
mod deploy_check;
mod fuzz;
mod http;
mod image;
mod lab;
mod metrics;
mod process;
mod promql;
mod run;
mod setup;
mod stack_sizes;
mod test;
mod tidy;
mod vm;
mod workspace;
mod yaml;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, run, test and measure hopline.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Setup(setup::Consent),
    Build(build::Arguments),
    Run(run::Arguments),
    Test(test::Arguments),
    Lab(lab::Arguments),
    Vm(vm::Arguments),
    Bench(bench::Arguments),
    Tidy(tidy::Arguments),
    StackSizes(stack_sizes::Arguments),
    Fuzz(fuzz::Arguments),
    Image(image::Arguments),
    AlertsCheck(alerts_check::Arguments),
    DashboardsCheck(dashboards_check::Arguments),
    DeployCheck(deploy_check::Arguments),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(arguments) => setup::run(arguments),
        Command::Build(arguments) => build::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Lab(arguments) => lab::run(&arguments),
        Command::Vm(arguments) => vm::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Tidy(arguments) => tidy::run(&arguments),
        Command::StackSizes(arguments) => stack_sizes::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Image(arguments) => image::run(&arguments),
        Command::AlertsCheck(arguments) => alerts_check::run(&arguments),
        Command::DashboardsCheck(arguments) => dashboards_check::run(&arguments),
        Command::DeployCheck(arguments) => deploy_check::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        <super::Cli as clap::CommandFactory>::command().debug_assert();
    }
}
