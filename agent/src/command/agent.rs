//! `hopline agent`: the daemon.
use std::{process::ExitCode, sync::Arc};

use anyhow::anyhow;
use tokio::{net::TcpListener, sync::broadcast};

use super::{CommandError, Logging, Signals, block_on, print, tell_losses};
use crate::{
    agent,
    cli::AgentArgs,
    config::Config,
    export::{http, prometheus},
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

async fn serve(config: Config) -> Result<ExitCode, CommandError> {
    let mut signals = Signals::new()?;
    // Before anything is attached: the likeliest mistake costs nothing then.
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        anyhow!(
            "cannot listen on {}: {error}; end what listens there or choose another address with --listen",
            config.listen
        )
    })?;
    let address = listener.local_addr()?;
    let records: broadcast::Sender<Arc<Output>> = broadcast::Sender::new(STREAM_RECORDS);
    let mut running = agent::start(&config, Listener::Stream(records), Keep::default())?;
    for state in running
        .handle()
        .features()
        .iter()
        .filter(|state| !state.enabled && !state.switched_off)
    {
        tracing::warn!(
            feature = state.feature,
            reason = state.reason,
            "this kernel does not serve a feature"
        );
    }
    let server = tokio::spawn(http::serve(listener, running.handle().clone()));
    tracing::info!(%address, "attached; metrics at http://{address}/metrics");
    let ended = tokio::select! {
        () = signals.end() => None,
        error = running.ended() => Some(error),
    };
    server.abort();
    if let Some(error) = ended {
        return Err(error.into());
    }
    tracing::info!("ending");
    tell_losses(&signals.or_cut_short(running.stop()).await?);
    Ok(ExitCode::SUCCESS)
}
