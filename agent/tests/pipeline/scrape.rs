//! What a scrape says: every family from a small history, accepted by `promtool`, within the budget, in time.
use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use super::events::{SECOND, child, client, close, closed_locally, connection, exec, fork, hello, ipv4, listener};
use agent_ebpf::{
    connection::{ConnectionState, Retransmits, RttSamples, TcpCounters},
    event::{CONNECTION_OPEN, LISTENER_OPEN, SYNACK_RETRANSMIT},
};
use hopline::{
    export::{
        human,
        prometheus::{classic, encode},
    },
    pipeline::{Pipeline, PipelineSettings},
    selfmetrics::{FeatureState, KindCounts, ProcessStats, ProgramStats, SelfMetrics},
};

fn history() -> Pipeline {
    let mut pipeline = Pipeline::new(PipelineSettings::default());
    let moved = ConnectionState {
        counters: TcpCounters {
            bytes_sent: 10,
            bytes_received: 20,
            segments_sent: 3,
            segments_received: 4,
            ..TcpCounters::default()
        },
        rtt: RttSamples {
            sum_us: 700,
            count: 2,
            min_us: 300,
            var_us: 0,
            gate: 0,
        },
        retransmits: Retransmits {
            rto: 2,
            ..Retransmits::default()
        },
        ..closed_locally(1)
    };
    for sample in [
        fork(1, 80, 1, "init"),
        exec(2, 80, 1, "/usr/sbin/ng\"in\\x"),
        connection(LISTENER_OPEN, SECOND, listener(5)),
        connection(SYNACK_RETRANSMIT, SECOND, listener(5)),
        close(3 * SECOND, child(6, 5)),
        close(3 * SECOND, moved),
        close(
            3 * SECOND,
            ConnectionState {
                error: libc::ECONNREFUSED as u16,
                ..client(2)
            },
        ),
        connection(CONNECTION_OPEN, SECOND, client(3)),
        hello(SECOND, 3, b"no TLS record begins like this"),
        vec![1],
    ] {
        pipeline.apply(&sample);
    }
    pipeline.tick(10 * SECOND);
    pipeline
}

fn own() -> SelfMetrics {
    SelfMetrics {
        features: vec![
            FeatureState {
                feature: "syn",
                hook: "kprobe".into(),
                enabled: true,
                ..FeatureState::default()
            },
            FeatureState {
                feature: "open",
                ..FeatureState::default()
            },
            FeatureState {
                feature: "rtt",
                switched_off: true,
                ..FeatureState::default()
            },
        ],
        events: vec![KindCounts {
            kind: "connection_close",
            ring_full: 2,
            throttled: 3,
            ..KindCounts::default()
        }],
        failures: vec![("storage_failed".into(), 4)],
        programs: vec![
            ProgramStats {
                name: "sock_ops".into(),
                run_ns: 1_500_000_000,
                runs: 7,
                recursion_misses: 0,
            },
            ProgramStats {
                name: "sched_process_exec".into(),
                recursion_misses: 6,
                ..ProgramStats::default()
            },
        ],
        process: ProcessStats {
            start_seconds: 1.5,
            resident_bytes: 4_096,
            ..ProcessStats::default()
        },
        ..SelfMetrics::default()
    }
}

#[test]
fn every_family() {
    let text = encode(&history().snapshot(), &own());
    let client = |name: &str, labels: &str| {
        format!(
            "{name}{{destination=\"10.0.0.2\",destination_port=\"443\",group=\"\",\
             source_namespace=\"\",source_workload=\"\",{labels}}}"
        )
    };
    let histogram = "destination=\"10.0.0.2\",destination_port=\"443\",group=\"\",role=\"client\"}";
    let server = "destination=\"ng\\\"in\\\\x\",destination_port=\"8080\"";
    for line in [
        format!("hopline_tcp_handshake_duration_seconds_sum{{{histogram} 0.02"),
        format!("hopline_tcp_handshake_duration_seconds_bucket{{le=\"0.0128\",{histogram} 0"),
        format!("hopline_tcp_handshake_duration_seconds_bucket{{le=\"0.0256\",{histogram} 1"),
        format!("hopline_tcp_handshake_duration_seconds_bucket{{le=\"+Inf\",{histogram} 1"),
        format!("hopline_tcp_rtt_seconds_count{{{histogram} 2"),
        format!("hopline_tcp_rtt_seconds_sum{{{histogram} 0.0007"),
        client("hopline_tcp_connections_total", "role=\"client\",error=\"\"") + " 1",
        client("hopline_tcp_connections_total", "role=\"client\",error=\"refused\"") + " 1",
        client("hopline_tcp_connections_active", "role=\"client\",state=\"syn_sent\"") + " 1.0",
        client("hopline_connections_waiting", "phase=\"tcp\"") + " 1.0",
        client(
            "hopline_connections_ended_total",
            "role=\"client\",phase=\"established\",closed_by=\"local\"",
        ) + " 1",
        client(
            "hopline_connections_ended_total",
            "role=\"client\",phase=\"tcp\",closed_by=\"\"",
        ) + " 1",
        client("hopline_tcp_rtt_min_seconds", "role=\"client\"") + " 0.0003",
        client("hopline_tcp_retransmits_total", "role=\"client\",type=\"rto\"") + " 2",
        client("hopline_tcp_bytes_total", "role=\"client\",direction=\"received\"") + " 20",
        client("hopline_tcp_segments_total", "role=\"client\",direction=\"sent\"") + " 3",
        "hopline_events_total{kind=\"connection_close\"} 3".into(),
        "hopline_events_lost_total{kind=\"connection_close\"} 5".into(),
        "hopline_events_lost_total{kind=\"storage_failed\"} 4".into(),
        "hopline_events_lost_total{kind=\"malformed\"} 1".into(),
        "hopline_events_lost_total{kind=\"process_exec_missed\"} 6".into(),
        "hopline_events_lost_total{kind=\"process_fork_missed\"} 0".into(),
        "hopline_events_total{kind=\"hello_bytes\"} 1".into(),
        "hopline_hello_malformed_total{kind=\"tls_record\"} 1".into(),
        "hopline_hello_malformed_total{kind=\"http\"} 0".into(),
        "hopline_hello_streams_dropped_total{reason=\"evicted\"} 0".into(),
        "hopline_hello_streams_dropped_total{reason=\"expired\"} 0".into(),
        "hopline_ticket_lengths_forgotten_total 0".into(),
        "hopline_series{family=\"hopline_tcp_handshake_duration_seconds\"} 44".into(),
        "hopline_series_folded_total{family=\"hopline_tcp_bytes_total\"} 0".into(),
        "hopline_feature_enabled{feature=\"syn\",hook=\"kprobe\"} 1".into(),
        "hopline_feature_enabled{feature=\"open\",hook=\"\"} 0".into(),
        "hopline_safe_mode 0".into(),
        "hopline_bpf_run_seconds_total{program=\"sock_ops\"} 1.5".into(),
        "hopline_bpf_runs_total{program=\"sock_ops\"} 7".into(),
        format!("hopline_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
        "process_resident_memory_bytes 4096.0".into(),
    ] {
        assert!(text.lines().any(|have| have == line), "no line {line}\nin\n{text}");
    }
    assert!(
        text.contains(&format!("hopline_tcp_retransmits_total{{{server},group=\"\"")),
        "{text}"
    );
    assert!(
        !text.contains("hopline_feature_enabled{feature=\"rtt\""),
        "what is switched off is not missing"
    );
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn the_table_for_people_fits_and_says_what_failed() {
    let table = human::table(&history().snapshot());
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() <= 120), "{table}");
    let of_client = lines.iter().find(|line| line.starts_with("10.0.0.2:443"));
    let of_client = of_client.expect("the client's destination");
    assert!(of_client.contains("1 refused"), "{table}");
    assert_eq!(
        of_client.find("1 refused"),
        lines[0].find("FAILED"),
        "cells stand under their head: {table}"
    );
    assert!(lines.iter().any(|line| line.starts_with("<- ")), "{table}");
}

#[test]
fn the_classic_format_has_the_same_samples() {
    let text = encode(&history().snapshot(), &own());
    let classic = classic(&text);
    let samples = |text: &str| {
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(samples(&classic), samples(&text));
    let types: Vec<_> = classic
        .lines()
        .filter(|line| line.starts_with("# TYPE hopline_tcp_conn"))
        .collect();
    assert_eq!(
        types,
        [
            "# TYPE hopline_tcp_connections_total counter",
            "# TYPE hopline_tcp_connections_active gauge"
        ],
    );
    assert!(!classic.contains("# EOF"));
    assert_eq!(classic.matches("# HELP").count(), classic.matches("# TYPE").count());
}

/// Skipped, and says so, where Prometheus is not installed.
#[test]
fn promtool_accepts_it() {
    let text = classic(&encode(&history().snapshot(), &own()));
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = spawned else {
        eprintln!("skipped: promtool is not installed");
        return;
    };
    promtool
        .stdin
        .take()
        .expect("a pipe")
        .write_all(text.as_bytes())
        .expect("promtool reads it");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn the_budget_counts_what_is_scraped() {
    let mut pipeline = Pipeline::new(PipelineSettings {
        max_series: 2_000,
        ..PipelineSettings::default()
    });
    for number in 0..200 {
        let remote_address = ipv4([10, 1, 0, number]);
        pipeline.apply(&close(
            SECOND,
            ConnectionState {
                remote_address,
                ..closed_locally(u64::from(number))
            },
        ));
    }
    let snapshot = pipeline.snapshot();
    let text = encode(&snapshot, &SelfMetrics::default());
    let scraped = text
        .lines()
        .filter(|line| !line.starts_with('#') && line.contains("destination="))
        .count();
    assert_eq!(
        scraped as u64,
        snapshot.families.iter().map(|family| family.series).sum::<u64>()
    );
    assert!((1_000..=2_000).contains(&scraped), "{scraped}");
    let last = snapshot.destinations.last().expect("there are some");
    assert_eq!((last.labels.destination.as_ref(), last.labels.port), ("other", None));
    let named: u64 = snapshot.destinations[..snapshot.destinations.len() - 1]
        .iter()
        .map(|d| d.counters.connects())
        .sum();
    assert!(named > 20 && last.counters.connects() > 100);
    assert_eq!(named + last.counters.connects(), 200);
    assert_eq!(snapshot.totals[0].truth, snapshot.totals[0].series);
    assert_eq!(snapshot.totals[0].truth.connects(), 200);
}

/// Prints what a scrape of a full budget costs; a figure for people, not a check of time.
#[test]
fn a_full_scrape() {
    let mut pipeline = Pipeline::new(PipelineSettings::default());
    for number in 0..450_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        let state = ConnectionState {
            remote_address: ipv4([10, 1, high, low]),
            rtt: RttSamples {
                sum_us: 700,
                count: 2,
                min_us: 300,
                var_us: 0,
                gate: 0,
            },
            counters: TcpCounters {
                bytes_sent: 10,
                bytes_received: 20,
                segments_sent: 4,
                segments_received: 5,
                ..TcpCounters::default()
            },
            ..closed_locally(u64::from(number))
        };
        pipeline.apply(&close(SECOND, state));
    }
    let start = std::time::Instant::now();
    let snapshot = pipeline.snapshot();
    let taken = start.elapsed();
    let text = encode(&snapshot, &SelfMetrics::default());
    let whole = start.elapsed();
    let series: u64 = snapshot.families.iter().map(|family| family.series).sum();
    eprintln!(
        "{series} series, {} bytes: snapshot {taken:?}, whole scrape {whole:?}",
        text.len()
    );
    // One in eight of those beyond the least is set aside for resolvers.
    assert!((16_700..=17_625).contains(&series), "{series}");
}
