//! Connections that nobody answers are shown while they hang, with their process, and counted once when they end.
//!
//! Here those whose connect hangs; `phases` has those whose server is silent later.

mod found;
mod phases;
mod unanswered;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::hopline::{Agent, AgentOptions, Record, Trace};
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process;
use crate::router::{ALL, Fault, PortFault, RouterSettings};
use crate::tools;
use crate::topology::{Family, Pair};
use crate::traffic::connect::attempts;
use crate::verdict::Verdict;

const PORT: u16 = 8080;
const COMM: &str = "lab-stuck";
/// Connects that the kernel gives up, and connects that their owner gives up.
const TIMED_OUT: u64 = 3;
const ABORTED: u64 = 2;

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    connects(lab, verdict)?;
    phases::run(lab, verdict)?;
    unanswered::run(lab, verdict)?;
    found::run(lab, verdict)
}

fn connects(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
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
    // 1 + 2 + 4 + 8 s: long enough to be stuck, short enough to see the end.
    pair.client.sysctl("net.ipv4.tcp_syn_retries", "3")?;
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start(lab, "stuck", lab.traffic.path())?;

    let to = Family::Ipv4.server(PORT).to_string();
    let words = |threads: u64| {
        [
            "connect",
            "--to",
            &to,
            "--comm",
            COMM,
            "--threads",
            &threads.to_string(),
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let to_time_out = words(TIMED_OUT);
    let mut to_abort = words(ABORTED);
    // After `STUCK` was due, before the time-out: the kernel's timers are as fast on a slow machine.
    to_abort.extend(["--abort-after-ms", "10000"].map(str::to_owned));
    let start = |words: &[String]| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        lab.helper(&words, &pair.client, &lab.traffic)
    };
    let (timing_out, aborting) = (start(&to_time_out)?, start(&to_abort)?);
    let pids = [timing_out.pid(), aborting.pid()];

    let all = TIMED_OUT + ABORTED;
    let waiting = |metrics: &crate::hopline::Metrics| metrics.sum("hopline_connections_waiting", &[("phase", "tcp")]);
    let (metrics, after) = agent.scrape_until(Duration::from_secs(6), |metrics| waiting(metrics) == all)?;
    verdict.count("waiting in tcp", waiting(&metrics), all);
    verdict.note("waiting in tcp after", after.as_secs_f64(), "s");
    // `STUCK` comes after 5 s; the agent's clock ticks once a second.
    let is_stuck = |record: &Record| record.event == "stuck";
    process::poll(Duration::from_secs(6) * lab.patience(), || {
        Ok(trace.so_far()?.iter().filter(|record| is_stuck(record)).count() as u64 >= all)
    })?;
    let again = syns_again(&pair.client)?;
    let stuck: Vec<Record> = trace.so_far()?.into_iter().filter(is_stuck).collect();
    verdict.text("SYNs sent again while STUCK", said_syns(&stuck), again);
    verdict.count("STUCK records", stuck.len() as u64, all);
    let owned = |record: &&Record| {
        record.process.comm.as_deref() == Some(COMM) && record.process.pid.is_some_and(|pid| pids.contains(&pid))
    };
    verdict.count(
        "STUCK records with their process",
        stuck.iter().filter(owned).count() as u64,
        all,
    );
    let in_tcp = |record: &&Record| record.waiting.as_deref() == Some("tcp") && record.outcome.is_none();
    verdict.count(
        "STUCK records in phase tcp",
        stuck.iter().filter(in_tcp).count() as u64,
        all,
    );
    let longest = stuck.iter().map(|record| record.duration_us).max().unwrap_or_default();
    verdict.at_least("longest STUCK so far", longest as f64 / 1e6, 5.0, "s");

    for (process, error, count) in [(timing_out, libc::ETIMEDOUT, TIMED_OUT), (aborting, -1, ABORTED)] {
        let made = attempts(&process.finish()?)?;
        let as_named = made.iter().filter(|attempt| attempt.error == error).count() as u64;
        ensure!(
            as_named == count,
            "{as_named} of {count} connects ended with errno {error}"
        );
    }
    let (metrics, _) = agent.scrape_until(Duration::from_secs(3), |metrics| waiting(metrics) == 0)?;
    verdict.count("waiting after the end", waiting(&metrics), 0);
    let metrics = agent.scrape_drained()?;
    for (error, count) in [("timeout", TIMED_OUT), ("abandoned", ABORTED)] {
        let labels = [("role", "client"), ("error", error)];
        verdict.count(
            format!("counted as {error}"),
            metrics.sum("hopline_tcp_connections_total", &labels),
            count,
        );
    }
    verdict.count(
        "counted in all",
        metrics.sum("hopline_tcp_connections_total", &[("role", "client")]),
        all,
    );
    let records = trace.finish()?;
    let finished = |outcome: &str| {
        let of = |record: &&Record| record.event == "finished" && record.outcome.as_deref() == Some(outcome);
        records.iter().filter(of).count() as u64
    };
    verdict.count("finished as timeout", finished("timeout"), TIMED_OUT);
    verdict.count("finished as abandoned", finished("abandoned"), ABORTED);
    agent.stop()
}

/// How often each connect that hangs has sent its SYN again, by the kernel's own timers, sorted.
fn syns_again(netns: &NetNs) -> Result<String> {
    let listed =
        netns.run(|| tools::output_of(Command::new("ss").args(["-H", "-t", "-n", "-o", "state", "syn-sent"])))?;
    let again = listed.lines().map(|line| {
        // timer:(on,3.5sec,2)
        let timer = line.split("timer:(").nth(1).and_then(|timer| timer.split(')').next());
        let resent = timer.and_then(|timer| timer.rsplit(',').next()?.parse().ok());
        resent.with_context(|| format!("ss says nothing of a timer: {line}"))
    });
    let again: Vec<u64> = again.collect::<Result<_>>()?;
    Ok(sorted(again))
}

/// The same of records.
fn said_syns<'a>(records: impl IntoIterator<Item = &'a Record>) -> String {
    sorted(records.into_iter().map(|record| record.tcp.retransmits.syn).collect())
}

fn sorted(mut numbers: Vec<u64>) -> String {
    numbers.sort_unstable();
    format!("{numbers:?}")
}
