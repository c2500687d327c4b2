//! One destination: what it is called, whether it has a name among the series, and its numbers if it has.
use std::{net::IpAddr, sync::Arc};

use super::{
    children::Children,
    counters::Counters,
    snapshot::{DestinationSnapshot, Labels, NameSource},
};
use crate::{
    connection::{Phase, Role, TcpState},
    windows::{self, Measure, WINDOW_NS},
    workloads::Workload,
};

/// A destination's place in [`super::Series`]. May be kept for as long as one likes: what is counted there after the
/// destination has gone is counted under `other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DestinationId {
    pub(super) slot: u32,
    /// Tells the destinations apart that had this slot one after the other.
    pub(super) generation: u32,
    /// Tells the times apart in which this destination had a name; of meaning for gauges alone.
    pub(super) naming: u32,
    pub(super) role: Role,
}

impl DestinationId {
    /// The slot and its generation: the same however often the destination lost its name; `None` for `other`.
    pub fn place(self) -> Option<(u32, u32)> {
        (self.slot as usize >= Role::ALL.len()).then_some((self.slot, self.generation))
    }
}

/// What a destination is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// By its address.
    Address(IpAddr),
    /// By the name that the client asked for: SNI, Host. An address in this place is taken as [`Name::Address`].
    Host(Arc<str>),
    /// By the process that listens, in a pod by its workload.
    Process(Arc<str>),
}

/// What tells destinations apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DestinationKey {
    /// Which side was observed.
    pub role: Role,
    /// The name.
    pub name: Name,
    /// The remote port; for a server the listening port.
    pub port: u16,
    /// Its group, empty for none.
    pub group: Arc<str>,
    /// The workload of this side; `None` outside Kubernetes.
    pub source: Option<Arc<Workload>>,
}

impl DestinationKey {
    /// An address is one destination, whichever way it was named.
    pub(super) fn normalised(mut self) -> Self {
        if let Name::Host(host) = &self.name
            && let Ok(address) = host.trim_matches(['[', ']']).parse()
        {
            self.name = Name::Address(address);
        }
        self
    }
}

/// A destination that is known: one that has a name, or a candidate for one.
#[derive(Debug)]
pub(super) struct Entry {
    /// `None` for `other`.
    pub(super) key: Option<DestinationKey>,
    pub(super) role: Role,
    /// Open connections that refer to it.
    pub(super) held: u32,
    pub(super) last_used_ns: u64,
    /// How busy and how troubled it is, fading.
    pub(super) score: f32,
    /// The children that it has had data for.
    pub(super) wanted: Children,
    /// How often it has lost its name.
    pub(super) naming: u32,
    /// Its numbers; nothing for a candidate, whose observations are counted under `other`.
    pub(super) named: Option<Box<Named>>,
}

/// The numbers of a destination that has a name.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// The admitted children.
    pub(super) children: Children,
    pub(super) counters: Counters,
    pub(super) active: [u64; TcpState::ALL.len()],
    pub(super) windows: windows::Destination,
    pub(super) rtt_jitter: RttJitter,
}

/// Mean of the connections' RTTVAR in the running window, and in the last one with samples, microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RttJitter {
    window: u64,
    sum_us: u64,
    count: u64,
    last_us: Option<u64>,
    /// Smoothed RTT that a connection told last, microseconds.
    pub(super) srtt_us: Option<u32>,
}

/// Connections that wait at one destination, by phase, and the longest of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waits {
    pub(super) by_phase: [u64; Phase::ALL.len()],
    pub(super) longest_ns: u64,
}

impl Entry {
    /// A candidate.
    pub(super) fn new(key: DestinationKey, now_ns: u64) -> Self {
        Self {
            role: key.role,
            key: Some(key),
            held: 0,
            last_used_ns: now_ns,
            score: 0.0,
            wanted: Children::default(),
            naming: 0,
            named: None,
        }
    }

    /// Where what has no name is counted.
    pub(super) fn other(role: Role) -> Self {
        Self {
            key: None,
            role,
            held: 0,
            last_used_ns: 0,
            score: 0.0,
            wanted: Children::default(),
            naming: 0,
            named: Some(Box::default()),
        }
    }

    /// The workload of this side.
    pub(super) fn source(&self) -> Option<&Arc<Workload>> {
        self.key.as_ref()?.source.as_ref()
    }

    pub(super) fn snapshot(&self, named: &Named, waits: Waits, slot: u64) -> DestinationSnapshot {
        let (destination, source) = match self.key.as_ref().map(|key| &key.name) {
            None => ("other".into(), NameSource::Other),
            Some(Name::Address(address)) => (address.to_string().into(), NameSource::Ip),
            Some(Name::Host(host)) => (Arc::clone(host), NameSource::Host),
            Some(Name::Process(workload)) if self.source().is_some() => (Arc::clone(workload), NameSource::Kubernetes),
            Some(Name::Process(comm)) => (Arc::clone(comm), NameSource::Process),
        };
        let workload = |name: fn(&Workload) -> &Arc<str>| {
            self.source()
                .map_or_else(Arc::default, |source| Arc::clone(name(source)))
        };
        let labels = Labels {
            destination,
            port: self.key.as_ref().map(|key| key.port),
            group: self
                .key
                .as_ref()
                .map_or_else(Arc::default, |key| Arc::clone(&key.group)),
            source_namespace: workload(|workload| &workload.namespace),
            source_workload: workload(|workload| &workload.name),
        };
        DestinationSnapshot {
            role: self.role,
            labels,
            source,
            children: named.children,
            counters: named.counters.clone(),
            active: named.active,
            waiting: waits.by_phase.iter().sum(),
            waiting_by_phase: waits.by_phase,
            longest_wait_ns: waits.longest_ns,
            quantiles: Measure::ALL.map(|measure| named.windows.since_start(measure)),
            window: named.windows.snapshot(slot),
            srtt_us: named.rtt_jitter.srtt_us,
            rtt_jitter_us: named.rtt_jitter.last_us.or(named.rtt_jitter.mean_us()),
        }
    }
}

impl RttJitter {
    pub(super) fn sample(&mut self, rttvar_us: u32, now_ns: u64) {
        let window = now_ns / WINDOW_NS;
        if window != self.window {
            self.last_us = self.mean_us().or(self.last_us);
            (self.window, self.sum_us, self.count) = (window, 0, 0);
        }
        self.sum_us += u64::from(rttvar_us);
        self.count += 1;
    }

    fn mean_us(&self) -> Option<u64> {
        self.sum_us.checked_div(self.count)
    }
}
