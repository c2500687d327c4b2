//! One trace: which probe is due, whose answer this is, where the path ends. Sends nothing; the caller says what time it is.
//!
//! The first round looks for the destination hop by hop; the others go to each hop that was found. At most one SYN that
//! can reach the destination is on its way at a time, so a server never holds more than one half-open connection of ours.
use std::net::IpAddr;

use super::{
    answer::{Answer, Arrival, Quoted, QuotedTransport, Reason},
    hop::Hop,
    probe::{Flow, Kind},
};

/// How a trace goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Probes to each hop.
    pub rounds: u32,
    /// From the beginning of a round to that of the next, nanoseconds; with `parallel`.
    pub interval_ns: u64,
    /// The largest TTL, at most [`Settings::MOST_HOPS`].
    pub max_hops: u8,
    /// An answer that takes longer is lost, nanoseconds. Below a second, so that the SYN-ACK that a server sends again is not
    /// taken for a slow one.
    pub timeout_ns: u64,
    /// Hops without an answer, one behind the other, after which the destination is given up.
    pub gap: u8,
    /// Probes to several hops are on their way at a time; else one alone, and rounds follow one another.
    pub parallel: bool,
    /// Start of the pseudo-random sequence numbers.
    pub seed: u64,
}

impl Settings {
    /// More hops than this no path has.
    pub const MOST_HOPS: u8 = 64;
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rounds: 10,
            interval_ns: 1_000_000_000,
            max_hops: 30,
            timeout_ns: 990_000_000,
            gap: 5,
            parallel: true,
            seed: 0,
        }
    }
}

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this probe and say so with [`Trace::sent`].
    Send {
        /// Its TTL.
        ttl: u8,
        /// Its sequence number.
        tag: u32,
    },
    /// Take back the SYN with this sequence number: its answer got lost, and the server may wait for more.
    Reset {
        /// The SYN's sequence number.
        tag: u32,
    },
    /// Nothing until this time, unless an answer comes.
    Wait {
        /// The time, nanoseconds.
        until_ns: u64,
    },
    /// All is said.
    Done,
}

/// How a path ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The destination's port is open.
    SynAck,
    /// The destination's port is closed.
    Reset,
    /// The destination answers echo requests.
    Echo,
    /// Somebody says that the destination cannot be reached, perhaps the destination itself.
    Unreachable(Reason, IpAddr),
}

/// Answers that were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// About packets that this trace did not send.
    pub unrelated: u64,
    /// A second time, or after the time was over.
    pub late: u64,
}

/// A probe whose answer is waited for.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    ttl: u8,
    tag: u32,
    sent_ns: u64,
}

/// A trace under way.
#[derive(Debug)]
pub struct Trace {
    settings: Settings,
    flow: Flow,
    /// Of every TTL that a probe was sent with, and never forgotten: an answer may come after the search has ended, and shows
    /// that the path is longer than it seemed.
    hops: Vec<Hop>,
    /// So many of them are the path, as far as is known.
    known: usize,
    /// In the order in which they were sent; bounded by what can be sent within the time limit of answers.
    waiting: Vec<Waiting>,
    /// The last SYN that was answered by a SYN-ACK.
    acknowledged: Option<u32>,
    /// SYNs to take back.
    resets: Vec<u32>,
    /// The destination's TTL.
    reached: Option<(u8, End)>,
    /// A router said that it cannot be reached.
    refused: Option<End>,
    round: u32,
    /// TTL of the next probe of this round.
    next: u8,
    /// The last one of a later round.
    last: u8,
    not_before_ns: u64,
    round_began_ns: u64,
    /// The longest round trip so far.
    longest_ns: u64,
    random: u64,
    tag: u32,
    counts: Counts,
}

impl Trace {
    /// A trace that has not begun.
    pub fn new(settings: Settings, flow: Flow) -> Self {
        let settings = Settings {
            max_hops: settings.max_hops.clamp(1, Settings::MOST_HOPS),
            ..settings
        };
        let mut trace = Self {
            settings,
            flow,
            hops: Vec::new(),
            known: usize::from(Settings::MOST_HOPS),
            waiting: Vec::new(),
            acknowledged: None,
            resets: Vec::new(),
            reached: None,
            refused: None,
            round: 0,
            next: 1,
            last: 0,
            not_before_ns: 0,
            round_began_ns: 0,
            longest_ns: 0,
            random: settings.seed,
            tag: 0,
            counts: Counts::default(),
        };
        trace.draw_tag();
        trace
    }

    /// What is due now.
    pub fn step(&mut self, now_ns: u64) -> Step {
        self.expire(now_ns);
        if let Some(tag) = self.resets.pop() {
            return Step::Reset { tag };
        }
        while self.round < self.settings.rounds {
            // One probe at a time: what comes back decides whether there is a next one.
            if !self.is_even()
                && let Some(until_ns) = self.held_until(now_ns)
            {
                return Step::Wait { until_ns };
            }
            if self.has_more() {
                break;
            }
            self.end_round(now_ns);
        }
        if self.round >= self.settings.rounds {
            return match self.waiting.first() {
                Some(first) => Step::Wait {
                    until_ns: first.sent_ns + self.settings.timeout_ns,
                },
                None => Step::Done,
            };
        }
        if now_ns < self.not_before_ns {
            return Step::Wait {
                until_ns: self.not_before_ns,
            };
        }
        match self.held_until(now_ns) {
            Some(until_ns) => Step::Wait { until_ns },
            None => Step::Send {
                ttl: self.next,
                tag: self.tag,
            },
        }
    }

    /// The probe that was due has left.
    pub fn sent(&mut self, at_ns: u64) {
        let ttl = self.next;
        if self.round_began_ns == 0 {
            self.round_began_ns = at_ns;
        }
        while self.hops.len() < usize::from(ttl) {
            self.hops.push(Hop::default());
        }
        self.waiting.push(Waiting {
            ttl,
            tag: self.tag,
            sent_ns: at_ns,
        });
        self.draw_tag();
        self.next = ttl + 1;
        if self.is_even() {
            self.not_before_ns = at_ns + self.settings.interval_ns / (u64::from(self.last) + 1);
        }
    }

    /// Something came in; true when it is an answer to a probe of this trace.
    pub fn answer(&mut self, arrival: &Arrival, at_ns: u64) -> bool {
        let Some((tag, end)) = self.read(arrival) else {
            self.counts.unrelated += 1;
            return false;
        };
        let Some(at) = self.waiting.iter().position(|waiting| self.is_tagged(waiting.tag, tag)) else {
            self.counts.late += 1;
            return false;
        };
        let probe = self.waiting.remove(at);
        let round_trip_ns = at_ns.saturating_sub(probe.sent_ns);
        match end {
            // Whoever says so is not the hop that the probe was for: it says nothing of that one.
            Some(end @ End::Unreachable(_, from)) if from != self.flow.destination => {
                self.refused = Some(end);
                self.lose(probe.ttl);
                if self.round == 0 {
                    self.known = usize::from(probe.ttl) - 1;
                    self.next = self.settings.max_hops + 1;
                }
                return true;
            }
            Some(end) => {
                let is_syn_ack = matches!(arrival.answer, Answer::Tcp { syn_ack: true, .. });
                self.acknowledged = if is_syn_ack { Some(probe.tag) } else { self.acknowledged };
                self.reach(probe.ttl, end);
            }
            None => {}
        }
        self.longest_ns = self.longest_ns.max(round_trip_ns);
        // Behind the destination there is nothing: a probe with a larger TTL was sent before that was known.
        if let Some(hop) = self.hops.get_mut(usize::from(probe.ttl) - 1) {
            hop.answered_by(arrival.from, round_trip_ns, arrival.ttl);
        }
        if self.reached.is_none() && self.refused.is_none() {
            let (known, behind) = (self.known, usize::from(probe.ttl) + 1);
            self.known = known.max(behind.min(self.hops.len()));
            self.last = self.last.max(if self.round > 0 { self.known as u8 } else { 0 });
        }
        true
    }

    /// Hops so far, the first one first.
    pub fn hops(&self) -> &[Hop] {
        &self.hops[..self.known.min(self.hops.len())]
    }

    /// What the probes have in common.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// How the path ends; `None`: the destination has not answered.
    pub fn end(&self) -> Option<End> {
        self.reached.map(|(_, end)| end).or(self.refused)
    }

    /// Whether the destination itself answered.
    pub fn is_reached(&self) -> bool {
        self.reached.is_some()
    }

    /// What was no answer.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The router that a probe with this TTL is for, if it answered before.
    pub fn router(&self, ttl: u8) -> Option<IpAddr> {
        self.hops.get(usize::from(ttl).checked_sub(1)?)?.address()
    }

    /// The probe's sequence number and how the path ends, when the destination or somebody's refusal tells.
    fn read(&self, arrival: &Arrival) -> Option<(u32, Option<End>)> {
        match arrival.answer {
            Answer::Expired(quoted) => Some((self.quoted_tag(&quoted)?, None)),
            Answer::Unreachable(reason, quoted) => {
                let end = End::Unreachable(reason, arrival.from);
                Some((self.quoted_tag(&quoted)?, Some(end)))
            }
            _ if arrival.from != self.flow.destination => None,
            Answer::Echo { id, sequence } => {
                let is_ours = self.flow.kind == Kind::Echo && id == self.flow.source_port;
                is_ours.then_some((u32::from(sequence), Some(End::Echo)))
            }
            Answer::Tcp {
                source_port,
                destination_port,
                acknowledgment,
                syn_ack,
                reset,
                ack,
            } => {
                let flow = &self.flow;
                let is_ours = flow.kind == Kind::Tcp
                    && (source_port, destination_port) == (flow.destination_port, flow.source_port)
                    && (syn_ack || reset || ack);
                let acknowledged = acknowledgment.wrapping_sub(1);
                let tag = if ack {
                    self.challenged(acknowledged)?
                } else {
                    acknowledged
                };
                let end = if reset { End::Reset } else { End::SynAck };
                is_ours.then_some((tag, Some(end)))
            }
        }
    }

    /// A server that has not heard our RST still has the connection of an earlier SYN: it answers the next one with an ACK
    /// for that (RFC 5961, section 4), which our kernel answers with a RST. The SYN that it is about is the last one.
    fn challenged(&self, acknowledged: u32) -> Option<u32> {
        let (ttl, _) = self.reached?;
        if self.acknowledged != Some(acknowledged) {
            return None;
        }
        let last = self.waiting.iter().rev().find(|probe| probe.ttl >= ttl)?;
        Some(last.tag)
    }

    fn quoted_tag(&self, quoted: &Quoted) -> Option<u32> {
        let flow = &self.flow;
        if (quoted.source, quoted.destination) != (flow.source, flow.destination) {
            return None;
        }
        match quoted.transport {
            QuotedTransport::Tcp {
                source_port,
                destination_port,
                sequence,
            } => {
                let ports = (source_port, destination_port);
                (flow.kind == Kind::Tcp && ports == (flow.source_port, flow.destination_port)).then_some(sequence)
            }
            QuotedTransport::Echo { id, sequence } => {
                (flow.kind == Kind::Echo && id == flow.source_port).then_some(u32::from(sequence))
            }
        }
    }

    /// Echo requests have room for half of a tag.
    fn is_tagged(&self, tag: u32, read: u32) -> bool {
        match self.flow.kind {
            Kind::Tcp => tag == read,
            Kind::Echo => tag & 0xffff == read,
        }
    }

    fn reach(&mut self, ttl: u8, end: End) {
        if self.reached.is_none_or(|(known, _)| ttl <= known) {
            self.reached = Some((ttl, end));
            self.hops.truncate(usize::from(ttl));
            self.known = usize::from(ttl);
            self.last = ttl;
        }
    }

    fn expire(&mut self, now_ns: u64) {
        while let Some(probe) = self.waiting.first().copied()
            && now_ns.saturating_sub(probe.sent_ns) >= self.settings.timeout_ns
        {
            self.waiting.remove(0);
            self.lose(probe.ttl);
            if self.flow.kind == Kind::Tcp && self.reached.is_some_and(|(ttl, _)| ttl <= probe.ttl) {
                self.resets.push(probe.tag);
            }
        }
    }

    fn lose(&mut self, ttl: u8) {
        if let Some(hop) = self.hops.get_mut(usize::from(ttl) - 1) {
            hop.lose();
        }
    }

    /// Probes to all hops are spread over the interval.
    fn is_even(&self) -> bool {
        self.settings.parallel && self.round > 0
    }

    /// Until when the answer to an earlier probe is waited for before the next may leave.
    fn held_until(&self, now_ns: u64) -> Option<u64> {
        let held_by = if self.is_even() {
            // One that may reach the destination is on its way.
            let destination = self.reached.map_or(self.last, |(ttl, _)| ttl);
            self.waiting
                .iter()
                .rev()
                .find(|probe| probe.ttl >= destination && self.next >= destination)
        } else {
            self.waiting.last()
        }?;
        let until_ns = held_by.sent_ns + self.patience_ns();
        (now_ns < until_ns).then_some(until_ns)
    }

    /// An answer that has not come by then is hardly on its way any more.
    fn patience_ns(&self) -> u64 {
        let usual_ns = self.longest_ns * 4 + 50_000_000;
        usual_ns.clamp(300_000_000, self.settings.timeout_ns.max(300_000_000))
    }

    fn has_more(&self) -> bool {
        if self.round > 0 {
            return self.next <= self.last;
        }
        let silent = self.hops.iter().rev().take_while(|hop| hop.answered() == 0).count();
        self.reached.is_none() && self.next <= self.settings.max_hops && silent < usize::from(self.settings.gap)
    }

    fn end_round(&mut self, now_ns: u64) {
        if self.round == 0 {
            self.end_search();
        }
        self.round += 1;
        self.next = 1;
        if self.settings.parallel {
            self.round_began_ns = (self.round_began_ns + self.settings.interval_ns).max(now_ns);
            self.not_before_ns = self.round_began_ns;
        }
        if self.last == 0 {
            self.round = self.settings.rounds;
        }
    }

    /// Silent hops at the end are probed no more, but for the first: it may be the destination, whose answer got lost.
    fn end_search(&mut self) {
        if self.reached.is_some() {
            return;
        }
        let answering = self
            .hops
            .iter()
            .rposition(|hop| hop.answered() > 0)
            .map_or(0, |at| at + 1);
        let more = usize::from(self.refused.is_none());
        self.known = self.hops.len().min(answering + more);
        self.last = self.known as u8;
    }

    /// `SplitMix64`. Unpredictable for whoever does not see the probes, as long as the seed is.
    fn draw_tag(&mut self) {
        loop {
            self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.random;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            self.tag = ((mixed ^ (mixed >> 31)) >> 32) as u32;
            if !self
                .waiting
                .iter()
                .any(|waiting| waiting.tag & 0xffff == self.tag & 0xffff)
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
