//! The `tcp` phase of both roles against a capture on the same side, without and with delay; and where the role is not plain.

pub(super) mod roles;

use anyhow::{Context as _, Result, ensure};

use crate::capture::{Capture, Conversation};
use crate::hopline::{Record, Trace};
use crate::lab::Lab;
use crate::router::{DEVICE, RouterSettings};
use crate::topology::{Family, Pair};
use crate::traffic::connect::attempts;
use crate::verdict::{Verdict, percentile};

const DELAYS_MS: [u64; 3] = [0, 20, 100];
const CONNECTIONS: usize = 200;
const PORT: u16 = 8080;

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    for delay_ms in DELAYS_MS {
        // Half of it each way.
        let settings = RouterSettings {
            delay_us: delay_ms * 500,
            ..RouterSettings::default()
        };
        let pair = Pair::new(lab, &settings)?;
        for family in [Family::Ipv4, Family::Ipv6] {
            cell(lab, verdict, &pair, family, delay_ms)?;
        }
    }
    roles::run(lab, verdict)
}

/// One delay and family.
fn cell(lab: &Lab, verdict: &mut Verdict, pair: &Pair, family: Family, delay_ms: u64) -> Result<()> {
    let cell = format!("{delay_ms} ms {}", family.name());
    let server_address = family.server(PORT);
    let mut server = lab.helper(
        &["serve", &format!("{server_address}/echo")],
        &pair.server,
        &lab.traffic,
    )?;
    server.wait_for("ready")?;
    let at_client = Capture::start(lab, &format!("client-{cell}"), &pair.client, DEVICE)?;
    let at_server = Capture::start(lab, &format!("server-{cell}"), &pair.server, DEVICE)?;
    let trace = Trace::start(lab, &cell, lab.traffic.path())?;

    // With delay, many at a time, a little apart: one after the other would take minutes.
    let threads = if delay_ms == 0 { 1 } else { 20 };
    let each = (CONNECTIONS / threads).to_string();
    let to = server_address.to_string();
    let words = [
        "connect",
        "--to",
        &to,
        "--threads",
        &threads.to_string(),
        "--count",
        &each,
        "--interval-us",
        "3000",
    ];
    let made = attempts(&lab.helper(&words, &pair.client, &lab.traffic)?.finish()?)?;
    ensure!(
        made.iter().all(|attempt| attempt.error == 0),
        "{cell}: a connect failed"
    );

    trace.wait_for(2 * CONNECTIONS)?;
    let records = trace.finish()?;
    drop(server);
    let (at_client, at_server) = (at_client.finish()?, at_server.finish()?);

    let tolerance = lab.tolerance_us(delay_ms * 1_000);
    for (role, capture, phase) in [
        (
            "client",
            &at_client,
            Conversation::client_tcp_us as fn(&Conversation) -> Option<f64>,
        ),
        ("server", &at_server, Conversation::server_tcp_us),
    ] {
        let mut truth = Vec::new();
        for (_, conversation) in capture.to(server_address) {
            truth.push(phase(conversation).with_context(|| format!("{cell}: capture lacks a handshake"))?);
        }
        ensure!(
            truth.len() == CONNECTIONS,
            "{cell}: capture at the {role} has {} connections",
            truth.len()
        );
        let of_role: Vec<&Record> = records.iter().filter(|record| record.role == role).collect();
        let known = |record: &&&Record| {
            let (client, server) = record.addresses();
            capture.get(client, server).is_some()
        };
        verdict.count(
            format!("{cell} {role} records"),
            of_role.len() as u64,
            CONNECTIONS as u64,
        );
        verdict.count(
            format!("{cell} {role} captured"),
            of_role.iter().filter(known).count() as u64,
            CONNECTIONS as u64,
        );
        let mut measured: Vec<f64> = of_role
            .iter()
            .filter_map(|record| record.phases_us.tcp)
            .map(|time| time as f64)
            .collect();
        for percent in [50, 95] {
            let (measured, truth) = (percentile(&mut measured, percent), percentile(&mut truth, percent));
            verdict.time_us(format!("{cell} {role} tcp p{percent}"), measured, truth, tolerance);
            if role == "client" && percent == 50 {
                // The path itself must be what it is named after; its tail is the machine's.
                let named = delay_ms as f64 * 1_000.0;
                verdict.at_least(
                    format!("{cell} path p{percent}"),
                    truth / 1_000.0,
                    named / 1_000.0,
                    "ms",
                );
            }
        }
    }
    Ok(())
}
