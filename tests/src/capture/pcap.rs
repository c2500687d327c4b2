//! Reads the classic capture format with nanosecond stamps, as tcpdump writes it on this machine.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

const NANOSECOND_MAGIC: u32 = 0xa1b2_3c4d;
const LINK_ETHERNET: u32 = 1;
/// Bare IP, as TUN devices carry it.
const LINK_RAW: u32 = 101;
const ETHERNET_HEADER: usize = 14;

/// One captured packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// Wall clock of the kernel when the packet passed the device.
    pub(super) time_ns: u64,
    /// From the IP header on, perhaps cut.
    pub(super) ip: Vec<u8>,
}

/// All packets of a file.
pub(super) fn read(path: &Path) -> Result<Vec<Packet>> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    parse(&bytes)
}

pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Packet>> {
    let (header, mut rest) = bytes.split_at_checked(24).context("capture without header")?;
    ensure!(
        word(header, 0) == NANOSECOND_MAGIC,
        "capture is not of this machine with nanosecond stamps"
    );
    let skip = match word(header, 20) {
        LINK_RAW => 0,
        LINK_ETHERNET => ETHERNET_HEADER,
        other => bail!("capture of link type {other}"),
    };
    let mut packets = Vec::new();
    while let Some((record, after)) = rest.split_at_checked(16) {
        let length = word(record, 8) as usize;
        let (packet, after) = after.split_at_checked(length).context("capture ends within a packet")?;
        let time_ns = u64::from(word(record, 0)) * 1_000_000_000 + u64::from(word(record, 4));
        packets.push(Packet {
            time_ns,
            ip: packet.get(skip..).unwrap_or_default().to_vec(),
        });
        rest = after;
    }
    Ok(packets)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(link: u32, packets: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let words = [NANOSECOND_MAGIC, 0, 0, 0, 65_535, link];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        for (seconds, nanoseconds, data) in packets {
            let length = data.len() as u32;
            bytes.extend(
                [*seconds, *nanoseconds, length, length]
                    .iter()
                    .flat_map(|word| word.to_ne_bytes()),
            );
            bytes.extend(*data);
        }
        bytes
    }

    #[test]
    fn stamps_are_nanoseconds_and_link_headers_go() {
        let raw = parse(&file(LINK_RAW, &[(1, 5, b"ab"), (2, 0, b"")])).expect("capture");
        assert_eq!(
            raw[0],
            Packet {
                time_ns: 1_000_000_005,
                ip: b"ab".to_vec()
            }
        );
        assert_eq!(raw.len(), 2);
        let ethernet = parse(&file(LINK_ETHERNET, &[(0, 1, b"0123456789abcdXY")])).expect("capture");
        assert_eq!(ethernet[0].ip, b"XY");
    }

    #[test]
    fn a_cut_file_is_no_truth() {
        let whole = file(LINK_RAW, &[(1, 5, b"abcd")]);
        assert!(parse(&whole[..whole.len() - 1]).is_err());
        assert!(parse(&whole[..10]).is_err());
    }
}
