//! Each kernel program refused in turn: its feature goes down or takes another hook, all others still export. Beside
//! programs of somebody else on the same cgroup, which keep working. Then features switched off by name.

pub(super) mod switches;

use anyhow::{Result, ensure};

use crate::bpf::{ForeignProgram, Kind};
use crate::hopline::{Agent, AgentOptions, Metrics};
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::topology::busy_loopback;
use crate::traffic::connect::attempts;
use crate::verdict::Verdict;

const FEATURES: [&str; 16] = [
    "connect",
    "syn",
    "state",
    "failure_before_syn",
    "connect_errors",
    "retransmits",
    "synack_retransmits",
    "rtt",
    "payload",
    "tls_library",
    "dns",
    "dns_owner",
    "existing",
    "open",
    "process",
    "cgroup_names",
];

/// A program and the features that nothing else serves.
const PROGRAMS: [(&str, &[&str]); 26] = [
    ("connect4", &["dns_owner"]),
    ("connect6", &["dns_owner"]),
    ("sendmsg4", &["dns_owner"]),
    ("sendmsg6", &["dns_owner"]),
    ("tcp_connect_fentry", &[]),
    ("tcp_connect_kprobe", &[]),
    ("sock_ops", &["rtt"]),
    ("inet_sock_set_state", &["existing"]),
    ("tcp_destroy_sock", &["existing"]),
    ("inet_stream_connect_fexit", &[]),
    ("sys_exit_connect", &["failure_before_syn"]),
    ("inet_sk_error_report", &[]),
    ("tcp_retransmit_skb", &["retransmits"]),
    ("tcp_retransmit_synack", &["synack_retransmits"]),
    ("ingress", &["payload", "dns"]),
    ("egress", &["payload", "dns"]),
    ("tcp_rcv_space_adjust", &["tls_library"]),
    ("tls_probe", &["tls_library"]),
    ("iter_listeners", &["existing"]),
    ("iter_existing", &["existing"]),
    ("iter_open", &[]),
    ("iter_open_files", &["open"]),
    ("sched_process_fork", &[]),
    ("sched_process_exec", &[]),
    ("sched_process_exit", &[]),
    ("cgroup_mkdir", &["cgroup_names"]),
];

const GOOD: &str = "127.0.0.1:8080";
const REFUSED: &str = "127.0.0.1:8081";
const CONNECTS: u64 = 3;

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let netns = busy_loopback()?;
    let mut server = lab.helper(&["serve", &format!("{GOOD}/echo")], &netns, &lab.tools)?;
    server.wait_for("ready")?;
    let stage = Stage {
        lab,
        netns,
        foreign: Foreign::attach(lab)?,
    };
    stage.connects(verdict, "before hopline")?;
    let whole = stage.agent(verdict, None)?;
    let lacking: Vec<&str> = FEATURES
        .into_iter()
        .filter(|feature| !is_enabled(&whole, feature))
        .collect();
    if !lacking.is_empty() {
        verdict.skip("features that this kernel has not", lacking.join(", "));
    }
    for (program, lowered) in PROGRAMS {
        let metrics = stage.agent(verdict, Some(program))?;
        let off = FEATURES
            .into_iter()
            .filter(|feature| is_enabled(&whole, feature) && !is_enabled(&metrics, feature));
        let off: Vec<&str> = off.collect();
        let expected: Vec<&str> = lowered
            .iter()
            .copied()
            .filter(|feature| is_enabled(&whole, feature) && !has_another_hook(&whole, program, feature))
            .collect();
        verdict.text(
            format!("without {program}: features off"),
            none_or(&off),
            none_or(&expected),
        );
    }
    switches::run(&stage, verdict, &whole)?;
    stage.connects(verdict, "after hopline")
}

fn none_or(names: &[&str]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn is_enabled(metrics: &Metrics, feature: &str) -> bool {
    metrics.sum("hopline_feature_enabled", &[("feature", feature)]) > 0
}

/// The feature is served without this program: the tracepoint is not missed where the kernel has fexit, nor a walk over files
/// where there is one over storage.
fn has_another_hook(whole: &Metrics, program: &str, feature: &str) -> bool {
    let hook = match program {
        "sys_exit_connect" => "fexit/inet_stream_connect",
        "iter_open_files" => "iter/bpf_sk_storage_map",
        _ => return false,
    };
    whole.sum("hopline_feature_enabled", &[("feature", feature), ("hook", hook)]) > 0
}

/// The programs of somebody else.
struct Foreign {
    sock_ops: ForeignProgram,
    cgroup_skb: ForeignProgram,
}

impl Foreign {
    fn attach(lab: &Lab) -> Result<Self> {
        Ok(Self {
            sock_ops: ForeignProgram::attach(Kind::SockOps, &lab.traffic)?,
            cgroup_skb: ForeignProgram::attach(Kind::CgroupSkbEgress, &lab.traffic)?,
        })
    }

    fn runs(&self) -> Result<[u64; 2]> {
        Ok([self.sock_ops.runs()?, self.cgroup_skb.runs()?])
    }
}

/// What all agents of this scenario see.
struct Stage<'a> {
    lab: &'a Lab,
    netns: NetNs,
    foreign: Foreign,
}

impl Stage<'_> {
    /// Makes the connects; each must go as without hopline, and pass the foreign programs.
    fn connects(&self, verdict: &mut Verdict, when: &str) -> Result<()> {
        let before = self.foreign.runs()?;
        for (to, count, error) in [(GOOD, CONNECTS, 0), (REFUSED, 1, libc::ECONNREFUSED)] {
            let count = count.to_string();
            let words = ["connect", "--to", to, "--count", &count, "--exchange", "100"];
            let made = attempts(&self.lab.helper(&words, &self.netns, &self.lab.traffic)?.finish()?)?;
            ensure!(
                made.iter().all(|attempt| attempt.error == error),
                "{when}: connects to {to} went otherwise"
            );
        }
        let after = self.foreign.runs()?;
        // At least a connect and an established callback each; at least SYN, data and FIN each; and the refused one.
        for (index, (name, least)) in [("sock_ops", 2 * CONNECTS + 1), ("cgroup_skb", 3 * CONNECTS + 1)]
            .iter()
            .enumerate()
        {
            let runs = after[index] - before[index];
            verdict.at_least(format!("{when}: foreign {name} runs"), runs as f64, *least as f64, "");
        }
        Ok(())
    }

    /// One agent, with all or without one program: whatever it lacks, it counts the connects.
    fn agent(&self, verdict: &mut Verdict, without: Option<&str>) -> Result<Metrics> {
        let name = without.map_or_else(|| "with all".to_owned(), |program| format!("without {program}"));
        let options = AgentOptions {
            without,
            tls_probes: true,
            ..AgentOptions::default()
        };
        let agent = Agent::start(self.lab, self.lab.traffic.path(), &options)?;
        self.connects(verdict, &name)?;
        let metrics = agent.scrape_drained()?;
        agent.stop()?;
        let of_clients = |error| metrics.sum("hopline_tcp_connections_total", &[("role", "client"), ("error", error)]);
        verdict.count(format!("{name}: connections"), of_clients(""), CONNECTS);
        verdict.count(format!("{name}: refused"), of_clients("refused"), 1);
        let handshakes = metrics.sum("hopline_tcp_handshake_duration_seconds_count", &[("role", "client")]);
        verdict.count(format!("{name}: handshakes timed"), handshakes, CONNECTS);
        if without != Some("sock_ops") && is_enabled(&metrics, "rtt") {
            let samples = metrics.sum("hopline_tcp_rtt_seconds_count", &[("role", "client")]);
            verdict.at_least(format!("{name}: RTT samples"), samples as f64, 1.0, "");
        }
        Ok(metrics)
    }
}
