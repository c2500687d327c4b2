//! Connects that a firewall rejects, by nftables' own rules: before the server and on the way out, by ICMP and by RST, of clients that
//! block and of clients that poll and fetch the error before they close.
//!
//! Truth: the rule, and the errno that the client got.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::hopline::{Agent, AgentOptions, Record, Trace};
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::Process;
use crate::router::RouterSettings;
use crate::tools;
use crate::topology::{Family, Pair};
use crate::traffic::connect::attempts;
use crate::verdict::Verdict;

const FAMILIES: [Family; 3] = [Family::Ipv4, Family::Ipv6, Family::Mapped];
const FIRST_PORT: u16 = 9_600;

/// One kind of rejection.
struct Kind {
    /// As a rule has it.
    rule: &'static str,
    /// errno of the client, where IPv4 and IPv6 differ the former first.
    errors: [i32; 2],
    outcome: &'static str,
    closed_by: &'static str,
}

const KINDS: [Kind; 4] = [
    Kind {
        rule: "icmpx type port-unreachable",
        errors: [libc::ECONNREFUSED; 2],
        outcome: "refused",
        closed_by: "nobody",
    },
    Kind {
        rule: "icmpx type host-unreachable",
        errors: [libc::EHOSTUNREACH; 2],
        outcome: "unreachable",
        closed_by: "nobody",
    },
    Kind {
        rule: "icmpx type admin-prohibited",
        errors: [libc::EHOSTUNREACH, libc::EACCES],
        outcome: "prohibited",
        closed_by: "nobody",
    },
    Kind {
        rule: "tcp reset",
        errors: [libc::ECONNREFUSED; 2],
        outcome: "refused",
        closed_by: "reset_remote",
    },
];

/// Where the rules are, by the name of the hook.
const HOOKS: [&str; 2] = ["input", "output"];

/// How the client connects: words for the generator. The second polls, asks for `SO_ERROR` and closes.
const WAYS: [(&str, &[&str]); 2] = [("blocking", &[]), ("polling", &["--abort-after-ms", "8000"])];

/// One client.
struct Cell {
    hook: &'static str,
    kind: &'static Kind,
    family: Family,
    way: &'static str,
    client: Process,
}

fn port(hook: usize, kind: usize) -> u16 {
    FIRST_PORT + (hook * KINDS.len() + kind) as u16
}

pub(super) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let pair = Pair::new(lab, &RouterSettings::default())?;
    for (hook, netns) in [(0, &pair.server), (1, &pair.client)] {
        // Each reject is to be told, not only a few a second.
        netns.sysctl("net.ipv4.icmp_ratelimit", "0")?;
        netns.sysctl("net.ipv6.icmp.ratelimit", "0")?;
        if let Err(error) = install(netns, hook) {
            verdict.skip("rejects", format!("{error:#}"));
            return Ok(());
        }
    }
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start(lab, "rejects", lab.traffic.path())?;
    let mut cells = Vec::new();
    for (hook_number, hook) in HOOKS.into_iter().enumerate() {
        for (kind_number, kind) in KINDS.iter().enumerate() {
            for family in FAMILIES {
                let to = family.as_given(family.server(port(hook_number, kind_number)));
                for (way, words) in WAYS {
                    let to = to.to_string();
                    let words: Vec<&str> = ["connect", "--to", &to].iter().chain(words).copied().collect();
                    let client = lab.helper(&words, &pair.client, &lab.traffic)?;
                    cells.push(Cell {
                        hook,
                        kind,
                        family,
                        way,
                        client,
                    });
                }
            }
        }
    }
    let all = cells.len();
    let mut made = Vec::new();
    for cell in cells {
        let pid = cell.client.pid();
        let name = format!(
            "{} {} at {}, {}",
            cell.family.name(),
            cell.kind.rule,
            cell.hook,
            cell.way
        );
        let output = cell.client.finish()?;
        let attempt = attempts(&output)?.pop().context("the generator made no attempt")?;
        let error = cell.kind.errors[usize::from(cell.family == Family::Ipv6)];
        ensure!(
            attempt.error == error,
            "{name}: errno {}, expected {error}",
            attempt.error
        );
        made.push((name, pid, cell.kind));
    }
    trace.wait_for(all)?;
    let records = trace.finish()?;
    for (name, pid, kind) in &made {
        let said: Vec<String> = records
            .iter()
            .filter(|record| record.process.pid == Some(*pid))
            .map(said)
            .collect();
        verdict.text(name, said.join("; "), format!("{}, {}", kind.outcome, kind.closed_by));
    }
    let metrics = agent.scrape_drained()?;
    for outcome in ["refused", "unreachable", "prohibited"] {
        let truth = made.iter().filter(|(.., kind)| kind.outcome == outcome).count() as u64;
        let labels = [("role", "client"), ("error", outcome)];
        let counted = metrics.sum("hopline_tcp_connections_total", &labels);
        verdict.count(format!("rejects counted as {outcome}"), counted, truth);
    }
    let counted = metrics.sum("hopline_tcp_connections_total", &[("role", "client")]);
    verdict.count("rejects counted in all", counted, all as u64);
    agent.stop()
}

fn said(record: &Record) -> String {
    format!(
        "{}, {}",
        record.outcome.as_deref().unwrap_or("null"),
        record.tcp.closed_by.as_deref().unwrap_or("nobody")
    )
}

/// A table of rules that ends with its namespace.
fn install(netns: &NetNs, hook: usize) -> Result<()> {
    let rules: Vec<String> = KINDS
        .iter()
        .enumerate()
        .map(|(kind, Kind { rule, .. })| format!("tcp dport {} reject with {rule};", port(hook, kind)))
        .collect();
    let name = HOOKS[hook];
    let chain = format!("type filter hook {name} priority 0; {}", rules.join(" "));
    let table = format!("table inet rejects {{\nchain {name} {{ {chain} }}\n}}");
    netns
        .run(|| tools::output_of(Command::new("nft").arg(&table).stdin(Stdio::null())))
        .map(drop)
}
