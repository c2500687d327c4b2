//! Which connections `trace` shows. Pure.
use crate::{
    cli::{SlowerThan, TraceArgs},
    connection::{ConnectionRecord, Outcome, Phase, record::ProcessRecord},
    events::SpikeRecord,
    groups::{DNS, wildcard::matches},
    pipeline::{LookupRecord, Output},
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
    lookups: Lookups,
}

/// Which lookups are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Lookups {
    /// None: who reads objects of connections gets no others unasked.
    #[default]
    None,
    /// Those that gave no address, or wait.
    Failed,
    All,
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
            lookups: match (args.dns, args.json) {
                (true, _) => Lookups::All,
                (false, true) => Lookups::None,
                (false, false) => Lookups::Failed,
            },
        }
    }

    /// Whether to show it.
    pub(super) fn accepts(&self, output: &Output) -> bool {
        let (record, is_stuck) = match output {
            Output::Finished(record) => (record, false),
            Output::Stuck(record) => (record, true),
            Output::Lookup(lookup) => return self.accepts_lookup(lookup, false),
            Output::StuckLookup(lookup) => return self.accepts_lookup(lookup, true),
            Output::Spike(spike) => {
                let is_wanted = self.slower_than.is_empty() && !self.failed && !self.stuck;
                return is_wanted && self.is_about_spike(spike);
            }
            Output::Path(event) => {
                let is_wanted = self.slower_than.is_empty() && !self.failed && !self.stuck;
                let destination = &event.destination;
                let hosts = [Some(destination.host.as_str())];
                return is_wanted && self.is_about(&hosts, &destination.group, &ProcessRecord::default());
            }
            Output::Fallback(fallback) => {
                // A failure is what led to it.
                let is_wanted = self.slower_than.is_empty() && (self.failed || !self.stuck);
                let hosts = [Some(fallback.from.as_str()), Some(fallback.to.as_str())];
                return is_wanted && self.is_about(&hosts, &fallback.group, &fallback.process);
            }
            Output::Undeclared(undeclared) => {
                let is_wanted = self.slower_than.is_empty() && !self.failed && !self.stuck;
                let destination = &undeclared.destination;
                let hosts = [
                    Some(destination.host.as_str()),
                    Some(undeclared.remote.address.as_str()),
                ];
                return is_wanted && self.is_about(&hosts, &destination.group, &undeclared.process);
            }
        };
        let has_failed = !is_stuck && record.outcome != Some(Outcome::Ok);
        let state = !(self.failed || self.stuck) || (self.failed && has_failed) || (self.stuck && is_stuck);
        let slow = self.slower_than.is_empty() || self.slower_than.iter().any(|bound| is_slower(record, *bound));
        let destination = &record.destination;
        let hosts = [Some(destination.host.as_str()), Some(record.remote.address.as_str())];
        state && slow && self.is_about(&hosts, &destination.group, &record.process)
    }

    fn accepts_lookup(&self, lookup: &LookupRecord, is_stuck: bool) -> bool {
        let has_failed = !is_stuck && lookup.rcode != Some("NOERROR");
        let of_interest = match self.lookups {
            Lookups::None => false,
            Lookups::Failed => has_failed || is_stuck,
            Lookups::All => true,
        };
        let state = !(self.failed || self.stuck) || (self.failed && has_failed) || (self.stuck && is_stuck);
        let took = lookup.duration_us.or(lookup.waiting_us);
        let is_slow = |bound: &SlowerThan| bound.phase == Phase::Dns && took.is_some_and(|us| us > bound.bound_us);
        let slow = self.slower_than.is_empty() || self.slower_than.iter().any(is_slow);
        let hosts = [Some(lookup.name.as_str()), Some(lookup.asked.as_str())];
        of_interest && state && slow && self.is_about(&hosts, DNS, &lookup.process)
    }

    /// Of its processes one is enough; those that are known best are the worst connections'.
    fn is_about_spike(&self, spike: &SpikeRecord) -> bool {
        let destination = &spike.destination;
        let mut hosts = vec![Some(destination.host.as_str())];
        hosts.extend(spike.connections.iter().map(|one| Some(one.remote.address.as_str())));
        let none = ProcessRecord::default();
        let mut processes: Vec<_> = spike.connections.iter().map(|one| &one.process).collect();
        if processes.is_empty() {
            processes.push(&none);
        }
        processes
            .into_iter()
            .any(|process| self.is_about(&hosts, &destination.group, process))
    }

    /// Whether the conditions on who and whom hold.
    fn is_about(&self, hosts: &[Option<&str>], group: &str, process: &ProcessRecord) -> bool {
        any(&self.hosts, hosts)
            && any(&self.groups, &[Some(group)])
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        export::human::tests::record,
        pipeline::FallbackRecord,
    };

    #[test]
    fn conditions_on_fallbacks() {
        let fallback = Output::Fallback(Box::new(FallbackRecord {
            schema: 1,
            r#type: "fallback",
            node: String::new(),
            time: String::new(),
            group: "go".to_owned(),
            from: "a.example".to_owned(),
            to: "b.example".to_owned(),
            reason: "refused",
            after_us: 0,
            process: record().process,
        }));
        for (flags, expected) in [
            ("", true),
            ("--failed", true),
            ("--stuck", false),
            ("--slower-than tcp=0s", false),
            ("--group go", true),
            ("--group npm", false),
            ("--host a.*", true),
            ("--host b.*", true),
            ("--host c.*", false),
            ("--pod x", false),
        ] {
            let line = format!("hopline trace {flags}");
            let cli = Cli::try_parse_from(line.split_whitespace()).expect("valid flags");
            let Command::Trace(args) = cli.command else {
                panic!("trace was typed")
            };
            assert_eq!(Filter::new(&args).accepts(&fallback), expected, "{flags}");
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
