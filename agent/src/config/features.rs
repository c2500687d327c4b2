//! The part of the configuration that switches features off, by the names of `hopline doctor`. Used by `config` alone.
//!
//! Which kernel programs a feature needs is `bpf`'s business; here is what users call it and what they lose without it.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
};

use serde::{Deserialize, Deserializer, de};

/// Something that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Connects of client sockets, in process context.
    Connect,
    /// The moment before the SYN.
    Syn,
    /// Changes of state: established, closed.
    State,
    /// Connects that fail before a SYN.
    FailureBeforeSyn,
    /// Errors of connects when the kernel reports them.
    ConnectErrors,
    /// Segments sent again.
    Retransmits,
    /// SYN-ACKs sent again.
    SynackRetransmits,
    /// Round trips.
    Rtt,
    /// Payload: TLS, first bytes, turns.
    Payload,
    /// Probes in TLS libraries.
    TlsLibrary,
    /// DNS messages.
    Dns,
    /// Who sends DNS messages.
    DnsOwner,
    /// Connections older than the agent.
    Existing,
    /// Connections while they stay open.
    Open,
    /// Processes.
    Process,
    /// New cgroups.
    CgroupNames,
    /// Network paths.
    Path,
    /// Names of pods and workloads.
    Kubernetes,
}

/// Every feature with its name and what is lost without it.
const FEATURES: [(Feature, &str, &str); 18] = [
    (
        Feature::Connect,
        "connect",
        "The address that a program asked for, where something rewrites it; connects that fail before a SYN.",
    ),
    (
        Feature::Syn,
        "syn",
        "The exact start of a client's handshake; `state` then marks it a few microseconds earlier.",
    ),
    (
        Feature::State,
        "state",
        "All of TCP: no connection is followed. DNS over UDP and processes remain.",
    ),
    (
        Feature::FailureBeforeSyn,
        "failure_before_syn",
        "Connects that fail before a SYN leaves: no route, no free port, forbidden by a policy.",
    ),
    (
        Feature::ConnectErrors,
        "connect_errors",
        "Why a connect failed that does not block, where the program fetches the error before it closes: `abandoned` then.",
    ),
    (
        Feature::Retransmits,
        "retransmits",
        "Retransmitted segments and their reasons.",
    ),
    (
        Feature::SynackRetransmits,
        "synack_retransmits",
        "SYN-ACKs that a listener sends again while the client does not answer.",
    ),
    (
        Feature::Rtt,
        "rtt",
        "Round-trip times of connections, and with them RTT spikes and jitter.",
    ),
    (
        Feature::Payload,
        "payload",
        "TLS handshakes, first bytes, turns, names by SNI and HTTP Host, DNS over TCP.",
    ),
    (
        Feature::TlsLibrary,
        "tls_library",
        "Exact reasons of failed TLS handshakes; `tls.probes` must be on as well.",
    ),
    (
        Feature::Dns,
        "dns",
        "DNS lookups, the dns phase, names of destinations by DNS.",
    ),
    (Feature::DnsOwner, "dns_owner", "The process that sends a DNS query."),
    (
        Feature::Existing,
        "existing",
        "Connections and listeners that were there before the agent.",
    ),
    (
        Feature::Open,
        "open",
        "Connections while they stay open: what waits or is stuck, RTT and bytes before the close.",
    ),
    (
        Feature::Process,
        "process",
        "Programs and ancestors of processes that have ended when their connection is looked at.",
    ),
    (
        Feature::CgroupNames,
        "cgroup_names",
        "Names of cgroups that come and go within seconds.",
    ),
    (Feature::Path, "path", "Network paths; the same as `paths.trace: off`."),
    (
        Feature::Kubernetes,
        "kubernetes",
        "Names of pods and workloads; the same as `kubernetes.api` and `kubernetes.cri_socket` off.",
    ),
];

impl Feature {
    /// Its name in `doctor`, in `hopline_feature_enabled` and in the configuration.
    pub fn name(self) -> &'static str {
        let row = FEATURES.iter().find(|(feature, ..)| *feature == self);
        row.map_or("", |(_, name, _)| name)
    }
}

/// Which features are switched off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeaturesConfig {
    off: BTreeSet<Feature>,
}

impl FeaturesConfig {
    /// Whether this one is.
    pub fn is_off(&self, feature: Feature) -> bool {
        self.off.contains(&feature)
    }

    /// Whether the one of this name is.
    pub fn is_named_off(&self, name: &str) -> bool {
        self.off.iter().any(|feature| feature.name() == name)
    }

    pub(super) fn to_yaml(&self) -> String {
        let mut text = "\
# Features, on or off, by the names of `hopline doctor`. A kernel program is loaded only where a feature needs it that is on. The
# comments say what is lost without each.
features:
"
        .to_owned();
        for (feature, name, lost) in FEATURES {
            let switch = if self.is_off(feature) { "off" } else { "on" };
            writeln!(text, "  # {lost}\n  {name}: {switch}").expect("writing to memory");
        }
        text
    }
}

impl FromIterator<Feature> for FeaturesConfig {
    fn from_iter<I: IntoIterator<Item = Feature>>(off: I) -> Self {
        Self {
            off: off.into_iter().collect(),
        }
    }
}

impl<'de> Deserialize<'de> for FeaturesConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let switches = BTreeMap::<Feature, Switch>::deserialize(deserializer)?;
        let off = switches.into_iter().filter(|(_, switch)| !switch.0);
        Ok(off.map(|(feature, _)| feature).collect())
    }
}

/// `on` or `off`, which some dialects of YAML take for booleans.
struct Switch(bool);

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Switch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("on or off")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Switch, E> {
                Ok(Switch(on))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Switch, E> {
                match text {
                    "on" => Ok(Switch(true)),
                    "off" => Ok(Switch(false)),
                    other => Err(E::custom(format_args!("`{other}` is neither on nor off"))),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_is_read_by_its_name() {
        for (feature, name, _) in FEATURES {
            let read: Feature = serde_json::from_value(name.into()).expect(name);
            assert_eq!(read, feature);
            assert_eq!(feature.name(), name);
        }
    }
}
