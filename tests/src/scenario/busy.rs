//! A path of 50 ± 15 ms while every processor is 95 % busy with something else: times stay true.
//!
//! Truth: captures on the side of each record. The router runs before everything else.

use std::time::Duration;

use anyhow::Result;

use super::rtt::compare::{self, Tolerance};
use crate::capture::{Capture, RoundTrips};
use crate::hopline::{Agent, AgentOptions, Record, Trace};
use crate::lab::Lab;
use crate::router::{DEVICE, RouterSettings};
use crate::topology::{Family, Pair};
use crate::traffic::pulse::pulses;
use crate::verdict::Verdict;

const PORT: u16 = 8_080;
const CONNECTIONS: usize = 20;

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    // Both ways together.
    let settings = RouterSettings {
        delay_us: 17_500,
        jitter_us: 15_000,
        seed: 3,
        ..RouterSettings::default()
    };
    let pair = Pair::new(lab, &settings)?;
    let to = Family::Ipv4.server(PORT).to_string();
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start(lab, "busy", lab.traffic.path())?;
    let mut server = lab.helper(&["serve", &format!("{to}/pulse")], &pair.server, &lab.traffic)?;
    server.wait_for("ready")?;
    let at_client = Capture::start(lab, "busy-client", &pair.client, DEVICE)?;
    let at_server = Capture::start(lab, "busy-server", &pair.server, DEVICE)?;
    let burning = lab.helper(&["burn", "--percent", "95"], &pair.client, &lab.tools)?;
    let milliseconds = (lab.seconds(if lab.short { 20 } else { 120 }) * 1_000).to_string();
    let words = ["pulse", "--milliseconds", &milliseconds];
    let words: Vec<&str> = words.into_iter().chain([to.as_str(); CONNECTIONS]).collect();
    let made = pulses(&lab.helper(&words, &pair.client, &lab.traffic)?.finish()?)?;
    drop(burning);
    std::thread::sleep(Duration::from_secs(1));
    trace.wait_for(2 * made.len())?;
    let metrics = agent.scrape_drained()?;
    let records = trace.finish()?;
    drop(server);
    agent.stop()?;

    let answered: u64 = made.iter().map(|pulse| pulse.answered).sum();
    verdict.note("answers", answered as f64, "");
    let tolerance = Tolerance {
        part: 0.05,
        least_us: 2_000.0,
    };
    for (role, capture) in [("client", at_client), ("server", at_server)] {
        let capture = RoundTrips::read(&capture.end()?)?;
        let of_role: Vec<&Record> = records.iter().filter(|record| record.role == role).collect();
        verdict.count(format!("{role} records"), of_role.len() as u64, made.len() as u64);
        let mut worst = 0.0_f64;
        for record in of_role {
            let name = format!("{role} port {}", record.local.port.max(record.remote.port));
            let parts = compare::quantiles(verdict, &name, record, &capture, &[50, 99], tolerance);
            worst = parts.into_iter().fold(worst, f64::max);
        }
        verdict.at_most(
            format!("{role} p50 and p99, worst deviation of what is allowed"),
            worst * 100.0,
            100.0,
            "%",
        );
    }
    super::compare_losses(verdict, &metrics);
    Ok(())
}
