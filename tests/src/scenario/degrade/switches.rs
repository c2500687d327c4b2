//! Features switched off in the configuration: what needs them goes with them, everything else stays, the metric leaves them
//! out, and no kernel program is loaded that nothing else needs.

use std::fs;

use anyhow::Result;

use super::{CONNECTS, FEATURES, Stage, none_or};
use crate::bpf;
use crate::hopline::{Agent, AgentOptions, Metrics};
use crate::verdict::Verdict;

/// What is switched off, and what goes with it.
const SWITCHES: [(&[&str], &[&str]); 6] = [
    (&["rtt"], &[]),
    (&["payload"], &[]),
    (&["dns"], &["dns_owner"]),
    (&["connect", "syn"], &["failure_before_syn"]),
    (TRACING, &[]),
    (
        &["state"],
        &[
            "connect",
            "syn",
            "failure_before_syn",
            "connect_errors",
            "retransmits",
            "synack_retransmits",
            "rtt",
            "payload",
            "tls_library",
            "existing",
            "open",
        ],
    ),
];

/// Features that need more than programs on cgroups.
const TRACING: &[&str] = &[
    "syn",
    "failure_before_syn",
    "connect_errors",
    "retransmits",
    "synack_retransmits",
    "tls_library",
    "existing",
    "open",
    "process",
    "cgroup_names",
];

/// Where sockets' storage may vanish (7.0 and later) one walk is loaded for the end.
pub(in crate::scenario) fn left_for_the_end(whole: &Metrics) -> u64 {
    let by_files = [("feature", "open"), ("hook", "iter/task_file")];
    whole.sum("hopline_feature_enabled", &by_files)
}

/// Each in turn; `whole` is what an agent has with all switched on.
pub(super) fn run(stage: &Stage<'_>, verdict: &mut Verdict, whole: &Metrics) -> Result<()> {
    let named =
        |metrics: &Metrics, feature: &str| metrics.values("hopline_feature_enabled", "feature").contains(&feature);
    for (off, with_them) in SWITCHES {
        let name = if off == TRACING {
            "all that traces switched off".to_owned()
        } else {
            format!("{} switched off", off.join(", "))
        };
        let file = stage.lab.file("switches.yaml");
        let switches: Vec<String> = off.iter().map(|feature| format!("{feature}: off")).collect();
        let text = format!("tls: {{probes: true}}\nfeatures: {{{}}}\n", switches.join(", "));
        fs::write(&file, text)?;
        let options = AgentOptions {
            config: Some(&file),
            ..AgentOptions::default()
        };
        let agent = Agent::start(stage.lab, stage.lab.traffic.path(), &options)?;
        stage.connects(verdict, &name)?;
        let metrics = agent.scrape_drained()?;
        let tracing = bpf::tracing_programs(agent.process().pid())?;
        let warnings = agent.logged("does not serve a feature")?;
        agent.stop()?;

        let gone: Vec<&str> = FEATURES
            .into_iter()
            .filter(|feature| named(whole, feature) && !named(&metrics, feature))
            .collect();
        let expected: Vec<&str> = FEATURES
            .into_iter()
            .filter(|feature| off.contains(feature) || with_them.contains(feature))
            .collect();
        verdict.text(format!("{name}: gone"), none_or(&gone), none_or(&expected));
        let without_hook = FEATURES
            .into_iter()
            .filter(|feature| named(whole, feature) && named(&metrics, feature))
            .filter(|feature| super::is_enabled(whole, feature) && !super::is_enabled(&metrics, feature));
        let without_hook: Vec<&str> = without_hook.collect();
        verdict.text(format!("{name}: lost besides"), none_or(&without_hook), "none");
        let refused = FEATURES.into_iter().filter(|feature| named(&metrics, feature));
        let refused = refused.filter(|feature| !super::is_enabled(&metrics, feature)).count() as u64;
        verdict.count(format!("{name}: warnings"), warnings, refused);

        let of_clients = |error| metrics.sum("hopline_tcp_connections_total", &[("role", "client"), ("error", error)]);
        let follows = !off.contains(&"state");
        let connects = if follows { CONNECTS } else { 0 };
        verdict.count(format!("{name}: connections"), of_clients(""), connects);
        verdict.count(format!("{name}: refused"), of_clients("refused"), follows.into());
        let count = |family: &str| metrics.sum(family, &[("role", "client")]);
        let samples = count("hopline_tcp_rtt_seconds_count");
        if off.contains(&"rtt") || !follows {
            verdict.count(format!("{name}: RTT samples"), samples, 0);
        } else {
            verdict.at_least(format!("{name}: RTT samples"), samples as f64, 1.0, "");
        }
        let looked_at = follows && !off.contains(&"payload");
        let answers = if looked_at { CONNECTS } else { 0 };
        verdict.count(
            format!("{name}: first bytes"),
            count("hopline_ttfb_duration_seconds_count"),
            answers,
        );
        if off == TRACING {
            verdict.count(format!("{name}: tracing programs"), tracing, left_for_the_end(whole));
        } else {
            verdict.at_least(format!("{name}: tracing programs"), tracing as f64, 1.0, "");
        }
    }
    Ok(())
}
