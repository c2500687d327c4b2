//! What the captures of the demo say: for each name the times of its look-ups, for each connection those of its phases.
//!
//! Printed line by line for whoever started the demo: `lookup NAME US` and `phase HOST:PORT LOCAL_PORT PHASE US`.

use std::path::Path;

use anyhow::Result;

use super::mirrors::ALL;
use crate::capture::{self, Conversation, decrypted};
use crate::tshark;

/// The lines.
pub(super) fn lines(traffic: &Path, lookups: &Path, keys: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let fields = ["dns.qry.name", "dns.time"];
    for row in tshark::fields(lookups, None, "dns.flags.response == 1", &[], &[], &fields)?.lines() {
        if let Some((name, seconds)) = row.split_once('\t') {
            let us = seconds.parse::<f64>().unwrap_or(f64::NAN) * 1e6;
            lines.push(format!("lookup {name} {us}"));
        }
    }
    let conversations = capture::conversations(traffic)?;
    let ports = ALL.iter().fold((u16::MAX, 0), |(first, last), mirror| {
        (first.min(mirror.port), last.max(mirror.port))
    });
    let exchanges = decrypted::read(traffic, keys, &(ports.0..=ports.1))?;
    for mirror in ALL {
        for (client, conversation) in conversations.to(mirror.at()) {
            let exchanges = exchanges
                .get(&(client, mirror.at()))
                .and_then(|found| found.as_ref().ok());
            let phases = [
                ("tcp", Conversation::client_tcp_us(conversation)),
                ("tls", exchanges.map(|exchanges| exchanges.tls_us)),
                ("ttfb", exchanges.map(|exchanges| exchanges.ttfb_us)),
            ];
            for (phase, us) in phases {
                if let Some(us) = us {
                    lines.push(format!(
                        "phase {}:{} {} {phase} {us}",
                        mirror.name,
                        mirror.port,
                        client.port()
                    ));
                }
            }
        }
    }
    Ok(lines)
}
