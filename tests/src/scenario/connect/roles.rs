//! Who is the client, and for how long a server shook hands, where neither is plain: SYN cookies, MPTCP's joined subflows,
//! connections without a listener, a listener that was left to a child.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::capture::{Capture, Conversation, Conversations};
use crate::hopline::{Record, Trace};
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::Process;
use crate::router::{DEVICE, RouterSettings};
use crate::topology::{Family, Pair, kernel_counter};
use crate::traffic::connect::attempts;
use crate::verdict::Verdict;

const PROGRAM: &str = include_str!("../../../programs/roles/roles.py");
/// Each way.
const DELAY_US: u64 = 5_200;
/// Each way where SYNs have to cross: whoever comes first is refused.
const CROSSING_US: u64 = 200_000;
/// Handshakes with cookies, and as many without.
const HANDSHAKES: usize = 60;
const COOKIES: u16 = 8_101;
const PLAIN: u16 = 8_102;
const JOINED: u16 = 8_103;
const HOST: &str = "joined.test";
const LEFT: u16 = 8_104;
const LEFT_CONNECTIONS: usize = 5;
const MEETING: [u16; 2] = [8_105, 8_106];
const ITSELF: u16 = 8_107;

/// Starts the program in one of its ways.
pub(in crate::scenario) fn start(lab: &Lab, netns: &NetNs, words: &[&str]) -> Result<Process> {
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM]).args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    Process::spawn(command, Some(netns), &lab.traffic)
}

pub(super) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let settings = RouterSettings {
        delay_us: DELAY_US,
        ..RouterSettings::default()
    };
    let pair = Pair::new(lab, &settings)?;
    cookies(lab, verdict, &pair)?;
    joined(lab, verdict, &pair)?;
    left(lab, verdict, &pair)?;
    drop(pair);
    without_listener(lab, verdict)
}

/// The server's handshakes with a port, without a `tcp` phase or one that is as long as on the wire; those that it does not
/// know are counted.
fn server_phases(
    verdict: &mut Verdict,
    name: &str,
    (records, capture): (&[&Record], &Conversations),
    tolerance_us: f64,
) -> u64 {
    let (mut unknown, mut wrong) = (0, 0);
    for record in records {
        let (client, server) = record.addresses();
        let truth_us = capture.get(client, server).and_then(Conversation::server_tcp_us);
        match (record.phases_us.tcp, truth_us) {
            (None, _) => unknown += 1,
            (Some(tcp_us), Some(truth_us)) if (tcp_us as f64 - truth_us).abs() <= tolerance_us => {}
            (Some(_), _) => wrong += 1,
        }
    }
    verdict.count(format!("{name}, server's tcp wrong"), wrong, 0);
    unknown
}

/// With cookies the kernel keeps no time of its SYN-ACK; what comes back in the timestamp is none.
fn cookies(lab: &Lab, verdict: &mut Verdict, pair: &Pair) -> Result<()> {
    let to = [(COOKIES, "2"), (PLAIN, "1")];
    let listen = to.map(|(port, _)| format!("{}/echo", Family::Ipv4.server(port)));
    let mut server = lab.helper(&["serve", &listen[0], &listen[1]], &pair.server, &lab.traffic)?;
    server.wait_for("ready")?;
    let capture = Capture::start(lab, "cookies", &pair.server, DEVICE)?;
    let trace = Trace::start(lab, "cookies", lab.traffic.path())?;
    for (port, cookies) in to {
        pair.server.sysctl("net.ipv4.tcp_syncookies", cookies)?;
        let (to, count) = (Family::Ipv4.server(port).to_string(), HANDSHAKES.to_string());
        let words = [
            "connect",
            "--to",
            &to,
            "--count",
            &count,
            "--interval-us",
            "1000",
            "--exchange",
            "10",
        ];
        let made = attempts(&lab.helper(&words, &pair.client, &lab.traffic)?.finish()?)?;
        ensure!(made.iter().all(|attempt| attempt.error == 0), "a connect failed");
    }
    trace.wait_for(4 * HANDSHAKES)?;
    let (records, capture) = (trace.finish()?, capture.finish()?);
    let received = kernel_counter(&pair.server, "TcpExtSyncookiesRecv")?;
    verdict.count("syn cookies that came back", received, HANDSHAKES as u64);
    let of_server = |port| -> Vec<&Record> {
        let is_there = |record: &&Record| record.role == "server" && record.local.port == port;
        records.iter().filter(is_there).collect()
    };
    let tolerance_us = lab.tolerance_us(2 * DELAY_US);
    for (port, name) in [(COOKIES, "syn cookies"), (PLAIN, "no syn cookies")] {
        let found = of_server(port);
        verdict.count(format!("{name}, server records"), found.len() as u64, HANDSHAKES as u64);
        let unknown = server_phases(verdict, name, (&found, &capture), tolerance_us);
        // Without cookies one in thousands looks as if it had one.
        let (least, most) = if port == COOKIES {
            (HANDSHAKES as u64, HANDSHAKES as u64)
        } else {
            (0, 1)
        };
        verdict.at_least(
            format!("{name}, server's tcp unknown"),
            unknown as f64,
            least as f64,
            "",
        );
        verdict.at_most(
            format!("{name}, server's tcp unknown at most"),
            unknown as f64,
            most as f64,
            "",
        );
        let rtts = found.iter().filter_map(|record| record.tcp.rtt_us.min);
        let low = rtts.filter(|rtt_us| *rtt_us > 0).min().unwrap_or_default();
        verdict.note(format!("{name}, server's smallest rtt"), low as f64, "us");
    }
    Ok(())
}

/// Subflows that join go where the first one went, whatever their own address is.
fn joined(lab: &Lab, verdict: &mut Verdict, pair: &Pair) -> Result<()> {
    let mptcp = pair
        .client
        .sysctl("net.mptcp.enabled", "1")
        .and_then(|()| pair.server.sysctl("net.mptcp.enabled", "1"));
    if let Err(error) = mptcp {
        verdict.skip("mptcp's joined subflows", format!("{error:#}"));
        return Ok(());
    }
    for netns in [&pair.client, &pair.server] {
        netns.ip("mptcp limits set subflow 4 add_addr_accepted 4")?;
    }
    pair.client.ip(&format!("addr add 10.99.1.3/24 dev {DEVICE}"))?;
    pair.client
        .ip(&format!("mptcp endpoint add 10.99.1.3 dev {DEVICE} subflow"))?;
    pair.server.ip(&format!("addr add 10.99.2.3/24 dev {DEVICE}"))?;
    pair.server
        .ip(&format!("mptcp endpoint add 10.99.2.3 dev {DEVICE} signal"))?;
    let mut server = lab.helper(
        &["serve", &format!("{}:{JOINED}/http/mptcp", Ipv4Addr::UNSPECIFIED)],
        &pair.server,
        &lab.traffic,
    )?;
    server.wait_for("ready")?;
    let capture = Capture::start(lab, "joined", &pair.server, DEVICE)?;
    let trace = Trace::start(lab, "joined", lab.traffic.path())?;
    let asked = Family::Ipv4.server(JOINED);
    let (address, port) = (asked.ip().to_string(), asked.port().to_string());
    let pid = pid(start(lab, &pair.client, &["ask", &address, &port, HOST])?)?;
    thread::sleep(Duration::from_secs(1) * lab.patience());
    let (records, capture) = (trace.finish()?, capture.finish()?);
    let other = SocketAddr::new(Ipv4Addr::new(10, 99, 2, 3).into(), JOINED);
    let subflows = (capture.to(asked).count() + capture.to(other).count()) as u64;
    verdict.at_least("mptcp, subflows", subflows as f64, 2.0, "");
    verdict.at_least(
        "mptcp, subflows to another address",
        capture.to(other).count() as f64,
        1.0,
        "",
    );
    let of_role = |role: &str| -> Vec<&Record> { records.iter().filter(|record| record.role == role).collect() };
    let (clients, servers) = (of_role("client"), of_role("server"));
    verdict.count("mptcp, client records", clients.len() as u64, subflows);
    verdict.count("mptcp, server records", servers.len() as u64, subflows);
    let right = |test: &dyn Fn(&Record) -> bool| clients.iter().filter(|record| test(record)).count() as u64;
    let is_hosts = |record: &Record| (record.destination.host.as_str(), record.destination.port) == (HOST, JOINED);
    verdict.count(
        "mptcp, subflows under their parent's destination",
        right(&is_hosts),
        subflows,
    );
    verdict.count(
        "mptcp, client owner",
        right(&|record| record.process.pid == Some(pid)),
        subflows,
    );
    let first_bytes = right(&|record| record.phases_us.ttfb.is_some());
    // The kernel chooses the subflow that an answer comes by.
    verdict.at_most("mptcp, first bytes", first_bytes as f64, 1.0, "");
    let unknown = server_phases(verdict, "mptcp", (&servers, &capture), lab.tolerance_us(2 * DELAY_US));
    verdict.at_most("mptcp, server's tcp unknown", unknown as f64, (subflows - 1) as f64, "");
    Ok(())
}

/// The program says its pid at the end.
fn pid(process: Process) -> Result<u32> {
    let said = process.finish()?;
    said.lines().last().unwrap_or_default().parse().context("a pid")
}

/// Whoever listened has ended: who accepts owns the connections.
fn left(lab: &Lab, verdict: &mut Verdict, pair: &Pair) -> Result<()> {
    let trace = Trace::start(lab, "left", lab.traffic.path())?;
    let to = Family::Ipv4.server(LEFT);
    let count = LEFT_CONNECTIONS.to_string();
    let words = ["leave", &to.ip().to_string(), &LEFT.to_string(), &count];
    let mut server = start(lab, &pair.server, &words)?;
    let heir: u32 = server.line()?.parse().context("a pid")?;
    ensure!(
        !Path::new(&format!("/proc/{}/exe", server.pid())).exists(),
        "the parent runs"
    );
    let to = to.to_string();
    let words = ["connect", "--to", &to, "--count", &count, "--exchange", "10"];
    attempts(&lab.helper(&words, &pair.client, &lab.traffic)?.finish()?)?;
    trace.wait_for(2 * LEFT_CONNECTIONS)?;
    let records = trace.finish()?;
    let of_server = records.iter().filter(|record| record.role == "server");
    let owned = of_server.filter(|record| record.process.pid == Some(heir)).count();
    verdict.count(
        "inherited listener, connections of who accepts",
        owned as u64,
        LEFT_CONNECTIONS as u64,
    );
    Ok(())
}

/// Connections that nobody accepted: each end that called `connect` is a client.
fn without_listener(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let settings = RouterSettings {
        delay_us: CROSSING_US,
        ..RouterSettings::default()
    };
    let pair = Pair::new(lab, &settings)?;
    let trace = Trace::start(lab, "without-listener", lab.traffic.path())?;
    let (client, server) = (Ipv4Addr::new(10, 99, 1, 2), Family::Ipv4.server(0).ip());
    let (client, server) = (client.to_string(), server.to_string());
    let [first, second] = MEETING.map(|port| port.to_string());
    let itself = ITSELF.to_string();
    let mut processes = [
        start(lab, &pair.client, &["meet", &client, &first, &server, &second])?,
        start(lab, &pair.server, &["meet", &server, &second, &client, &first])?,
        start(lab, &pair.client, &["meet", &client, &itself, &client, &itself])?,
    ];
    for process in &mut processes {
        process.wait_for("ready")?;
    }
    for process in &mut processes {
        process.say("go\n")?;
    }
    // Two round trips, and those of what they say.
    thread::sleep(Duration::from_secs(2) * lab.patience());
    let mut pids = Vec::new();
    for mut process in processes {
        process.say("end\n")?;
        pids.push(pid(process)?);
    }
    trace.wait_for(pids.len())?;
    let records = trace.finish()?;
    let round_trip_us = 2.0 * CROSSING_US as f64;
    for (name, pid, remote) in [
        ("simultaneous open, one end", pids[0], MEETING[1]),
        ("simultaneous open, the other", pids[1], MEETING[0]),
        ("self-connect", pids[2], ITSELF),
    ] {
        let found: Vec<&Record> = records
            .iter()
            .filter(|record| record.remote.port == remote && record.process.pid == Some(pid))
            .collect();
        let [record] = found.as_slice() else {
            verdict.count(format!("{name}, records"), found.len() as u64, 1);
            continue;
        };
        verdict.text(format!("{name}, role"), record.role.as_str(), "client");
        verdict.text(format!("{name}, role's basis"), record.role_basis.as_str(), "observed");
        verdict.count(
            format!("{name}, destination's port"),
            record.destination.port.into(),
            remote.into(),
        );
        verdict.text(
            format!("{name}, outcome"),
            record.outcome.as_deref().unwrap_or("none"),
            // Both speak before they hear: nothing that comes acknowledges the first byte.
            "unanswered",
        );
        let tcp_us = record.phases_us.tcp.map_or(-1.0, |tcp_us| tcp_us as f64);
        let truth_us = if remote == ITSELF { 0.0 } else { round_trip_us };
        // From the SYN to the answer of the other's SYN-ACK; the other calls a little later or sooner.
        let tolerance_us = lab.tolerance.of_phase_us(truth_us) + if remote == ITSELF { 0.0 } else { 20_000.0 };
        verdict.time_us(format!("{name}, tcp"), tcp_us, truth_us, tolerance_us);
    }
    Ok(())
}
