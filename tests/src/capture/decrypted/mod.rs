//! The truth about TLS, first bytes and turns: a capture of whole packets, decrypted with the keys that clients or servers logged.
//!
//! `records` times the records, `tshark` says what is in them, `exchanges` applies the definitions. A connection of which
//! any of it is uncertain (lost bytes, missing keys, parts that do not fit together) has no truth, and says why.

mod exchanges;
mod records;
mod tshark;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::Result;

pub(crate) use exchanges::Exchanges;

use super::pcap;

/// Phases of each connection, by client and server; an error where the capture does not tell.
pub(crate) type ByConnection = HashMap<(SocketAddr, SocketAddr), Result<Exchanges>>;

/// Reads all connections to the server ports `ports`, which speak TLS from their first byte.
pub(crate) fn read(capture: &Path, keylog: &Path, ports: &RangeInclusive<u16>) -> Result<ByConnection> {
    let rows = tshark::read(capture, keylog, ports)?;
    Ok(put_together(&pcap::read(capture)?, &rows, ports))
}

fn put_together(packets: &[pcap::Packet], rows: &[tshark::Row], ports: &RangeInclusive<u16>) -> ByConnection {
    let rows: HashMap<usize, &tshark::Row> = rows.iter().map(|row| (row.packet, row)).collect();
    let timed = packets.iter().map(|packet| (packet.time_ns, packet.ip.as_slice()));
    records::collect(timed, ports)
        .into_iter()
        .map(|(addresses, stream)| (addresses, exchanges::read(&stream, |packet| rows.get(&packet).copied())))
        .collect()
}
