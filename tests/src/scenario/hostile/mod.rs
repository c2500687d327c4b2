//! One cgroup does to DNS whatever it likes: thousands of new names, queries that nobody answers, names and answers that
//! are none. A quiet one beside it keeps every name and every record, and the agent keeps its size.
//!
//! Truth: the noise's own counts, and what was written down for the quiet one before it ran.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::names::{Destination, Names, Place, Ports, RESOLVER, SILENT, Script, finish, judge};
use crate::cgroup::Cgroup;
use crate::hopline::{Agent, AgentOptions, Metrics, Trace};
use crate::lab::{Lab, Tolerance};
use crate::process::Process;
use crate::traffic::names::noise::Noise;
use crate::traffic::names::resolver::{Entry, Table, Trick};
use crate::traffic::names::steps::{How, Speak};
use crate::verdict::Verdict;

const SECONDS: u64 = 20;
/// Of each noisy process: names, queries that nobody answers, and rounds of what nobody may send; per second.
const RATES: [u64; 3] = [500, 1_250, 50];
const PROCESSES: u64 = 2;
/// Connections per second of the quiet one.
const QUIET_PER_SECOND: u64 = 10;
const QUIET_NAMES: usize = 30;
const QUIET_DELAY_US: u64 = 1_000;
/// What hopline may take, whatever is done to it.
const MOST_MIB: f64 = 80.0;
/// What "flat" allows after the first third.
const GROWTH_MIB: f64 = 3.0;
/// A query without an answer is over after this ...
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// ... and its lookup a little later.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(7);
/// hopline's default.
const BUDGET: f64 = 20_000.0;
const LOST: &str = "hopline_events_lost_total";
/// Kinds of loss that are a cgroup's own, which had more than its share.
const REFUSED: [&str; 2] = ["dns_lookup_refused", "dns_name_evicted"];
const MALFORMED: &str = "hopline_dns_malformed_total";
const IGNORED: &str = "hopline_dns_ignored_total";

/// How loud it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// At a rate at which hopline reads everything.
    Paced,
    /// As fast as it goes: the loud one may lose events, the quiet one may not.
    FlatOut,
}

impl Part {
    fn cell(self) -> &'static str {
        match self {
            Self::Paced => "quiet",
            Self::FlatOut => "quiet, flat out",
        }
    }
}

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let seconds = lab.seconds(SECONDS).max(3);
    let hosts: Vec<String> = (0..QUIET_NAMES).map(|number| format!("q{number}.quiet.test")).collect();
    let names: Vec<Destination<'_>> = hosts.iter().enumerate().map(destination).collect();
    let place = Place::new(lab, "hostile", &table(&names), &[])?;
    let stage = Stage {
        lab,
        place,
        loud: lab.traffic.child("loud")?,
        quiet: lab.traffic.child("quiet")?,
    };
    stage.run(verdict, &names, Part::Paced, seconds)?;
    stage.run(verdict, &names, Part::FlatOut, (seconds / 4).max(3))
}

/// Where both are.
struct Stage<'a> {
    lab: &'a Lab,
    place: Place,
    loud: Cgroup,
    quiet: Cgroup,
}

impl Stage<'_> {
    fn run(&self, verdict: &mut Verdict, names: &[Destination<'_>], part: Part, seconds: u64) -> Result<()> {
        let lab = self.lab;
        let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
        let trace = Trace::start(lab, &format!("hostile-{part:?}"), lab.traffic.path())?;
        let script = script(names, part, seconds);
        let words = words(lab, part, seconds);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let begin = Instant::now();
        let noise: Vec<Process> = (0..PROCESSES)
            .map(|_| lab.helper(&words, &self.place.netns, &self.loud))
            .collect::<Result<_>>()?;
        let mut calm = script.start(lab, &format!("quiet-{part:?}"), &self.place, &self.quiet)?;
        let mut memory = Memory::new(Duration::from_secs(seconds / 3));
        while calm.ended()?.is_none() {
            memory.look(&agent, &trace, begin.elapsed())?;
            std::thread::sleep(Duration::from_millis(500));
        }
        let truths = script.truths(&finish(calm)?);
        let mut made = Noise::default();
        for process in noise {
            let counts: Noise = serde_json::from_str(&process.finish()?).context("a noise's counts")?;
            made = made.plus(counts);
        }
        let took = begin.elapsed();
        // What was never answered ends, and with it what it took.
        std::thread::sleep(LOOKUP_TIMEOUT);
        trace.wait_for(truths.len())?;
        memory.look(&agent, &trace, begin.elapsed())?;
        let cpu = agent.cpu_percent()?;
        let metrics = agent.scrape_drained()?;
        let records = trace.finish()?;
        agent.stop()?;

        let row = |what: &str| format!("{}: {what}", part.cell());
        let per_second = sent(&made) as f64 / took.as_secs_f64();
        verdict.note(row("noise beside it, datagrams per second"), per_second, "1/s");
        verdict.note(row("agent's processor share"), cpu, "%");
        verdict.count(row("records"), records.len() as u64, truths.len() as u64);
        judge(verdict, None, &records, &truths, |_| Names::Exact);
        memory.judge(verdict, &row);
        compare_counts(lab, verdict, &metrics, &made, part, script.datagrams());
        Ok(())
    }
}

fn destination((number, name): (usize, &String)) -> Destination<'_> {
    Destination {
        name,
        address: Ipv4Addr::new(127, 0, 7, 1 + (number % 3) as u8).into(),
        delay_us: QUIET_DELAY_US,
    }
}

fn table(names: &[Destination<'_>]) -> Table {
    let quiet = names.iter().map(|to| {
        let entry = Entry {
            addresses: vec![to.address],
            delay_us: to.delay_us,
            ..Entry::default()
        };
        (to.name.to_owned(), entry)
    });
    let tricks = [("*.flood.test", Trick::Spread), ("*.circle.test", Trick::Circle)];
    let tricks = tricks.map(|(name, trick)| {
        let entry = Entry {
            trick: Some(trick),
            ..Entry::default()
        };
        (name.to_owned(), entry)
    });
    quiet.chain(tricks).collect()
}

/// Each connection right after a lookup; what it says changes in turn.
fn script(names: &[Destination<'_>], part: Part, seconds: u64) -> Script {
    let mut script = Script::default();
    let mut ports = Ports::new();
    for number in 0..seconds * QUIET_PER_SECOND {
        let to = &names[number as usize % names.len()];
        let speak = match number / names.len() as u64 % 3 {
            0 => Speak::Plain,
            1 => Speak::Tls(to.name.to_owned()),
            _ => Speak::Http(to.name.to_owned()),
        };
        let how = [How::Connected, How::Unconnected, How::BothFamilies][number as usize % 3];
        let lookup = script.resolve(to, how);
        script.connect_to(part.cell(), &mut ports, to, speak, Some(lookup));
        script.pause_ms(1_000 / QUIET_PER_SECOND - QUIET_DELAY_US / 1_000);
    }
    script
}

/// Emulation has a tenth of the pace.
fn words(lab: &Lab, part: Part, seconds: u64) -> Vec<String> {
    let divisor = if lab.tolerance == Tolerance::Vm { 10 } else { 1 };
    let [names, unanswered, bad] = RATES.map(|rate| (rate / divisor).to_string());
    let options = [
        ("--resolver", RESOLVER.to_owned()),
        ("--silent", SILENT.to_owned()),
        ("--seconds", seconds.to_string()),
        ("--names", names),
        ("--unanswered", unanswered),
        ("--bad", bad),
    ];
    let options = options
        .into_iter()
        .flat_map(|(option, value)| [option.to_owned(), value]);
    let flat_out = (part == Part::FlatOut).then(|| "--flat-out".to_owned());
    let words = std::iter::once("noise".to_owned()).chain(options);
    words.chain(flat_out).collect()
}

/// Datagrams that the noise sent.
fn sent(made: &Noise) -> u64 {
    made.names + made.unanswered + made.control + made.long + made.circles + made.short + made.random
}

/// What hopline takes, second by second.
struct Memory {
    warm_after: Duration,
    when_warm: Option<f64>,
    highest_mib: f64,
    highest_of_trace_mib: f64,
}

impl Memory {
    fn new(warm_after: Duration) -> Self {
        Self {
            warm_after,
            when_warm: None,
            highest_mib: 0.0,
            highest_of_trace_mib: 0.0,
        }
    }

    fn look(&mut self, agent: &Agent, trace: &Trace, elapsed: Duration) -> Result<()> {
        if elapsed >= self.warm_after {
            let (now, _) = agent.memory_mib()?;
            self.when_warm.get_or_insert(now);
            self.highest_mib = self.highest_mib.max(now);
        }
        self.highest_of_trace_mib = self.highest_of_trace_mib.max(trace.memory_mib()?.0);
        Ok(())
    }

    fn judge(&self, verdict: &mut Verdict, row: &impl Fn(&str) -> String) {
        let when_warm = self.when_warm.unwrap_or(f64::NAN);
        let name = format!("resident memory after {} s", self.warm_after.as_secs());
        verdict.at_most(row(&name), when_warm, MOST_MIB, "MiB");
        // Before the first queries have timed out, tables still fill.
        let bound = if self.warm_after > QUERY_TIMEOUT {
            (when_warm + GROWTH_MIB).min(MOST_MIB)
        } else {
            MOST_MIB
        };
        verdict.at_most(
            row("resident memory, highest afterwards"),
            self.highest_mib,
            bound,
            "MiB",
        );
        let of_trace = self.highest_of_trace_mib;
        verdict.at_most(row("resident memory of trace, highest"), of_trace, MOST_MIB, "MiB");
    }
}

/// Every datagram was read or is counted as lost, and what was wrong with it is counted by its kind.
fn compare_counts(lab: &Lab, verdict: &mut Verdict, metrics: &Metrics, made: &Noise, part: Part, quiet: u64) {
    let row = |what: &str| format!("{}: {what}", part.cell());
    let messages = sent(made) + made.names + made.circles + quiet;
    let of_dns = |name| metrics.sum(name, &[("kind", "dns_message")]);
    let lost = of_dns(LOST);
    let read = of_dns("hopline_events_total");
    verdict.count(row("datagrams of DNS, both ways, read or lost"), read + lost, messages);
    verdict.at_most(row("time series"), metrics.series() as f64, BUDGET, "");
    // Whatever is asked, it becomes no label.
    let resolvers = metrics.values("hopline_dns_queries_total", "destination").join(" ");
    let truth = [RESOLVER, SILENT].map(|address| address.split(':').next().unwrap_or_default());
    verdict.text(row("destinations of queries"), resolvers, truth.join(" "));
    let crowded = metrics.sum(IGNORED, &[("reason", "crowded")]) as f64;
    if lab.tolerance == Tolerance::Vm {
        // An emulated machine is not loud enough.
        verdict.note(row("queries without room, ignored"), crowded, "");
    } else {
        verdict.at_least(row("queries without room, ignored"), crowded, 1.0, "");
    }
    if part == Part::FlatOut {
        verdict.note(row("datagrams of the loud one lost, counted"), lost as f64, "");
        return;
    }
    // What the loud one asked beyond its share is gone, and counted; nothing else is.
    let of_kind = |kind: &&str| metrics.sum(LOST, &[("kind", kind)]);
    let refused: u64 = REFUSED.iter().map(of_kind).sum();
    verdict.note(
        row("lookups and names of the loud one refused, counted"),
        refused as f64,
        "",
    );
    verdict.count(row("other events lost"), metrics.sum(LOST, &[]) - refused, 0);
    // Random bytes may be any of these, too.
    for (kind, least) in [
        ("dns_question_name", made.control),
        ("dns_name", made.long + made.circles),
        ("dns_header", made.short),
    ] {
        let malformed = metrics.sum(MALFORMED, &[("kind", kind)]) as f64;
        verdict.at_least(row(&format!("malformed: {kind}")), malformed, least as f64, "");
    }
}
