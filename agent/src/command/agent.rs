//! `hopline agent`: the daemon.
use std::{future::pending, process::ExitCode, sync::Arc};

use anyhow::anyhow;
use tokio::{sync::broadcast, time::sleep};

use super::{CommandError, Logging, Signals, again::Again, block_on, print, safe_mode, tell_losses};
use crate::{
    agent::{self, AgentError},
    bpf,
    cli::AgentArgs,
    config::Config,
    export::{http, prometheus},
    host::Host,
    owner::Listener,
    pipeline::{Output, Pipeline, PipelineSettings},
    privileges::{self, Keep},
};

/// Records that a listener of the stream may be behind before it misses some.
const STREAM_RECORDS: usize = 1024;

pub(super) fn run(args: &AgentArgs, logging: Logging) -> Result<ExitCode, CommandError> {
    let mut config = Config::load(&args.watch)?;
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    if args.print_config {
        print(&config.to_yaml())?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.print_metrics {
        print(&prometheus::reference(
            &Pipeline::new(PipelineSettings::default()).snapshot(),
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    privileges::no_new_privs();
    logging.start(config.log.level, config.log.format);
    block_on(serve(config))
}

async fn serve(mut config: Config) -> Result<ExitCode, CommandError> {
    let mut signals = Signals::new()?;
    let descriptors = enough_descriptors()?;
    // Before anything is attached: the likeliest mistake costs nothing then.
    let listener = http::listen(config.listen).map_err(|error| {
        anyhow!(
            "cannot listen on {}: {error}; end what listens there or choose another address with --listen",
            config.listen
        )
    })?;
    let address = listener.local_addr()?;
    let records: broadcast::Sender<Arc<Output>> = broadcast::Sender::new(STREAM_RECORDS);
    // On disk before the first program is loaded: the kernel may die a moment later.
    let noted = safe_mode::start(&mut config, &Host::running()?);
    let again = config.safe_mode.is_some().then(Again::prepare).transpose()?;
    let started = agent::start(&config, Listener::Stream(records), Keep::default());
    // An orderly refusal is no crash.
    let mut running = started.inspect_err(|_| noted.end())?;
    for state in running
        .handle()
        .features()
        .iter()
        .filter(|state| state.is_missing() && !state.reason.contains(bpf::SAFE_MODE))
    {
        tracing::warn!(
            feature = state.feature,
            reason = state.reason,
            "this kernel does not serve a feature"
        );
    }
    let mut server = http::start(listener, running.handle().clone(), descriptors)?;
    tracing::info!(%address, "attached; metrics at http://{address}/metrics");
    let safe_mode_over = async {
        match &again {
            Some(_) => sleep(noted.remaining).await,
            None => pending().await,
        }
    };
    let ended = tokio::select! {
        () = signals.end() => Ok(false),
        () = safe_mode_over => Ok(true),
        error = running.ended() => Err(error),
        () = server.ended() => Err(AgentError::Stopped("HTTP server")),
    };
    drop(server);
    let is_over = ended?;
    tracing::info!("ending");
    let stopped = signals.or_cut_short(running.stop()).await;
    // Somebody asked for the end: however it went, nothing crashed.
    noted.end();
    tell_losses(&stopped?);
    match again {
        Some(again) if is_over => {
            tracing::info!("safe mode has lasted a day: starting anew");
            drop(noted);
            again.begin()
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// As many descriptors as this process may have; below a certain number nothing works for long.
fn enough_descriptors() -> Result<usize, CommandError> {
    let descriptors = privileges::raise_descriptors()?;
    let needed = http::NEEDED_DESCRIPTORS;
    if descriptors < needed {
        return Err(anyhow!(
            "{needed} open files are needed and {descriptors} are allowed; raise the limit with LimitNOFILE= in the \
             systemd unit, --ulimit nofile= of the container runtime, or ulimit -Hn"
        )
        .into());
    }
    Ok(descriptors)
}
