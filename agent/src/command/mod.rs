//! One file per command. Each turns what was typed into what is used, runs, and gives the exit code.
mod again;
mod agent;
mod compare;
mod doctor;
mod filter;
mod own_cgroup;
mod path;
mod printer;
mod progress;
mod replay;
mod safe_mode;
mod top;
mod trace;

use std::{
    future::Future,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::{self, ExitCode},
};

use anyhow::anyhow;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

use crate::{
    agent::{self as running_agent, AgentError, Finished},
    bpf::BpfError,
    cli::{Cli, Command, LogFormat, RunInCgroupArgs, units::Level},
    config::ConfigError,
    recording::RecordingError,
    selfmetrics::{FeatureState, missed_runs, missing_core},
};

/// Why a command failed; printed as one line.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The arguments are wrong in a way that only using them shows.
    #[error("{0}")]
    Usage(String),
    /// Anything at run time.
    #[error("{}", one_line(.0))]
    Failed(#[from] anyhow::Error),
}

impl CommandError {
    /// 2 for usage and configuration, else 1.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::FAILURE,
        }
    }
}

impl From<AgentError> for CommandError {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Bpf(error) => error.into(),
            AgentError::Recording(error @ RecordingError::Foreign(_)) => Self::Usage(error.to_string()),
            other => Self::Failed(other.into()),
        }
    }
}

impl From<BpfError> for CommandError {
    fn from(error: BpfError) -> Self {
        match error {
            BpfError::Cgroup { .. } | BpfError::NotCgroup2 { .. } | BpfError::TooManyCgroups { .. } => {
                Self::Usage(error.to_string())
            }
            other => Self::Failed(other.into()),
        }
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.into())
    }
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs the command that was typed.
pub fn run(cli: Cli) -> Result<ExitCode, CommandError> {
    let logging = Logging {
        level: cli.log_level,
        format: cli.log_format,
    };
    match cli.command {
        Command::Agent(args) => agent::run(&args, logging),
        Command::Trace(args) => trace::run(&args, logging),
        Command::Compare(args) => compare::run(&args, logging),
        Command::Path(args) => path::run(&args, logging),
        Command::Top(args) => top::run(&args, logging),
        Command::Replay(args) => replay::run(&args, logging),
        Command::Doctor(args) => doctor::run(&args, logging),
        Command::RunInCgroup(args) => run_in_cgroup(&args),
    }
}

/// The features of an agent that sees connections; an error where it sees none: a trace of nothing looks like a network at
/// rest, and a condition on nothing holds.
fn seeing(agent: &running_agent::Handle) -> Result<Vec<FeatureState>, CommandError> {
    let features = agent.features();
    match missing_core(&features) {
        Some(why) => Err(anyhow!(why).into()),
        None => Ok(features),
    }
}

/// Log flags as typed.
#[derive(Clone, Copy, Debug)]
struct Logging {
    level: Option<Level>,
    format: Option<LogFormat>,
}

impl Logging {
    /// Starts logging to stderr; flags win over `level` and `format`.
    fn start(self, level: Level, format: LogFormat) {
        let level = self.level.unwrap_or(level);
        // Other crates only when they are in trouble: kernel messages of aya are hopline's own business. What kube says,
        // `kubernetes` says once.
        let filter = EnvFilter::new(format!("warn,kube_client=off,hopline={level}"));
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_target(false);
        match self.format.unwrap_or(format) {
            LogFormat::Json => subscriber.json().init(),
            LogFormat::Text => subscriber.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
        }
    }

    /// For commands that people watch: warnings only.
    fn start_quiet(self) {
        self.start(Level(tracing::Level::WARN), LogFormat::Text);
    }
}

/// Runs a future on a runtime of this thread: the capabilities that are dropped here are dropped for all of it.
fn block_on<T>(future: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(future);
    // A thread that waits for a reader of our output must not keep the process.
    runtime.shutdown_background();
    result
}

/// Writes to stdout; that nobody reads it any more is no failure.
fn print(text: &str) -> Result<(), CommandError> {
    match io::stdout()
        .write_all(text.as_bytes())
        .and_then(|()| io::stdout().flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Tells which events were lost, if any were.
fn tell_losses(finished: &Finished) {
    for kind in running_agent::kind_counts(&finished.scrape.snapshot.counts.events, &finished.kernel) {
        let (ring_full, throttled) = (kind.ring_full, kind.throttled);
        if ring_full + throttled > 0 {
            tracing::warn!(
                kind = kind.kind,
                received = kind.received,
                ring_full,
                throttled,
                "events were lost"
            );
        }
    }
    for (kind, runs) in missed_runs(&finished.kernel.programs) {
        if runs > 0 {
            tracing::warn!(kind, runs, "runs of kernel programs were skipped");
        }
    }
}

/// SIGINT and SIGTERM, from now on.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The next request to end.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// The end of the agent, unless somebody does not want to wait for it.
    async fn or_cut_short(
        &mut self,
        stop: impl Future<Output = Result<Finished, AgentError>>,
    ) -> Result<Finished, CommandError> {
        tokio::select! {
            finished = stop => Ok(finished?),
            () = self.end() => Err(anyhow!("a second signal cut the end short: the last records are missing").into()),
        }
    }
}

/// Enters the cgroup and becomes the command: it is inside from its first instruction.
fn run_in_cgroup(args: &RunInCgroupArgs) -> Result<ExitCode, CommandError> {
    let entered = std::fs::write(&args.procs, process::id().to_string());
    entered.map_err(|error| anyhow!("cannot enter {}: {error}", args.procs.display()))?;
    let (program, arguments) = args.command.split_first().expect("clap requires a command");
    let error = process::Command::new(program).args(arguments).exec();
    eprintln!("hopline: cannot run {}: {error}", program.to_string_lossy());
    // As shells have it: 127 not found, 126 found and not executable.
    Ok(ExitCode::from(if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    }))
}
