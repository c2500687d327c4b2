//! From the records of one connection and what is in them to its phases, by the definitions of the timeline. Pure.

use anyhow::{Context as _, Result, ensure};

use super::records::{Record, Stream};
use super::tshark::Row;

const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const SERVER_HELLO: u8 = 2;
const FINISHED: u8 = 20;
const TLS13: u16 = 0x0304;
/// HTTP/2 frames that are of a request or an answer: DATA, HEADERS, `PUSH_PROMISE`, CONTINUATION (RFC 9113 section 6).
const HTTP2_MESSAGES: [u8; 4] = [0, 1, 5, 9];

/// Phases of one connection as seen at one device, microseconds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exchanges {
    /// `1.2` or `1.3`, as the server chose.
    pub(crate) version: &'static str,
    /// Protocols that the client offered.
    pub(crate) offered: Vec<String>,
    /// The one that the server chose.
    pub(crate) alpn: Option<String>,
    /// First byte of the first `ClientHello` until both Finished have passed.
    pub(crate) tls_us: f64,
    /// First application byte of the client until the first byte of the answer.
    pub(crate) ttfb_us: f64,
    /// Each later exchange: first byte of the request until the first byte that answers it.
    pub(crate) turns_us: Vec<f64>,
}

/// A record and what tshark found inside.
#[derive(Clone, Copy, Debug)]
struct Known {
    record: Record,
    content_type: u8,
    /// HTTP/2 frames that are neither request nor answer.
    is_control: bool,
}

/// Reads one connection. `rows` are the packets in which its records end, by their position in the file.
pub(super) fn read<'a>(stream: &Stream, row_of: impl Fn(usize) -> Option<&'a Row>) -> Result<Exchanges> {
    ensure!(!stream.broken, "bytes are missing or out of order");
    let known = join(stream, &row_of)?;
    let rows = |from_client: bool| {
        let records = stream.records.iter();
        let mut packets: Vec<usize> = records
            .filter(|record| record.from_client == from_client)
            .map(|record| record.packets.1)
            .collect();
        packets.dedup();
        packets.into_iter().filter_map(&row_of)
    };
    let hello = rows(false)
        .filter(|row| row.handshakes.contains(&SERVER_HELLO))
        .last()
        .context("no ServerHello")?;
    let offered = rows(true).find(|row| !row.alpn.is_empty());
    let alpn = rows(false).find_map(|row| row.alpn.first().cloned());

    let client_hello = known
        .iter()
        .find(|known| known.record.from_client && known.content_type == HANDSHAKE)
        .context("no ClientHello")?;
    let finished = |from_client: bool| -> Result<u64> {
        let row = rows(from_client).find(|row| row.handshakes.contains(&FINISHED));
        let packet = row.context("no Finished: keys are missing")?.packet;
        let ended = known.iter().find(|known| known.record.packets.1 == packet);
        Ok(ended.context("a row without record")?.record.end_ns)
    };
    // The later one: the client's in TLS 1.3 and in a resumed session of 1.2, else the server's.
    let tls_done_ns = finished(true)?.max(finished(false)?);

    let mut application = known.iter().filter(|known| known.content_type == APPLICATION_DATA);
    let request = application
        .by_ref()
        .find(|known| known.record.from_client)
        .context("no request")?;
    ensure!(
        request.record.begin_ns >= tls_done_ns,
        "a request before the handshake was done"
    );
    let first_byte = application
        .by_ref()
        .find(|known| !known.record.from_client && !known.is_control)
        .context("no answer")?;
    let messages = application.filter(|known| !known.is_control).map(|known| &known.record);
    Ok(Exchanges {
        version: if hello.versions.contains(&TLS13) { "1.3" } else { "1.2" },
        offered: offered.map(|row| row.alpn.clone()).unwrap_or_default(),
        alpn,
        tls_us: between_us(client_hello.record.begin_ns, tls_done_ns)?,
        ttfb_us: between_us(request.record.begin_ns, first_byte.record.begin_ns)?,
        turns_us: turns(messages)?,
    })
}

/// What comes after the first byte of the first answer.
fn turns<'a>(messages: impl Iterator<Item = &'a Record>) -> Result<Vec<f64>> {
    let mut turns = Vec::new();
    let mut open: Option<&Record> = None;
    let mut after_incoming = true;
    for record in messages {
        if record.from_client {
            if after_incoming && open.is_none() {
                open = Some(record);
            }
            after_incoming = false;
            continue;
        }
        after_incoming = true;
        // Acknowledges at least the first byte.
        if let Some(request) = open.filter(|request| {
            let beyond = record.acknowledgment.wrapping_sub(request.sequence);
            beyond != 0 && beyond < u32::MAX / 2
        }) {
            turns.push(between_us(request.begin_ns, record.begin_ns)?);
            open = None;
        }
    }
    Ok(turns)
}

/// Gives each record the content that tshark found: both must agree on how many there are and how long.
fn join<'a>(stream: &Stream, row_of: &impl Fn(usize) -> Option<&'a Row>) -> Result<Vec<Known>> {
    let mut all = Vec::new();
    for records in stream.records.chunk_by(|one, next| one.packets.1 == next.packets.1) {
        let packet = records[0].packets.1;
        let row = row_of(packet).with_context(|| format!("tshark sees no TLS in packet {}", packet + 1))?;
        let lengths: Vec<u16> = records.iter().map(|record| record.length).collect();
        ensure!(
            lengths == row.lengths,
            "packet {}: records of {lengths:?} bytes, by tshark {:?}",
            packet + 1,
            row.lengths
        );
        let has_messages = row.http2.iter().any(|kind| HTTP2_MESSAGES.contains(kind));
        let is_mixed = has_messages && row.http2.iter().any(|kind| !HTTP2_MESSAGES.contains(kind));
        let begin_together = records.iter().all(|record| record.packets.0 == packet);
        // tshark tells frames by packet: which record has which does not matter as long as all have one time.
        ensure!(
            records.len() == 1 || begin_together || !is_mixed,
            "packet {}: messages and control frames in records that began apart",
            packet + 1
        );
        for (record, content_type) in records.iter().zip(&row.content_types) {
            all.push(Known {
                record: *record,
                content_type: *content_type,
                is_control: !row.http2.is_empty() && !has_messages,
            });
        }
    }
    Ok(all)
}

fn between_us(from_ns: u64, to_ns: u64) -> Result<f64> {
    let time_ns = to_ns.checked_sub(from_ns).context("time runs backward")?;
    Ok(time_ns as f64 / 1_000.0)
}
