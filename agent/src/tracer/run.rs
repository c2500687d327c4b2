//! One trace on the calling thread, from its first probe to its end.
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};

use super::sockets::{Sockets, TracerError};
use crate::{
    host,
    path::{Kind, Settings, Step, Trace, build, build_reset},
};

/// Longest that the caller's stop flag and picture wait.
const LOOK: Duration = Duration::from_millis(200);

/// What to trace.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What is sent.
    pub kind: Kind,
    /// Where to.
    pub destination: SocketAddr,
    /// How.
    pub settings: Settings,
}

/// Runs until the trace is done or `stop` is set; `show` sees it several times a second.
pub fn run(request: &Request, stop: &AtomicBool, mut show: impl FnMut(&Trace)) -> Result<Trace, TracerError> {
    let mut sockets = Sockets::open(request.kind, request.destination, None)?;
    let mut trace = Trace::new(request.settings, *sockets.flow());
    let mut shown_ns = 0;
    while !stop.load(Ordering::Relaxed) {
        let now_ns = host::monotonic_ns();
        if now_ns.saturating_sub(shown_ns) >= LOOK.as_nanos() as u64 {
            shown_ns = now_ns;
            show(&trace);
        }
        match trace.step(now_ns) {
            Step::Send { ttl, tag } => {
                let packet = build(sockets.flow(), ttl, tag);
                trace.sent(sockets.send(&packet));
            }
            Step::Reset { tag } => {
                sockets.send(&build_reset(sockets.flow(), tag));
            }
            Step::Wait { until_ns } => {
                let limit = Duration::from_nanos(until_ns.saturating_sub(now_ns)).min(LOOK);
                wait(&sockets, limit);
            }
            Step::Done => break,
        }
        sockets.receive(|arrival, at_ns| {
            trace.answer(arrival, at_ns);
        });
    }
    Ok(trace)
}

fn wait(sockets: &Sockets, limit: Duration) {
    let mut fds: Vec<PollFd<'_>> = sockets
        .descriptors()
        .map(|socket| PollFd::new(socket, PollFlags::POLLIN))
        .collect();
    // An interruption ends the wait early, no more.
    let _ = ppoll(&mut fds, Some(TimeSpec::from(limit)), None);
}
