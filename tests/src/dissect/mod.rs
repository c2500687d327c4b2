//! The truth about TLS: tshark over a capture, decrypted with the keys that the programs themselves wrote.
//!
//! `frame` reads tshark's lines, `handshake` makes one handshake per connection of them; both are pure.

mod frame;
mod handshake;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

pub(crate) use handshake::Handshake;

use crate::router::FORGED_TTL;
use frame::Frame;

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
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-Y", "tcp", "-r"]).arg(&genuine);
    tshark.args(["-o", "tcp.reassemble_out_of_order:TRUE"]);
    if let Some(keys) = keys {
        tshark.arg("-o").arg(format!("tls.keylog_file:{}", keys.display()));
    }
    for DecodeAs { port, protocol } in ports {
        tshark.arg("-d").arg(format!("tcp.port=={port},{protocol}"));
    }
    tshark.args([
        "-T",
        "fields",
        "-E",
        "separator=/t",
        "-E",
        "occurrence=a",
        "-E",
        "aggregator=,",
    ]);
    for field in frame::FIELDS {
        tshark.args(["-e", field]);
    }
    let output = tshark.output().context("running tshark")?;
    ensure!(
        output.status.success(),
        "tshark: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8_lossy(&output.stdout);
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
    let copied = Command::new("tcpdump")
        .args(["-r"])
        .arg(capture)
        .args(["--time-stamp-precision=nano", "-Z", "root", "-w"])
        .arg(&genuine)
        .arg(format!("not (ip and ip[8] = {FORGED_TTL})"))
        .output()?;
    ensure!(
        copied.status.success(),
        "tcpdump: {}",
        String::from_utf8_lossy(&copied.stderr).trim()
    );
    let counted = Command::new("tcpdump")
        .args(["-n", "-Z", "root", "-r"])
        .arg(capture)
        .arg(format!("ip and ip[8] = {FORGED_TTL}"))
        .output()?;
    Ok((genuine, String::from_utf8_lossy(&counted.stdout).lines().count() as u64))
}
