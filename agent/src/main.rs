//! The binary: arguments in, exit code out. 0 success, 1 failure at run time, 2 wrong usage or configuration.
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use hopline::{cli::Cli, command};

/// Wrong usage, as clap has it.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return told(&error),
    };
    match command::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hopline: {error}");
            error.exit_code()
        }
    }
}

/// Help goes out as it is; a mistake becomes one line with the way to the help.
fn told(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A closed pipe is no failure.
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        drop(error.print());
        return ExitCode::from(USAGE);
    }
    let text = error.to_string();
    let mistake = text
        .split("\n\n")
        .next()
        .unwrap_or_default()
        .trim_start_matches("error: ");
    let words: Vec<&str> = mistake.split_whitespace().collect();
    let typed = std::env::args()
        .nth(1)
        .filter(|typed| Cli::command().find_subcommand(typed).is_some());
    let command = typed.map_or_else(|| "hopline".to_owned(), |typed| format!("hopline {typed}"));
    eprintln!("hopline: {} (see `{command} --help`)", words.join(" "));
    ExitCode::from(USAGE)
}
