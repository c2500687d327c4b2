//! One file per scenario: what it starts, what must come out. Each gets a [`Lab`] and fills a [`Verdict`].

mod alerts;
mod bounds;
mod budget;
mod busy;
mod churn;
mod close_storm;
mod compare;
mod connect;
mod dashboards;
mod degrade;
mod dns;
mod ecmp;
mod existing;
mod failures;
mod fallback;
mod flood;
mod handshakes;
mod hostile;
mod idle;
mod kube_api;
mod least_privilege;
mod names;
mod overflow;
mod paging;
mod path;
mod pods;
mod preempt_race;
mod probe_budget;
mod programs;
mod proxy_chain;
mod replay;
mod retransmits;
mod route_change;
mod rtt;
mod safe_mode;
mod spike;
mod starve;
mod states;
mod stuck;
mod timeline;
mod tlsfail;
mod tlssafety;
mod trace;

use anyhow::{Context as _, Result};

use crate::hopline::Metrics;
use crate::lab::Lab;
use crate::verdict::Verdict;

/// A scenario by name.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    about: &'static str,
    /// Programs that must be installed.
    pub(crate) tools: &'static [&'static str],
    pub(crate) run: fn(&Lab, &mut Verdict) -> Result<()>,
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "connect",
        about: "times of the tcp phase against a capture, both roles; who is the client, who the server",
        tools: &["ip", "tcpdump", "nstat", "python3"],
        run: connect::run,
    },
    Scenario {
        name: "failures",
        about: "every way to fail and to close, in every family: outcome, closed_by, retransmissions; rejects by nftables",
        tools: &["ip", "tcpdump", "nstat", "nft"],
        run: failures::run,
    },
    Scenario {
        name: "churn",
        about: "20 000 processes that live for one connection: none missed, each with its owner",
        tools: &["ip"],
        run: churn::run,
    },
    Scenario {
        name: "close-storm",
        about: "connections that end in masses: the agent lives, answers, counts each, and reports what stays open",
        tools: &["ip"],
        run: close_storm::run,
    },
    Scenario {
        name: "flood",
        about: "10 000 connects a second: totals exact; a quiet cgroup beside a flooding one",
        tools: &["ip"],
        run: flood::run,
    },
    Scenario {
        name: "stuck",
        about: "connects, handshakes and requests that hang are listed while they do, and unanswered; senders are not",
        tools: &["ip", "openssl", "curl", "ss", "logger"],
        run: stuck::run,
    },
    Scenario {
        name: "states",
        about: "leaks, a full queue, held clients, ports used up, no reuse, dead writes: as ss and nstat say",
        tools: &["ip", "ss", "nstat"],
        run: states::run,
    },
    Scenario {
        name: "programs",
        about: "real programs: pooled TLS, short answers, HTTP/1 and HTTP/2 in clear, Envoy: first bytes, turns, statuses, waits",
        tools: &["ip", "tcpdump", "tshark", "openssl", "curl", "python3", "node"],
        run: programs::run,
    },
    Scenario {
        name: "handshakes",
        about: "every way to shake hands, on a path that loses, reorders and forges: names, version, tls phase",
        tools: &["ip", "tcpdump", "tshark", "openssl", "curl", "nginx"],
        run: handshakes::run,
    },
    Scenario {
        name: "alerts",
        about: "every alert in the clear and every certificate that TLS 1.2 shows: the exact reason",
        tools: &["ip", "tcpdump", "tshark", "openssl", "curl", "nginx"],
        run: alerts::run,
    },
    Scenario {
        name: "tlsfail",
        about: "clients of ten kinds against eight ways to fail, TLS 1.2 and 1.3: the exact reason, who gave up, whose TLS",
        tools: &["ip", "openssl", "curl", "gnutls-cli", "node", "java", "javac", "go"],
        run: tlsfail::run,
    },
    Scenario {
        name: "tls-safety",
        about: "the agent killed 50 times, programs replaced, calls filtered, 10 000 goroutines: no program notices",
        tools: &["ip", "openssl", "go"],
        run: tlssafety::run,
    },
    Scenario {
        name: "preempt-race",
        about: "threads that preempt each other in a probe, millions of times: each fact counted for its own connection",
        tools: &["ip", "openssl"],
        run: preempt_race::run,
    },
    Scenario {
        name: "rtt",
        about: "a path that becomes slow and fast again; 100 connections of 100 lengths against captures and ss",
        tools: &["ip", "ss", "tcpdump"],
        run: rtt::run,
    },
    Scenario {
        name: "idle",
        about: "5 minutes of requests with pauses: acknowledgements held back are no round trips",
        tools: &["ip", "tcpdump"],
        run: idle::run,
    },
    Scenario {
        name: "busy",
        about: "round trips of 50 +- 15 ms for 2 minutes while the processors are 95 % busy",
        tools: &["ip", "tcpdump"],
        run: busy::run,
    },
    Scenario {
        name: "retransmits",
        about: "losses of every kind: segments sent again by reason against nstat and captures",
        tools: &["ip", "tcpdump", "nstat"],
        run: retransmits::run,
    },
    Scenario {
        name: "budget",
        about: "100 000 hosts in 5 minutes: series within the budget, memory flat, sums exact",
        tools: &["ip"],
        run: budget::run,
    },
    Scenario {
        name: "bounds",
        about: "every table full at once stays below 512 MiB; an agent in 64 MiB observes, one in 24 MiB says no",
        tools: &["ip", "openssl"],
        run: bounds::run,
    },
    Scenario {
        name: "names",
        about: "200 names on five addresses: each connection under its own, whatever others claim; the dns phase",
        tools: &["ip"],
        run: names::run,
    },
    Scenario {
        name: "hostile",
        about: "one cgroup floods with names, silence and malformed DNS; a quiet one beside it loses nothing",
        tools: &["ip"],
        run: hostile::run,
    },
    Scenario {
        name: "starve",
        about: "20 000 half-open requests and worse against the agent's own HTTP server: scrapes in less than a second",
        tools: &["ip", "nstat"],
        run: starve::run,
    },
    Scenario {
        name: "overflow",
        about: "a tiny ring: what is lost is counted, exactly",
        tools: &["ip"],
        run: overflow::run,
    },
    Scenario {
        name: "existing",
        about: "connections and listeners that were there before hopline",
        tools: &["ip", "python3"],
        run: existing::run,
    },
    Scenario {
        name: "degrade",
        about: "each kernel program refused in turn, features switched off by name, beside foreign programs",
        tools: &["ip"],
        run: degrade::run,
    },
    Scenario {
        name: "safe-mode",
        about: "an agent that was killed five times: programs on cgroups alone, said and measured; how it is left",
        tools: &["ip"],
        run: safe_mode::run,
    },
    Scenario {
        name: "trace",
        about: "trace -- curl: exactly its connections, and its exit code",
        tools: &["ip", "nginx", "curl", "nsenter"],
        run: trace::run,
    },
    Scenario {
        name: "compare",
        about: "mirrors that are slow, lack a certificate or are gone: figures, order, reasons, --fail-if",
        tools: &["ip", "tcpdump", "tshark", "openssl", "nginx"],
        run: compare::run,
    },
    Scenario {
        name: "fallback",
        about: "go mod download over mirrors that lack, refuse or hang: each attempt, each fallback once",
        tools: fallback::TOOLS,
        run: fallback::run,
    },
    Scenario {
        name: "replay",
        about: "a recorded flood: same totals as live; 200 damages told, intact frames kept",
        tools: &["ip"],
        run: replay::run,
    },
    Scenario {
        name: "spike",
        about: "a path 5 → 80 → 5 ms: one rtt_spike within 10 s, over within 15 s, with its connections and processes",
        tools: &["ip"],
        run: spike::run,
    },
    Scenario {
        name: "paging",
        about: "+200 ms on one mirror, three agents: Prometheus and Alertmanager notify once, and when it is over",
        tools: paging::TOOLS,
        run: paging::run,
    },
    Scenario {
        name: "dashboards",
        about: "5 minutes of mixed traffic: every query of every panel has data; docs/metrics.md is what is exported",
        tools: dashboards::TOOLS,
        run: dashboards::run,
    },
    Scenario {
        name: "least-privilege",
        about: "connect, timeline and dns with the capabilities of the overlay alone; doctor says what is off",
        tools: least_privilege::TOOLS,
        run: least_privilege::run,
    },
    Scenario {
        name: "timeline",
        about: "tcp, tls, ttfb, turns of seven clients and five servers against the decrypted capture",
        tools: timeline::TOOLS,
        run: timeline::run,
    },
    Scenario {
        name: "pods",
        about: "pods of a real containerd that live for two seconds: every connection has its pod and workload",
        tools: crate::cri::TOOLS,
        run: pods::run,
    },
    Scenario {
        name: "kube-api",
        about: "names of pods from an API server that fails in every way; addresses that change; 5 000 pods",
        tools: &["ip", "openssl"],
        run: kube_api::run,
    },
    Scenario {
        name: "dns",
        about: "queries and lookups of glibc, Go and c-ares against the server's log and a capture; and noise",
        tools: dns::TOOLS,
        run: dns::run,
    },
    Scenario {
        name: "path",
        about: "hops by address, time and loss through five routers, silent and lazy ones: capture, mtr, traceroute",
        tools: path::TOOLS,
        run: path::run,
    },
    Scenario {
        name: "ecmp",
        about: "two equal paths with different delays: each trace of a path stays on one",
        tools: &["ip", "tcpdump"],
        run: ecmp::run,
    },
    Scenario {
        name: "route-change",
        about: "a router gains 70 ms, then the route moves: told within two traces, with the hop",
        tools: &["ip"],
        run: route_change::run,
    },
    Scenario {
        name: "probe-budget",
        about: "5 000 destinations: probes in the capture within the budget, busy and troubled ones traced",
        tools: &["ip", "tcpdump", "ss"],
        run: probe_budget::run,
    },
    Scenario {
        name: "proxy-chain",
        about: "50 requests at a time through haproxy and Envoy, on kept connections too: each leg and the proxy's time against the capture",
        tools: proxy_chain::TOOLS,
        run: proxy_chain::run,
    },
];

pub(crate) fn find(name: &str) -> Result<&'static Scenario> {
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    found.with_context(|| format!("no scenario `{name}`; see lab --list"))
}

pub(crate) fn list() {
    for scenario in SCENARIOS {
        println!("{:15}  {}", scenario.name, scenario.about);
    }
}

/// Builds what scenarios start and what is not Rust.
pub(crate) fn build_programs() -> Result<()> {
    tlsfail::prebuild(&std::env::current_exe()?)?;
    timeline::build_programs()
}

/// Nothing may be lost; what was is named by its kind.
///
/// A kernel that preempts anywhere leaves out a run of a tracing program now and then: hopline has to say so, and it is rare.
fn compare_losses(verdict: &mut Verdict, metrics: &Metrics) {
    const LOST: &str = "hopline_events_lost_total";
    const RARE: f64 = 10.0;
    let mut missed = 0;
    for kind in metrics.values(LOST, "kind") {
        let lost = metrics.sum(LOST, &[("kind", kind)]);
        if lost > 0 {
            verdict.note(format!("events lost of kind {kind}"), lost as f64, "");
        }
        if kind.ends_with("_missed") && preempts_anywhere() {
            missed += lost;
        }
    }
    verdict.count("events lost", metrics.sum(LOST, &[]) - missed, 0);
    if missed > 0 {
        verdict.at_most("runs left out by a preemptible kernel", missed as f64, RARE, "");
    }
}

/// As far as the kernel says it: debugfs is mounted in the VMs.
fn preempts_anywhere() -> bool {
    let modes = std::fs::read_to_string("/sys/kernel/debug/sched/preempt").unwrap_or_default();
    modes.contains("(full)") || modes.contains("(lazy)")
}
