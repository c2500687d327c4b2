//! The truth about TLS: tshark over a capture, decrypted with the keys that the programs themselves wrote.
//!
//! `frame` reads tshark's lines, `handshake` makes one handshake per connection of them; both are pure.

mod frame;
mod handshake;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

pub(crate) use handshake::Handshake;
#[cfg(test)]
pub(crate) use handshake::example;

use crate::router::FORGED_TTL;
use crate::{tools, tshark};
use frame::Frame;

/// Segments that overtake each other are the router's work, no broken handshake.
const REORDERED: &str = "tcp.reassemble_out_of_order:TRUE";

/// How tshark is to read the connections of a server port.
pub(crate) struct DecodeAs {
    pub(crate) port: u16,
    /// tshark's name of the protocol: `tls`, or the one in which TLS begins later.
    pub(crate) protocol: &'static str,
}

/// One capture, read.
#[derive(Debug)]
pub(crate) struct Dissection {
    /// Connections with a `ClientHello`, in the order of these.
    pub(crate) handshakes: Vec<Handshake>,
    /// Segments that the router forged. tshark did not get to see them.
    pub(crate) forged: u64,
    /// Payload of the longest packet, in bytes.
    pub(crate) longest_packet: u64,
}

/// Reads `capture`; without keys encrypted alerts and Finished stay unknown.
pub(crate) fn dissect(capture: &Path, keys: Option<&Path>, ports: &[DecodeAs]) -> Result<Dissection> {
    let (genuine, forged) = without_forged(capture)?;
    let ports: Vec<String> = ports
        .iter()
        .map(|DecodeAs { port, protocol }| format!("tcp.port=={port},{protocol}"))
        .collect();
    let text = tshark::fields(&genuine, keys, "tcp", &[REORDERED], &ports, frame::FIELDS)?;
    let frames: Vec<Frame> = text.lines().map(Frame::parse).collect::<Result<_>>()?;
    Ok(Dissection {
        handshakes: handshake::handshakes(&frames),
        forged,
        longest_packet: frames.iter().map(|frame| frame.payload).max().unwrap_or_default(),
    })
}

/// A copy without what the router forged, and how much that was.
fn without_forged(capture: &Path) -> Result<(PathBuf, u64)> {
    let genuine = capture.with_extension("genuine");
    tools::output_of(
        Command::new("tcpdump")
            .arg("-r")
            .arg(capture)
            .args(["--time-stamp-precision=nano", "-Z", "root", "-w"])
            .arg(&genuine)
            .arg(format!("not (ip and ip[8] = {FORGED_TTL})")),
    )?;
    let forged = tools::output_of(
        Command::new("tcpdump")
            .args(["-n", "-Z", "root", "-r"])
            .arg(capture)
            .arg(format!("ip and ip[8] = {FORGED_TTL}")),
    )?;
    Ok((genuine, forged.lines().count() as u64))
}
