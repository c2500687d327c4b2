//! The record of one connection, as `trace --json` prints it: every key of the contract, absent values null.
//!
//! Plain data with owned strings, made only when somebody listens. Field names are the contract's keys.
use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    outcome::Outcome,
    state::{ClosedBy, Phase, Role, RoleBasis},
};

/// Version of the record's shape.
pub const SCHEMA: u32 = 2;

/// Version of the shape of all other events: lookups, fallbacks, undeclared destinations, spikes, changes of a path.
pub const EVENT_SCHEMA: u32 = 1;

/// One connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConnectionRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `BOOT-COOKIE`, unique among all boots; later attempts on one socket add `.ATTEMPT`.
    pub id: String,
    /// Name of the node.
    pub node: String,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// RFC 3339, UTC: when `connect` was called; else the SYN, else established; late: when first seen.
    pub start: String,
    /// From `start` to the end, or to now for a connection that waits; microseconds.
    pub duration_us: u64,
    /// Which side this is.
    pub role: Role,
    /// How that is known.
    pub role_basis: RoleBasis,
    /// `ipv4` or `ipv6`; v4-mapped addresses are IPv4.
    pub family: &'static str,
    /// This side.
    pub local: AddressRecord,
    /// The other side, as on the wire.
    pub remote: AddressRecord,
    /// What was to be reached.
    pub destination: DestinationRecord,
    /// The remote end, when something between translated the destination.
    pub backend: Option<BackendRecord>,
    /// The owner.
    pub process: ProcessRecord,
    /// Durations between marks, microseconds.
    pub phases_us: PhasesRecord,
    /// The marks, `CLOCK_MONOTONIC` nanoseconds.
    pub marks_ns: MarksRecord,
    /// How `first_byte` was told from what is not an answer.
    pub ttfb_basis: Option<&'static str>,
    /// Opened before hopline started.
    pub late: bool,
    /// Exchanges after the first.
    pub turns: TurnsRecord,
    /// The lookup that gave the address.
    pub dns: Option<DnsRecord>,
    /// The TLS handshake.
    pub tls: Option<TlsRecord>,
    /// Cleartext HTTP/1.
    pub http: Option<HttpRecord>,
    /// TCP's own numbers.
    pub tcp: TcpRecord,
    /// The chain through a local proxy that it is a leg of, when that is certain.
    pub chain: Option<ChainRecord>,
    /// The phase in which it waits; once it has ended null, but for one that was not answered: the phase in which it was.
    pub waiting: Option<Phase>,
    /// For how long it has waited in that phase, microseconds; of one that was not answered how long who gave up had waited.
    pub waiting_us: Option<u64>,
    /// How it went; null while it waits.
    pub outcome: Option<Outcome>,
}

/// A chain client → proxy → upstream, by the first exchange that could be linked; the times are the proxy's, microseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChainRecord {
    /// `client_proxy` or `proxy_upstream`: which leg this connection is.
    pub leg: &'static str,
    /// Id of the other leg's record.
    pub other: String,
    /// Whom the proxy asked.
    pub upstream: UpstreamRecord,
    /// From the client's request to its answer.
    pub client_proxy_us: u64,
    /// The part of it that the proxy itself took.
    pub proxy_us: u64,
    /// From the proxy's `connect`, of a later exchange its request, to the upstream's answer.
    pub proxy_upstream_us: u64,
}

/// The upstream of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpstreamRecord {
    /// Its name, else its address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// One end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AddressRecord {
    /// The address without its port.
    pub address: String,
    /// The port.
    pub port: u16,
}

/// The destination under its best name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DestinationRecord {
    /// Its name, else its address; for a server the name of the listening process.
    pub host: String,
    /// Its port; for a server the listening port.
    pub port: u16,
    /// Where the name is from.
    pub source: &'static str,
    /// Something other than the connection's own claim agrees with the name.
    pub verified: bool,
    /// The configured group, empty for none.
    pub group: String,
}

/// The remote end behind a translated destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendRecord {
    /// Its address.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Its workload.
    pub workload: Option<String>,
}

/// The process that called `connect` or `listen`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProcessRecord {
    /// Process id in the init namespace.
    pub pid: Option<u32>,
    /// Its name when it called.
    pub comm: Option<String>,
    /// Path of its program.
    pub exe: Option<String>,
    /// Names of its ancestors, the nearest parent first, at most 8.
    pub ancestry: Vec<String>,
    /// Path of the socket's cgroup below the cgroup2 mount.
    pub cgroup: Option<String>,
    /// Name of the container; its id in that path while the name is not known.
    pub container: Option<String>,
    /// Name of the pod; its uid in that path while the name is not known.
    pub pod: Option<String>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Kubernetes workload.
    pub workload: Option<String>,
    /// Allow-listed annotations of the pod.
    pub annotations: serde_json::Map<String, serde_json::Value>,
    /// Allow-listed environment variables.
    pub env: serde_json::Map<String, serde_json::Value>,
}

/// Durations, microseconds; null when one of the marks is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PhasesRecord {
    /// `dns_answer - dns_query`.
    pub dns: Option<u64>,
    /// `established - syn`.
    pub tcp: Option<u64>,
    /// `tls_done - client_hello`.
    pub tls: Option<u64>,
    /// `first_byte - request`.
    pub ttfb: Option<u64>,
}

/// The marks of the timeline, nanoseconds; null when not seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MarksRecord {
    pub dns_query: Option<u64>,
    pub dns_answer: Option<u64>,
    pub syn: Option<u64>,
    pub established: Option<u64>,
    pub client_hello: Option<u64>,
    pub server_hello: Option<u64>,
    pub tls_done: Option<u64>,
    pub request: Option<u64>,
    pub first_byte: Option<u64>,
    pub closed: Option<u64>,
}

/// Exchanges after the first; null until they are measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TurnsRecord {
    /// How many were timed.
    pub count: Option<u64>,
    /// Median, microseconds.
    pub p50_us: Option<u64>,
    /// 95th percentile, microseconds.
    pub p95_us: Option<u64>,
    /// How many overlapped and were not timed.
    pub overlapping: Option<u64>,
}

/// The lookup that gave the address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DnsRecord {
    /// The name that has the address, in full.
    pub name: String,
    /// Who answered.
    pub resolver: String,
    /// RFC 1035 name of the answer's code.
    pub rcode: String,
    /// Queries sent.
    pub queries: u32,
}

/// The TLS handshake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsRecord {
    /// Agreed version.
    pub version: Option<String>,
    /// Agreed cipher suite.
    pub cipher: Option<String>,
    /// Name asked for.
    pub sni: Option<String>,
    /// Agreed protocol.
    pub alpn: Option<String>,
    /// Whether a session was resumed.
    pub resumed: Option<bool>,
    /// How it went.
    pub outcome: Option<String>,
    /// Who gave up, `local` or `remote`, where that is known.
    pub failed_by: Option<&'static str>,
    /// Which library did it, with its version; none where it cannot be asked.
    pub library: Option<String>,
}

/// Cleartext HTTP/1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpRecord {
    /// Status of the first final response.
    pub status: Option<u16>,
    /// Host of the first request: CONNECT's target, else the authority in the request line, else Host.
    pub host: Option<String>,
    /// Final responses by status code, as far as they were read.
    pub responses: BTreeMap<u16, u64>,
}

/// TCP's own numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TcpRecord {
    /// Round-trip times, microseconds.
    pub rtt_us: RttRecord,
    /// Retransmitted segments by reason.
    pub retransmits: RetransmitsRecord,
    /// Payload bytes that left, each counted once.
    pub bytes_sent: u64,
    /// Payload bytes that arrived.
    pub bytes_received: u64,
    /// Who closed first.
    pub closed_by: Option<ClosedBy>,
    /// Routers on the way here, by the TTL of the first payload that arrived; null while there was none.
    pub hops: Option<u8>,
    /// This side wrote though the peer had closed, and was reset: for how long nothing had passed before, microseconds.
    pub idle_before_us: Option<u64>,
}

/// Round-trip times, microseconds; null without a sample.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RttRecord {
    /// Smallest sample.
    pub min: Option<u32>,
    /// Mean of all samples.
    pub mean: Option<u64>,
    /// Median of raw samples, without acknowledgements that the peer held back.
    pub p50: Option<u64>,
    /// 99th percentile.
    pub p99: Option<u64>,
    /// RTTVAR of RFC 6298: smoothed mean deviation, at the end.
    pub var: Option<u64>,
}

/// Retransmitted segments by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RetransmitsRecord {
    /// SYNs.
    pub syn: u32,
    /// After a time-out.
    pub rto: u32,
    /// Fast recovery.
    pub fast: u32,
    /// Tail loss probes.
    pub tlp: u32,
    /// Any other.
    pub other: u32,
}
