//! The built-in detector: when an RTT spike begins, and when it is over.
//!
//! A destination has one spike at a time, whether its own window or those of its connections show it: the same trouble is
//! told once. It is over when all that showed it is calm again, has been silent for two windows, or has gone. Calm is below
//! half of the threshold: what moves to and fro around it does not flap. Pure; times are arguments.
use std::{collections::HashMap, time::Duration};

use crate::windows::{Verdict, WINDOW_NS};

/// Spikes that can be under way at once; more are counted.
const MOST_INCIDENTS: usize = 256;
/// Connections that one spike remembers; of more it does not wait for the end.
pub const MOST_CONNECTIONS: usize = 1_000;
/// Nothing to judge for this long: nobody knows whether it is still so.
const SILENT_NS: u64 = 2 * WINDOW_NS;

/// When RTT has a spike: all of it must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpikeSettings {
    /// More segments than this were sent again within the window; `None`: however many.
    pub retransmits_above: Option<u32>,
    /// The window's median is by more than this above the baseline.
    pub rtt_delta_above: Duration,
    /// For so long.
    pub hold: Duration,
}

impl Default for SpikeSettings {
    fn default() -> Self {
        Self {
            retransmits_above: Some(5),
            rtt_delta_above: Duration::from_millis(200),
            hold: Duration::ZERO,
        }
    }
}

/// What one window says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The condition holds.
    Spike,
    /// Below half of the threshold.
    Calm,
    /// In between: what was goes on.
    Between,
}

impl SpikeSettings {
    /// What a window says. Retransmissions are asked for at the beginning alone: a path that stays slow need not lose more.
    pub fn state(&self, verdict: &Verdict) -> State {
        let delta_ns = verdict.rtt_delta_ns();
        let threshold_ns = self.rtt_delta_above.as_nanos() as u64;
        let loses = self
            .retransmits_above
            .is_none_or(|above| verdict.retransmits > u64::from(above));
        if delta_ns > threshold_ns && loses {
            State::Spike
        } else if delta_ns <= threshold_ns / 2 {
            State::Calm
        } else {
            State::Between
        }
    }

    /// Whether the condition holds, and has for long enough; `since_ns` remembers since when.
    pub fn holds(&self, verdict: &Verdict, since_ns: &mut Option<u64>, now_ns: u64) -> bool {
        if self.state(verdict) != State::Spike {
            *since_ns = None;
            return false;
        }
        let since_ns = *since_ns.get_or_insert(now_ns);
        now_ns.saturating_sub(since_ns) >= self.hold.as_nanos() as u64
    }
}

/// A destination's place among the series: its slot and the slot's generation.
pub type Place = (u32, u32);

/// Why a spike is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// RTT is as usual again.
    Calm,
    /// There were no samples any more.
    Silent,
    /// No connection that showed it is open any more.
    Closed,
}

impl Ended {
    /// The value in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Silent => "silent",
            Self::Closed => "closed",
        }
    }
}

/// A spike under way.
#[derive(Debug)]
pub struct Incident<T> {
    /// Counts the spikes of this agent.
    pub number: u64,
    /// When it was found.
    pub raised_ns: u64,
    /// The highest median.
    pub peak_ns: u64,
    /// What the latest window said.
    pub last: Option<Verdict>,
    /// What the caller knows of it.
    pub known: T,
    /// The destination's own window shows it, and was last judged then.
    whole_ns: Option<u64>,
    /// Connections that show it, by cookie, and when they were last judged.
    connections: HashMap<u64, u64>,
    /// How the last of them left.
    left: Option<Ended>,
}

/// A spike that is over: where, what, and why it is.
pub type Over<T> = (Place, Incident<T>, Ended);

/// All spikes.
#[derive(Debug)]
pub struct Spikes<T> {
    settings: SpikeSettings,
    incidents: HashMap<Place, Incident<T>>,
    /// The spike that a connection shows.
    places: HashMap<u64, Place>,
    /// Since when the condition holds at a destination, and when it was last judged.
    held: HashMap<Place, (u64, u64)>,
    raised: u64,
    refused: u64,
}

impl<T> Spikes<T> {
    /// A detector that has seen nothing.
    pub fn new(settings: SpikeSettings) -> Self {
        Self {
            settings,
            incidents: HashMap::new(),
            places: HashMap::new(),
            held: HashMap::new(),
            raised: 0,
            refused: 0,
        }
    }

    /// When it is a spike.
    pub fn settings(&self) -> &SpikeSettings {
        &self.settings
    }

    /// Spikes that found no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Spikes under way, with their places.
    pub fn incidents(&self) -> impl Iterator<Item = (Place, &Incident<T>)> {
        self.incidents.iter().map(|(place, incident)| (*place, incident))
    }

    /// Places of the spikes that this is true of.
    pub fn places_of(&self, is_wanted: impl Fn(&Incident<T>) -> bool) -> Vec<Place> {
        let wanted = self.incidents.iter().filter(|(_, incident)| is_wanted(incident));
        let mut places: Vec<Place> = wanted.map(|(place, _)| *place).collect();
        places.sort_unstable();
        places
    }

    /// The spike at a place.
    pub fn incident_mut(&mut self, place: Place) -> Option<&mut Incident<T>> {
        self.incidents.get_mut(&place)
    }

    /// Connections that show one: they want to be judged though they are silent.
    pub fn connections(&self) -> Vec<u64> {
        let mut cookies: Vec<u64> = self.places.keys().copied().collect();
        // The same order in every run.
        cookies.sort_unstable();
        cookies
    }

    /// Whether this connection shows one.
    pub fn shows(&self, cookie: u64) -> bool {
        self.places.contains_key(&cookie)
    }

    /// Destinations that show one with their own window.
    pub fn destinations(&self) -> Vec<Place> {
        self.places_of(Incident::is_whole)
    }

    /// A connection of this destination shows a spike: `true` when it is a new one, to be begun by [`Self::begin`].
    pub fn connection_spikes(&mut self, place: Place, cookie: u64, verdict: &Verdict, now_ns: u64) -> bool {
        // It may have got another name since: it stays where it was found.
        let place = *self.places.get(&cookie).unwrap_or(&place);
        let Some(incident) = self.incidents.get_mut(&place) else {
            return true;
        };
        if incident.connections.len() < MOST_CONNECTIONS || incident.connections.contains_key(&cookie) {
            incident.connections.insert(cookie, now_ns);
            incident.seen(verdict);
            self.places.insert(cookie, place);
        }
        false
    }

    /// A destination's own window, beside what was usual there: `true` when it is a new spike, to be begun.
    pub fn destination(&mut self, place: Place, verdict: &Verdict, now_ns: u64) -> bool {
        let mut since_ns = self.held.remove(&place).map(|(since_ns, _)| since_ns);
        let holds = self.settings.holds(verdict, &mut since_ns, now_ns);
        if let Some(since_ns) = since_ns.filter(|_| !holds) {
            self.held.insert(place, (since_ns, now_ns));
        }
        let Some(incident) = self.incidents.get_mut(&place) else {
            return holds;
        };
        if holds || incident.whole_ns.is_some() {
            incident.whole_ns = Some(now_ns);
            incident.seen(verdict);
            if self.settings.state(verdict) == State::Calm {
                incident.whole_ns = None;
                incident.left = Some(Ended::Calm);
            }
        }
        false
    }

    /// A new spike; `None` when there is no room. `cookie`: the connection that shows it, else the whole destination does.
    pub fn begin(
        &mut self,
        place: Place,
        cookie: Option<u64>,
        verdict: &Verdict,
        known: T,
        now_ns: u64,
    ) -> Option<&Incident<T>> {
        if self.incidents.len() >= MOST_INCIDENTS {
            self.refused += 1;
            return None;
        }
        self.raised += 1;
        let mut incident = Incident {
            number: self.raised,
            raised_ns: now_ns,
            peak_ns: 0,
            last: None,
            known,
            whole_ns: cookie.is_none().then_some(now_ns),
            connections: cookie.map(|cookie| (cookie, now_ns)).into_iter().collect(),
            left: None,
        };
        incident.seen(verdict);
        if let Some(cookie) = cookie {
            self.places.insert(cookie, place);
        }
        Some(self.incidents.entry(place).insert_entry(incident).into_mut())
    }

    /// A connection that showed a spike was judged again.
    pub fn again(&mut self, cookie: u64, verdict: &Verdict, now_ns: u64) {
        let Some(place) = self.places.get(&cookie) else { return };
        if let Some(incident) = self.incidents.get_mut(place) {
            incident.connections.insert(cookie, now_ns);
            incident.seen(verdict);
        }
        if self.settings.state(verdict) == State::Calm {
            self.leave(cookie, Ended::Calm);
        }
    }

    /// A connection that showed a spike does so no more.
    pub fn leave(&mut self, cookie: u64, how: Ended) {
        let Some(place) = self.places.remove(&cookie) else {
            return;
        };
        if let Some(incident) = self.incidents.get_mut(&place) {
            incident.connections.remove(&cookie);
            incident.left = Some(how);
        }
    }

    /// Takes out the spikes that are over, with the connections that became silent before that.
    pub fn over(&mut self, now_ns: u64) -> (Vec<Over<T>>, Vec<u64>) {
        let is_silent = |judged_ns: u64| now_ns.saturating_sub(judged_ns) >= SILENT_NS;
        self.held.retain(|_, (_, judged_ns)| !is_silent(*judged_ns));
        let mut silent = Vec::new();
        for incident in self.incidents.values_mut() {
            if incident.whole_ns.is_some_and(is_silent) {
                incident.whole_ns = None;
                incident.left = Some(Ended::Silent);
            }
            let quiet = incident
                .connections
                .iter()
                .filter(|(_, judged_ns)| is_silent(**judged_ns));
            silent.extend(quiet.map(|(cookie, _)| *cookie));
        }
        for cookie in &silent {
            self.leave(*cookie, Ended::Silent);
        }
        let over = |_: &Place, incident: &mut Incident<T>| incident.is_over();
        let mut over: Vec<_> = self
            .incidents
            .extract_if(over)
            .map(|(place, incident)| {
                let how = incident.left.unwrap_or(Ended::Closed);
                (place, incident, how)
            })
            .collect();
        over.sort_by_key(|(_, incident, _)| incident.number);
        (over, silent)
    }
}

impl<T> Incident<T> {
    /// What was judged: the destination as a whole, else single connections.
    pub fn is_whole(&self) -> bool {
        self.whole_ns.is_some()
    }

    /// Connections that show it now.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    fn is_over(&self) -> bool {
        self.whole_ns.is_none() && self.connections.is_empty()
    }

    fn seen(&mut self, verdict: &Verdict) {
        self.peak_ns = self.peak_ns.max(verdict.p50_ns);
        self.last = Some(*verdict);
    }
}

#[cfg(test)]
mod tests;
