//! Handshakes of a capture: names, versions, and the marks of the `tls` phase as the contract defines them. Pure.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::frame::Frame;

const CLIENT_HELLO: u64 = 1;
const SERVER_HELLO: u64 = 2;
const CERTIFICATE: u64 = 11;
const SERVER_HELLO_DONE: u64 = 14;
const FINISHED: u64 = 20;
const TLS13: u64 = 0x0304;
/// Level of an alert.
const FATAL: u64 = 2;

/// A fatal alert in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alert {
    /// RFC 8446 section 6.
    pub(crate) description: u64,
    pub(crate) from_client: bool,
}

/// One connection with TLS in it. Times are nanoseconds of the wall clock at the place of the capture.
#[derive(Clone, Debug)]
pub(crate) struct Handshake {
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    /// First byte of the first `ClientHello`.
    pub(crate) client_hello_ns: u64,
    /// `HelloRetryRequest` makes it two.
    pub(crate) client_hellos: u32,
    /// Segments that the first one came in.
    pub(crate) hello_segments: usize,
    /// The first one was in the SYN.
    pub(crate) hello_in_syn: bool,
    pub(crate) server_name: Option<String>,
    is_tls13: Option<bool>,
    cipher_suite: Option<u64>,
    certificate: bool,
    hello_done: bool,
    client_finished_ns: Option<u64>,
    server_finished_ns: Option<u64>,
    /// The first that was neither a warning nor encrypted.
    pub(crate) alert: Option<Alert>,
}

impl Handshake {
    fn new(client: SocketAddr, server: SocketAddr, hello_ns: u64) -> Self {
        Self {
            client,
            server,
            client_hello_ns: hello_ns,
            client_hellos: 0,
            hello_segments: 1,
            hello_in_syn: false,
            server_name: None,
            is_tls13: None,
            cipher_suite: None,
            certificate: false,
            hello_done: false,
            client_finished_ns: None,
            server_finished_ns: None,
            alert: None,
        }
    }

    /// As the record names it.
    pub(crate) fn version(&self) -> Option<&'static str> {
        self.is_tls13.map(|is_tls13| if is_tls13 { "1.3" } else { "1.2" })
    }

    /// The agreed suite, as IANA names it.
    pub(crate) fn cipher(&self) -> Option<String> {
        let known = match self.cipher_suite? {
            0x1301 => "TLS_AES_128_GCM_SHA256",
            0x1302 => "TLS_AES_256_GCM_SHA384",
            0x1303 => "TLS_CHACHA20_POLY1305_SHA256",
            0xc02f => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            0xc030 => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            0xcca8 => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            other => return Some(format!("{other:#06x}")),
        };
        Some(known.to_owned())
    }

    /// The server proved nothing anew. Known only when both have finished.
    pub(crate) fn resumed(&self) -> Option<bool> {
        self.tls_us()?;
        Some(!self.certificate && !self.hello_done)
    }

    /// The `tls` phase: TLS 1.3 and resumed 1.2 end with the client's Finished, full 1.2 with the server's.
    pub(crate) fn tls_us(&self) -> Option<f64> {
        let (client, server) = (self.client_finished_ns?, self.server_finished_ns?);
        let full12 = self.is_tls13 == Some(false) && self.hello_done;
        let done = if full12 { server } else { client };
        Some(done.checked_sub(self.client_hello_ns)? as f64 / 1_000.0)
    }

    fn add(&mut self, frame: &Frame) {
        let from_client = frame.source == self.client;
        for kind in &frame.handshake_types {
            match (*kind, from_client) {
                (CLIENT_HELLO, true) => self.client_hellos += 1,
                (SERVER_HELLO, false) => {
                    self.is_tls13 = Some(frame.supported_versions.contains(&TLS13));
                    self.cipher_suite = frame.cipher_suites.first().copied();
                }
                (CERTIFICATE, false) => self.certificate = true,
                (SERVER_HELLO_DONE, false) => self.hello_done = true,
                (FINISHED, true) => self.client_finished_ns = self.client_finished_ns.or(Some(frame.time_ns)),
                (FINISHED, false) => self.server_finished_ns = self.server_finished_ns.or(Some(frame.time_ns)),
                _ => {}
            }
        }
        for (level, description) in frame.alert_levels.iter().zip(&frame.alert_descriptions) {
            if *level == FATAL && self.alert.is_none() {
                self.alert = Some(Alert {
                    description: *description,
                    from_client,
                });
            }
        }
    }
}

/// In the order of their first `ClientHello`.
pub(super) fn handshakes(frames: &[Frame]) -> Vec<Handshake> {
    let by_number: HashMap<u64, &Frame> = frames.iter().map(|frame| (frame.number, frame)).collect();
    let mut found: Vec<Handshake> = Vec::new();
    let mut by_ends: HashMap<(SocketAddr, SocketAddr), usize> = HashMap::new();
    for frame in frames {
        let (from, to) = (frame.source, frame.destination);
        let known = by_ends.get(&(from, to)).or_else(|| by_ends.get(&(to, from))).copied();
        let index = match known {
            Some(index) => index,
            None if frame.handshake_types.first() == Some(&CLIENT_HELLO) => {
                found.push(begun(frame, &by_number));
                by_ends.insert((from, to), found.len() - 1);
                found.len() - 1
            }
            None => continue,
        };
        found[index].add(frame);
    }
    found
}

/// A connection whose first `ClientHello` is complete with `frame`: its first byte may have come before.
fn begun(frame: &Frame, by_number: &HashMap<u64, &Frame>) -> Handshake {
    let parts = frame.segments.iter().filter_map(|number| by_number.get(number));
    let first = parts.min_by_key(|part| part.sequence).map_or(frame, |part| *part);
    let mut begun = Handshake::new(frame.source, frame.destination, first.time_ns);
    begun.hello_segments = frame.segments.len().max(1);
    // Sequence number 0 is the SYN's own.
    begun.hello_in_syn = first.sequence == 0 && first.payload > 0;
    begun.server_name.clone_from(&frame.server_name);
    begun
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "10.0.0.1:1000";
    const SERVER: &str = "10.0.0.2:443";

    fn frame(number: u64, from: &str, sequence: u64, segments: &[u64], types: &[u64]) -> Frame {
        let address = |text: &str| text.parse().expect("address");
        let to = if from == CLIENT { SERVER } else { CLIENT };
        Frame {
            number,
            time_ns: number * 1_000,
            source: address(from),
            destination: address(to),
            sequence,
            payload: 100,
            segments: segments.to_vec(),
            handshake_types: types.to_vec(),
            server_name: None,
            supported_versions: vec![],
            cipher_suites: vec![0xc02f],
            alert_levels: vec![],
            alert_descriptions: vec![],
        }
    }

    fn only(frames: &[Frame]) -> Handshake {
        let mut found = handshakes(frames);
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    #[test]
    fn the_phase_begins_with_the_segment_that_has_the_first_byte() {
        let full = only(&[
            frame(1, CLIENT, 1461, &[], &[]),
            frame(2, CLIENT, 1, &[1, 2], &[1]),
            frame(3, SERVER, 1, &[], &[2, 11, 12, 14]),
            frame(4, CLIENT, 2000, &[], &[16, 20]),
            frame(5, SERVER, 3000, &[], &[4, 20]),
        ]);
        assert_eq!((full.tls_us(), full.resumed()), (Some(3.0), Some(false)));
        assert_eq!((full.hello_segments, full.version()), (2, Some("1.2")));
    }

    #[test]
    fn a_resumed_session_is_done_with_the_clients_finished() {
        let resumed = only(&[
            frame(1, CLIENT, 1, &[], &[1]),
            frame(2, SERVER, 1, &[], &[2, 20]),
            frame(5, CLIENT, 500, &[], &[20]),
        ]);
        assert_eq!((resumed.tls_us(), resumed.resumed()), (Some(4.0), Some(true)));
    }
}
