//! The part of a `trace --json` line that scenarios compare. A line that lacks a key of the contract does not parse.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Record {
    #[serde(default)]
    pub(crate) id: String,
    pub(crate) schema: u32,
    /// `finished` or `stuck`.
    pub(crate) event: String,
    pub(crate) role: String,
    /// `observed`, `inferred` or `guessed`.
    pub(crate) role_basis: String,
    pub(crate) family: String,
    pub(crate) local: Endpoint,
    pub(crate) remote: Endpoint,
    pub(crate) destination: Destination,
    pub(crate) process: Owner,
    pub(crate) duration_us: u64,
    pub(crate) phases_us: Phases,
    /// `exact`, `inferred` or `ambiguous`.
    pub(crate) ttfb_basis: Option<String>,
    pub(crate) late: bool,
    pub(crate) turns: Turns,
    pub(crate) dns: Option<Dns>,
    pub(crate) tls: Option<Tls>,
    pub(crate) http: Option<Http>,
    pub(crate) tcp: Tcp,
    pub(crate) waiting: Option<String>,
    pub(crate) waiting_us: Option<u64>,
    pub(crate) outcome: Option<String>,
    #[serde(default)]
    pub(crate) chain: Option<Chain>,
}

/// The chain through a local proxy that it is a leg of.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Chain {
    /// Id of the other leg's record.
    pub(crate) other: String,
    pub(crate) upstream: Upstream,
    pub(crate) client_proxy_us: u64,
    pub(crate) proxy_us: u64,
    pub(crate) proxy_upstream_us: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Upstream {
    pub(crate) port: u16,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Destination {
    /// Its name, else its address.
    pub(crate) host: String,
    pub(crate) group: String,
    pub(crate) port: u16,
    /// `sni`, `http`, `dns`, `kubernetes`, `config` or `ip`.
    pub(crate) source: String,
    /// Something beside the client's own claim agrees with the name.
    pub(crate) verified: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Owner {
    pub(crate) pid: Option<u32>,
    pub(crate) comm: Option<String>,
    /// Names of its ancestors, the nearest parent first.
    pub(crate) ancestry: Vec<String>,
    pub(crate) container: Option<String>,
    pub(crate) pod: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) workload: Option<String>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
}

/// Microseconds.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Phases {
    pub(crate) dns: Option<u64>,
    pub(crate) tcp: Option<u64>,
    pub(crate) tls: Option<u64>,
    pub(crate) ttfb: Option<u64>,
}

/// Exchanges after the first.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Turns {
    pub(crate) count: Option<u64>,
    pub(crate) p50_us: Option<u64>,
    pub(crate) p95_us: Option<u64>,
}

/// The lookup that gave the address.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Dns {
    pub(crate) name: String,
    pub(crate) resolver: String,
    /// `NOERROR` and others.
    pub(crate) rcode: String,
    pub(crate) queries: u32,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Tls {
    /// `1.2` or `1.3`.
    pub(crate) version: Option<String>,
    /// IANA's name of the suite.
    pub(crate) cipher: Option<String>,
    pub(crate) sni: Option<String>,
    /// The agreed protocol where it is visible, else what was offered.
    pub(crate) alpn: Option<String>,
    pub(crate) resumed: Option<bool>,
    /// `ok`, or why not.
    pub(crate) outcome: Option<String>,
    /// `local` or `remote`.
    pub(crate) failed_by: Option<String>,
    /// Name and version.
    pub(crate) library: Option<String>,
}

/// The first exchange, when it was cleartext.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Http {
    pub(crate) status: Option<u16>,
    pub(crate) host: Option<String>,
    #[serde(default)]
    pub(crate) responses: BTreeMap<u16, u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Tcp {
    pub(crate) rtt_us: Rtt,
    pub(crate) retransmits: Retransmits,
    pub(crate) bytes_sent: Option<u64>,
    pub(crate) bytes_received: Option<u64>,
    pub(crate) closed_by: Option<String>,
    /// Routers on the way here.
    pub(crate) hops: Option<u8>,
    /// Nothing had passed for this long when this side wrote to what the peer had closed.
    pub(crate) idle_before_us: Option<u64>,
}

/// Microseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Rtt {
    pub(crate) min: Option<u64>,
    pub(crate) mean: Option<u64>,
    pub(crate) p50: Option<u64>,
    pub(crate) p99: Option<u64>,
    pub(crate) var: Option<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Retransmits {
    pub(crate) syn: u64,
    pub(crate) rto: u64,
    pub(crate) fast: u64,
    pub(crate) tlp: u64,
    pub(crate) other: u64,
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        Self::new(endpoint.address, endpoint.port)
    }
}

impl Record {
    pub(crate) fn is_client(&self) -> bool {
        self.role == "client"
    }

    /// Client's and server's address, whichever side this is.
    pub(crate) fn addresses(&self) -> (SocketAddr, SocketAddr) {
        let (local, remote) = (self.local.into(), self.remote.into());
        if self.is_client() {
            (local, remote)
        } else {
            (remote, local)
        }
    }

    /// Port that the server listens on.
    pub(crate) fn server_port(&self) -> u16 {
        self.addresses().1.port()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What the lab reads of a record: each time is a millisecond, and the client gave this name.
    pub(crate) fn record(role: &str, name: &str) -> Record {
        let text = serde_json::json!({
            "schema": 2, "event": "finished", "role": role, "role_basis": "observed", "family": "ipv4", "late": false, "duration_us": 10,
            "local": {"address": "10.0.0.1", "port": 1000}, "remote": {"address": "10.0.0.2", "port": 443},
            "destination": {"host": name, "port": 443, "source": "sni", "verified": true, "group": ""}, "process": {"pid": 1, "comm": "c", "ancestry": []},
            "phases_us": {"dns": null, "tcp": 1_000, "tls": 1_000, "ttfb": 1_000},
            "ttfb_basis": "exact", "turns": {"count": 1, "p50_us": 1_000, "p95_us": 1_000, "overlapping": 0},
            "dns": null,
            "tls": {"version": "1.3", "cipher": "TLS_AES_256_GCM_SHA384", "sni": name, "resumed": false, "outcome": "ok"},
            "http": {"status": 200, "host": name}, "waiting": null, "waiting_us": null, "outcome": "ok",
            "tcp": {"rtt_us": {"min": 1, "mean": 1, "p50": 1, "p99": 1, "var": 1}, "retransmits": {"syn": 0, "rto": 0, "fast": 0, "tlp": 0, "other": 0},
                "bytes_sent": 0, "bytes_received": 0, "closed_by": "local"},
        });
        serde_json::from_value(text).expect("a record")
    }
}
