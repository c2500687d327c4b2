//! `hopline agent`: the daemon.
use std::{process::ExitCode, sync::Arc};

use anyhow::anyhow;
use tokio::sync::broadcast;

use super::{CommandError, Logging, Signals, block_on, print, tell_losses};
use crate::{
    agent::{self, AgentError},
    bpf,
    cli::AgentArgs,
    config::Config,
    export::{http, prometheus},
    owner::Listener,
    pipeline::{Output, Pipeline, PipelineSettings},
    privileges::{self, Keep},
    tracer,
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

async fn serve(config: Config) -> Result<ExitCode, CommandError> {
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
    let mut running = agent::start(&config, Listener::Stream(records), Keep::default())?;
    let by_choice = [tracer::SWITCHED_OFF, bpf::TLS_SWITCHED_OFF];
    for state in running
        .handle()
        .features()
        .iter()
        .filter(|state| !state.enabled && !by_choice.contains(&state.reason.as_str()))
    {
        tracing::warn!(
            feature = state.feature,
            reason = state.reason,
            "this kernel does not serve a feature"
        );
    }
    let mut server = http::start(listener, running.handle().clone(), descriptors)?;
    tracing::info!(%address, "attached; metrics at http://{address}/metrics");
    let ended = tokio::select! {
        () = signals.end() => None,
        error = running.ended() => Some(error),
        () = server.ended() => Some(AgentError::Stopped("HTTP server")),
    };
    drop(server);
    if let Some(error) = ended {
        return Err(error.into());
    }
    tracing::info!("ending");
    tell_losses(&signals.or_cut_short(running.stop()).await?);
    Ok(ExitCode::SUCCESS)
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
