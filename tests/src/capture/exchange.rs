//! The truth about exchanges in clear: when each connection was opened, asked and answered, and for what.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use super::pcap;
use crate::packet::tcp_segment_and_payload;

/// One exchange. Wall clock, nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    /// The connection was opened; of a later exchange than its first, the same as `request_ns`.
    pub(crate) opened_ns: u64,
    pub(crate) request_ns: u64,
    pub(crate) answer_ns: u64,
    /// Target in the request line.
    pub(crate) target: String,
    /// The first one of its connection.
    pub(crate) is_first: bool,
}

/// All that were answered, in the order of their requests. Requests are asked one after the other.
pub(crate) fn read(file: &Path) -> Result<Vec<Exchange>> {
    let mut latest: HashMap<(SocketAddr, SocketAddr), Exchange> = HashMap::new();
    let mut all = Vec::new();
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
                is_first: true,
            };
            // The same ports again are another connection; a SYN that was sent again is not.
            latest.entry(forward).or_insert(exchange);
        } else if let Some(exchange) = latest.get_mut(&forward) {
            if exchange.answer_ns != 0 && !payload.is_empty() {
                *exchange = Exchange {
                    opened_ns: packet.time_ns,
                    request_ns: 0,
                    answer_ns: 0,
                    is_first: false,
                    ..exchange.clone()
                };
            }
            if exchange.request_ns == 0 && !payload.is_empty() {
                exchange.request_ns = packet.time_ns;
                let line = String::from_utf8_lossy(payload);
                line.split(' ')
                    .nth(1)
                    .unwrap_or_default()
                    .clone_into(&mut exchange.target);
            }
        } else if let Some(exchange) = latest.get_mut(&(segment.destination, segment.source))
            && exchange.answer_ns == 0
            && exchange.request_ns != 0
            && !payload.is_empty()
        {
            exchange.answer_ns = packet.time_ns;
            all.push(exchange.clone());
        }
    }
    all.sort_by_key(|exchange| exchange.request_ns);
    Ok(all)
}
