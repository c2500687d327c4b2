//! The router's loop: packets wait in a queue ordered by when they may leave.
//!
//! A timer alone is late by its wake-up, so the last stretch before a packet's time is spent polling.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::SigSet;
use nix::sys::time::TimeSpec;

use super::forward::Forwarder;

/// Woken this much before a packet is due.
const EARLY: Duration = Duration::from_micros(120);

/// A packet that may leave from `due` on: ordered by that, then by arrival.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Waiting {
    pub(super) due: Instant,
    pub(super) number: u64,
    /// Index of the device that it leaves by.
    pub(super) device: usize,
    pub(super) packet: Vec<u8>,
}

/// Forwards until killed.
pub(super) fn run(devices: &[File; 2], forwarder: &mut Forwarder) -> Result<()> {
    favour_this_thread();
    let mut queue: BinaryHeap<Reverse<Waiting>> = BinaryHeap::new();
    let mut buffer = vec![0; 65_536];
    loop {
        while queue
            .peek()
            .is_some_and(|Reverse(waiting)| waiting.due <= Instant::now())
        {
            let Some(Reverse(waiting)) = queue.pop() else { break };
            send(&devices[waiting.device], &waiting.packet)?;
        }
        wait(devices, queue.peek().map(|Reverse(waiting)| waiting.due))?;
        for (device, mut file) in devices.iter().enumerate() {
            loop {
                match file.read(&mut buffer) {
                    Ok(length) => forwarder.packet(device, &buffer[..length], |waiting| queue.push(Reverse(waiting))),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("reading a TUN device"),
                }
            }
        }
    }
}

/// Sleeps until a packet arrives or one is nearly due; returns at once when it is.
fn wait(devices: &[File; 2], due: Option<Instant>) -> Result<()> {
    let timeout = due.map(|due| due.saturating_duration_since(Instant::now()).saturating_sub(EARLY));
    if timeout == Some(Duration::ZERO) {
        return Ok(());
    }
    let mut fds = devices
        .each_ref()
        .map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN));
    match nix::poll::ppoll(&mut fds, timeout.map(TimeSpec::from), Some(SigSet::empty())) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error).context("waiting for packets"),
    }
}

/// A packet that the kernel does not take (device down while the lab ends) is a lost one, as on any network.
fn send(mut device: &File, packet: &[u8]) -> Result<()> {
    match device.write(packet) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EAGAIN)) => Ok(()),
        Err(error) => Err(error).context("writing to a TUN device"),
    }
}

/// Real-time priority and exact timers, where allowed: without them the path is only less even.
fn favour_this_thread() {
    // SAFETY: `sched_param` is plain data that lives across the call; both calls touch only this thread.
    unsafe {
        let parameters = libc::sched_param { sched_priority: 10 };
        libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters);
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
    }
}
