//! What tshark reads in the packets of a capture once it has the keys: kinds of records, not times. Looks into one file.

use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::tshark::{self, numbers, values};

/// Columns, in order. One packet may have many values in each.
const FIELDS: [&str; 7] = [
    "frame.number",
    "tls.record.content_type",
    "tls.record.length",
    "tls.handshake.type",
    "tls.handshake.extensions.supported_version",
    "tls.handshake.extensions_alpn_str",
    "http2.type",
];

/// A packet in which TLS records end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// Position in the file, from 0.
    pub(super) packet: usize,
    /// Content type (RFC 8446 section 5) inside each record that ends here; 23 too for what could not be decrypted.
    pub(super) content_types: Vec<u8>,
    /// Length in the header of each of these records.
    pub(super) lengths: Vec<u16>,
    /// Handshake messages that end here.
    pub(super) handshakes: Vec<u8>,
    /// Offered or chosen version, where one of the messages has the extension.
    pub(super) versions: Vec<u16>,
    /// Offered or chosen protocols.
    pub(super) alpn: Vec<String>,
    /// Types of the HTTP/2 frames that end here.
    pub(super) http2: Vec<u8>,
}

/// Reads `capture` with the keys of `keylog`; what goes to or from `ports` is TLS.
pub(super) fn read(capture: &Path, keylog: &Path, ports: &RangeInclusive<u16>) -> Result<Vec<Row>> {
    let (first, last) = (ports.start(), ports.end());
    let filter = format!("tls && tcp.port in {{{first}..{last}}}");
    let decode = format!("tcp.port=={first}-{last},tls");
    parse(&tshark::fields(
        capture,
        Some(keylog),
        &filter,
        &[],
        &[decode],
        &FIELDS,
    )?)
}

/// The rows of `-T fields`: columns between tabs, values between commas.
pub(super) fn parse(text: &str) -> Result<Vec<Row>> {
    text.lines()
        .map(|line| row(line).with_context(|| format!("tshark's line `{line}`")))
        .collect()
}

fn row(line: &str) -> Result<Row> {
    let columns: Vec<&str> = line.split('\t').collect();
    let [frame, types, lengths, handshakes, versions, alpn, http2] = columns[..] else {
        anyhow::bail!("{} columns", columns.len());
    };
    let row = Row {
        packet: frame.parse::<usize>()?.checked_sub(1).context("frames count from 1")?,
        content_types: numbers(types)?,
        lengths: numbers(lengths)?,
        handshakes: numbers(handshakes)?,
        versions: numbers(versions)?,
        alpn: values(alpn).map(str::to_owned).collect(),
        http2: numbers(http2)?,
    };
    ensure!(
        row.content_types.len() == row.lengths.len(),
        "as many lengths as records"
    );
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_every_record_of_its_packet() {
        let rows = parse("11\t22,20,23\t122,1,36\t2,8\t0x0304\th2\t\n12\t23\t56\t\t\t\t4,1\n").expect("rows");
        assert_eq!(rows[0].packet, 10);
        assert_eq!(rows[0].content_types, [22, 20, 23]);
        assert_eq!(
            (&rows[0].versions[..], &rows[0].alpn[..]),
            (&[0x0304][..], &["h2".to_owned()][..])
        );
        assert_eq!(rows[1].http2, [4, 1]);
    }

    #[test]
    fn what_is_no_row_is_an_error() {
        for line in ["1\t22", "0\t22\t1\t\t\t\t", "1\t22\t1,2\t\t\t\t", "1\t999\t1\t\t\t\t"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
