//! What hopline knows of itself: hooks in use, events counted and lost, cost of its programs.
//!
//! Plain data. `bpf` and `agent` fill it in, exporters and `doctor` show it; nothing here reads a clock or a file.
use serde::Serialize;

/// Everything that a scrape tells about the agent beside what it observed.
#[derive(Clone, Debug, Default)]
pub struct SelfMetrics {
    /// Which hook serves each feature.
    pub features: Vec<FeatureState>,
    /// Programs on cgroups alone, as the node died under hopline.
    pub safe_mode: bool,
    /// Events by kind, as the kernel side and the reader counted them.
    pub events: Vec<KindCounts>,
    /// Events that a cgroup lost because it had used up its share of a crowded ring.
    pub throttled: Vec<CgroupThrottled>,
    /// Losses that are not events (`storage_failed`, `intents_full`), by name.
    pub failures: Vec<(String, u64)>,
    /// Cost of each kernel program; the times are 0 while the kernel's BPF statistics are off.
    pub programs: Vec<ProgramStats>,
    /// Records that a listener of `/api/v1/connections` missed because it read too slowly.
    pub stream_dropped: u64,
    /// Inputs that could not be written to the recording.
    pub recording_dropped: u64,
    /// Files with TLS code.
    pub tls_targets: TlsTargets,
    /// The HTTP server; none where nothing listens.
    pub http: Option<HttpNumbers>,
    /// The agent's own process.
    pub process: ProcessStats,
}

/// What became of connections and requests of the HTTP server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpNumbers {
    /// Connections that are open.
    pub open: u64,
    /// Connections that there may be.
    pub limit: u64,
    /// Connections that have ended, by how they did.
    pub ended: Vec<(&'static str, u64)>,
    /// Requests that were refused, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// Connections that could not be accepted.
    pub accept_errors: u64,
}

/// Files in which probes tell what a TLS library says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TlsTargets {
    /// What ran at the start was looked at.
    pub is_complete: bool,
    /// Files that are probed now.
    pub targets: Vec<TlsTarget>,
    /// Files and places that were not probed, by reason, since the start.
    pub refused: Vec<(&'static str, u64)>,
    /// Files that were let go, since the start.
    pub released: u64,
    /// Executable mappings that were not told of, since the start.
    pub mappings_lost: u64,
}

/// One such file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TlsTarget {
    /// Its path as the process that first mapped it sees it.
    pub path: String,
    /// `openssl`, `boringssl`, `gnutls` or `go`.
    pub library: &'static str,
    /// Empty when it is not known.
    pub version: String,
    /// Probes in it.
    pub probes: usize,
    /// Places that are worth one.
    pub places: usize,
}

/// Which hook serves one feature, and why not a better one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FeatureState {
    /// Name, the same in `doctor` and in `hopline_feature_enabled`.
    pub feature: &'static str,
    /// Hook in use; empty when the feature is off.
    pub hook: String,
    /// Whether any hook serves it.
    pub enabled: bool,
    /// The configuration switched it off: that it is off is no fault.
    pub switched_off: bool,
    /// Why a better hook, or any, was refused; empty when the first choice serves.
    pub reason: String,
}

impl FeatureState {
    /// It is off, and nobody wanted that.
    pub fn is_missing(&self) -> bool {
        !self.enabled && !self.switched_off
    }
}

/// Why no new connection can be seen; `None` when they can. What the configuration switched off is no fault.
pub fn missing_core(features: &[FeatureState]) -> Option<String> {
    /// The one knows whose a connection is, the other how it goes on.
    const CORE: [&str; 2] = ["connect", "state"];
    let missing: Vec<String> = features
        .iter()
        .filter(|state| CORE.contains(&state.feature) && state.is_missing())
        .map(|state| format!("{}: {}", state.feature, state.reason))
        .collect();
    (!missing.is_empty()).then(|| {
        let why = missing.join("; ");
        format!("no new connection can be seen ({why}); run as root, or with CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON")
    })
}

/// Counters of one kind of event. Once the rings are drained, `attempts = received + ring_full + throttled`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindCounts {
    /// Name of the kind.
    pub kind: &'static str,
    /// Events that the agent took out of the rings.
    pub received: u64,
    /// Events that the kernel programs wanted to send.
    pub attempts: u64,
    /// Events refused because the ring had no room.
    pub ring_full: u64,
    /// Events refused because their cgroup had used up its share.
    pub throttled: u64,
}

/// Events of one cgroup and kind that were held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupThrottled {
    /// Id of the cgroup (inode number of its directory).
    pub cgroup_id: u64,
    /// Name of the kind.
    pub kind: &'static str,
    /// Events refused.
    pub throttled: u64,
}

/// Cost of one kernel program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramStats {
    /// Its function's name.
    pub name: String,
    /// Time spent in it, nanoseconds.
    pub run_ns: u64,
    /// Number of runs.
    pub runs: u64,
    /// Runs that the kernel skipped because the program was already running on that CPU; see [`missed_runs`].
    pub recursion_misses: u64,
}

/// What a skipped run would have told, and the programs that are skipped: those on kernel functions and tracepoints, where a
/// task preempts another, or an interrupt comes, in the same program. Programs on cgroups and probes in files never are.
const MISSED: &[(&str, &[&str])] = &[
    ("process_fork_missed", &["sched_process_fork"]),
    ("process_exec_missed", &["sched_process_exec"]),
    ("process_exit_missed", &["sched_process_exit"]),
    ("cgroup_mkdir_missed", &["cgroup_mkdir"]),
    ("syn_missed", &["tcp_connect_fentry", "tcp_connect_kprobe"]),
    (
        "failure_before_syn_missed",
        &["inet_stream_connect_fexit", "sys_exit_connect"],
    ),
    ("state_missed", &["inet_sock_set_state", "tcp_destroy_sock"]),
    ("connect_error_missed", &["inet_sk_error_report"]),
    ("retransmit_missed", &["tcp_retransmit_skb"]),
    ("synack_retransmit_missed", &["tcp_retransmit_synack"]),
    ("tls_read_missed", &["tcp_rcv_space_adjust"]),
];
/// Runs of a program that nobody has put into that list.
const OTHER_MISSED: &str = "program_skipped";

/// Every kind in `hopline_events_lost_total` for skipped runs, with their number. One run is one event at most: the programs
/// decide only then whether it is inside the scope.
pub fn missed_runs(programs: &[ProgramStats]) -> Vec<(&'static str, u64)> {
    let mut kinds: Vec<(&str, u64)> = MISSED.iter().map(|(kind, _)| (*kind, 0)).collect();
    kinds.push((OTHER_MISSED, 0));
    for program in programs {
        let listed = MISSED
            .iter()
            .position(|(_, programs)| programs.contains(&program.name.as_str()));
        kinds[listed.unwrap_or(MISSED.len())].1 += program.recursion_misses;
    }
    kinds
}

/// The `process_*` metrics of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessStats {
    /// User and system CPU time, seconds.
    pub cpu_seconds: f64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Virtual memory, bytes.
    pub virtual_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Start, seconds since the Unix epoch.
    pub start_seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_off_by_choice_is_not_missing() {
        let state = |feature, enabled, switched_off| FeatureState {
            feature,
            enabled,
            switched_off,
            reason: "EPERM".to_owned(),
            ..FeatureState::default()
        };
        let missing = |states: &[FeatureState]| missing_core(states);
        assert_eq!(
            missing(&[state("connect", true, false), state("dns", false, false)]),
            None
        );
        assert_eq!(
            missing(&[state("connect", false, true), state("state", true, false)]),
            None
        );
        let why = missing(&[state("connect", false, false), state("state", true, false)]).expect("it is missing");
        assert!(
            why.contains("(connect: EPERM)") && why.contains("CAP_NET_ADMIN"),
            "{why}"
        );
        let why = missing(&[state("connect", true, false), state("state", false, false)]).expect("it is missing");
        assert!(why.contains("(state: EPERM)"), "{why}");
    }

    #[test]
    fn every_skipped_run_is_counted_once() {
        let program = |name: &str, recursion_misses| ProgramStats {
            name: name.to_owned(),
            recursion_misses,
            ..ProgramStats::default()
        };
        let runs = missed_runs(&[
            program("sched_process_exec", 3),
            program("tcp_connect_fentry", 1),
            program("tcp_connect_kprobe", 2),
            program("a_new_one", 5),
        ]);
        let of = |kind| runs.iter().find(|(name, _)| *name == kind).map(|(_, runs)| *runs);
        assert_eq!(of("process_exec_missed"), Some(3));
        assert_eq!(of("syn_missed"), Some(3));
        assert_eq!(of("process_fork_missed"), Some(0));
        assert_eq!(of("program_skipped"), Some(5));
        assert_eq!(runs.iter().map(|(_, runs)| runs).sum::<u64>(), 11);
    }
}
