//! Which connections `trace` shows. Pure.
use crate::{
    cli::{SlowerThan, TraceArgs},
    connection::{ConnectionRecord, Outcome, Phase},
    pipeline::Output,
};

/// Conditions as typed: different kinds must all hold, of one kind any.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    hosts: Vec<String>,
    groups: Vec<String>,
    pods: Vec<String>,
    workloads: Vec<String>,
    failed: bool,
    stuck: bool,
    slower_than: Vec<SlowerThan>,
}

impl Filter {
    pub(super) fn new(args: &TraceArgs) -> Self {
        let lower = |patterns: &[String]| patterns.iter().map(|pattern| pattern.to_lowercase()).collect();
        Self {
            hosts: lower(&args.host),
            groups: lower(&args.group),
            pods: lower(&args.pod),
            workloads: lower(&args.workload),
            failed: args.failed,
            stuck: args.stuck,
            slower_than: args.slower_than.clone(),
        }
    }

    /// Whether to show it.
    pub(super) fn accepts(&self, output: &Output) -> bool {
        let (record, is_stuck) = match output {
            Output::Finished(record) => (record, false),
            Output::Stuck(record) => (record, true),
        };
        let has_failed = !is_stuck && record.outcome != Some(Outcome::Ok);
        let process = &record.process;
        let state = !(self.failed || self.stuck) || (self.failed && has_failed) || (self.stuck && is_stuck);
        let slow = self.slower_than.is_empty() || self.slower_than.iter().any(|bound| is_slower(record, *bound));
        state
            && slow
            && any(
                &self.hosts,
                &[
                    Some(record.destination.host.as_str()),
                    Some(record.remote.address.as_str()),
                ],
            )
            && any(&self.groups, &[Some(record.destination.group.as_str())])
            && any(&self.pods, &[process.pod.as_deref()])
            && any(&self.workloads, &[process.workload.as_deref()])
    }
}

/// A phase that is over counts with its time, one that waits with the time it has waited.
fn is_slower(record: &ConnectionRecord, bound: SlowerThan) -> bool {
    let phases = &record.phases_us;
    let measured = match bound.phase {
        Phase::Dns => phases.dns,
        Phase::Tcp => phases.tcp,
        Phase::Tls => phases.tls,
        Phase::Ttfb => phases.ttfb,
        Phase::Turn => record.turns.p95_us,
    };
    let waited = record.waiting_us.filter(|_| record.waiting == Some(bound.phase));
    measured.or(waited).is_some_and(|us| us > bound.bound_us)
}

fn any(patterns: &[String], values: &[Option<&str>]) -> bool {
    let fits = |pattern: &String| {
        values
            .iter()
            .flatten()
            .any(|value| matches(pattern, &value.to_lowercase()))
    };
    patterns.is_empty() || patterns.iter().any(fits)
}

/// Whether `text` fits `pattern`, where `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        // The earliest place leaves the most for what follows.
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        export::human::tests::record,
    };

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("a.example", "a.example", true),
            ("a.example", "ba.example", false),
            ("a.example", "a.example.org", false),
            ("*.example", "a.example", true),
            ("*.example", "a.example.org", false),
            ("a*e", "a.example", true),
            ("a*x*le", "a.example", true),
            ("a*x*x*le", "a.example", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("ab*ba", "aba", false),
            ("**a**", "xay", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn conditions() {
        let check = |flags: &str, change: fn(&mut ConnectionRecord), stuck: bool, expected: bool| {
            let line = format!("hopline trace {flags}");
            let cli = Cli::try_parse_from(line.split_whitespace()).expect("valid flags");
            let Command::Trace(args) = cli.command else {
                panic!("trace was typed")
            };
            let mut record = Box::new(record());
            change(&mut record);
            let output = if stuck {
                Output::Stuck(record)
            } else {
                Output::Finished(record)
            };
            assert_eq!(Filter::new(&args).accepts(&output), expected, "{flags}");
        };
        let same: fn(&mut ConnectionRecord) = |_| {};
        let failed: fn(&mut ConnectionRecord) = |record| record.outcome = Some(Outcome::Refused);
        let waits: fn(&mut ConnectionRecord) = |record| {
            record.outcome = None;
            record.waiting = Some(Phase::Tcp);
            record.phases_us.tcp = None;
            record.waiting_us = Some(5_000_000);
        };
        check("", same, false, true);
        check("--failed", same, false, false);
        check("--failed", failed, false, true);
        check("--failed", waits, true, false);
        check("--stuck", waits, true, true);
        check("--stuck", failed, false, false);
        check("--failed --stuck", failed, false, true);
        check("--failed --stuck", waits, true, true);
        check("--failed --stuck", same, false, false);
        check("--host 10.0.0.2", same, false, true);
        check("--host 10.0.0.3 --host 10.*", same, false, true);
        check("--host 10.0.0.3", same, false, false);
        check("--host 10.* --group x", same, false, false);
        check("--pod *", same, false, false);
        check(
            "--workload SHOP",
            |record| record.process.workload = Some("shop".into()),
            false,
            true,
        );
        check("--slower-than tcp=1ms", same, false, true);
        check("--slower-than tcp=2ms", same, false, false);
        check("--slower-than tls=0s", same, false, false);
        check("--slower-than tls=0s --slower-than tcp=1ms", same, false, true);
        check("--slower-than tcp=4s", waits, true, true);
        check("--slower-than tcp=6s", waits, true, false);
    }
}
