//! What is no honest DNS: noise, ids used twice, answers that nobody asked for. It is counted and has no part in anything.

use std::net::SocketAddr;

use anyhow::Result;

use super::Site;
use crate::hopline::{Agent, AgentOptions, Trace};
use crate::nameserver::{self, astray};
use crate::topology::SERVER4;
use crate::verdict::Verdict;

pub(super) fn run(site: &Site<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = site.lab;
    let before = nameserver::read_log(&site.log)?.len();
    let agent = Agent::start(lab, lab.traffic.path(), &AgentOptions::default())?;
    let trace = Trace::start_dns(lab, "astray", lab.traffic.path())?;
    let to = SocketAddr::new(SERVER4.into(), 53).to_string();
    let words = ["dns-astray", "--to", &to, "--from", "10.99.1.2:0"];
    let sent = astray::read(&lab.helper(&words, &site.pair.client, &lab.traffic)?.finish()?)?;
    let metrics = agent.scrape_drained()?;
    let log = nameserver::read_log(&site.log)?;
    verdict.count(
        "astray: queries at the server",
        (log.len() - before) as u64,
        sent.queries,
    );
    for role in ["client", "server"] {
        let labels = [("role", role), ("rcode", "NOERROR")];
        let answered = metrics.sum("hopline_dns_queries_total", &labels);
        verdict.count(format!("astray: {role}'s queries, NOERROR"), answered, sent.queries);
        let all = metrics.sum("hopline_dns_queries_total", &[("role", role)]);
        verdict.count(format!("astray: {role}'s queries"), all, sent.queries);
    }
    let ignored = |reason| metrics.sum("hopline_dns_ignored_total", &[("reason", reason)]);
    verdict.count(
        "astray: answers of another server",
        ignored("wrong_server"),
        sent.wrong_of_each,
    );
    // Both sides see each, the client and the server.
    let wrong = 4 * 2 * sent.wrong_of_each;
    let malformed = metrics.sum("hopline_dns_malformed_total", &[]);
    let ignored = metrics.sum("hopline_dns_ignored_total", &[]);
    verdict.count(
        "astray: messages that count for nothing",
        malformed + ignored,
        wrong + 4 * sent.noise,
    );
    verdict.at_least("astray: malformed", malformed as f64, sent.noise as f64, "");
    let lookups = trace.finish_lookups()?;
    verdict.count("astray: lookups", lookups.len() as u64, sent.queries);
    let learned_wrong = lookups.iter().filter(|lookup| {
        let first = lookup.name.split('.').next().unwrap_or_default();
        lookup.addresses != nameserver::script::addresses(first, nameserver::message::A)
    });
    verdict.count(
        "astray: lookups with addresses of others",
        learned_wrong.count() as u64,
        0,
    );
    agent.stop()
}
