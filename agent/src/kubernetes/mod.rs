//! Asks who the pods of this node are: the API server first, the container runtime's CRI socket while that does not answer.
//!
//! A thread of its own, started by `agent`: long answers must not hold up events. It tells `owner` what it learns and knows
//! no connection. What fails is tried again with growing pauses; one line is logged when names begin to be missing and one
//! when they come again, whatever happens between.
mod api;
mod backoff;
mod convert;
mod cri;
mod failure;
mod messages;
mod objects;
mod report;
mod settings;

use std::{io, thread, time::Duration};

use tokio::{
    sync::mpsc::{self, Receiver, Sender, WeakSender},
    time::{Instant, sleep_until},
};

pub use settings::Settings;

use crate::{
    owner::Input,
    workloads::{Change, Source},
};
use cri::Runtime;
use failure::Failure;
use report::Report;

/// What the API's task may have told before the thread has taken it.
const TOLD: usize = 16;
/// The runtime is asked this often while it is the source.
const RUNTIME_EVERY: Duration = Duration::from_secs(5);
/// It is not asked again sooner, however many pods are waited for.
const RUNTIME_REST: Duration = Duration::from_millis(50);
/// The API server is waited for so long before the runtime is asked instead.
const API_FIRST: Duration = Duration::from_secs(2);

/// What the API's task tells.
#[derive(Debug)]
enum Told {
    Change(Change),
    /// It is being told of changes.
    Watching,
    Failed(Failure),
}

/// Starts the thread. Whoever meets a pod that is not known says so through the sender.
pub fn start(settings: Settings, inputs: WeakSender<Input>) -> io::Result<Sender<()>> {
    let (unknown, met) = mpsc::channel(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new()
        .name("kubernetes".to_owned())
        .spawn(move || runtime.block_on(run(settings, &inputs, met)))?;
    Ok(unknown)
}

/// Runs until the owner has ended.
async fn run(settings: Settings, inputs: &WeakSender<Input>, mut met: Receiver<()>) {
    let (tell, mut told) = mpsc::channel(TOLD);
    let has_api = settings.has_api;
    let mut runtime = Runtime::new(&settings);
    let mut report = Report::new(has_api, settings.is_runtime_named);
    let mut due = Instant::now();
    if has_api {
        due += API_FIRST;
        tokio::spawn(api::run(settings, tell.clone()));
    }
    let mut is_watching = false;
    let mut last_asked = Instant::now() - RUNTIME_REST;
    loop {
        if let Some(state) = report.news(runtime.exists())
            && !send(inputs, Change::State(state)).await
        {
            return;
        }
        tokio::select! {
            Some(told) = told.recv() => match told {
                Told::Change(change) => if !send(inputs, change).await {
                    return;
                },
                Told::Watching => {
                    is_watching = true;
                    report.works(Source::Api);
                }
                Told::Failed(failure) => {
                    is_watching = false;
                    report.failed(Source::Api, &failure);
                    due = due.min(Instant::now() + RUNTIME_REST);
                }
            },
            // A pod that the API server does not tell of yet is waited for, not asked for.
            Some(()) = met.recv() => if !is_watching {
                due = due.min(last_asked + RUNTIME_REST);
            },
            () = sleep_until(due) => {
                last_asked = Instant::now();
                due = last_asked + RUNTIME_EVERY;
                if is_watching {
                    continue;
                }
                match runtime.list().await {
                    None => {}
                    Some(Ok(pods)) => {
                        report.works(Source::Cri);
                        if !send(inputs, Change::All(Source::Cri, pods)).await {
                            return;
                        }
                    }
                    Some(Err(failure)) => report.failed(Source::Cri, &failure),
                }
                if inputs.upgrade().is_none() {
                    return;
                }
            }
        }
    }
}

/// Whether the owner is still there.
async fn send(inputs: &WeakSender<Input>, change: Change) -> bool {
    let Some(inputs) = inputs.upgrade() else { return false };
    inputs.send(Input::Pods(change)).await.is_ok()
}
