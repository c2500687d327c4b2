//! The command line as typed: names, help texts and the shape of each value. What is used is `config` and `command`.
//!
//! Must not open files or ask the system: `main` parses, the command's own file turns it into what it uses.
use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
};

use self::{
    fail_if::FailIf,
    units::{Level, parse_duration, parse_level, parse_ring_bytes},
};
use crate::connection::Phase;

pub mod fail_if;
mod path;
pub mod units;

pub use path::PathArgs;

/// Tells which destination is slow or failing, in which phase, for which workload, without changing any program.
#[derive(Debug, Parser)]
#[command(name = "hopline", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Least severe log messages to write: error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL", value_parser = parse_level)]
    pub log_level: Option<Level>,
    /// How log messages are written to stderr
    #[arg(long, global = true, value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

/// Shape of log messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text a message.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// One command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch all connections of this node and serve metrics
    Agent(AgentArgs),
    /// Print one line per finished connection, and STUCK lines for those that hang
    Trace(Box<TraceArgs>),
    /// Fetch URLs several times and tell which is the best, phase by phase
    Compare(CompareArgs),
    /// Show every hop on the way to a destination: address, round trips, loss
    Path(PathArgs),
    /// Show the live table of destinations, those in trouble first
    Top(TopArgs),
    /// Run the pipeline over a recording and print its totals
    Replay(ReplayArgs),
    /// Tell what this kernel offers and which hook serves each feature
    Doctor(DoctorArgs),
    /// Enter a cgroup and become COMMAND; used by `trace -- COMMAND`
    #[command(hide = true, name = "run-in-cgroup")]
    RunInCgroup(RunInCgroupArgs),
}

/// What to watch; common to `agent` and `trace`.
#[derive(Debug, Default, Args)]
pub struct WatchArgs {
    /// Read this YAML file; flags override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Watch only sockets and processes in this cgroup and below; may be repeated [default: the whole node]
    #[arg(long, value_name = "PATH")]
    pub cgroup: Vec<PathBuf>,
    /// Write everything that arrives from the kernel to FILE, for `hopline replay`
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Size of the ring buffer of connection events
    #[arg(long, value_name = "BYTES", hide = true, value_parser = parse_ring_bytes)]
    pub ring_bytes: Option<u32>,
    /// Note starts and ends in this directory, as `state_dir` of the configuration; empty: nowhere. For the lab
    #[arg(long, value_name = "DIR", hide = true, value_parser = any_text())]
    pub state_dir: Option<PathBuf>,
    /// Do without this kernel program, as if the kernel had refused it; may be repeated. For the lab
    #[arg(long, value_name = "NAME", hide = true)]
    pub fail_program: Vec<String>,
}

const AGENT_EXAMPLES: &str = "\
Examples:
  hopline agent
      Watch the whole node; metrics at http://127.0.0.1:9737/metrics.
  hopline agent --listen 0.0.0.0:9737
      Let Prometheus scrape from elsewhere; only /metrics, /livez and /readyz answer then.
  hopline agent --cgroup /sys/fs/cgroup/kubepods.slice --record /var/tmp/node.hopline
      Watch the pods alone and keep the events for `hopline replay`.
  hopline agent --print-config > hopline.yaml
      Start a configuration file from the defaults.";

/// `hopline agent`.
#[derive(Debug, Args)]
#[command(after_help = AGENT_EXAMPLES)]
pub struct AgentArgs {
    /// What to watch.
    #[command(flatten)]
    pub watch: WatchArgs,
    /// Address of the HTTP server [default: 127.0.0.1:9737]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Print the configuration that would be used, with comments, and end
    #[arg(long)]
    pub print_config: bool,
    /// Print the page of all metrics, as Markdown, and end
    #[arg(long)]
    pub print_metrics: bool,
}

const TRACE_EXAMPLES: &str = "\
Examples:
  hopline trace
      Every connection of this node as it ends.
  hopline trace -- go mod download
      Run a command, show its connections alone, end with a summary and with its exit code.
  hopline trace --failed --host '*.internal' --for 60s
      Failures to some hosts, for a minute.
  hopline trace --slower-than tcp=100ms --json | jq .destination
      Slow handshakes as JSON.
  hopline trace --stuck
      Only what hangs, while it hangs.

In patterns `*` stands for any text. Filters of different kinds must all match; of one kind, any.";

/// `hopline trace`.
#[derive(Debug, Args)]
#[command(after_help = TRACE_EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag")]
pub struct TraceArgs {
    /// What to watch.
    #[command(flatten)]
    pub watch: WatchArgs,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Write the lines to FILE instead of stdout
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only these destinations, by name or address
    #[arg(long, value_name = "PATTERN")]
    pub host: Vec<String>,
    /// Only these groups of destinations
    #[arg(long, value_name = "PATTERN")]
    pub group: Vec<String>,
    /// Only these pods
    #[arg(long, value_name = "PATTERN")]
    pub pod: Vec<String>,
    /// Only these workloads
    #[arg(long, value_name = "PATTERN")]
    pub workload: Vec<String>,
    /// Only connections that failed
    #[arg(long)]
    pub failed: bool,
    /// Only connections that hang
    #[arg(long)]
    pub stuck: bool,
    /// Only connections with a phase (dns, tcp, tls, ttfb, turn) that took longer
    #[arg(long, value_name = "PHASE=DURATION", value_parser = parse_slower_than)]
    pub slower_than: Vec<SlowerThan>,
    /// Show DNS lookups too; without it only those that fail, and none with --json
    #[arg(long)]
    pub dns: bool,
    /// End after N lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this time, such as 30s or 5m
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Run this command in a cgroup of its own and trace just that
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["cgroup", "duration", "count"])]
    pub command: Vec<OsString>,
}

/// A phase and the time above which a connection is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowerThan {
    /// The phase.
    pub phase: Phase,
    /// Its bound, microseconds.
    pub bound_us: u64,
}

const COMPARE_EXAMPLES: &str = "\
Examples:
  hopline compare https://mirror-a.example/ https://mirror-b.example/pool
      Which mirror is the best, and in which phase the others lose.
  hopline compare https://proxy.internal/healthz --cacert ca.pem --json | jq '.rows[].tls.chain'
      The certificates of a private authority.
  hopline compare https://mirror.example/ --fail-if 'ttfb.p95 > 200ms' --fail-if 'expires < 14d'
      A gate in CI: exit code 1 when either holds.

Times are the kernel's, as `hopline trace` has them; each request opens a connection of its own. Redirects are not
followed. Quantiles are exact (nearest rank). A URL whose certificate has a fault is measured up to TLS. With
SSLKEYLOGFILE set, the keys of each handshake are written there.

--fail-if takes dns, tcp, tls or ttfb with .p50 or .p95 and a time, `failures` and a number, or `expires` and a time; in
between <, <=, > or >=. It holds when it does for any URL; what was not measured is told on stderr and does not hold.

Exit codes: 0, 1 when no URL gave an answer or a condition holds, 2 wrong usage.";

/// `hopline compare`.
#[derive(Debug, Args)]
#[command(after_help = COMPARE_EXAMPLES)]
pub struct CompareArgs {
    /// What to fetch, with http:// or https://; at most 64
    #[arg(required = true, value_name = "URL", num_args = 1..=64)]
    pub urls: Vec<String>,
    /// Requests to each URL
    #[arg(long, short = 'n', value_name = "REQUESTS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub requests: u32,
    /// Requests at a time, over all URLs
    #[arg(long, short, value_name = "CONCURRENCY", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub concurrency: u8,
    /// Longest that a request may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Trust the authorities in this PEM file too
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// Go on after the handshake though the certificate has a fault
    #[arg(long)]
    pub insecure: bool,
    /// Take features that are switched off from this YAML file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// End with exit code 1 when this holds for any URL, such as 'tls.p95 > 100ms'; may be repeated
    #[arg(long, value_name = "CONDITION", value_parser = FailIf::parse)]
    pub fail_if: Vec<FailIf>,
}

const TOP_EXAMPLES: &str = "\
Examples:
  hopline top
      The destinations of this node, shown anew every two seconds.
  hopline top --agent http://127.0.0.1:9737 --once
      What a running agent knows, once.
  hopline top --agent http://127.0.0.1:9737 --last
      What the last five seconds were like.
  hopline top --cgroup /sys/fs/cgroup/system.slice
      The destinations of one cgroup.

First comes what has trouble now (!): active rules, connections that wait, errors in the last five seconds; then what has
the most connections. `<-` before the name of a server's own. With --once and without an agent it watches for six seconds.";

/// `hopline top`.
#[derive(Debug, Args)]
#[command(after_help = TOP_EXAMPLES)]
pub struct TopArgs {
    /// What to watch.
    #[command(flatten)]
    pub watch: WatchArgs,
    /// Ask the agent at this address instead of watching
    #[arg(long, value_name = "URL", conflicts_with_all = ["config", "cgroup", "record"])]
    pub agent: Option<String>,
    /// Show the table once and end
    #[arg(long)]
    pub once: bool,
    /// Show the figures of the last five seconds, not those since the start
    #[arg(long)]
    pub last: bool,
    /// Most rows
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    pub rows: u32,
}

const REPLAY_EXAMPLES: &str = "\
Examples:
  hopline replay node.hopline
      Totals per destination, the same as the agent had when it stopped.
  hopline replay node.hopline.2 node.hopline.1 node.hopline
      A recording that was rotated, oldest file first.

Damaged places are told on stderr and skipped. The exit code is 1 only when nothing in a file could be read.";

/// `hopline replay`.
#[derive(Debug, Args)]
#[command(after_help = REPLAY_EXAMPLES)]
pub struct ReplayArgs {
    /// Recordings made by --record, oldest first
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Print the totals as JSON
    #[arg(long)]
    pub json: bool,
    /// Print each finished connection too
    #[arg(long)]
    pub connections: bool,
    /// Take groups, declared destinations and the rule of RTT spikes from this YAML file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

const DOCTOR_EXAMPLES: &str = "\
Examples:
  hopline doctor
      Kernel, BTF, cgroup v2, and per feature the hook in use and why not a better one.
  hopline doctor --json | jq '.features[] | select(.enabled or .switched_off | not)'
      What does not work here.
  hopline doctor --config /etc/hopline/hopline.yaml
      The same with the features that this configuration switches off.
  hopline doctor --leave-safe-mode
      Load everything again at the next start of the agent.

The kernel programs are loaded for an empty cgroup, one of its own where it may make one: nothing on the node is watched.";

/// `hopline doctor`.
#[derive(Debug, Args)]
#[command(after_help = DOCTOR_EXAMPLES)]
pub struct DoctorArgs {
    /// Leave out what this YAML file switches off
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// End safe mode with the next start of the agent
    #[arg(long, conflicts_with = "json")]
    pub leave_safe_mode: bool,
    /// As of the agent
    #[arg(long, value_name = "DIR", hide = true, value_parser = any_text())]
    pub state_dir: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Any text: an empty one has a meaning.
fn any_text() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// `hopline run-in-cgroup`.
#[derive(Debug, Args)]
pub struct RunInCgroupArgs {
    /// The `cgroup.procs` file to enter by.
    pub procs: PathBuf,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

fn parse_slower_than(text: &str) -> Result<SlowerThan, String> {
    let (phase, bound) = text.split_once('=').ok_or("write PHASE=DURATION, such as tcp=100ms")?;
    let phase = match phase {
        "dns" => Phase::Dns,
        "tcp" => Phase::Tcp,
        "tls" => Phase::Tls,
        "ttfb" => Phase::Ttfb,
        "turn" => Phase::Turn,
        other => return Err(format!("`{other}` is no phase: dns, tcp, tls or ttfb")),
    };
    let bound_us = u64::try_from(parse_duration(bound)?.as_micros()).map_err(|_| "too long".to_owned())?;
    Ok(SlowerThan { phase, bound_us })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn command_lines() {
        let check = |line: &str, accepted: bool| {
            let parsed = Cli::try_parse_from(line.split_whitespace());
            assert_eq!(parsed.is_ok(), accepted, "{line}: {parsed:?}");
        };
        check("hopline agent --listen 127.0.0.1:0 --cgroup /a --cgroup /b", true);
        check("hopline agent --listen 9737", false);
        check(
            "hopline trace --json --failed --slower-than tcp=100ms --slower-than dns=1s",
            true,
        );
        check("hopline trace --slower-than tcp=100", false);
        check("hopline trace --slower-than http=1s", false);
        check("hopline trace --for 10", false);
        check("hopline trace --count 0", false);
        check("hopline trace -- curl -s http://localhost", true);
        check("hopline trace --count 3 -- curl", false);
        check("hopline trace curl", false);
        check(
            "hopline compare https://a/ http://b/ -n 3 -c 1 --timeout 2s --insecure --json",
            true,
        );
        check(
            "hopline compare https://a/ --fail-if tls.p95>1s --fail-if failures>0",
            true,
        );
        check("hopline compare https://a/ --fail-if tls>1s", false);
        check("hopline compare https://a/ -n 0", false);
        check("hopline compare https://a/ -c 65", false);
        check("hopline compare", false);
        check("hopline top --once --agent http://localhost:1 --last", true);
        check("hopline top --cgroup /a --cgroup /b --rows 5", true);
        check("hopline top --cgroup /a --agent http://localhost:1", false);
        check(
            "hopline path example.com:80 --json --count 200 -i 100ms --icmp -6",
            true,
        );
        check("hopline path example.com --agent http://localhost:1 --json", true);
        check("hopline path example.com -4 -6", false);
        check("hopline path example.com -i 1ms", false);
        check("hopline path example.com --max-hops 65", false);
        check("hopline path", false);
        check("hopline replay", false);
        check("hopline replay a b --json", true);
        check("hopline replay a --config b.yaml", true);
        check("hopline compare http://a/ --config b.yaml", true);
        check("hopline doctor --json --log-format json", true);
        check("hopline doctor --config a.yaml", true);
        check("hopline doctor --leave-safe-mode --config a.yaml", true);
        check("hopline agent --state-dir=", true);
        check("hopline doctor --log-level loud", false);
        check("hopline agent --ring-bytes 5000", false);
        check("hopline agent --ring-bytes 65536", true);
        check("hopline agent --fail-program sock_ops --fail-program iter_tcp", true);
    }
}
