//! `cargo xtask lab`: builds hopline and the lab, then hands over to the lab, which knows its scenarios.

use std::process::Command;

use anyhow::Result;

use crate::setup::{self, Purpose};
use crate::{build, process};

/// Run a scenario of the lab, or list them.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask lab\n  cargo xtask lab connect --json connect.json\n  \
    cargo xtask lab churn --sabotage swap   # must end in FAIL"
)]
pub(crate) struct Arguments {
    /// Name of the scenario and its options; without a name, the list.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "NAME [OPTIONS]")]
    words: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure_ready(
        &[Purpose::Build, Purpose::Lab, Purpose::Stacks],
        setup::Consent::default(),
    )?;
    process::run(&mut command(&arguments.words)?)
}

/// The lab with these words, on a fresh build of hopline.
pub(crate) fn command(words: &[impl AsRef<str>]) -> Result<Command> {
    let hopline = build::agent()?;
    let mut command = Command::new(build::lab()?);
    command.env("HOPLINE_BIN", hopline);
    if words.is_empty() {
        command.arg("--list");
    }
    command.args(words.iter().map(AsRef::as_ref));
    Ok(command)
}

/// The live part of a check: a scenario that needs the programs that people run beside hopline.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Live {
    /// Then with real programs in the lab (as root; minutes).
    #[arg(long = "live")]
    is_wanted: bool,
    /// The live part in its short form.
    #[arg(long, requires = "is_wanted")]
    short: bool,
    #[command(flatten)]
    consent: setup::Consent,
}

impl Live {
    /// Runs the scenario, if that is asked for.
    pub(crate) fn run(self, scenario: &str) -> Result<()> {
        if !self.is_wanted {
            return Ok(());
        }
        setup::ensure_ready(&[Purpose::Build, Purpose::Lab, Purpose::Live], self.consent)?;
        let mut words = vec![scenario];
        words.extend(self.short.then_some("--short"));
        process::run(&mut command(&words)?)
    }
}
