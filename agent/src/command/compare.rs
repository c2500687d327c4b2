//! `hopline compare`: fetches URLs in a cgroup of its own, and lets the kernel side measure it there.
mod collector;
mod crew;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use tokio::sync::mpsc;

use self::{collector::Collector, crew::Crew};
use super::{
    CommandError, Logging, Signals, block_on, own_cgroup::OwnCgroup, print, progress::Progress, safe_mode, seeing,
    tell_losses,
};
use crate::{
    agent,
    cli::CompareArgs,
    compare::{self, Judged, Row},
    config::Config,
    export::compare as export,
    fetch::{Client, Target, Trust},
    host::Host,
    owner::Listener,
    privileges::{self, Keep},
};

/// Batches of records that may wait for the collector.
const BATCHES: usize = 4;
/// After the last answer: how long the last connections may take to close.
const LINGER: Duration = Duration::from_secs(2);

/// What to fetch and how.
#[derive(Debug)]
struct Plan {
    targets: Vec<Target>,
    /// To each target.
    requests: usize,
    concurrency: usize,
    client: Client,
}

impl Plan {
    fn new(args: &CompareArgs) -> Result<Self, CommandError> {
        let targets: Result<Vec<_>, _> = args.urls.iter().map(|url| Target::parse(url)).collect();
        let targets = targets.map_err(CommandError::Usage)?;
        if args.timeout.is_zero() {
            return Err(CommandError::Usage(
                "--timeout 0s leaves no time for a request".to_owned(),
            ));
        }
        let trust = if targets.iter().any(|target| target.is_https) {
            let trust = Trust::load(args.cacert.as_deref()).context("cannot tell good certificates from bad")?;
            Some(Arc::new(trust))
        } else {
            None
        };
        Ok(Self {
            targets,
            requests: args.requests as usize,
            concurrency: usize::from(args.concurrency),
            client: Client {
                trust,
                is_insecure: args.insecure,
                limit: args.timeout,
            },
        })
    }

    fn total(&self) -> usize {
        self.requests * self.targets.len()
    }
}

pub(super) fn run(args: &CompareArgs, logging: Logging) -> Result<ExitCode, CommandError> {
    logging.start_quiet();
    let file = Config::read(args.config.as_deref())?;
    let plan = Arc::new(Plan::new(args)?);
    privileges::no_new_privs();
    let cgroup = OwnCgroup::create("compare")?;
    cgroup.enter()?;
    let mut config = Config {
        cgroups: vec![cgroup.path().to_owned()],
        features: file.features,
        state_dir: file.state_dir,
        ..Config::default()
    };
    safe_mode::follow(&mut config, &Host::running()?);
    let rows = block_on(measure(&plan, &config))?;
    let judged = compare::judge(&args.fail_if, &rows);
    if args.json {
        print(&format!("{}\n", export::json(&rows, &judged)))?;
    } else {
        print(&export::table(&rows))?;
    }
    conclude(&plan, &rows, &judged)
}

/// The lines on stderr, and the exit code.
fn conclude(plan: &Plan, rows: &[Row], judged: &[Judged<'_>]) -> Result<ExitCode, CommandError> {
    for judged in judged {
        eprintln!("hopline: {}", export::judged(judged));
    }
    let sum = |count: fn(&Row) -> u64| rows.iter().map(count).sum::<u64>();
    let done = sum(|row| row.requests);
    if done < plan.total() as u64 {
        return Err(anyhow!("interrupted after {done} of {} requests", plan.total()).into());
    }
    if sum(|row| row.ok) == 0 {
        return Err(anyhow!("no URL gave an answer").into());
    }
    let holds = judged.iter().any(|judged| matches!(judged, Judged::Holds(..)));
    Ok(if holds { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Fetches until all is done or a signal comes.
async fn measure(plan: &Arc<Plan>, config: &Config) -> Result<Vec<Row>, CommandError> {
    let mut signals = Signals::new()?;
    let (sender, records) = mpsc::channel(BATCHES);
    // The cgroup must be removed again.
    let keep = Keep {
        writes_files: true,
        ..Keep::default()
    };
    let mut running = agent::start(config, Listener::All(sender), keep)?;
    seeing(running.handle())?;
    let mut collector = Collector::start(records);
    running.ready().await;

    let mut crew = Crew::start(plan)?;
    let mut requests = Vec::new();
    let mut progress = Progress::start(plan.total() as u64);
    loop {
        tokio::select! {
            request = crew.next() => match request {
                Some(request) => requests.push(request),
                None => break,
            },
            () = signals.end() => break,
            error = running.ended() => return Err(error.into()),
        }
        progress.step();
    }
    drop((crew, progress));
    let cookies: Vec<u64> = requests.iter().filter_map(|(_, fetched)| fetched.cookie).collect();
    collector.wait(&cookies, LINGER).await;
    let finished = signals.or_cut_short(running.stop()).await?;
    tell_losses(&finished);
    let connections = collector.finish().await?;
    let unknown = cookies
        .iter()
        .filter(|cookie| !connections.contains_key(cookie))
        .count();
    if unknown > 0 {
        tracing::warn!(
            connections = unknown,
            "connections did not end in time or were lost: they are not in the figures"
        );
    }
    Ok(compare::compare(&plan.targets, &requests, &connections))
}
