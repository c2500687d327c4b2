//! The configuration: one YAML file with a default for every key, checked whole before anything starts.
//!
//! Reads the one file it is given; flags are laid over it by the commands. A key that is unknown, a unit that is wrong
//! or a value that cannot be is refused with file, line and key.
use std::{
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer, de};

use crate::cli::{
    LogFormat, WatchArgs,
    units::{Bytes, Level, Seconds, parse_bytes, parse_duration, parse_ring_bytes},
};

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
    /// Recording of the event stream.
    pub record: RecordConfig,
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

/// Bounds on memory.
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
            record: RecordConfig::default(),
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
            connections: 100_000,
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
        let mut config = match &watch.config {
            Some(file) => {
                let text = fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
                    file: file.clone(),
                    source,
                })?;
                Self::parse(file, &text)?
            }
            None => Self::default(),
        };
        if !watch.cgroup.is_empty() {
            config.cgroups.clone_from(&watch.cgroup);
        }
        if watch.record.is_some() {
            config.record.file.clone_from(&watch.record);
        }
        if let Some(bytes) = watch.ring_bytes {
            config.limits.ring_bytes = bytes;
        }
        config.fail_programs.clone_from(&watch.fail_program);
        Ok(config)
    }

    /// Parses the text of `file`. An empty file is all defaults.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        if text
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
        {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text).map_err(|error| {
            let line = error.location().map_or(0, |location| location.line());
            let key = key_at(text, line).map_or_else(String::new, |key| format!("{key}: "));
            ConfigError::Invalid {
                file: file.to_owned(),
                line,
                key,
                message: one_line(&error),
            }
        })
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

# Bounds on memory.
limits:
  # Size of the ring buffer of connection events: a power of two, at least 4KiB. That of hello
  # bytes is half of it, that of process events a quarter.
  ring_bytes: {ring_bytes}
  # Connections followed at once.
  connections: {connections}
  # Processes remembered at once.
  processes: {processes}
  # Time series with destination labels, at least 1000; beyond, the calm destinations fold into `other`.
  series: {series}

# Events per second and kind that each cgroup keeps while a ring is more than half full.
share: {share}

# A connection that waits longer is counted in hopline_connections_waiting.
waiting_after: {waiting_after}

# A connection that waits longer is told as STUCK.
stuck_after: {stuck_after}

# Recording of the event stream, for `hopline replay`.
record:
  # Where to; null: no recording.
  file: {record_file}
  # A file that has grown to this size is moved aside to FILE.1, FILE.1 to FILE.2 and so on.
  rotate_bytes: {rotate_bytes}
  # How many files are kept, the one being written included.
  keep: {keep}
",
            listen = self.listen,
            cgroups = quoted_list(&self.cgroups),
            level = self.log.level,
            format = match self.log.format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            },
            ring_bytes = Bytes(u64::from(self.limits.ring_bytes)),
            connections = self.limits.connections,
            processes = self.limits.processes,
            series = self.limits.series,
            share = self.share,
            waiting_after = Seconds(self.waiting_after),
            stuck_after = Seconds(self.stuck_after),
            record_file = self
                .record
                .file
                .as_ref()
                .map_or_else(|| "null".to_owned(), |file| quoted(file)),
            rotate_bytes = Bytes(self.record.rotate_bytes),
            keep = self.record.keep,
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

/// Fewer would hold little beyond what `other` needs.
fn series<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    in_range(deserializer, &(1_000..=100_000_000))
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

fn quoted_list(paths: &[PathBuf]) -> String {
    format!(
        "[{}]",
        paths.iter().map(|path| quoted(path)).collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("hopline.yaml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn printed_defaults_read_back() {
        let config = Config::default();
        assert_eq!(parse(&config.to_yaml()), Ok(config));
        assert_eq!(parse(""), Ok(Config::default()));
        assert_eq!(parse("# nothing\n"), Ok(Config::default()));
    }

    #[test]
    fn printed_values_read_back() {
        let mut config = Config {
            share: 7,
            stuck_after: Duration::from_millis(2500),
            ..Config::default()
        };
        config.cgroups = vec!["/sys/fs/cgroup/a: \"b\"".into(), "/c".into()];
        config.record = RecordConfig {
            file: Some("/tmp/#x".into()),
            rotate_bytes: (1 << 20) + 1,
            keep: 1,
        };
        config.log = LogConfig {
            level: Level(tracing::Level::WARN),
            format: LogFormat::Json,
        };
        assert_eq!(parse(&config.to_yaml()), Ok(config));
    }

    #[test]
    fn refusals_name_file_line_and_key() {
        let check = |text: &str, start: &str, part: &str| {
            let error = parse(text).expect_err(text);
            assert!(error.starts_with(start), "{error}");
            assert!(error.contains(part), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        };
        check("lissten: 1\n", "hopline.yaml:1: lissten: ", "unknown field");
        check(
            "log:\n  level: loud\n",
            "hopline.yaml:2: log.level: ",
            "`loud` is no level",
        );
        check("log:\n  format: xml\n", "hopline.yaml:2: log.format: ", "xml");
        check("share: 0\n", "hopline.yaml:1: share: ", "out of range");
        check("share: many\n", "hopline.yaml:1: share: ", "");
        check(
            "# c\n\nstuck_after: 5\n",
            "hopline.yaml:3: stuck_after: ",
            "such as 500ms",
        );
        check("stuck_after: 1ms\n", "hopline.yaml:1: stuck_after: ", "out of range");
        check(
            "limits:\n  connections: 1\n  series: 0\n",
            "hopline.yaml:2: limits.connections: ",
            "out of range",
        );
        check("limits:\n  series: 999\n", "hopline.yaml:2: limits.series: ", "1000 to");
        check(
            "limits:\n  ring_bytes: 5000\n",
            "hopline.yaml:2: limits.ring_bytes: ",
            "power of two",
        );
        check(
            "limits:\n  rings: 1\n",
            "hopline.yaml:2: limits.rings: ",
            "unknown field",
        );
        check(
            "record:\n  rotate_bytes: 8MB\n",
            "hopline.yaml:2: record.rotate_bytes: ",
            "KiB",
        );
        check("cgroups: [a]\n", "hopline.yaml:1: cgroups: ", "absolute");
        check("listen: 9737\n", "hopline.yaml:1: listen: ", "");
        check("listen: [\n", "hopline.yaml:", "");
        check("- a\n", "hopline.yaml:1: ", "");
    }
}
