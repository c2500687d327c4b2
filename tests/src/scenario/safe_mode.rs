//! An agent that is killed five times comes back in safe mode: programs on cgroups alone, said in log, metrics and doctor, and
//! connections are still seen with their phases. Clean ends do not count; an operator, a version or a day ends it.
//!
//! Boots are ended in a VM: `vm KERNEL -- safe-mode`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::bpf;
use crate::hopline::{Agent, AgentOptions, Metrics, Trace};
use crate::lab::Lab;
use crate::netns::NetNs;
use crate::scenario::degrade::switches::left_for_the_end;
use crate::topology::busy_loopback;
use crate::traffic::connect::attempts;
use crate::verdict::Verdict;

/// What programs on cgroups serve, and what needs no kernel program.
const WORKS: [&str; 9] = [
    "connect",
    // By what is left at the close.
    "connect_errors",
    "syn",
    "state",
    "rtt",
    "payload",
    "dns",
    "dns_owner",
    "path",
];
const FILE: &str = "safe-mode.json";
const ADDRESS: &str = "127.0.0.1:8080";
const CONNECTS: u64 = 3;
const DAY_S: u64 = 86_400;
/// Left of the day when an agent starts that waits for its end.
const LAST_S: u64 = 12;

pub(crate) fn run(lab: &Lab, verdict: &mut Verdict) -> Result<()> {
    let netns = busy_loopback()?;
    let mut server = lab.helper(&["serve", &format!("{ADDRESS}/echo")], &netns, &lab.tools)?;
    server.wait_for("ready")?;
    let stage = Stage {
        lab,
        netns,
        directory: lab.file("state"),
    };
    let whole = stage.kill_five_times(verdict)?;
    stage.is_in_safe_mode(verdict, &whole)?;
    stage.is_asked_to_leave(verdict)?;
    stage.is_left_by_itself(verdict)?;
    stage.has_no_history(verdict)
}

/// What all agents of this scenario see.
struct Stage<'a> {
    lab: &'a Lab,
    netns: NetNs,
    /// Where they keep their history.
    directory: PathBuf,
}

impl Stage<'_> {
    fn agent(&self) -> Result<Agent> {
        self.agent_at(&self.directory)
    }

    fn agent_at(&self, directory: &Path) -> Result<Agent> {
        let options = AgentOptions {
            state_dir: Some(directory),
            ..AgentOptions::default()
        };
        Agent::start(self.lab, self.lab.traffic.path(), &options)
    }

    /// Five ends by SIGKILL, one by SIGTERM between them; what the first agent scraped.
    fn kill_five_times(&self, verdict: &mut Verdict) -> Result<Metrics> {
        const KILLS: u64 = 5;
        let mut whole = None;
        let mut in_safe_mode = 0;
        for kill in 0..KILLS {
            let agent = self.agent()?;
            let metrics = agent.scrape()?;
            in_safe_mode += safe_mode(&metrics);
            whole.get_or_insert(metrics);
            agent.kill()?;
            if kill == KILLS - 2 {
                // Its start finds the fourth.
                let agent = self.agent()?;
                in_safe_mode += safe_mode(&agent.scrape()?);
                agent.stop()?;
            }
        }
        verdict.count("before the fifth kill: starts in safe mode", in_safe_mode, 0);
        whole.context("no agent was started")
    }

    fn is_in_safe_mode(&self, verdict: &mut Verdict, whole: &Metrics) -> Result<()> {
        let agent = self.agent()?;
        self.connects()?;
        let metrics = agent.scrape_drained()?;
        verdict.count("after five kills: hopline_safe_mode", safe_mode(&metrics), 1);
        let lines = agent.logged("safe mode: programs on cgroups alone")?;
        verdict.count("log: lines about it", lines, 1);
        let reasons = agent.logged("the agent ended uncleanly 5 times within 10 minutes")?;
        verdict.count("log: with the reason", reasons, 1);

        let tracing = bpf::tracing_programs(agent.process().pid())?;
        let left = left_for_the_end(whole);
        verdict.count("tracing programs (/proc/PID/fdinfo)", tracing, left);
        let enabled = |metrics: &Metrics| {
            let mut names = metrics.values("hopline_feature_enabled", "feature");
            names.retain(|name| metrics.sum("hopline_feature_enabled", &[("feature", name)]) > 0);
            names.sort_unstable();
            names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()
        };
        let mut expected = enabled(whole);
        ensure!(
            expected.len() > WORKS.len(),
            "nothing here that safe mode could take away"
        );
        expected.retain(|name| WORKS.contains(&name.as_str()));
        verdict.text("features that work", enabled(&metrics).join(" "), expected.join(" "));

        let of_clients = |family: &str| metrics.sum(family, &[("role", "client")]);
        verdict.count(
            "connections",
            metrics.sum("hopline_tcp_connections_total", &[("role", "client"), ("error", "")]),
            CONNECTS,
        );
        verdict.count(
            "handshakes timed",
            of_clients("hopline_tcp_handshake_duration_seconds_count"),
            CONNECTS,
        );
        verdict.count(
            "first bytes timed",
            of_clients("hopline_ttfb_duration_seconds_count"),
            CONNECTS,
        );
        let samples = of_clients("hopline_tcp_rtt_seconds_count");
        verdict.at_least("RTT samples", samples as f64, 1.0, "");

        self.others_follow(verdict, left)?;
        agent.stop()
    }

    /// Whoever loads programs beside the agent loads no more, and says why.
    fn others_follow(&self, verdict: &mut Verdict, left: u64) -> Result<()> {
        let trace = Trace::start_at(self.lab, "safe-mode", self.lab.traffic.path(), &self.directory)?;
        verdict.count("trace: tracing programs", bpf::tracing_programs(trace.pid())?, left);
        self.connects()?;
        let said = trace.logged("hopline: safe mode, as the agent ended uncleanly 5 times")?;
        let records = trace.finish()?;
        verdict.count("trace: says so in one line", said, 1);
        let clients = records.iter().filter(|record| record.role == "client");
        let timed = clients.filter(|record| record.phases_us.tcp.is_some() && record.phases_us.ttfb.is_some());
        verdict.count("trace: records with their phases", timed.count() as u64, CONNECTS);

        let doctor: Value = serde_json::from_str(&self.doctor(&["--json"])?)?;
        let reason = doctor["safe_mode"]["reason"].as_str().unwrap_or_default();
        verdict.text(
            "doctor: reason",
            reason,
            "the agent ended uncleanly 5 times within 10 minutes",
        );
        let features = doctor["features"].as_array().context("doctor names no features")?;
        let off = features.iter().filter(|feature| feature["enabled"] == false);
        let unexplained = off.filter(|feature| {
            let reason = feature["reason"].as_str().unwrap_or_default();
            !reason.contains("safe mode: programs on cgroups alone")
        });
        verdict.count("doctor: features off for another reason", unexplained.count() as u64, 0);

        let second = self.agent()?;
        let warned = second.logged("another agent keeps its history here")?;
        verdict.count("a second agent: says that it goes without", warned, 1);
        verdict.count("a second agent: hopline_safe_mode", safe_mode(&second.scrape()?), 1);
        second.stop()
    }

    fn is_asked_to_leave(&self, verdict: &mut Verdict) -> Result<()> {
        let agent = self.agent()?;
        verdict.count("after a clean end: hopline_safe_mode", safe_mode(&agent.scrape()?), 1);
        let said = self.doctor(&["--leave-safe-mode"])?;
        verdict.count(
            "doctor --leave-safe-mode: says to restart",
            said.matches("restart the agent").count() as u64,
            1,
        );
        agent.stop()?;
        let agent = self.agent()?;
        verdict.count("asked to leave: hopline_safe_mode", safe_mode(&agent.scrape()?), 0);
        let tracing = bpf::tracing_programs(agent.process().pid())?;
        verdict.at_least("asked to leave: tracing programs", tracing as f64, 1.0, "");
        verdict.count("asked to leave: said in the log", agent.logged("safe mode is over")?, 1);
        let said = self.doctor(&["--leave-safe-mode"])?;
        verdict.count(
            "doctor: not in safe mode",
            said.matches("not in safe mode").count() as u64,
            1,
        );
        agent.kill()
    }

    /// By another version, and by the end of a day in the same process.
    fn is_left_by_itself(&self, verdict: &mut Verdict) -> Result<()> {
        // As if this boot were the third, and the two before had died.
        self.rewrite(|file| {
            file["history"]["boot_id"] = json!("another boot");
            file["history"]["unclean_boots"] = json!(1);
        })?;
        let agent = self.agent()?;
        verdict.count("two boots died: hopline_safe_mode", safe_mode(&agent.scrape()?), 1);
        let reasons = agent.logged("2 boots ended uncleanly while hopline ran")?;
        verdict.count("two boots died: the reason", reasons, 1);
        agent.stop()?;

        let uptime_s = clock_gettime(ClockId::CLOCK_BOOTTIME)?.tv_sec().cast_unsigned();
        let last_s = LAST_S * u64::from(self.lab.patience());
        self.rewrite(|file| {
            file["history"]["quiet_s"] = json!(DAY_S - last_s);
            file["history"]["quiet_from_s"] = json!(uptime_s);
        })?;
        let agent = self.agent()?;
        let pid = agent.process().pid();
        verdict.count(
            "the last seconds of a day: hopline_safe_mode",
            safe_mode(&agent.scrape()?),
            1,
        );
        let limit = Duration::from_secs(3 * LAST_S);
        let is_over = agent.answers_until(limit, |metrics| safe_mode(metrics) == 0)?;
        verdict.count("after a day: safe mode is over", is_over.into(), 1);
        let tracing = bpf::tracing_programs(pid)?;
        verdict.at_least(
            "after a day: tracing programs of the same process",
            tracing as f64,
            1.0,
            "",
        );
        agent.stop()?;

        self.rewrite(|file| {
            file["history"]["hopline"] = json!("0.0.0");
            file["history"]["unclean_boots"] = json!(7);
            file["history"]["safe_mode"] = json!({"reason": {"unclean_boots": 7}, "since_unix_s": 0});
        })?;
        let agent = self.agent()?;
        verdict.count("a new version: hopline_safe_mode", safe_mode(&agent.scrape()?), 0);
        verdict.count(
            "a new version: said in the log",
            agent.logged("a new version of hopline")?,
            1,
        );
        agent.stop()
    }

    /// Files that are none, and places where there can be none.
    fn has_no_history(&self, verdict: &mut Verdict) -> Result<()> {
        fs::write(self.directory.join(FILE), "garbage")?;
        for (name, directory) in [
            ("garbage", self.directory.as_path()),
            ("a place that cannot be written", Path::new("/proc/1/hopline")),
        ] {
            let agent = self.agent_at(directory)?;
            verdict.count(format!("{name}: hopline_safe_mode"), safe_mode(&agent.scrape()?), 0);
            let warned = agent.logged("crashes cannot be told from clean ends")?;
            verdict.count(format!("{name}: warnings"), warned, 1);
            agent.stop()?;
        }
        Ok(())
    }

    /// Changes what is noted.
    fn rewrite(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let path = self.directory.join(FILE);
        let mut file = serde_json::from_str(&fs::read_to_string(&path)?)?;
        change(&mut file);
        Ok(fs::write(&path, file.to_string())?)
    }

    fn connects(&self) -> Result<()> {
        let count = CONNECTS.to_string();
        let words = ["connect", "--to", ADDRESS, "--count", &count, "--exchange", "100"];
        let made = attempts(&self.lab.helper(&words, &self.netns, &self.lab.traffic)?.finish()?)?;
        ensure!(made.iter().all(|attempt| attempt.error == 0), "a connect failed");
        Ok(())
    }

    fn doctor(&self, words: &[&str]) -> Result<String> {
        let mut command = self.lab.hopline(&["doctor", "--state-dir"]);
        command.arg(&self.directory).args(words).stdin(Stdio::null());
        let output = command.output()?;
        ensure!(
            output.status.success(),
            "doctor ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// 1 in safe mode; what is no 0 or 1 where the metric is not there.
fn safe_mode(metrics: &Metrics) -> u64 {
    match metrics.value("hopline_safe_mode", &[]) {
        value if value.is_nan() => u64::MAX,
        value => value as u64,
    }
}
