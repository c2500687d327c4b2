//! Connections and listeners that were there before hopline: listed soon, marked late, and seen to close.

use std::time::Duration;

use anyhow::Result;

use crate::hopline::{Agent, AgentOptions, Metrics, Record, Trace};
use crate::lab::Lab;
use crate::router::RouterSettings;
use crate::scenario::connect::roles;
use crate::topology::{Family, Pair};
use crate::verdict::Verdict;

/// Port of a listener that has closed when hopline starts.
const GONE: u16 = 8004;
/// One listener of each family, each with its share of the connections.
const LISTENERS: [(Family, u16, u64); 3] = [
    (Family::Ipv4, 8001, 20),
    (Family::Ipv6, 8002, 20),
    (Family::Mapped, 8003, 10),
];

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let pair = Pair::new(lab, &RouterSettings::default())?;
    let listen = LISTENERS.map(|(family, port, _)| match family {
        Family::Mapped => format!("[::]:{port}/echo"),
        _ => format!("{}/echo", family.server(port)),
    });
    let words: Vec<&str> = ["serve"].into_iter().chain(listen.iter().map(String::as_str)).collect();
    let mut server = lab.helper(&words, &pair.server, &lab.traffic)?;
    server.wait_for("ready")?;
    let mut clients = Vec::new();
    for (family, port, count) in LISTENERS {
        let to = family.as_given(family.server(port)).to_string();
        let words = [
            "connect",
            "--to",
            &to,
            "--count",
            &count.to_string(),
            "--exchange",
            "100",
            "--end",
            "hold",
        ];
        let mut client = lab.helper(&words, &pair.client, &lab.traffic)?;
        while client.line()? != "ready" {}
        clients.push(client);
    }
    // Its listener has gone: from the server's end alone nobody can tell which it is.
    let gone = Family::Ipv4.server(GONE);
    let words = ["alone", &gone.ip().to_string(), &GONE.to_string()];
    let mut alone = roles::start(lab, &pair.server, &words)?;
    alone.wait_for("ready")?;
    let words = ["connect", "--to", &gone.to_string(), "--end", "hold"];
    let mut asker = lab.helper(&words, &pair.client, &lab.tools)?;
    while asker.line()? != "ready" {}
    alone.wait_for("alone")?;
    let pids: Vec<u32> = clients.iter().map(crate::process::Process::pid).collect();
    let connections: u64 = LISTENERS.iter().map(|(.., count)| count).sum();

    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start(lab, "existing", lab.traffic.path())?;
    let listening = |metrics: &Metrics| metrics.sum("hopline_events_total", &[("kind", "listener_open")]);
    let complete = |metrics: &Metrics| {
        // With the one that is taken for a client.
        active(metrics, "client") == connections + 1
            && active(metrics, "server") == connections
            && listening(metrics) == 3
    };
    let (metrics, after) = agent.scrape_until(Duration::from_secs(5), complete)?;
    for (role, guessed) in [("client", 1), ("server", 0)] {
        verdict.count(
            format!("open, role {role}"),
            active(&metrics, role),
            connections + guessed,
        );
    }
    verdict.count("listeners", listening(&metrics), LISTENERS.len() as u64);
    verdict.at_most(
        "listed after ready within",
        after.as_secs_f64(),
        5.0 * f64::from(lab.patience()),
        "s",
    );

    for client in clients {
        client.finish()?;
    }
    alone.finish()?;
    asker.finish()?;
    trace.wait_for(2 * connections as usize + 1)?;
    let (alone, records): (Vec<Record>, Vec<Record>) = trace
        .finish()?
        .into_iter()
        .partition(|record| record.local.port == GONE);
    let bases: Vec<&str> = alone.iter().map(|record| record.role_basis.as_str()).collect();
    verdict.text("role's basis, listener gone", bases.join(" "), "guessed");
    let metrics = agent.scrape_drained()?;
    agent.stop()?;
    drop(server);
    compare_ends(verdict, &records, &metrics, &pids, connections);
    Ok(())
}

/// Connections of this role that are open now.
fn active(metrics: &Metrics, role: &str) -> u64 {
    metrics.sum(
        "hopline_tcp_connections_active",
        &[("role", role), ("state", "established")],
    )
}

/// How the connections of before the start ended.
fn compare_ends(verdict: &mut Verdict, records: &[Record], metrics: &Metrics, pids: &[u32], connections: u64) {
    for (role, closed_by) in [("client", "local"), ("server", "remote")] {
        let of_role: Vec<&Record> = records.iter().filter(|record| record.role == role).collect();
        let right = |test: &dyn Fn(&Record) -> bool| of_role.iter().filter(|record| test(record)).count() as u64;
        verdict.count(format!("{role} closes seen"), of_role.len() as u64, connections);
        let expected = if role == "server" { "inferred" } else { "guessed" };
        let is_basis = |record: &Record| record.role_basis == expected;
        verdict.count(format!("{role}, role {expected}"), right(&is_basis), connections);
        verdict.count(format!("{role} marked late"), right(&|record| record.late), connections);
        let without_phases = |record: &Record| {
            let phases = &record.phases_us;
            phases.dns.is_none() && phases.tcp.is_none() && phases.tls.is_none() && phases.ttfb.is_none()
        };
        verdict.count(
            format!("{role} without invented phases"),
            right(&without_phases),
            connections,
        );
        let closed = |record: &Record| record.tcp.closed_by.as_deref() == Some(closed_by);
        verdict.count(format!("{role} closed by {closed_by}"), right(&closed), connections);
        let ok = |record: &Record| record.outcome.as_deref() == Some("ok");
        verdict.count(format!("{role} outcome ok"), right(&ok), connections);
        if role == "client" {
            let owned = |record: &Record| record.process.pid.is_some_and(|pid| pids.contains(&pid));
            verdict.count("client owner right", right(&owned), connections);
        }
        verdict.count(format!("{role} open at the end"), active(metrics, role), 0);
    }
}
