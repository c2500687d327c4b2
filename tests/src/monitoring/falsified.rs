//! What Prometheus scrapes when a scenario is sabotaged: the agent's own exposition, falsified on its way.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use super::http;
use crate::hopline::{Agent, Sabotage, falsify_exposition};

/// Where to scrape an agent.
#[derive(Debug)]
pub(crate) struct Falsified;

impl Falsified {
    /// The agent itself, or with a sabotage somebody who passes on its metrics falsified.
    pub(crate) fn of(agent: &Agent, sabotage: Option<Sabotage>) -> Result<SocketAddr> {
        let Some(sabotage) = sabotage else {
            return Ok(agent.address());
        };
        let address = agent.address();
        http::serve(move |request| {
            let (status, text) = http::get(address, &request.path)?;
            ensure!(status == 200, "the agent answered {status}");
            falsify_exposition(sabotage, &text)
        })
    }
}
