//! What hopline said of lookups beside the capture, the server's log and the clients' own word.

use std::net::{IpAddr, SocketAddr};

use super::clients::{Client, Owners};
use super::truth::{self, Names, token};
use crate::capture::dns::Message;
use crate::hopline::{Lookup, Metrics};
use crate::lab::Lab;
use crate::nameserver::Logged;
use crate::nameserver::message::{A, AAAA};
use crate::nameserver::script::{LOSSY, SURE, addresses, type_name};
use crate::verdict::{Verdict, percentile};

const QUERIES: &str = "hopline_dns_queries_total";
const LOOKUPS: &str = "hopline_dns_lookups_total";
const RCODES: [&str; 4] = ["NOERROR", "NXDOMAIN", "SERVFAIL", "TIMEOUT"];
const TYPES: [&str; 2] = ["A", "AAAA"];

/// Queries of both sides, by rcode and type, and of each server's address; `unheard` answers came when their client had
/// closed its socket.
pub(super) fn queries(
    verdict: &mut Verdict,
    metrics: &Metrics,
    log: &[Logged],
    unheard: &[Message],
    resolvers: &[IpAddr],
) {
    verdict.note(
        "answers that their client had closed its socket for",
        unheard.len() as f64,
        "",
    );
    let is_heard = |logged: &Logged| {
        let is_its = |answer: &Message| {
            (answer.destination, answer.id, token(&answer.name)) == (logged.source, logged.id, token(&logged.name))
        };
        !unheard.iter().any(is_its)
    };
    // What was dropped has no answer, and a truncated one is an answer.
    let rcode_of = |role: &str, logged: &Logged| match logged.rcode.as_str() {
        "DROP" => "TIMEOUT".to_owned(),
        _ if role == "client" && !is_heard(logged) => "TIMEOUT".to_owned(),
        rcode => rcode.to_owned(),
    };
    for role in ["client", "server"] {
        for (rcode, qtype) in RCODES.iter().flat_map(|rcode| TYPES.map(|qtype| (*rcode, qtype))) {
            let labels = [("role", role), ("rcode", rcode), ("qtype", qtype)];
            let truth = log
                .iter()
                .filter(|logged| rcode_of(role, logged) == rcode && logged.qtype == qtype);
            verdict.count(
                format!("{role}'s queries, {qtype} {rcode}"),
                metrics.sum(QUERIES, &labels),
                truth.count() as u64,
            );
        }
        let all = metrics.sum(QUERIES, &[("role", role)]);
        verdict.count(format!("{role}'s queries"), all, log.len() as u64);
    }
    for resolver in resolvers {
        // Whoever asks by IPv4 asks the address for it.
        let truth = log
            .iter()
            .filter(|logged| logged.source.is_ipv4() == resolver.is_ipv4())
            .count() as u64;
        let resolver = resolver.to_string();
        let labels = [
            ("role", "client"),
            ("destination", resolver.as_str()),
            ("destination_port", "53"),
            ("group", "dns"),
        ];
        verdict.count(format!("queries to {resolver}"), metrics.sum(QUERIES, &labels), truth);
    }
}

/// Lookups of names whose queries all arrived, by rcode and type, and what each took in queries.
pub(super) fn lookups(verdict: &mut Verdict, metrics: &Metrics, truth: &[Names], log: &[Logged]) {
    let of_all = || truth.iter().flatten().filter(|((first, _), _)| is_sure(first));
    let all = || of_all().flat_map(|(_, name)| &name.lookups);
    let unclear = of_all().filter(|(_, name)| name.is_unclear).count();
    verdict.count("lookups with a pause, though nothing was lost", unclear as u64, 0);
    for (rcode, qtype) in RCODES.iter().flat_map(|rcode| TYPES.map(|qtype| (*rcode, qtype))) {
        let labels = [("role", "client"), ("rcode", rcode), ("qtype", qtype)];
        let truth = all().filter(|lookup| lookup.rcode() == rcode && type_name(lookup.kind) == qtype);
        verdict.count(
            format!("lookups, {qtype} {rcode}"),
            metrics.sum(LOOKUPS, &labels),
            truth.count() as u64,
        );
    }
    let ratio = |queries: u64, lookups: u64| format!("{:.3}", queries as f64 / lookups as f64);
    let client = [("role", "client")];
    verdict.text(
        "queries a lookup",
        ratio(metrics.sum(QUERIES, &client), metrics.sum(LOOKUPS, &client)),
        ratio(log.len() as u64, all().count() as u64),
    );
    // What would prove nothing if it did not happen.
    let over_tcp = all().filter(|lookup| lookup.tcp && lookup.queries > 1).count();
    verdict.at_least("lookups that went on over TCP", over_tcp as f64, 1.0, "");
    let searched = all().filter(|lookup| lookup.is_found && lookup.queries > 1).count();
    verdict.at_least("lookups found by more than one query", searched as f64, 1.0, "");
    let answered = all().filter(|lookup| lookup.answer.is_some()).count() as u64;
    verdict.count(
        "lookups with a duration",
        metrics.sum("hopline_dns_lookup_duration_seconds_count", &client),
        answered,
    );
}

fn is_sure(first: &str) -> bool {
    first.split('-').nth(2) == Some(SURE)
}

/// The lines of one client at one place.
pub(super) struct Compared<'a> {
    pub(super) lab: &'a Lab,
    pub(super) client: Client,
    pub(super) delay_ms: u64,
    pub(super) names: usize,
    pub(super) resolver: SocketAddr,
    pub(super) truth: &'a Names,
    pub(super) owners: &'a Owners,
}

/// How many of the pairs are right in each respect.
type Right = Vec<(&'static str, u64)>;

impl Compared<'_> {
    /// Rows of this client.
    pub(super) fn judge(&self, verdict: &mut Verdict, said: &[Lookup]) {
        for loss in [SURE, LOSSY] {
            self.judge_names(verdict, said, loss);
        }
    }

    fn judge_names(&self, verdict: &mut Verdict, said: &[Lookup], loss: &str) {
        let what = format!("{} ms {} {loss}", self.delay_ms, self.client.name());
        let (mut measured, mut truths) = (Vec::new(), Vec::new());
        let (mut truth_count, mut said_count) = (0, 0);
        // Made, and told of.
        let mut unclear = (0, 0);
        let mut right: Right = Vec::new();
        for (first, name) in self.client.names(self.delay_ms, loss, self.names) {
            for kind in [A, AAAA] {
                let is_of_name = |lookup: &&Lookup| {
                    lookup.role == "client" && token(&lookup.asked) == first && lookup.qtype == type_name(kind)
                };
                let said: Vec<&Lookup> = said.iter().filter(is_of_name).collect();
                let Some(truth) = self.truth.get(&(first.clone(), kind)) else {
                    said_count += said.len() as u64;
                    continue;
                };
                if truth.is_unclear {
                    unclear.0 += truth.lookups.len() as u32;
                    unclear.1 += said.len() as u32;
                    continue;
                }
                truth_count += truth.lookups.len() as u64;
                said_count += said.len() as u64;
                for (place, (said, truth)) in said.iter().zip(&truth.lookups).enumerate() {
                    // Who asks again asks for the full name alone: nobody can tell what from.
                    let asked = if place == 0 { &name } else { &said.asked };
                    self.compare(said, truth, asked, &mut right);
                    if let (Some(said), Some(truth)) = (said.duration_us, truth.duration_us()) {
                        measured.push(said as f64);
                        truths.push(truth);
                    }
                }
            }
        }
        verdict.count(format!("{what}: lookups"), said_count, truth_count);
        verdict.fold(|verdict| {
            for (respect, count) in right {
                verdict.count(format!("{what}: lookups with the right {respect}"), count, truth_count);
            }
        });
        if unclear.0 > 0 {
            verdict.note(format!("{what}: not judged, with a pause"), f64::from(unclear.0), "");
            verdict.note(format!("{what}: what hopline made of them"), f64::from(unclear.1), "");
        }
        for percent in [50, 95] {
            let truth = percentile(&mut truths, percent);
            verdict.time_us(
                format!("{what}: lookup p{percent}"),
                percentile(&mut measured, percent),
                truth,
                self.lab.tolerance.of_phase_us(truth),
            );
        }
    }

    fn compare(&self, said: &Lookup, truth: &truth::Lookup, asked: &str, right: &mut Right) {
        let owner = self.owners.get(token(asked));
        let addresses = if truth.is_found {
            addresses(token(asked), truth.kind)
        } else {
            Vec::new()
        };
        let is_over_time = said.duration_us.is_none();
        let respects = [
            ("name", said.name == truth.name),
            ("asked name", said.asked == asked),
            ("rcode", said.rcode == truth.rcode()),
            ("number of queries", said.queries == truth.queries),
            ("transport", (said.transport == "tcp") == truth.tcp),
            (
                "resolver",
                SocketAddr::from(said.resolver) == self.resolver && truth.resolver == self.resolver,
            ),
            ("addresses", said.addresses == addresses),
            ("duration or none", is_over_time == truth.answer.is_none()),
            (
                "process",
                owner.is_some_and(|owner| {
                    said.process.pid == Some(owner.pid) && said.process.comm.as_deref() == Some(&owner.comm)
                }),
            ),
            (
                "ancestry",
                self.client != Client::Getent || said.process.ancestry.iter().any(|comm| comm == "xargs"),
            ),
        ];
        if right.is_empty() {
            right.extend(respects.map(|(respect, _)| (respect, 0)));
        }
        for ((respect, is_right), (_, count)) in respects.into_iter().zip(right) {
            *count += u64::from(is_right);
            if !is_right {
                eprintln!("lab: {respect} of {asked}: {said:?}, but {truth:?}, owner {owner:?}");
            }
        }
    }
}
