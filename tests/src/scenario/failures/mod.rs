//! Every way in which a connect can end, in every family: outcome, who closed, retransmissions.
//!
//! Truth: what the case is made of, the generator's errno, a capture on the same side, and the kernel's own counters.

mod cases;
mod rejects;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use self::cases::{CASES, Case, HOLDERS, PORT_RANGE, Side};
use crate::capture::{Capture, Closer, Conversation, Conversations};
use crate::hopline::{Agent, AgentOptions, Record, Retransmits, Trace};
use crate::lab::Lab;
use crate::router::{DEVICE, PortFault, RouterSettings};
use crate::topology::{Family, Pair, kernel_counter};
use crate::traffic::connect::{Attempt, attempts};
use crate::verdict::Verdict;

/// Each family has a hundred ports of its own, so that a record's port names its case.
const FIRST_PORT: u16 = 9_000;
/// When nothing may be sent again any more.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
/// Port of the case with two subflows.
const SUBFLOWS: u16 = 8_000;

fn port(family: Family, case: &Case) -> u16 {
    FIRST_PORT + family as u16 * 100 + case.port
}

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let faults = Family::ALL.iter().flat_map(|&family| {
        CASES.iter().filter_map(move |case| {
            Some(PortFault {
                port: port(family, case),
                fault: case.fault?,
            })
        })
    });
    let settings = RouterSettings {
        delay_us: 2_000,
        seed: 7,
        faults: faults.collect(),
        ..RouterSettings::default()
    };
    let pair = Pair::new(lab, &settings)?;
    pair.client.sysctl("net.ipv4.tcp_syn_retries", "1")?;
    pair.server.sysctl("net.ipv4.tcp_synack_retries", "1")?;
    let mptcp = pair
        .client
        .sysctl("net.mptcp.enabled", "1")
        .and_then(|()| pair.server.sysctl("net.mptcp.enabled", "1"));

    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start(lab, "failures", lab.traffic.path())?;
    let at_client = Capture::start(lab, "client", &pair.client, DEVICE)?;
    let at_server = Capture::start(lab, "server", &pair.server, DEVICE)?;

    let mut families = vec![Family::Ipv4, Family::Ipv6, Family::Mapped];
    match &mptcp {
        Ok(()) => families.push(Family::Mptcp),
        Err(error) => verdict.skip("mptcp", format!("{error:#}")),
    }
    let mut made = Vec::new();
    for &family in &families {
        let listeners = listeners(family);
        let words: Vec<&str> = ["serve"]
            .into_iter()
            .chain(listeners.iter().map(String::as_str))
            .collect();
        let mut server = lab.helper(&words, &pair.server, &lab.traffic)?;
        server.wait_for("ready")?;
        for case in CASES {
            let attempt = connect(lab, &pair, family, case)?;
            made.push((family, case, attempt));
        }
        drop(server);
    }
    let two_subflows = mptcp
        .is_ok()
        .then(|| connect_with_two_subflows(lab, &pair))
        .transpose()?;

    // Retransmissions of what was just closed still count.
    std::thread::sleep(Duration::from_secs(1));
    trace.wait_for(made.len())?;
    let records = trace.finish()?;
    let (at_client, at_server) = (at_client.finish()?, at_server.finish()?);

    for (family, case, attempt) in &made {
        compare(verdict, *family, case, attempt, &records, &at_client, &at_server)?;
    }
    if let Some(attempt) = two_subflows {
        compare_subflows(verdict, &attempt, &records, &at_client)?;
    }
    if mptcp.is_ok() {
        let agreed = kernel_counter(&pair.client, "MPTcpExtMPCapableSYNACKRX")?;
        verdict.at_least("connections that were MPTCP", agreed as f64, 1.0, "");
    }
    compare_retransmissions(verdict, &agent, &pair)?;
    agent.stop()?;
    rejects::run(lab, verdict)
}

fn listeners(family: Family) -> Vec<String> {
    let suffix = if family == Family::Mptcp { "/mptcp" } else { "" };
    let with_listener = CASES.iter().filter_map(|case| Some((case, case.server?)));
    with_listener
        .map(|(case, behaviour)| {
            let mut address = family.server(port(family, case));
            if family == Family::Mapped {
                // The server's side is v4-mapped too.
                address.set_ip(std::net::Ipv6Addr::UNSPECIFIED.into());
            }
            format!("{address}/{behaviour}{suffix}")
        })
        .collect()
}

/// Makes the one connect of a case and checks that it went as the case is named.
fn connect(lab: &Lab, pair: &Pair, family: Family, case: &Case) -> Result<Attempt> {
    let address = if case.no_route {
        family.unrouted(port(family, case))
    } else {
        family.server(port(family, case))
    };
    let to = family.as_given(address).to_string();
    let mptcp: &[&str] = if family == Family::Mptcp { &["--mptcp"] } else { &[] };
    let mut words = vec!["connect", "--to", &to];
    words.extend(mptcp);
    let holders = HOLDERS.to_string();
    let holder = if case.no_free_port {
        pair.client.sysctl("net.ipv4.ip_local_port_range", PORT_RANGE)?;
        let hold: Vec<&str> = words
            .iter()
            .copied()
            .chain(["--count", &holders, "--end", "hold"])
            .collect();
        let mut holder = lab.helper(&hold, &pair.client, &lab.tools)?;
        while holder.line()? != "ready" {}
        Some(holder)
    } else {
        None
    };
    words.extend(case.words);
    let bytes = case.bytes.to_string();
    words.extend(["--exchange", &bytes]);
    let output = lab.helper(&words, &pair.client, &lab.traffic)?.finish()?;
    drop(holder);
    if case.no_free_port {
        pair.client.sysctl("net.ipv4.ip_local_port_range", "32768 60999")?;
    }
    let attempt = attempts(&output)?.pop().context("the generator made no attempt")?;
    ensure!(
        case.errors.contains(&attempt.error),
        "{} {}: errno {}, expected one of {:?}",
        family.name(),
        case.name,
        attempt.error,
        case.errors
    );
    Ok(attempt)
}

/// A second address of the client joins the connection: two subflows.
fn connect_with_two_subflows(lab: &Lab, pair: &Pair) -> Result<Attempt> {
    let server_address = Family::Mptcp.server(SUBFLOWS).to_string();
    for netns in [&pair.client, &pair.server] {
        netns.ip("mptcp limits set subflow 2 add_addr_accepted 2")?;
    }
    pair.client.ip(&format!("addr add 10.99.1.3/24 dev {DEVICE}"))?;
    pair.client
        .ip(&format!("mptcp endpoint add 10.99.1.3 dev {DEVICE} subflow"))?;
    let mut server = lab.helper(
        &["serve", &format!("{server_address}/echo/mptcp")],
        &pair.server,
        &lab.traffic,
    )?;
    server.wait_for("ready")?;
    let words = [
        "connect",
        "--to",
        &server_address,
        "--mptcp",
        "--exchange",
        "1000",
        "--linger-ms",
        "500",
    ];
    let output = lab.helper(&words, &pair.client, &lab.traffic)?.finish()?;
    attempts(&output)?.pop().context("the generator made no attempt")
}

/// `closed_by` as one side must name it.
fn closed_by(closer: Closer, side: Side) -> &'static str {
    match (closer, side) {
        (Closer::ClientFin, Side::Client) | (Closer::ServerFin, Side::Server) => "local",
        (Closer::ServerFin, Side::Client) | (Closer::ClientFin, Side::Server) => "remote",
        (Closer::ClientReset, Side::Client) | (Closer::ServerReset, Side::Server) => "reset_local",
        (Closer::ServerReset, Side::Client) | (Closer::ClientReset, Side::Server) => "reset_remote",
    }
}

/// What the client or server must say of segments that it sent again behind the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// It went as the case is named: tail loss probes and retransmissions after a time-out.
    Known(u64, u64),
    /// The machine stood still for a while, and the kernel sent more, or less was enough: as many as the capture has.
    Captured(u64),
    /// Left to chance.
    Any,
}

impl Again {
    fn new(case: &Case, side: Side, captured: u64) -> Self {
        let Some((probes, timeouts)) = case.probes_and_timeouts else {
            return Self::Any;
        };
        let (probes, timeouts) = if side == Side::Client {
            (probes, timeouts)
        } else {
            (0, 0)
        };
        if probes + timeouts == captured {
            Self::Known(probes, timeouts)
        } else {
            Self::Captured(captured)
        }
    }

    fn truth(self) -> String {
        match self {
            Self::Known(probes, timeouts) => format!(" {probes} TLP {timeouts} RTO 0 else"),
            Self::Captured(all) => format!(" {all} of any kind"),
            Self::Any => String::new(),
        }
    }

    /// The same words about a record.
    fn measured(self, said: &Retransmits) -> String {
        let Retransmits {
            syn: _,
            rto,
            tlp,
            fast,
            other,
        } = said;
        match self {
            Self::Known(..) => format!(" {tlp} TLP {rto} RTO {} else", fast + other),
            Self::Captured(_) => format!(" {} of any kind", rto + tlp + fast + other),
            Self::Any => String::new(),
        }
    }
}

/// What is compared of a record, on one line.
fn measured(record: &Record, again: Again) -> String {
    let tcp = &record.tcp;
    format!(
        "{} {}, {}, {}/{} B, again: {} SYN{}",
        record.family,
        record.outcome.as_deref().unwrap_or("null"),
        tcp.closed_by.as_deref().unwrap_or("nobody"),
        tcp.bytes_sent.unwrap_or_default(),
        tcp.bytes_received.unwrap_or_default(),
        tcp.retransmits.syn,
        again.measured(&tcp.retransmits),
    )
}

/// The same line as the case and the capture have it.
fn truth(family: Family, case: &Case, closed_by: Option<&str>, syn: u32, again: Again) -> String {
    format!(
        "{} {}, {}, {}/{} B, again: {syn} SYN{}",
        family.recorded(),
        case.outcome,
        closed_by.unwrap_or("nobody"),
        case.bytes,
        case.bytes,
        again.truth(),
    )
}

fn compare(
    verdict: &mut Verdict,
    family: Family,
    case: &Case,
    attempt: &Attempt,
    records: &[Record],
    at_client: &Conversations,
    at_server: &Conversations,
) -> Result<()> {
    let port = port(family, case);
    let address = if case.no_route {
        family.unrouted(port)
    } else {
        family.server(port)
    };
    for (side, capture) in [(Side::Client, at_client), (Side::Server, at_server)] {
        let name = format!("{} {}, {}", family.name(), case.name, side.name());
        let mine: Vec<&Record> = records
            .iter()
            .filter(|record| record.role == side.name() && record.server_port() == port)
            .collect();
        let expected = if side == Side::Client { 1 } else { case.server_records };
        if mine.len() != expected || expected != 1 {
            verdict.count(format!("{name} records"), mine.len() as u64, expected as u64);
            continue;
        }
        // Where no port was free, the capture has the holders alone.
        let captured = capture.to(address).next().filter(|_| !case.no_free_port);
        let conversation = captured.map_or_else(Conversation::default, |(_, found)| found.clone());
        let seen = conversation.closer.filter(|_| case.on_wire);
        if family != Family::Mptcp {
            // MPTCP ends its subflows as it likes; the other families must do what the case is named after.
            let on_wire = seen.map(|closer| closed_by(closer, Side::Client));
            ensure!(
                !case.on_wire || on_wire == case.closed_by,
                "{name}: the capture says closed by {on_wire:?}"
            );
        }
        let closed_by = seen.map_or(case.closed_by, |closer| Some(closed_by(closer, side)));
        let (syn, sent) = match side {
            Side::Client => (conversation.syn_again, conversation.by_client),
            Side::Server => (0, conversation.by_server),
        };
        let record = mine[0];
        let again = Again::new(case, side, sent.again);
        verdict.text(
            &name,
            measured(record, again),
            truth(family, case, closed_by, syn, again),
        );
        if side == Side::Client {
            let pid = record.process.pid.map_or_else(String::new, |pid| pid.to_string());
            verdict.text(format!("{name} pid"), pid, attempt.pid.to_string());
        }
    }
    Ok(())
}

/// One record per subflow and side; both of the client belong to the process that connected.
fn compare_subflows(
    verdict: &mut Verdict,
    attempt: &Attempt,
    records: &[Record],
    capture: &Conversations,
) -> Result<()> {
    let subflows = capture.to(Family::Mptcp.server(SUBFLOWS)).count() as u64;
    ensure!(subflows == 2, "two subflows were asked for, the capture has {subflows}");
    let of_role = |role: &'static str| {
        let matching = move |record: &&Record| record.role == role && record.server_port() == SUBFLOWS;
        records.iter().filter(matching)
    };
    for role in ["client", "server"] {
        verdict.count(
            format!("mptcp two subflows, {role} records"),
            of_role(role).count() as u64,
            subflows,
        );
    }
    let owned = of_role("client")
        .filter(|record| record.process.pid == Some(attempt.pid))
        .count();
    verdict.count("mptcp two subflows, client owner", owned as u64, subflows);
    Ok(())
}

/// hopline's counts against the kernel's, over both namespaces.
fn compare_retransmissions(verdict: &mut Verdict, agent: &Agent, pair: &Pair) -> Result<()> {
    let kernel =
        |name| -> Result<u64> { Ok(kernel_counter(&pair.client, name)? + kernel_counter(&pair.server, name)?) };
    // What nobody owns any more still repeats its FIN.
    let deadline = Instant::now() + SETTLED_WITHIN;
    let metrics = loop {
        let before = kernel("TcpRetransSegs")?;
        let metrics = agent.scrape_drained()?;
        if kernel("TcpRetransSegs")? == before {
            break metrics;
        }
        ensure!(Instant::now() < deadline, "segments are sent again without an end");
    };
    let of_type = |kind| metrics.sum("hopline_tcp_retransmits_total", &[("type", kind)]);
    // The kernel counts before it transmits, hopline what left.
    let failed = kernel("TcpExtTCPRetransFail")?;
    let name = "SYN and SYN-ACK retransmissions";
    let [said, counted] = [of_type("syn") + of_type("synack"), kernel("TcpExtTCPSynRetrans")?];
    verdict.at_most(name, said as f64, counted as f64, "");
    verdict.at_least(name, said as f64, counted.saturating_sub(failed) as f64, "");
    let all = metrics.sum("hopline_tcp_retransmits_total", &[]);
    verdict.count(
        "all retransmissions",
        all,
        kernel("TcpRetransSegs")?.saturating_sub(failed),
    );
    verdict.note("transmissions that failed, TCPRetransFail", failed as f64, "");
    for kind in ["syn", "synack", "rto", "fast", "tlp", "other"] {
        verdict.note(format!("retransmissions of type {kind}"), of_type(kind) as f64, "");
    }
    super::compare_losses(verdict, &metrics);
    Ok(())
}

impl Family {
    /// An address that the client namespace has no route to.
    fn unrouted(self, port: u16) -> std::net::SocketAddr {
        let text = if self == Self::Ipv6 {
            "2001:db8::1"
        } else {
            "198.51.100.1"
        };
        std::net::SocketAddr::new(text.parse().expect("an address"), port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_otherwise_is_held_to_the_capture() {
        let case = CASES
            .iter()
            .find(|case| case.name == "request lost once")
            .expect("the case");
        let said = Retransmits {
            syn: 0,
            rto: 0,
            fast: 0,
            tlp: 1,
            other: 0,
        };
        let is_right = |side, captured| {
            let again = Again::new(case, side, captured);
            again.measured(&said) == again.truth()
        };
        assert!(is_right(Side::Client, 1) && is_right(Side::Server, 1));
        assert!(!is_right(Side::Client, 2) && !is_right(Side::Server, 0));
    }
}
