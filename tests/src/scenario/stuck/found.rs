//! Connects that hang when hopline starts: how often they have sent their SYN is the kernel's number, and how they end is seen.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{said_syns, syns_again};
use crate::hopline::{Agent, AgentOptions, Record, Trace};
use crate::lab::Lab;
use crate::process;
use crate::router::{ALL, Fault, PortFault, RouterSettings};
use crate::topology::{Family, Pair};
use crate::traffic::connect::attempts;
use crate::verdict::Verdict;

const PORT: u16 = 8_080;
/// Connects of each of the two clients: one aborts, of the other the kernel gives up.
const CONNECTS: u64 = 2;

pub(super) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let faults = vec![PortFault {
        port: PORT,
        fault: Fault::SwallowSyn { first: ALL },
    }];
    let pair = Pair::new(
        lab,
        &RouterSettings {
            faults,
            ..RouterSettings::default()
        },
    )?;
    // 1 + 2 + 4 + 8 + 16 s.
    pair.client.sysctl("net.ipv4.tcp_syn_retries", "4")?;
    let to = Family::Ipv4.server(PORT).to_string();
    let threads = CONNECTS.to_string();
    let timing_out = ["connect", "--to", &to, "--threads", &threads];
    let aborting = [&timing_out[..], &["--abort-after-ms", "22000"]].concat();
    let clients = [
        (lab.helper(&timing_out, &pair.client, &lab.traffic)?, libc::ETIMEDOUT),
        (lab.helper(&aborting, &pair.client, &lab.traffic)?, -1),
    ];
    // The SYN has been sent again twice by then, and not for the third time.
    std::thread::sleep(Duration::from_millis(3_500));
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start(lab, "found", lab.traffic.path())?;
    let all = 2 * CONNECTS;
    let is_stuck = |record: &Record| record.event == "stuck";
    process::poll(Duration::from_secs(10) * lab.patience(), || {
        Ok(trace.so_far()?.iter().filter(|record| is_stuck(record)).count() as u64 >= all)
    })?;
    let again = syns_again(&pair.client)?;
    let stuck: Vec<Record> = trace.so_far()?.into_iter().filter(is_stuck).collect();
    verdict.text("SYNs sent again by what was found", said_syns(&stuck), again);
    for (client, error) in clients {
        let made = attempts(&client.finish()?)?;
        let as_named = made.iter().filter(|attempt| attempt.error == error).count() as u64;
        ensure!(
            as_named == CONNECTS,
            "{as_named} of {CONNECTS} connects ended with errno {error}"
        );
    }
    trace.wait_for(2 * all as usize)?;
    let metrics = agent.scrape_drained()?;
    let records = trace.finish()?;
    for outcome in ["timeout", "abandoned"] {
        let of =
            |record: &&Record| record.event == "finished" && record.late && record.outcome.as_deref() == Some(outcome);
        verdict.count(
            format!("found while connecting, then {outcome}"),
            records.iter().filter(of).count() as u64,
            CONNECTS,
        );
        let labels = [("role", "client"), ("error", outcome)];
        verdict.count(
            format!("found and counted as {outcome}"),
            metrics.sum("hopline_tcp_connections_total", &labels),
            CONNECTS,
        );
    }
    agent.stop()
}
