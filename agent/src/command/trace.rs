//! `hopline trace`: connections as they end, of the node, of some cgroups, or of one command.
use std::{
    fs::File,
    future::pending,
    io::{self, IsTerminal as _},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    CommandError, Logging, Signals, block_on,
    filter::Filter,
    own_cgroup::OwnCgroup,
    print,
    printer::{self, Style},
    safe_mode, seeing, tell_losses,
};
use crate::{
    agent::{self, Finished, Handle, Running},
    cli::TraceArgs,
    config::{Config, TraceWhat},
    export::{http::Source as _, human},
    host::Host,
    owner::Listener,
    privileges::{self, Keep},
};

/// Batches of records that may wait for the printer.
const BATCHES: usize = 4;
/// After the command has ended: how long its last connections may take to close.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_STEP: Duration = Duration::from_millis(100);
/// How long the last lines may take to be written.
const PRINT_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn run(args: &TraceArgs, logging: Logging) -> Result<ExitCode, CommandError> {
    let mut config = Config::load(&args.watch)?;
    // Who only looks sends nothing.
    config.paths.trace = TraceWhat::Off;
    logging.start_quiet();
    safe_mode::follow(&mut config, &Host::running()?);
    let output = match &args.output {
        Some(path) => File::create(path).with_context(|| format!("cannot write {}", path.display()))?,
        None => printer::stdout()?,
    };
    if args.command.is_empty() {
        privileges::no_new_privs();
        return block_on(watch(args, &config, output));
    }
    // Without `no_new_privs`, which the command would inherit: tracing must not change what it may do.
    let cgroup = OwnCgroup::create("trace")?;
    let config = Config {
        cgroups: vec![cgroup.path().to_owned()],
        ..config
    };
    block_on(follow(args, &config, &cgroup, output))
}

/// Attaches, and starts the printer.
async fn start(
    args: &TraceArgs,
    config: &Config,
    output: File,
) -> Result<(Running, oneshot::Receiver<io::Result<()>>), CommandError> {
    let (sender, records) = mpsc::channel(BATCHES);
    // A cgroup of its own must be removed again.
    let keep = Keep {
        writes_files: !args.command.is_empty(),
        ..Keep::default()
    };
    let running = agent::start(config, Listener::All(sender), keep)?;
    for state in seeing(running.handle())?
        .iter()
        .filter(|state| state.is_missing() && state.feature != "path")
    {
        eprintln!("not seen: {} ({})", seen_by(state.feature), state.reason);
    }
    let style = Style {
        json: args.json,
        filter: Filter::new(args),
        count: args.count,
    };
    let printed = printer::start(style, output, records)?;
    running.ready().await;
    Ok((running, printed))
}

/// What a feature shows.
fn seen_by(feature: &'static str) -> &'static str {
    match feature {
        "process" => "processes that live for a moment",
        "cgroup_names" => "names of cgroups that are new",
        "retransmits" => "retransmissions",
        "synack_retransmits" => "retransmissions of SYN-ACKs",
        "rtt" => "round-trip times",
        "syn" => "when SYNs leave",
        "payload" => "TLS, first byte, turns",
        "tls_library" => "what TLS libraries say",
        "dns" => "DNS",
        "dns_owner" => "whose a DNS query is",
        "failure_before_syn" => "connects that fail before a SYN leaves",
        "existing" => "connections opened before the start",
        "open" => "connections that stay open",
        _ => feature,
    }
}

/// Until a signal, the time or the count ends it.
async fn watch(args: &TraceArgs, config: &Config, output: File) -> Result<ExitCode, CommandError> {
    let mut signals = Signals::new()?;
    let (mut running, mut printed) = start(args, config, output).await?;
    eprintln!("ready: watching {}", scope(config));
    let time = async {
        match args.duration {
            Some(duration) => sleep(duration).await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = signals.end() => {}
        () = time => {}
        error = running.ended() => return Err(error.into()),
        // Enough lines, or nobody reads them.
        result = &mut printed => {
            written(result)?;
            tell_losses(&running.stop().await?);
            return Ok(ExitCode::SUCCESS);
        }
    }
    finish(running, printed, &mut signals).await?;
    Ok(ExitCode::SUCCESS)
}

fn scope(config: &Config) -> String {
    match config.cgroups.as_slice() {
        [] => "the whole node".to_owned(),
        paths => paths
            .iter()
            .map(|path| path.display().to_string())
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// Until the command has ended and its connections have closed.
async fn follow(args: &TraceArgs, config: &Config, cgroup: &OwnCgroup, output: File) -> Result<ExitCode, CommandError> {
    let mut signals = Signals::new()?;
    let (mut running, printed) = start(args, config, output).await?;
    let child = launch(args, cgroup)?;
    let status = tokio::select! {
        status = command_end(child, &mut signals) => status?,
        error = running.ended() => return Err(error.into()),
    };
    linger(running.handle()).await;
    let finished = finish(running, printed, &mut signals).await?;
    let table = human::table(&finished.scrape.snapshot);
    let summary = if table.is_empty() {
        "no TCP connections\n"
    } else {
        &table
    };
    // JSON on stdout stays JSON.
    if args.json {
        eprint!("{summary}");
    } else {
        print(&format!("\n{summary}"))?;
    }
    Ok(exit_code(status))
}

/// Starts the command inside the cgroup, by way of this program: `run-in-cgroup` enters and becomes it.
fn launch(args: &TraceArgs, cgroup: &OwnCgroup) -> Result<Child, CommandError> {
    let hopline = std::env::current_exe().context("cannot find the program of this process")?;
    let mut command = Command::new(hopline);
    command
        .arg("run-in-cgroup")
        .arg(cgroup.procs())
        .arg("--")
        .args(&args.command);
    Ok(command
        .stdin(Stdio::inherit())
        .spawn()
        .context("cannot start the command")?)
}

/// Waits for the command. What a terminal sends goes to the command by itself; other signals are handed on.
async fn command_end(mut child: Child, signals: &mut Signals) -> Result<ExitStatus, CommandError> {
    let pid = Pid::from_raw(i32::try_from(child.id()).context("a process id that is none")?);
    let from_terminal = io::stdin().is_terminal();
    let mut ended: JoinHandle<io::Result<ExitStatus>> = tokio::task::spawn_blocking(move || child.wait());
    loop {
        let signal = tokio::select! {
            status = &mut ended => return Ok(status.context("waiting for the command failed")??),
            _ = signals.interrupt.recv() => if from_terminal { None } else { Some(Signal::SIGINT) },
            _ = signals.terminate.recv() => Some(Signal::SIGTERM),
        };
        if let Some(signal) = signal {
            // It may have ended meanwhile: then its status comes next.
            kill(pid, signal).ok();
        }
    }
}

/// As shells have it: the code, or 128 and the signal.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Waits until no connection is open, for a while: FINs are still on their way when a command has ended.
async fn linger(agent: &Handle) {
    let end = Instant::now() + LINGER;
    while Instant::now() < end {
        sleep(LINGER_STEP).await;
        let Some((snapshot, _)) = agent.scrape().await else {
            return;
        };
        if snapshot.destinations.iter().all(|destination| destination.open() == 0) {
            return;
        }
    }
}

/// Ends the pipeline, then waits for the last lines; another signal cuts that short.
async fn finish(
    running: Running,
    printed: oneshot::Receiver<io::Result<()>>,
    signals: &mut Signals,
) -> Result<Finished, CommandError> {
    let finished = signals.or_cut_short(running.stop()).await?;
    if let Ok(result) = timeout(PRINT_LIMIT, printed).await {
        written(result)?;
    } else {
        tracing::warn!("nobody reads the output: the last lines are missing");
    }
    tell_losses(&finished);
    Ok(finished)
}

fn written(result: Result<io::Result<()>, oneshot::error::RecvError>) -> Result<(), CommandError> {
    Ok(result
        .context("the printer broke; please report this")?
        .context("cannot write the output")?)
}
