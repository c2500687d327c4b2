//! The configuration: one YAML file with a default for every key, checked whole before anything starts.
//!
//! Reads the one file it is given; flags are laid over it by the commands. A key that is unknown, a unit that is wrong
//! or a value that cannot be is refused with file, line and key.
mod destinations;
mod environment;
mod features;
mod kubernetes;
mod paths;
mod spike;
mod tls;

use std::{
    collections::BTreeSet,
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer, de};

pub use features::{Feature, FeaturesConfig};
pub use kubernetes::{CriSocket, KubernetesConfig, Use};
pub use paths::{PathsConfig, TraceWhat};
pub use spike::SpikeConfig;
pub use tls::TlsConfig;

use crate::{
    cli::{
        LogFormat, WatchArgs,
        units::{Bytes, Level, Seconds, parse_bytes, parse_duration, parse_ring_bytes},
    },
    declared::Declaration,
    groups,
    safe_mode::SafeMode,
};

/// The least that `limits.series` may be.
pub const LEAST_SERIES: usize = 1_000;

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the HTTP server.
    pub listen: SocketAddr,
    /// Watched cgroups; empty for the whole node.
    #[serde(deserialize_with = "cgroups")]
    pub cgroups: Vec<PathBuf>,
    /// Log messages.
    pub log: LogConfig,
    /// Bounds on memory.
    pub limits: LimitsConfig,
    /// Events per second and kind that each cgroup keeps while a ring is more than half full.
    #[serde(deserialize_with = "share")]
    pub share: u32,
    /// A connection that waits longer counts as waiting.
    #[serde(deserialize_with = "waiting_time")]
    pub waiting_after: Duration,
    /// A connection that waits longer is told as STUCK.
    #[serde(deserialize_with = "waiting_time")]
    pub stuck_after: Duration,
    /// Features that are switched off.
    pub features: FeaturesConfig,
    /// Groups of destinations, before the built-in ones.
    #[serde(deserialize_with = "destinations::groups")]
    pub groups: groups::Configured,
    /// Package mirrors have their built-in groups.
    pub builtin_groups: bool,
    /// Who is asked at one of these ports is in the group `dns`.
    #[serde(deserialize_with = "destinations::dns_ports")]
    pub dns_ports: Vec<u16>,
    /// Whom processes, workloads and cgroups may talk to.
    #[serde(deserialize_with = "destinations::declared")]
    pub declared: Vec<Declaration>,
    /// When RTT has a spike.
    pub rtt_spike: SpikeConfig,
    /// Probes in TLS libraries.
    pub tls: TlsConfig,
    /// Names of pods and workloads.
    pub kubernetes: KubernetesConfig,
    /// Which network paths are traced.
    pub paths: PathsConfig,
    /// Variables of processes' environments that records carry.
    #[serde(deserialize_with = "environment::variables")]
    pub environment: BTreeSet<String>,
    /// Recording of the event stream.
    pub record: RecordConfig,
    /// Where starts and ends are noted; none for no safe mode.
    #[serde(deserialize_with = "state_dir")]
    pub state_dir: Option<PathBuf>,
    /// The node is in safe mode, by its history alone.
    #[serde(skip)]
    pub safe_mode: Option<SafeMode>,
    /// Programs to do without, as if the kernel had refused them: by flag alone, for the lab.
    #[serde(skip)]
    pub fail_programs: Vec<String>,
}

/// Log messages on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Least severe level that is written.
    pub level: Level,
    /// Text or JSON.
    pub format: LogFormat,
}

/// Bounds on memory; `memory` makes defaults smaller where the agent's own limit asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Size of the ring buffer of connection events, bytes: a power of two of at least a page. That of hello bytes is half
    /// of it, that of process events a quarter.
    #[serde(deserialize_with = "ring_bytes")]
    pub ring_bytes: u32,
    /// Connections followed at once.
    #[serde(deserialize_with = "entries")]
    pub connections: usize,
    /// Processes remembered at once.
    #[serde(deserialize_with = "entries")]
    pub processes: usize,
    /// Time series exported.
    #[serde(deserialize_with = "series")]
    pub series: usize,
}

/// Recording of the event stream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordConfig {
    /// Where to; none for no recording.
    pub file: Option<PathBuf>,
    /// A file that has grown to this many bytes is moved aside.
    #[serde(deserialize_with = "rotate_bytes")]
    pub rotate_bytes: u64,
    /// How many files are kept, the one being written included.
    #[serde(deserialize_with = "keep")]
    pub keep: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9737)),
            cgroups: Vec::new(),
            log: LogConfig::default(),
            limits: LimitsConfig::default(),
            share: 20_000,
            waiting_after: Duration::from_secs(1),
            stuck_after: Duration::from_secs(5),
            features: FeaturesConfig::default(),
            groups: groups::Configured::new(),
            builtin_groups: true,
            dns_ports: vec![53],
            declared: Vec::new(),
            rtt_spike: SpikeConfig::default(),
            tls: TlsConfig::default(),
            kubernetes: KubernetesConfig::default(),
            paths: PathsConfig::default(),
            environment: BTreeSet::new(),
            record: RecordConfig::default(),
            state_dir: Some(PathBuf::from("/var/lib/hopline")),
            safe_mode: None,
            fail_programs: Vec::new(),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            // 0.4 s of 10 000 connections a second, both ends observed. The reader maps a ring twice, and both
            // mappings count as resident.
            ring_bytes: 4 << 20,
            connections: 80_000,
            processes: 32_768,
            series: 20_000,
        }
    }
}

impl Default for RecordConfig {
    fn default() -> Self {
        Self {
            file: None,
            rotate_bytes: 512 << 20,
            keep: 4,
        }
    }
}

/// Why a configuration was refused. One line: file, line and key where they are known.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file can be read and does not make sense.
    #[error("{}:{line}: {key}{message}", file.display())]
    Invalid {
        /// Which file.
        file: PathBuf,
        /// Line, from 1; 0 when the whole file is meant.
        line: u64,
        /// Dotted path of the key with `: ` behind it; empty when it cannot be told.
        key: String,
        /// What is wrong.
        message: String,
    },
}

impl Config {
    /// The file (or the defaults) with the flags laid over it.
    pub fn load(watch: &WatchArgs) -> Result<Self, ConfigError> {
        let mut config = Self::read(watch.config.as_deref())?;
        if !watch.cgroup.is_empty() {
            config.cgroups.clone_from(&watch.cgroup);
        }
        if watch.record.is_some() {
            config.record.file.clone_from(&watch.record);
        }
        if let Some(bytes) = watch.ring_bytes {
            config.limits.ring_bytes = bytes;
        }
        if let Some(directory) = &watch.state_dir {
            config.state_dir = Some(directory.clone()).filter(|directory| !directory.as_os_str().is_empty());
        }
        config.fail_programs.clone_from(&watch.fail_program);
        Ok(config)
    }

    /// With what `features` switches off elsewhere in the configuration: it asks for nothing that is off.
    #[must_use]
    pub fn with_switches(&self) -> Self {
        let mut config = self.clone();
        if self.features.is_off(Feature::Path) {
            config.paths.trace = TraceWhat::Off;
        }
        if self.features.is_off(Feature::Kubernetes) {
            config.kubernetes.api = Use::Off;
            config.kubernetes.cri_socket = CriSocket::Off;
        }
        config
    }

    /// The file, or the defaults.
    pub fn read(file: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(file) = file else { return Ok(Self::default()) };
        let text = fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
            file: file.to_owned(),
            source,
        })?;
        Self::parse(file, &text)
    }

    /// Parses the text of `file`. An empty file is all defaults.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        if text
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
        {
            return Ok(Self::default());
        }
        let invalid = |line, message| ConfigError::Invalid {
            file: file.to_owned(),
            line,
            key: key_at(text, line).map_or_else(String::new, |key| format!("{key}: ")),
            message,
        };
        let config: Self = serde_saphyr::from_str(text).map_err(|error| {
            let line = error.location().map_or(0, |location| location.line());
            invalid(line, one_line(&error))
        })?;
        match config.unknown_group() {
            Some(group) => Err(invalid(
                destinations::line_of_group(text, group),
                format!("`group:{group}` is no group: neither built in nor in `groups`"),
            )),
            None => Ok(config),
        }
    }

    /// The whole configuration as a file with comments that [`Config::parse`] reads back.
    pub fn to_yaml(&self) -> String {
        format!(
            "\
# Address of the HTTP server. Beyond loopback only /metrics, /livez and /readyz answer.
listen: {listen}

# Watch only sockets and processes in these cgroups and below; empty: the whole node.
cgroups: {cgroups}

# Log messages on stderr.
log:
  # error, warn, info, debug or trace
  level: {level}
  # text or json
  format: {format}

{limits}
# Events per second and kind that each cgroup keeps while a ring is more than half full.
share: {share}

# A connection that waits longer is counted in hopline_connections_waiting.
waiting_after: {waiting_after}

# A connection that waits longer is told as STUCK.
stuck_after: {stuck_after}

{features}
# Groups of destinations, each with names, *.example.com for all names below one, addresses and networks, with :port
# behind them if only one is meant:
#   mirrors-internal: [\"*.mirror.corp.example\", \"10.1.2.0/24\", \"artifacts.corp.example:8443\"]
# They come before the built-in ones; a built-in name (go, npm, …) adds to that group.
groups: {groups}

# Groups for package mirrors: go, crates, npm, pypi, maven, debian, ubuntu, alpine, containers.
builtin_groups: {builtin_groups}

# Who is asked at one of these ports is in the group dns.
dns_ports: {dns_ports}

# Whom somebody may talk to; a client connection elsewhere is told as UNDECLARED. Who it is: `process` (its name or its
# program's file name), `cgroup` (path below the cgroup2 mount) and `workload` (of Kubernetes), with * for any
# text; all that are given must fit. Declarations about the same one add up. A name counts when something beside the
# connection's own SNI or Host agrees with it, else it is told as UNVERIFIED.
#   - name: builds
#     process: \"go\"
#     destinations: [\"proxy.golang.org\", \"10.0.0.0/8\", \"group:go\"]
declared: {declared}

# A spike of the round-trip time, told as `rtt_spike` and `rtt_spike_over`: all of it must hold over a window of five
# seconds, for a connection or for all of a destination.
rtt_spike:
  # More segments than this were sent again; none: however many.
  retransmits_above: {retransmits_above}
  # The median of the raw samples is by more than this above that of the last ten minutes without a spike.
  rtt_delta_above: {rtt_delta_above}
  # For so long.
  for: {hold}

{tls}
{kubernetes}
{paths}
# Variables of a process's environment that records carry, by their names, such as [\"CI_JOB_ID\"]. Of a process that ends at once
# they are its parent's. Records have the values as they are: name no secrets.
environment: {environment}

# Recording of the event stream, for `hopline replay`.
record:
  # Where to; null: no recording.
  file: {record_file}
  # A file that has grown to this size is moved aside to FILE.1, FILE.1 to FILE.2 and so on.
  rotate_bytes: {rotate_bytes}
  # How many files are kept, the one being written included.
  keep: {keep}

# Where the agent notes that it starts and ends. After two boots that ended uncleanly while it ran, or five crashes within ten
# minutes, it starts in safe mode: kernel programs on cgroups alone, for a day or until `hopline doctor --leave-safe-mode`. null: no
# safe mode.
state_dir: {state_dir}
",
            listen = self.listen,
            cgroups = quoted_list(&self.cgroups),
            level = self.log.level,
            format = match self.log.format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            },
            limits = self.limits.to_yaml(),
            share = self.share,
            waiting_after = Seconds(self.waiting_after),
            stuck_after = Seconds(self.stuck_after),
            features = self.features.to_yaml(),
            groups = destinations::groups_to_yaml(&self.groups),
            builtin_groups = self.builtin_groups,
            dns_ports = destinations::list(&self.dns_ports),
            declared = destinations::declared_to_yaml(&self.declared),
            retransmits_above = self.rtt_spike.retransmits_to_yaml(),
            rtt_delta_above = Seconds(self.rtt_spike.rtt_delta_above),
            hold = Seconds(self.rtt_spike.hold),
            tls = self.tls.to_yaml(),
            kubernetes = self.kubernetes.to_yaml(),
            environment = quoted_list(&self.environment),
            record_file = or_null(self.record.file.as_deref()),
            paths = self.paths.to_yaml(),
            rotate_bytes = Bytes(self.record.rotate_bytes),
            keep = self.record.keep,
            state_dir = or_null(self.state_dir.as_deref()),
        )
    }
}

impl LimitsConfig {
    fn to_yaml(self) -> String {
        format!(
            "\
# Bounds on memory. With these values hopline stays below 512 MiB, with 80 000 watched sockets (docs/memory.md). Where the memory
# limit of its own cgroup is lower, all tables get smaller in proportion, the log says how small, and below 56 MiB hopline does
# not start; a value that is not the default is obeyed.
limits:
  # Size of the ring buffer of connection events: a power of two, at least 4KiB. That of hello
  # bytes is half of it, those of DNS messages and process events a quarter.
  ring_bytes: {ring_bytes}
  # Connections followed at once: about 1.1 KiB each, 3 KiB with the longest names and round trips of every length.
  connections: {connections}
  # Processes remembered at once, and half as many cgroups: up to 2 KiB each, with listeners.
  processes: {processes}
  # Time series with destination labels, at least 1000; beyond, the calm destinations fold into `other`. Each takes about
  # 1 KiB, and as much again for a moment at each scrape.
  series: {series}
",
            ring_bytes = Bytes(u64::from(self.ring_bytes)),
            connections = self.connections,
            processes = self.processes,
            series = self.series,
        )
    }
}

/// The message of a YAML error without its source excerpt and place, on one line.
fn one_line(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or_default();
    let message = first.rsplit_once(" at line ").map_or(first, |(message, _)| message);
    message.trim_start_matches("error: ").to_owned()
}

/// Dotted path of the key on a line of block-style YAML: the key there and those less indented above it.
fn key_at(text: &str, line: u64) -> Option<String> {
    let above = usize::try_from(line).ok().filter(|line| *line > 0)?;
    let lines: Vec<&str> = text.lines().take(above).collect();
    let mut keys = Vec::new();
    let mut indent = usize::MAX;
    for line in lines.iter().rev() {
        let trimmed = line.trim_start();
        let depth = line.len() - trimmed.len();
        let Some((key, _)) = trimmed.split_once(':') else {
            continue;
        };
        if depth < indent && !trimmed.starts_with('#') && !trimmed.starts_with('-') {
            keys.push(key.trim());
            indent = depth;
        }
    }
    keys.reverse();
    (!keys.is_empty()).then(|| keys.join("."))
}

fn in_range<'de, D, T>(deserializer: D, range: &RangeInclusive<T>) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + PartialOrd + fmt::Display,
{
    let value = T::deserialize(deserializer)?;
    if !range.contains(&value) {
        let (least, most) = (range.start(), range.end());
        return Err(de::Error::custom(format_args!(
            "{value} is out of range, {least} to {most}"
        )));
    }
    Ok(value)
}

fn entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    in_range(deserializer, &(100..=100_000_000))
}

/// Fewer than that would hold little beyond what `other` needs.
fn series<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    in_range(deserializer, &(LEAST_SERIES..=100_000_000))
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    in_range(deserializer, &(1..=u32::MAX))
}

fn keep<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    in_range(deserializer, &(1..=1000))
}

fn waiting_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time = parse_duration(&text).map_err(de::Error::custom)?;
    if time < Duration::from_millis(100) || time > Duration::from_hours(1) {
        return Err(de::Error::custom(format_args!("{text} is out of range, 100ms to 1h")));
    }
    Ok(time)
}

fn ring_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    parse_ring_bytes(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

fn rotate_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = parse_bytes(&text).map_err(de::Error::custom)?;
    if bytes < 1 << 16 {
        return Err(de::Error::custom(format_args!("{text} is too small, at least 64KiB")));
    }
    Ok(bytes)
}

fn state_dir<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = Option::<PathBuf>::deserialize(deserializer)?.filter(|path| !path.as_os_str().is_empty());
    match &path {
        Some(path) if !path.is_absolute() => Err(de::Error::custom(format_args!(
            "`{}` is no absolute path",
            path.display()
        ))),
        _ => Ok(path),
    }
}

fn cgroups<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    let paths = Vec::<PathBuf>::deserialize(deserializer)?;
    let most = agent_ebpf::scope::MAX_SCOPES;
    if paths.len() > most {
        return Err(de::Error::custom(format_args!(
            "{} cgroups, at most {most}",
            paths.len()
        )));
    }
    match paths.iter().find(|path| !path.is_absolute()) {
        Some(path) => Err(de::Error::custom(format_args!(
            "`{}` is no absolute path",
            path.display()
        ))),
        None => Ok(paths),
    }
}

/// A path as a JSON string, which is a YAML scalar whatever it holds.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

/// A path, or that there is none.
fn or_null(path: Option<&Path>) -> String {
    path.map_or_else(|| "null".to_owned(), quoted)
}

fn quoted_list(paths: impl IntoIterator<Item: AsRef<Path>>) -> String {
    let quoted: Vec<String> = paths.into_iter().map(|path| quoted(path.as_ref())).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests;
