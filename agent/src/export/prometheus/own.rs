//! The agent's own metrics: events, losses, series, features, cost of the kernel programs, its process.
use std::{collections::BTreeMap, fmt};

use agent_ebpf::{
    event::kind_name,
    loss::{TLS_UNJOINED, failure_name},
};
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, NoLabelSet},
    metrics::MetricType,
};

use crate::{
    aggregate::{Family, PipelineCounts, Snapshot},
    capacity::TableUse,
    selfmetrics::{SelfMetrics, missed_runs},
    workloads::Source,
};

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot, own: &SelfMetrics) -> fmt::Result {
    // A gauge as everywhere: promtool's linter does not know OpenMetrics' own type for this.
    let version = [([("version", env!("CARGO_PKG_VERSION"))], 1_i64)];
    gauges(encoder, "hopline_build_info", "Version of the agent.", version)?;
    events(encoder, snapshot, own)?;
    hellos(encoder, &snapshot.counts)?;
    dns(encoder, &snapshot.counts)?;
    series(encoder, snapshot)?;
    tables(encoder, &snapshot.counts)?;
    let pods = &snapshot.counts.pods.state;
    let of_pods = pods.is_wanted.then(|| {
        let hook = pods.source.map_or("", Source::name);
        (
            [("feature", "kubernetes"), ("hook", hook)],
            i64::from(pods.source.is_some()),
        )
    });
    // What somebody does not want is not missing.
    let wanted = own.features.iter().filter(|state| !state.switched_off);
    let features = wanted.map(|state| {
        (
            [("feature", state.feature), ("hook", state.hook.as_str())],
            i64::from(state.enabled),
        )
    });
    let features = features.chain(of_pods);
    gauges(
        encoder,
        "hopline_feature_enabled",
        "Whether a feature works, and the hook that serves it.",
        features,
    )?;
    encoder
        .encode_descriptor(
            "hopline_safe_mode",
            "1 while only kernel programs on cgroups are loaded, as the node or the agent died repeatedly; else 0.",
            None,
            MetricType::Gauge,
        )?
        .encode_gauge(&i64::from(own.safe_mode))?;
    tls_targets(encoder, own)?;
    kubernetes(encoder, &snapshot.counts)?;
    programs(encoder, own)?;
    http(encoder, own)?;
    process(encoder, own)
}

/// What strangers did to the HTTP server; nothing at all where there is none.
fn http(encoder: &mut DescriptorEncoder<'_>, own: &SelfMetrics) -> fmt::Result {
    let Some(http) = &own.http else {
        return Ok(());
    };
    let none: [(&str, &str); 0] = [];
    gauges(
        encoder,
        "hopline_agent_http_open_connections",
        "Connections to the agent's HTTP server that are open.",
        [(none, http.open as f64)],
    )?;
    gauges(
        encoder,
        "hopline_agent_http_connections_limit",
        "Connections that there may be; fewer where descriptors are short.",
        [(none, http.limit as f64)],
    )?;
    counters(
        encoder,
        "hopline_agent_http_connections",
        "Connections to the agent's HTTP server that have ended, by how they did.",
        http.ended.iter().map(|(result, count)| ([("result", *result)], *count)),
    )?;
    counters(
        encoder,
        "hopline_agent_http_requests_refused",
        "Requests that the agent's HTTP server refused, by reason.",
        (http.refused.iter()).map(|(reason, count)| ([("reason", *reason)], *count)),
    )?;
    counters(
        encoder,
        "hopline_agent_http_accept_errors",
        "Connections that could not be accepted, most likely for want of descriptors.",
        [(none, http.accept_errors)],
    )
}

/// How full the agent's tables are.
fn tables(encoder: &mut DescriptorEncoder<'_>, counts: &PipelineCounts) -> fmt::Result {
    let of = |value: fn(&TableUse) -> u64| {
        let tables = counts.tables.iter();
        tables.map(move |table| ([("table", table.table)], value(table) as f64))
    };
    gauges(
        encoder,
        "hopline_table_entries",
        "Entries of each of the agent's tables; bytes, where the table's name says so.",
        of(|table| table.entries),
    )?;
    gauges(
        encoder,
        "hopline_table_limit",
        "The most entries that each table may have; what finds no room is in hopline_events_lost_total.",
        of(|table| table.limit),
    )
}

/// Who the pods are, and how well that is known; nothing at all outside Kubernetes.
fn kubernetes(encoder: &mut DescriptorEncoder<'_>, counts: &PipelineCounts) -> fmt::Result {
    let pods = &counts.pods;
    if !pods.state.is_wanted {
        return Ok(());
    }
    let none: [(&str, &str); 0] = [];
    gauges(
        encoder,
        "hopline_kubernetes_pods",
        "Pods of this node that are known.",
        [(none, pods.pods as f64)],
    )?;
    let failures = pods.state.failures.iter();
    counters(
        encoder,
        "hopline_kubernetes_failures",
        "Times that the API server or the container runtime did not answer as it should, by reason.",
        failures.map(|(reason, count)| ([("reason", *reason)], *count)),
    )?;
    let held = &counts.held;
    let outcomes = [
        ("named", held.named),
        ("expired", held.expired),
        ("refused", held.refused),
    ];
    counters(
        encoder,
        "hopline_kubernetes_held",
        "Events that waited for the name of their pod: it came, it did not come in time, there was no room to wait.",
        outcomes.map(|(outcome, count)| ([("outcome", outcome)], count)),
    )
}

fn events(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot, own: &SelfMetrics) -> fmt::Result {
    let counts = &snapshot.counts;
    let kinds = (0..)
        .zip(counts.events)
        .filter_map(|(kind, count)| Some(([("kind", kind_name(kind)?)], count)));
    counters(
        encoder,
        "hopline_events",
        "Events from the kernel that the agent applied.",
        kinds,
    )?;
    let attempted = own
        .events
        .iter()
        .map(|counts| ([("kind", counts.kind)], counts.attempts));
    counters(
        encoder,
        "hopline_events_attempted",
        "Events that the kernel programs wanted to send: those applied, lost, or still on their way.",
        attempted,
    )?;
    let by_kind = own
        .events
        .iter()
        .map(|counts| (counts.kind, counts.ring_full + counts.throttled));
    // What a library says of no connection that is known is no loss: who is told of it would look for one.
    let is_unjoined = |name: &str| failure_name(TLS_UNJOINED) == Some(name);
    let failures = own
        .failures
        .iter()
        .filter(|(name, _)| !is_unjoined(name))
        .map(|(name, count)| (name.as_str(), *count));
    let none: [(&str, &str); 0] = [];
    let unjoined = own.failures.iter().filter(|(name, _)| is_unjoined(name));
    counters(
        encoder,
        "hopline_tls_facts_unjoined",
        "Times that a TLS library said something while its thread had read of no handshake.",
        unjoined.map(|(_, count)| (none, *count)),
    )?;
    let here = [
        ("malformed", counts.malformed),
        ("unknown_kind", counts.unknown_kind),
        ("connection_untracked", counts.untracked),
        ("rtt_unplaced", counts.rtt_unplaced),
        ("hello_facts_unkept", counts.hello_facts_unkept),
        ("connection_evicted", counts.evicted),
        ("process_evicted", counts.processes_evicted),
        ("cgroup_evicted", counts.cgroups_evicted),
        ("fallback_evicted", counts.fallbacks_evicted),
        ("dns_name_evicted", counts.dns_names_evicted),
        ("dns_lookup_refused", counts.dns_lookups_refused),
        ("dns_stream_refused", counts.dns_streams_refused),
        ("event_unkept", counts.events_dropped),
        ("spike_refused", counts.spikes_refused),
        ("pod_refused", counts.pods.refused),
        ("group_refused", counts.groups_refused),
        ("lingering_untracked", snapshot.staying.lingering_untracked),
        ("unreused_untracked", snapshot.staying.unreused_untracked),
        ("swept_refused", snapshot.staying.sweeps.refused),
        ("tls_fact_evicted", counts.tls_facts_evicted),
        ("record_dropped", counts.outputs_dropped),
        ("stream_dropped", own.stream_dropped),
        ("recording_dropped", own.recording_dropped),
    ];
    let lost = by_kind
        .chain(failures)
        .chain(here)
        .chain(missed_runs(&own.programs))
        .map(|(kind, count)| ([("kind", kind)], count));
    counters(
        encoder,
        "hopline_events_lost",
        "What the kernel programs or the agent had to drop.",
        lost,
    )
}

/// What became of DNS messages that were not counted as queries or answers.
fn dns(encoder: &mut DescriptorEncoder<'_>, counts: &PipelineCounts) -> fmt::Result {
    let malformed = counts
        .dns_malformed
        .iter()
        .map(|(kind, count)| ([("kind", *kind)], *count));
    counters(
        encoder,
        "hopline_dns_malformed",
        "Parts of DNS messages that could not be read.",
        malformed,
    )?;
    let ignored = counts
        .dns_ignored
        .iter()
        .map(|(reason, count)| ([("reason", *reason)], *count));
    counters(
        encoder,
        "hopline_dns_ignored",
        "DNS messages that had no part in anything: answers that nobody asked for, late ones, other operations.",
        ignored,
    )
}

/// What became of the bytes that hold names, versions and certificates; their number is `hello_bytes` among the events.
fn hellos(encoder: &mut DescriptorEncoder<'_>, counts: &PipelineCounts) -> fmt::Result {
    let malformed = counts
        .hellos_malformed
        .iter()
        .map(|(kind, count)| ([("kind", *kind)], *count));
    counters(
        encoder,
        "hopline_hello_malformed",
        "Parts of TLS hellos and HTTP heads that could not be read.",
        malformed,
    )?;
    let dropped = [("evicted", counts.hellos_evicted), ("expired", counts.hellos_expired)];
    counters(
        encoder,
        "hopline_hello_streams_dropped",
        "Conversations whose hellos were forgotten before their connection ended: for want of room, or long idle.",
        dropped.map(|(reason, count)| ([("reason", reason)], count)),
    )?;
    let help = "Servers whose session ticket lengths were forgotten for want of room.";
    encoder
        .encode_descriptor("hopline_ticket_lengths_forgotten", help, None, MetricType::Counter)?
        .encode_counter::<NoLabelSet, _, u64>(&counts.tickets_forgotten, None)
}

fn series(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let families = || {
        Family::ALL
            .into_iter()
            .zip(snapshot.families)
            .map(|(family, counts)| ([("family", family.name())], counts))
    };
    let now = families().map(|(labels, counts)| (labels, counts.series));
    gauges(encoder, "hopline_series", "Time series with destination labels.", now)?;
    let folded = families().map(|(labels, counts)| (labels, counts.folded));
    counters(
        encoder,
        "hopline_series_folded",
        "Observations counted under destination=\"other\".",
        folded,
    )
}

/// Libraries are few; the files themselves are in `/api/v1/tls-targets` alone.
fn tls_targets(encoder: &mut DescriptorEncoder<'_>, own: &SelfMetrics) -> fmt::Result {
    let mut by_library: BTreeMap<&str, i64> = BTreeMap::new();
    for target in &own.tls_targets.targets {
        *by_library.entry(target.library).or_default() += 1;
    }
    let now = by_library
        .into_iter()
        .map(|(library, files)| ([("library", library)], files));
    gauges(
        encoder,
        "hopline_tls_targets",
        "Files with probes in a TLS library.",
        now,
    )?;
    let refused = &own.tls_targets.refused;
    let refused = refused.iter().map(|(reason, count)| ([("reason", *reason)], *count));
    counters(
        encoder,
        "hopline_tls_targets_refused",
        "Files and places in them that were not probed.",
        refused,
    )
}

fn programs(encoder: &mut DescriptorEncoder<'_>, own: &SelfMetrics) -> fmt::Result {
    // Without the kernel's BPF statistics every count is zero: left out, not shown as free of cost.
    let measured = || own.programs.iter().filter(|program| program.runs > 0);
    let seconds = measured().map(|program| ([("program", program.name.as_str())], program.run_ns as f64 / 1e9));
    counters(
        encoder,
        "hopline_bpf_run_seconds",
        "Time spent in each kernel program.",
        seconds,
    )?;
    let runs = measured().map(|program| ([("program", program.name.as_str())], program.runs));
    counters(encoder, "hopline_bpf_runs", "Runs of each kernel program.", runs)
}

fn process(encoder: &mut DescriptorEncoder<'_>, own: &SelfMetrics) -> fmt::Result {
    let process = &own.process;
    if process.start_seconds == 0.0 {
        return Ok(()); // Not measured: a replay has no process to show.
    }
    encoder
        .encode_descriptor(
            "process_cpu_seconds",
            "User and system CPU time.",
            None,
            MetricType::Counter,
        )?
        .encode_counter::<NoLabelSet, _, u64>(&process.cpu_seconds, None)?;
    [
        (
            "process_resident_memory_bytes",
            "Resident memory.",
            process.resident_bytes as f64,
        ),
        (
            "process_virtual_memory_bytes",
            "Virtual memory.",
            process.virtual_bytes as f64,
        ),
        ("process_open_fds", "Open file descriptors.", process.open_fds as f64),
        (
            "process_start_time_seconds",
            "Start, since the Unix epoch.",
            process.start_seconds,
        ),
    ]
    .into_iter()
    .try_for_each(|(name, help, value)| {
        encoder
            .encode_descriptor(name, help, None, MetricType::Gauge)?
            .encode_gauge(&value)
    })
}

/// A family of counters; nothing at all when it has no member.
pub(super) fn counters<S: EncodeLabelSet, V: EncodeCounterValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (S, V)>,
) -> fmt::Result {
    let mut samples = samples.into_iter().peekable();
    if samples.peek().is_none() {
        return Ok(());
    }
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    samples.try_for_each(|(labels, value)| {
        metric
            .encode_family(&labels)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)
    })
}

/// A family of gauges; nothing at all when it has no member.
pub(super) fn gauges<S: EncodeLabelSet, V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (S, V)>,
) -> fmt::Result {
    let mut samples = samples.into_iter().peekable();
    if samples.peek().is_none() {
        return Ok(());
    }
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    samples.try_for_each(|(labels, value)| metric.encode_family(&labels)?.encode_gauge(&value))
}
