//! `hopline top`: the live table of destinations, of a running agent or of a pipeline of its own.
use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;
use tokio::{
    sync::broadcast,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{CommandError, Logging, Signals, block_on, print, safe_mode, seeing, tell_losses};
use crate::{
    agent::{self, Running},
    cli::TopArgs,
    config::{Config, TraceWhat},
    export::{
        http::Source as _,
        human::{self, Figures},
        json,
    },
    fetch::Target,
    host::Host,
    owner::Listener,
    privileges::{self, Keep},
};

/// How often the table is shown anew.
const EVERY: Duration = Duration::from_secs(2);
/// What a pipeline of its own watches before the only table: a whole window.
const FIRST_LOOK: Duration = Duration::from_secs(6);
/// Longest that an agent may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Longest answer: more than a full series budget gives.
const MOST_BYTES: u64 = 256 << 20;
/// Cursor to the upper left, the rest of the screen wiped (ECMA-48 sections 8.3.21 and 8.3.39).
const WIPE: &str = "\x1b[H\x1b[J";

pub(super) fn run(args: &TopArgs, logging: Logging) -> Result<ExitCode, CommandError> {
    logging.start_quiet();
    privileges::no_new_privs();
    if let Some(url) = &args.agent {
        let target = Target::parse(url).map_err(CommandError::Usage)?;
        if target.is_https {
            return Err(CommandError::Usage(format!("`{url}`: agents are asked by http://")));
        }
        return block_on(of_agent(args, target));
    }
    let mut config = Config::load(&args.watch)?;
    // Who only looks sends nothing.
    config.paths.trace = TraceWhat::Off;
    safe_mode::follow(&mut config, &Host::running()?);
    block_on(of_own(args, config))
}

/// Asks a running agent.
async fn of_agent(args: &TopArgs, target: Target) -> Result<ExitCode, CommandError> {
    let ask = async || {
        let target = target.clone();
        let answer = tokio::task::spawn_blocking(move || ask(&target, "/api/v1/destinations")).await;
        answer.context("asking the agent failed")?
    };
    if args.once {
        print(&table(args, &ask().await?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut signals = Signals::new()?;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = signals.end() => return Ok(ExitCode::SUCCESS),
            _ = ticks.tick() => show(args, &ask().await?)?,
        }
    }
}

/// Runs a pipeline of its own.
async fn of_own(args: &TopArgs, config: Config) -> Result<ExitCode, CommandError> {
    let mut signals = Signals::new()?;
    // Nobody gets single records: none are made.
    let listener = Listener::Stream(broadcast::Sender::new(1));
    let mut running = agent::start(&config, listener, Keep::default())?;
    seeing(running.handle())?;
    running.ready().await;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let first_look = sleep(FIRST_LOOK);
    tokio::pin!(first_look);
    loop {
        tokio::select! {
            () = signals.end() => break,
            error = running.ended() => return Err(error.into()),
            () = &mut first_look, if args.once => {
                print(&table(args, &own(&running).await?))?;
                break;
            }
            _ = ticks.tick(), if !args.once => show(args, &own(&running).await?)?,
        }
    }
    tell_losses(&signals.or_cut_short(running.stop()).await?);
    Ok(ExitCode::SUCCESS)
}

async fn own(running: &Running) -> Result<Value, CommandError> {
    let scrape = running.handle().scrape().await;
    let (snapshot, _) = scrape.ok_or_else(|| anyhow!("the pipeline does not answer"))?;
    Ok(json::destinations(&snapshot))
}

fn table(args: &TopArgs, destinations: &Value) -> String {
    let figures = if args.last {
        Figures::LastWindow
    } else {
        Figures::SinceStart
    };
    human::top(destinations, figures, args.rows as usize, io::stdout().is_terminal())
}

/// The table in the place of the one before; one below the other where there is no terminal.
fn show(args: &TopArgs, destinations: &Value) -> Result<(), CommandError> {
    let table = table(args, destinations);
    if io::stdout().is_terminal() {
        print(&format!("{WIPE}{table}"))
    } else {
        print(&format!("{table}\n"))
    }
}

/// One GET, by HTTP/1.0: the answer ends with the connection.
pub(super) fn ask(target: &Target, path: &str) -> anyhow::Result<Value> {
    let (host, port) = (&target.host, target.port);
    let addresses = (host.as_str(), port).to_socket_addrs();
    let addresses = addresses.with_context(|| format!("no address for {host}"))?;
    let mut last = anyhow!("no address for {host}");
    for address in addresses {
        match TcpStream::connect_timeout(&address, ANSWER_LIMIT) {
            Ok(stream) => return exchange(stream, target, path),
            Err(error) => last = anyhow!("no agent answers at {}: {error}", target.url),
        }
    }
    Err(last)
}

fn exchange(mut stream: TcpStream, target: &Target, path: &str) -> anyhow::Result<Value> {
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    let host = if target.host.contains(':') {
        format!("[{}]", target.host)
    } else {
        target.host.clone()
    };
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}:{}\r\n\r\n", target.port)?;
    let mut answer = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the agent's answer has no end of its head")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("{} answered {status}: {}", target.url, body.trim());
    }
    serde_json::from_str(body).context("the agent's answer is no JSON")
}
