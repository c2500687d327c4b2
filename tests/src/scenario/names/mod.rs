//! Two hundred names share five addresses, and every connection has its own: by what the client says, else by what its
//! process resolved last. Others lie, guess and answer unasked, in vain; three networks disagree about one name.
//!
//! Truth is what was written down before any process ran (`script`), and each process's own clock.

mod cells;
mod compare;
mod place;
mod script;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::cgroup::Cgroup;
use crate::hopline::{Agent, AgentOptions, Metrics, Trace};
use crate::lab::{Lab, Tolerance};
use crate::process::Process;
use crate::traffic::names::resolver::{Entry, Table};
use crate::traffic::names::steps::{How, Speak};
use crate::verdict::Verdict;

pub(super) use compare::{Names, judge};
pub(super) use place::{Place, RESOLVER, SILENT, finish};
pub(super) use script::{Destination, Ports, Script, Truth};

/// The long form.
const CONNECTIONS: usize = 10_000;
const NAMES: usize = 200;
const PROCESSES: usize = 4;
/// Who all share.
const SHARED: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 12)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 13)),
    IpAddr::V6(SHARED6[0]),
    IpAddr::V6(SHARED6[1]),
];
const SHARED6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0x11),
    Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0x12),
];
/// How long the resolver thinks about a name.
const DELAYS_US: [u64; 8] = [500, 2_000, 500, 5_000, 1_000, 2_000, 500, 20_000];
/// The cell with all of them.
const MANY: &str = "shared";

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let hosts: Vec<String> = (0..NAMES).map(|number| format!("n{number}.lab.test")).collect();
    let names: Vec<Destination<'_>> = hosts
        .iter()
        .enumerate()
        .map(|(number, name)| Destination {
            name,
            address: SHARED[number % SHARED.len()],
            delay_us: DELAYS_US[number % DELAYS_US.len()],
        })
        .collect();
    let place = Place::new(lab, "main", &table(&names), &SHARED6)?;
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start(lab, "names", lab.traffic.path())?;
    let mut ports = Ports::new();

    // Ends last: it takes as long as caches do.
    let kept = (!lab.short).then(|| cells::kept(&mut ports));
    let keeper = lab.traffic.child("kept")?;
    let keeps = kept
        .as_ref()
        .map(|script| script.start(lab, "kept", &place, &keeper))
        .transpose()?;
    let mut truths = many(lab, verdict, &place, &names, &mut ports)?;
    // Each of the others in a cgroup of its own: what one resolved names nothing for the next.
    let mut cgroups: Vec<Cgroup> = Vec::new();
    for (name, cell) in cells::ALL {
        let script = cell(&mut ports, &names);
        let cgroup = lab.traffic.child(name)?;
        truths.extend(script.run(lab, name, &place, &cgroup)?);
        cgroups.push(cgroup);
    }
    truths.extend(cells::split(lab, &mut ports)?);
    let (reused, is_reused) = cells::reused(lab, &mut ports)?;
    truths.extend(reused);
    if !is_reused {
        verdict.skip("network's number", "the kernel gave no network an ended one's");
    }
    if let (Some(script), Some(process)) = (kept, keeps) {
        truths.extend(script.truths(&finish(process)?));
    }

    trace.wait_for(truths.len())?;
    let records = trace.finish()?;
    let metrics = agent.scrape_drained()?;
    let (now, peak) = agent.memory_mib()?;
    agent.stop()?;
    verdict.count("records", records.len() as u64, truths.len() as u64);
    judge(verdict, Some(lab.tolerance), &records, &truths, |cell| {
        if cell == MANY { Names::Nearly } else { Names::Exact }
    });
    compare_ignored(verdict, &metrics);
    super::compare_losses(verdict, &metrics);
    verdict.note("agent's resident memory", now, "MiB");
    verdict.note("agent's resident memory, peak", peak, "MiB");
    Ok(())
}

/// Every fourth name is an alias.
fn table(names: &[Destination<'_>]) -> Table {
    let mut table = cells::table();
    table.extend(names.iter().enumerate().map(|(number, to)| {
        let entry = Entry {
            addresses: vec![to.address],
            alias: (number % 4 == 1).then(|| format!("edge{}.cdn.test", number % SHARED.len())),
            delay_us: to.delay_us,
            trick: None,
        };
        (to.name.to_owned(), entry)
    }));
    table
}

/// Several processes at once, each with connections to all names: half TLS, most of the others without a word that names
/// them. Three of four come right after a lookup, the others use its answer again.
fn many(
    lab: &Lab,
    verdict: &mut Verdict,
    place: &Place,
    names: &[Destination<'_>],
    ports: &mut Ports,
) -> Result<Vec<Truth>> {
    let connections = match (lab.short, lab.tolerance) {
        (false, _) => CONNECTIONS,
        (true, Tolerance::Host) => CONNECTIONS / 4,
        (true, Tolerance::Vm) => CONNECTIONS / 20,
    };
    let mut random = fastrand::Rng::with_seed(17);
    let scripts: Vec<Script> = (0..PROCESSES)
        .map(|_| {
            let mut script = Script::default();
            while script.expected.len() < connections / PROCESSES {
                let to = &names[random.usize(..names.len())];
                let how = [How::Connected, How::Unconnected, How::BothFamilies][random.usize(..3)];
                let mut lookup = Some(script.resolve(to, how));
                loop {
                    let speak = match random.u8(..8) {
                        0..4 => Speak::Tls(to.name.to_owned()),
                        4..7 => Speak::Plain,
                        _ => Speak::Http(to.name.to_owned()),
                    };
                    script.connect_to(MANY, ports, to, speak, lookup.take());
                    if random.u8(..4) != 0 {
                        break;
                    }
                }
            }
            script
        })
        .collect();
    let begin = std::time::Instant::now();
    let processes: Vec<Process> = scripts
        .iter()
        .enumerate()
        .map(|(number, script)| script.start(lab, &format!("many-{number}"), place, &lab.traffic))
        .collect::<Result<_>>()?;
    let mut truths = Vec::new();
    for (script, process) in scripts.iter().zip(processes) {
        truths.extend(script.truths(&finish(process)?));
    }
    let rate = truths.len() as f64 / begin.elapsed().as_secs_f64();
    verdict.note("connections per second", rate, "1/s");
    Ok(truths)
}

/// What others sent is counted, each for its reason.
fn compare_ignored(verdict: &mut Verdict, metrics: &Metrics) {
    for (reason, truth) in cells::IGNORED {
        let ignored = metrics.sum("hopline_dns_ignored_total", &[("reason", reason)]);
        verdict.count(format!("ignored answers: {reason}"), ignored, truth);
    }
}
