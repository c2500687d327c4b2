//! A tiny ring and a reader that stands still: events are lost, and every one of them is counted.

use anyhow::Result;
use nix::sys::signal::Signal;

use super::flood;
use crate::hopline::{Agent, AgentOptions};
use crate::lab::Lab;
use crate::topology::busy_loopback;
use crate::verdict::Verdict;

/// The smallest that the kernel takes: one page.
const RING_BYTES: u32 = 4_096;
const PER_SECOND: u64 = 2_000;

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let netns = busy_loopback()?;
    let mut server = lab.helper(&["serve", "0.0.0.0:8080/sink"], &netns, &lab.tools)?;
    server.wait_for("ready")?;
    let options = AgentOptions {
        ring_bytes: Some(RING_BYTES),
        ..AgentOptions::default()
    };
    let agent = Agent::start(lab, lab.traffic.path(), &options)?;
    let flood = || flood::start(lab, &netns, &lab.traffic, &flood::LOUD, PER_SECOND, 2);

    // Once with the reader at work, once without.
    let mut made = flood::finish(flood()?)?.total();
    agent.signal(Signal::SIGSTOP)?;
    let stopped = flood::finish(flood()?);
    agent.signal(Signal::SIGCONT)?;
    made += stopped?.total();

    let metrics = agent.scrape_drained()?;
    agent.stop()?;
    let lost = metrics.sum("hopline_events_lost_total", &[]);
    verdict.at_least("events lost", lost as f64, 1.0, "");
    for kind in metrics.values("hopline_events_attempted_total", "kind") {
        let of_kind = [("kind", kind)];
        let attempted = metrics.sum("hopline_events_attempted_total", &of_kind);
        let received = metrics.sum("hopline_events_total", &of_kind);
        let lost = metrics.sum("hopline_events_lost_total", &of_kind);
        verdict.count(
            format!("{kind}: received + lost = attempted"),
            received + lost,
            attempted,
        );
    }
    // The attempts are true only if they are the generator's.
    let attempted = metrics.sum("hopline_events_attempted_total", &[("kind", "connection_close")]);
    verdict.count("connection_close: attempted", attempted, made);
    Ok(())
}
