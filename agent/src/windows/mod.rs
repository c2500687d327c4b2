//! Quantiles over time: what the last five seconds were like, and what was usual before.
//!
//! The one place that quantiles come from: the API, the table of `top` and of `trace`, the detector of RTT spikes, and
//! what judges windows later. A [`Sketch`] holds one kind of duration; a [`Destination`] has one for each [`Measure`], since
//! its beginning and for each second of late, so that destinations can be merged into groups and seconds into windows of
//! any length; a listener is the destination of its server's side. A [`Connection`] keeps RTT alone, in a few words.
//!
//! Time is a slot, a second by the clock of the events and ticks: it never goes back, what comes late counts in the present
//! slot. Knows no connections beyond these numbers, no names, no clocks. `aggregate` owns the windows of destinations and
//! groups, the pipeline those of connections.
mod connection;
mod destination;
mod rtt_delta;
mod sketch;
mod words;

pub use connection::Connection;
pub use destination::{Destination, WindowCounts, WindowSnapshot};
pub use rtt_delta::{Baseline, LEAST_SAMPLES, Verdict, verdict};
pub use sketch::{Quantiles, Sketch};

/// Length of a slot.
pub const SLOT_NS: u64 = 1_000_000_000;
/// Slots of a window.
pub const WINDOW_SLOTS: u64 = 5;
/// Length of a window.
pub const WINDOW_NS: u64 = WINDOW_SLOTS * SLOT_NS;
/// How far back a baseline looks.
pub const BASELINE_SLOTS: u64 = 600;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The lookup that a connection waited for.
    Dns,
    /// The TCP handshake.
    Tcp,
    /// The TLS handshake.
    Tls,
    /// The first answer.
    Ttfb,
    /// Later answers.
    Turn,
    /// Raw samples of the round-trip time.
    Rtt,
}

impl Measure {
    /// All of them, in the order of their values.
    pub const ALL: [Self; 6] = [Self::Dns, Self::Tcp, Self::Tls, Self::Ttfb, Self::Turn, Self::Rtt];

    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ttfb => "ttfb",
            Self::Turn => "turn",
            Self::Rtt => "rtt",
        }
    }
}

/// The slot of a time.
pub fn slot_of(now_ns: u64) -> u64 {
    now_ns / SLOT_NS
}

/// Which slot it is: by ticks, and by events in between. Never goes back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    slot: u64,
    /// Slot of the latest tick; 0 before the first.
    ticked: u64,
}

impl Clock {
    /// The slot of something that happened; what is late happened now, and no event runs away from the ticks.
    pub fn event(&mut self, now_ns: u64) -> u64 {
        let latest = if self.ticked == 0 { u64::MAX } else { self.ticked + 1 };
        self.slot = self.slot.max(slot_of(now_ns).min(latest));
        self.slot
    }

    /// The slot as the agent's clock has it.
    pub fn tick(&mut self, now_ns: u64) -> u64 {
        self.ticked = self.ticked.max(slot_of(now_ns));
        self.slot = self.slot.max(self.ticked);
        self.slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back_nor_far_ahead() {
        let mut clock = Clock::default();
        let second = |second| second * SLOT_NS;
        assert_eq!(clock.event(second(50)), 50);
        assert_eq!(clock.tick(second(40)), 50);
        assert_eq!(clock.tick(second(60) + 7), 60);
        assert_eq!(clock.event(second(55)), 60);
        assert_eq!(clock.event(second(61)), 61);
        assert_eq!(clock.event(u64::MAX), 61);
        assert_eq!(clock.tick(second(3)), 61);
    }
}
