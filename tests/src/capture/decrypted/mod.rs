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

#[cfg(test)]
mod tests {
    use super::*;

    /// A recorded connection to a port from 9000 on: the packets, and what tshark said of them. The expected times are
    /// differences of tshark's own stamps.
    fn check(packets: &[u8], rows: &str, expected: &Exchanges) {
        let packets = pcap::parse(packets).expect("capture");
        let rows = tshark::parse(rows).expect("rows");
        let found: Vec<_> = put_together(&packets, &rows, &(9_000..=9_499)).into_values().collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].as_ref().expect("truth"), expected);
    }

    macro_rules! recorded {
        ($name:literal) => {
            (
                include_bytes!(concat!("../../../captures/", $name, ".pcap")),
                include_str!(concat!("../../../captures/", $name, ".tsv")),
            )
        };
    }

    #[test]
    fn tickets_settings_and_empty_data_are_no_answers() {
        let (packets, rows) = recorded!("go-node-1.3-h2");
        let expected = Exchanges {
            version: "1.3",
            offered: vec!["h2".to_owned(), "http/1.1".to_owned()],
            alpn: Some("h2".to_owned()),
            tls_us: 2_974.460,
            ttfb_us: 8_889.015,
            turns_us: vec![5_894.610, 5_626.139],
        };
        check(packets, rows, &expected);
    }

    #[test]
    fn a_ticket_may_share_the_answers_segment() {
        let (packets, rows) = recorded!("s_client-python-1.3-h1");
        let expected = Exchanges {
            version: "1.3",
            offered: vec!["http/1.1".to_owned()],
            alpn: Some("http/1.1".to_owned()),
            tls_us: 1_586.840,
            ttfb_us: 44_127.313,
            turns_us: vec![5_656.812],
        };
        check(packets, rows, &expected);
    }

    #[test]
    fn a_full_handshake_of_tls_1_2_ends_with_the_servers_finished() {
        let (packets, rows) = recorded!("gnutls-go-1.2-h1");
        let expected = Exchanges {
            version: "1.2",
            offered: vec!["http/1.1".to_owned()],
            alpn: Some("http/1.1".to_owned()),
            tls_us: 1_339.325,
            ttfb_us: 5_354.726,
            turns_us: vec![5_566.743],
        };
        check(packets, rows, &expected);
    }

    #[test]
    fn a_resumed_one_ends_with_the_clients() {
        let (packets, rows) = recorded!("s_client-go-1.2-resumed");
        let expected = Exchanges {
            version: "1.2",
            offered: vec!["http/1.1".to_owned()],
            alpn: Some("http/1.1".to_owned()),
            tls_us: 256.247,
            ttfb_us: 5_598.320,
            turns_us: vec![5_490.952],
        };
        check(packets, rows, &expected);
    }

    #[test]
    fn without_keys_there_is_no_truth() {
        let (packets, rows) = recorded!("go-node-1.3-h2");
        let blind: String = rows
            .lines()
            .map(|line| {
                let mut columns: Vec<&str> = line.split('\t').collect();
                columns[3] = columns[3].strip_suffix("20").unwrap_or(columns[3]);
                columns.join("\t") + "\n"
            })
            .collect();
        let packets = pcap::parse(packets).expect("capture");
        let rows = tshark::parse(&blind).expect("rows");
        let found = put_together(&packets, &rows, &(9_000..=9_499));
        let error = found.into_values().next().expect("one").expect_err("no truth");
        assert!(error.to_string().contains("keys are missing"), "{error}");
    }

    #[test]
    fn a_capture_that_tshark_reads_otherwise_is_no_truth() {
        let (packets, rows) = recorded!("gnutls-go-1.2-h1");
        let packets = pcap::parse(packets).expect("capture");
        let rows = tshark::parse(&rows.replace("82,430", "82,431")).expect("rows");
        let found = put_together(&packets, &rows, &(9_000..=9_499));
        assert!(found.into_values().all(|exchanges| exchanges.is_err()));
    }
}
