//! The truth about first exchanges in clear: when each connection was opened, asked and answered, and for what.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use super::pcap;
use crate::packet::tcp_segment_and_payload;

/// One connection. Wall clock, nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) opened_ns: u64,
    pub(crate) request_ns: u64,
    pub(crate) answer_ns: u64,
    /// Target in the first request line.
    pub(crate) target: String,
}

/// Those that were answered, in the order of their requests.
pub(crate) fn read(file: &Path) -> Result<Vec<Exchange>> {
    let mut open: HashMap<(SocketAddr, SocketAddr), Exchange> = HashMap::new();
    for packet in pcap::read(file)? {
        let Some((segment, payload)) = tcp_segment_and_payload(&packet.ip) else {
            continue;
        };
        let forward = (segment.source, segment.destination);
        if segment.syn && !segment.ack {
            let exchange = Exchange {
                client: segment.source,
                server: segment.destination,
                opened_ns: packet.time_ns,
                request_ns: 0,
                answer_ns: 0,
                target: String::new(),
            };
            // The same ports again are another connection; a SYN that was sent again is not.
            open.entry(forward).or_insert(exchange);
        } else if let Some(exchange) = open.get_mut(&forward) {
            if exchange.request_ns == 0 && !payload.is_empty() {
                exchange.request_ns = packet.time_ns;
                let line = String::from_utf8_lossy(payload);
                line.split(' ')
                    .nth(1)
                    .unwrap_or_default()
                    .clone_into(&mut exchange.target);
            }
        } else if let Some(exchange) = open.get_mut(&(segment.destination, segment.source))
            && exchange.answer_ns == 0
            && !payload.is_empty()
        {
            exchange.answer_ns = packet.time_ns;
        }
    }
    let mut all: Vec<Exchange> = open
        .into_values()
        .filter(|one| one.request_ns != 0 && one.answer_ns != 0)
        .collect();
    all.sort_by_key(|exchange| exchange.request_ns);
    Ok(all)
}
