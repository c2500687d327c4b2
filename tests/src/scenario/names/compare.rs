//! Holds records against what was written down before: names and where they are from, and the lookup of each connection.

use std::collections::HashMap;

use crate::hopline::Record;
use crate::lab::Tolerance;
use crate::verdict::{Verdict, percentile};

use super::place::RESOLVER;
use super::script::Truth;

/// The agent cuts nanoseconds off, the client microseconds.
const ROUNDING_US: u64 = 1;

/// What is right of the connections that are alike.
#[derive(Debug, Default)]
struct Tally {
    made: u64,
    records: u64,
    host: u64,
    source: u64,
    verified: u64,
    pid: u64,
    first: u64,
    /// First connections whose record has the lookup that was theirs.
    lookup: u64,
    /// Phases of them within what resolver and client saw.
    within: u64,
    later: u64,
    /// Later connections whose record has no lookup.
    none: u64,
    measured_us: Vec<f64>,
    truth_us: Vec<f64>,
    /// The first of each that was wrong: what hopline said, what is true.
    wrong: Vec<(&'static str, String, String)>,
}

/// How sure a name must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scenario) enum Names {
    /// All of them.
    Exact,
    /// Of names that DNS alone tells, 99 of 100: one process may have two of one address.
    Nearly,
}

/// Judges all records, by cell and source. Without a `tolerance` no quantiles of times: every single one must lie between
/// the resolver's and the client's anyway, and a client that others keep from running is no clock.
pub(in crate::scenario) fn judge(
    verdict: &mut Verdict,
    tolerance: Option<Tolerance>,
    records: &[Record],
    truths: &[Truth],
    names: impl Fn(&str) -> Names,
) {
    let by_port: HashMap<u16, &Record> = records.iter().map(|record| (record.local.port, record)).collect();
    let mut order: Vec<(&str, &str)> = Vec::new();
    let mut tallies: HashMap<(&str, &str), Tally> = HashMap::new();
    for truth in truths {
        let key = (truth.expected.cell, truth.expected.source);
        let tally = tallies.entry(key).or_insert_with(|| {
            order.push(key);
            Tally::default()
        });
        tally.add(truth, by_port.get(&truth.expected.local_port).copied());
    }
    for key in order {
        if let Some(tally) = tallies.remove(&key) {
            tally.judge(verdict, tolerance, key, names(key.0));
        }
    }
}

impl Tally {
    fn add(&mut self, truth: &Truth, record: Option<&Record>) {
        let expected = &truth.expected;
        self.made += 1;
        match expected.lookup {
            Some(_) => self.first += 1,
            None => self.later += 1,
        }
        let Some(record) = record else { return };
        let remote = (expected.remote.ip(), expected.remote.port());
        self.records += u64::from(record.is_client() && (record.remote.address, record.remote.port) == remote);
        self.pid += u64::from(record.process.pid == Some(truth.pid));
        let destination = &record.destination;
        let verified = |is: bool| if is { "verified" } else { "not verified" };
        let is_host = self.same("host", &destination.host, &expected.host);
        let is_source = self.same("source", &destination.source, expected.source);
        let is_verified = expected
            .verified
            .is_none_or(|truth| self.same("verified", verified(destination.verified), verified(truth)));
        self.host += u64::from(is_host);
        self.source += u64::from(is_source);
        self.verified += u64::from(is_verified);
        self.add_lookup(truth, record);
    }

    fn add_lookup(&mut self, truth: &Truth, record: &Record) {
        let said = record.dns.as_ref().map_or_else(
            || "null".to_owned(),
            |dns| {
                format!(
                    "{} by {}, {}, {} queries",
                    dns.name, dns.resolver, dns.rcode, dns.queries
                )
            },
        );
        let Some(lookup) = &truth.expected.lookup else {
            let is_none = self.same("lookup of a later connection", &said, "null");
            self.none += u64::from(is_none && record.phases_us.dns.is_none());
            return;
        };
        let wanted = format!("{} by {RESOLVER}, NOERROR, 1 queries", lookup.name);
        let is_same = self.same("lookup of a first connection", &said, &wanted);
        self.lookup += u64::from(is_same);
        let Some(phase_us) = record.phases_us.dns else { return };
        let most_us = truth.took.read_us + ROUNDING_US;
        let is_within = (lookup.delay_us.saturating_sub(ROUNDING_US)..=most_us).contains(&phase_us);
        if !is_within {
            let wanted = format!("{}..{most_us} us", lookup.delay_us);
            self.same("dns phase", &format!("{phase_us} us"), &wanted);
        }
        self.within += u64::from(is_within);
        self.measured_us.push(phase_us as f64);
        self.truth_us.push(truth.took.arrived_us as f64);
    }

    /// Compares, and keeps the first difference of each kind for the reader.
    fn same(&mut self, what: &'static str, measured: &str, truth: &str) -> bool {
        let is_same = measured == truth;
        if !is_same && !self.wrong.iter().any(|(known, ..)| *known == what) {
            self.wrong.push((what, measured.to_owned(), truth.to_owned()));
        }
        is_same
    }

    fn judge(
        mut self,
        verdict: &mut Verdict,
        tolerance: Option<Tolerance>,
        (cell, source): (&str, &str),
        names: Names,
    ) {
        let row = |what: &str| format!("{cell}, {source}: {what}");
        let is_near = names == Names::Nearly && source == "dns";
        let percent = |right: u64| right as f64 / self.made as f64 * 100.0;
        if is_near {
            verdict.at_least(row("host right"), percent(self.host), 99.0, "%");
            verdict.at_least(row("verified right"), percent(self.verified), 99.0, "%");
        } else {
            verdict.count(row("host"), self.host, self.made);
            verdict.fold(|verdict| verdict.count(row("verified"), self.verified, self.made));
        }
        verdict.fold(|verdict| {
            verdict.count(row("records"), self.records, self.made);
            verdict.count(row("pid"), self.pid, self.made);
            verdict.count(row("source"), self.source, self.made);
            if self.later > 0 {
                verdict.count(row("later: no lookup"), self.none, self.later);
            }
            for (what, measured, truth) in self.wrong {
                // What may be nearly right was judged above.
                if !(is_near && ["host", "verified"].contains(&what)) {
                    verdict.text(row(&format!("an example of {what}")), measured, truth);
                }
            }
        });
        if self.first > 0 {
            verdict.count(row("first after a lookup: has it"), self.lookup, self.first);
            verdict.count(
                row("dns phase between resolver's and client's time"),
                self.within,
                self.first,
            );
            for (tolerance, percent) in tolerance
                .into_iter()
                .flat_map(|tolerance| [(tolerance, 50), (tolerance, 95)])
            {
                let measured = percentile(&mut self.measured_us, percent);
                let truth = percentile(&mut self.truth_us, percent);
                let name = row(&format!("dns phase p{percent}"));
                if percent == 95 && tolerance == Tolerance::Vm {
                    // Of few lookups it is the slowest: between device and socket an emulated machine loses time.
                    verdict.note(format!("{name} off by"), measured - truth, "us");
                } else {
                    verdict.time_us(name, measured, truth, tolerance.of_phase_us(truth));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::script::{Expected, Lookup};
    use super::*;
    use crate::hopline::{Dns, Sabotage, falsify_records, record};
    use crate::traffic::names::steps::Took;

    /// Connections to two names in turn, each right after its lookup, and what is right to say of them.
    fn all() -> (Vec<Record>, Vec<Truth>) {
        let one = |number: u16| {
            let name = ["a.test", "b.test"][usize::from(number) % 2].to_owned();
            let mut record = record("client", &name);
            record.local.port = 1_000 + number;
            record.process.pid = Some(u32::from(number));
            record.phases_us.dns = Some(700);
            record.dns = Some(Dns {
                name: name.clone(),
                resolver: RESOLVER.to_owned(),
                rcode: "NOERROR".to_owned(),
                queries: 1,
            });
            let expected = Expected {
                cell: "x",
                local_port: record.local.port,
                remote: (Ipv4Addr::new(10, 0, 0, 2), 443).into(),
                host: name.clone(),
                source: "sni",
                verified: Some(true),
                lookup: Some(Lookup {
                    step: 0,
                    name,
                    delay_us: 500,
                }),
            };
            let truth = Truth {
                expected,
                pid: u32::from(number),
                took: Took {
                    arrived_us: 800,
                    read_us: 900,
                },
            };
            (record, truth)
        };
        (0..8).map(one).unzip()
    }

    fn passes(records: &[Record], truths: &[Truth]) -> bool {
        let mut verdict = Verdict::new("x");
        judge(&mut verdict, Some(Tolerance::Host), records, truths, |_| Names::Exact);
        verdict.passed()
    }

    #[test]
    fn only_what_is_right_passes() {
        let (records, truths) = all();
        assert!(passes(&records, &truths));
        for sabotage in [Sabotage::Shift, Sabotage::Drop, Sabotage::Swap] {
            let falsified = falsify_records(Some(sabotage), records.clone());
            assert!(!passes(&falsified, &truths), "{sabotage:?}");
        }
    }

    #[test]
    fn a_lookup_belongs_to_one_connection() {
        let (records, mut truths) = all();
        truths[3].expected.lookup = None;
        assert!(!passes(&records, &truths));
    }

    #[test]
    fn a_phase_is_no_shorter_than_the_resolver_thinks() {
        let (mut records, truths) = all();
        records[3].phases_us.dns = Some(400);
        assert!(!passes(&records, &truths));
    }
}
