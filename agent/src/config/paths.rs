//! The part of the configuration that is about the network path. Used by `config` alone.
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::{Seconds, in_range};
use crate::{
    cli::units::parse_duration,
    path::{Limits, Network},
};

/// Whose path is traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TraceWhat {
    /// Nobody's.
    Off,
    /// Of destinations with an RTT spike.
    #[default]
    Trouble,
    /// Of those with the most connections as well.
    All,
}

/// What is traced, and how much it may cost.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PathsConfig {
    /// Whose path is traced.
    pub trace: TraceWhat,
    /// How many destinations of those with the most connections.
    #[serde(deserialize_with = "destinations")]
    pub destinations: usize,
    /// From one trace of a destination to the next.
    #[serde(deserialize_with = "every")]
    pub every: Duration,
    /// Most probes in a minute of the whole agent.
    #[serde(deserialize_with = "per_minute")]
    pub probes_per_minute: u32,
    /// To one destination.
    #[serde(deserialize_with = "per_minute")]
    pub destination_probes_per_minute: u32,
    /// To one router.
    #[serde(deserialize_with = "per_minute")]
    pub router_probes_per_minute: u32,
    /// Traces at a time; each has one probe on its way.
    #[serde(deserialize_with = "in_flight")]
    pub in_flight: usize,
    /// Who is never traced.
    #[serde(deserialize_with = "networks")]
    pub exclude: Vec<Network>,
    /// Latency above what is usual that is told.
    #[serde(deserialize_with = "delta")]
    pub latency_delta_above: Duration,
}

impl Default for PathsConfig {
    fn default() -> Self {
        let Limits {
            per_minute,
            destination_per_minute,
            router_per_minute,
        } = Limits::default();
        Self {
            trace: TraceWhat::default(),
            destinations: 20,
            every: Duration::from_mins(1),
            probes_per_minute: per_minute,
            destination_probes_per_minute: destination_per_minute,
            router_probes_per_minute: router_per_minute,
            in_flight: 8,
            exclude: Vec::new(),
            latency_delta_above: Duration::from_millis(20),
        }
    }
}

impl PathsConfig {
    /// As the budget takes them.
    pub fn limits(&self) -> Limits {
        Limits {
            per_minute: self.probes_per_minute,
            destination_per_minute: self.destination_probes_per_minute,
            router_per_minute: self.router_probes_per_minute,
        }
    }

    /// Its section of a file, with comments.
    pub(super) fn to_yaml(&self) -> String {
        format!(
            "\
# The network path, hop by hop, by SYN probes to the real port. Needs CAP_NET_RAW.
paths:
  # off; trouble: of destinations with an RTT spike; all: of those with the most connections as well.
  trace: {paths_trace}
  # How many destinations of those with the most connections.
  destinations: {paths_destinations}
  # From one trace of a destination to the next; in trouble 10s.
  every: {paths_every}
  # Most probes in a minute: of the whole agent, to one destination, to one router.
  probes_per_minute: {paths_probes}
  destination_probes_per_minute: {paths_destination_probes}
  router_probes_per_minute: {paths_router_probes}
  # Traces at a time; each has one probe on its way.
  in_flight: {paths_in_flight}
  # Addresses and networks that get no probes.
  exclude: {paths_exclude}
  # Latency above what is usual that is told as `path_slower`, with the hop where it begins.
  latency_delta_above: {paths_delta}
",
            paths_trace = self.trace_to_yaml(),
            paths_destinations = self.destinations,
            paths_every = Seconds(self.every),
            paths_probes = self.probes_per_minute,
            paths_destination_probes = self.destination_probes_per_minute,
            paths_router_probes = self.router_probes_per_minute,
            paths_in_flight = self.in_flight,
            paths_exclude = self.exclude_to_yaml(),
            paths_delta = Seconds(self.latency_delta_above),
        )
    }

    fn trace_to_yaml(&self) -> &'static str {
        match self.trace {
            TraceWhat::Off => "off",
            TraceWhat::Trouble => "trouble",
            TraceWhat::All => "all",
        }
    }

    fn exclude_to_yaml(&self) -> String {
        let quoted: Vec<String> = self.exclude.iter().map(|network| format!("\"{network}\"")).collect();
        format!("[{}]", quoted.join(", "))
    }
}

fn destinations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    in_range(deserializer, &(1..=200))
}

fn per_minute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    in_range(deserializer, &(1..=60_000))
}

fn in_flight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    in_range(deserializer, &(1..=64))
}

fn every<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    time(deserializer, Duration::from_secs(1), "1s to 1d")
}

fn delta<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    time(deserializer, Duration::from_micros(100), "100us to 1d")
}

fn time<'de, D: Deserializer<'de>>(deserializer: D, least: Duration, range: &str) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time = parse_duration(&text).map_err(de::Error::custom)?;
    if time < least || time > Duration::from_hours(24) {
        return Err(de::Error::custom(format_args!("{text} is out of range, {range}")));
    }
    Ok(time)
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Network>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let networks = texts.iter().map(|text| text.parse());
    networks.collect::<Result<_, String>>().map_err(de::Error::custom)
}
