//! The truth about times: tcpdump beside the traffic, read back per connection.

pub(crate) mod clear;
pub(crate) mod decrypted;
pub(crate) mod dns;
pub(crate) mod exchange;
mod handshake;
pub(crate) mod path;
mod pcap;
mod rtt;

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

pub(crate) use handshake::{Closer, Conversation, Conversations};
pub(crate) use rtt::{RoundTrip, RoundTrips};

use crate::lab::Lab;
use crate::netns::NetNs;
use crate::process::Process;

/// Packets longer than 64 KiB have a hop-by-hop header before TCP's.
const TCP: &str = "tcp or ip6 proto 6 or ip6 proto 0";

/// A running tcpdump on one device of one namespace.
#[derive(Debug)]
pub(crate) struct Capture {
    tcpdump: Process,
    file: PathBuf,
    stderr: PathBuf,
    patience: u32,
}

impl Capture {
    /// Captures DNS by its port, whole.
    pub(crate) fn start_dns(lab: &Lab, name: &str, netns: &NetNs, device: &str) -> Result<Self> {
        Self::start_cut(lab, name, netns, device, "4096", "port 53 or icmp or icmp6")
    }

    /// Captures headers of TCP on `device` from now on; `name` tells captures of one lab apart.
    pub(crate) fn start(lab: &Lab, name: &str, netns: &NetNs, device: &str) -> Result<Self> {
        Self::start_cut(lab, name, netns, device, "160", TCP)
    }

    /// Captures what hellos and certificates are in, too: packets of a path whole, of bulk data the beginning.
    pub(crate) fn start_long(lab: &Lab, name: &str, netns: &NetNs, device: &str) -> Result<Self> {
        Self::start_cut(lab, name, netns, device, "4096", TCP)
    }

    /// Captures TCP and what routers say of it.
    pub(crate) fn start_path(lab: &Lab, name: &str, netns: &NetNs, device: &str) -> Result<Self> {
        Self::start_cut(lab, name, netns, device, "160", "tcp or icmp or icmp6")
    }

    fn start_cut(lab: &Lab, name: &str, netns: &NetNs, device: &str, bytes: &str, filter: &str) -> Result<Self> {
        let file = lab.file(format!("{name}.pcap"));
        let stderr = lab.file(format!("{name}.tcpdump"));
        let mut command = Command::new("tcpdump");
        command
            .args([
                "-i",
                device,
                "-s",
                bytes,
                "-B",
                "16384",
                "--time-stamp-precision=nano",
                "--immediate-mode",
            ])
            // Packets must reach the file at once, and root may write to the lab's directory.
            .args(["-U", "-Z", "root", "-n", "-w"])
            .arg(&file)
            .arg(filter)
            .stdout(Stdio::null())
            .stderr(File::create(&stderr)?);
        let tcpdump = Process::spawn(command, Some(netns), &lab.tools)?;
        let capture = Self {
            tcpdump,
            file,
            stderr,
            patience: lab.patience(),
        };
        capture.wait_until_listening()?;
        Ok(capture)
    }

    fn wait_until_listening(&self) -> Result<()> {
        for _ in 0..500 * self.patience {
            let lines = BufReader::new(File::open(&self.stderr)?).lines();
            if lines.map_while(Result::ok).any(|line| line.contains("listening on")) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!(
            "tcpdump did not start: {}",
            std::fs::read_to_string(&self.stderr)?.trim()
        )
    }

    /// Ends the capture and reads it. Fails when tcpdump itself lost packets: then it is no truth.
    pub(crate) fn finish(self) -> Result<Conversations> {
        conversations(&self.end()?)
    }

    /// Ends the capture and gives its file. Fails as `finish` does.
    pub(crate) fn end(mut self) -> Result<PathBuf> {
        // What has just passed the device is in tcpdump's buffer by then.
        thread::sleep(Duration::from_millis(200));
        self.tcpdump.signal(Signal::SIGINT)?;
        self.tcpdump.wait(Duration::from_secs(10) * self.patience)?;
        let summary = std::fs::read_to_string(&self.stderr)?;
        let dropped = summary
            .lines()
            .find(|line| line.ends_with("packets dropped by kernel"))
            .context("tcpdump's summary")?;
        ensure!(dropped.starts_with("0 "), "tcpdump lost packets: {dropped}");
        Ok(self.file)
    }
}

/// The handshakes in the file of a finished capture.
pub(crate) fn conversations(file: &Path) -> Result<Conversations> {
    let packets = pcap::read(file)?;
    Ok(Conversations::new(
        packets.iter().map(|packet| (packet.time_ns, packet.ip.as_slice())),
    ))
}
