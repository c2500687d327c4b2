//! Judges what hopline recorded of one cell and role against the capture on that side, and prints the cell's line.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use super::REQUESTS;
use super::cells::{Cell, Server};
use super::clients::OwnTimes;
use crate::capture::decrypted::{ByConnection, Exchanges};
use crate::capture::{Conversation, Conversations};
use crate::hopline::Record;
use crate::lab::Lab;
use crate::topology::SERVER4;
use crate::verdict::{Verdict, percentile};

/// Share of first bytes that may stay undecided, in percent.
const AMBIGUOUS_PERCENT: f64 = 2.0;
const PERCENTS: [usize; 2] = [50, 95];

/// What passed one side's device.
#[derive(Debug)]
pub(super) struct Truth {
    pub(super) handshakes: Conversations,
    pub(super) exchanges: ByConnection,
}

/// Connections whose first byte hopline could not tell, of all: with the JDK's server and with all others.
#[derive(Debug, Default)]
pub(super) struct Ambiguous {
    jdk: (usize, usize),
    others: (usize, usize),
}

impl Ambiguous {
    pub(super) fn judge(&self, verdict: &mut Verdict, delay_ms: u64) {
        let percent = |(some, all): (usize, usize)| some as f64 * 100.0 / all as f64;
        let name = |which: &str| format!("{delay_ms} ms: ambiguous first bytes, {which}");
        verdict.at_most(
            name("all but the JDK's server"),
            percent(self.others),
            AMBIGUOUS_PERCENT,
            "%",
        );
        verdict.note(name("the JDK's server"), percent(self.jdk), "%");
    }
}

/// One cell on one side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Compared<'a> {
    pub(super) lab: &'a Lab,
    pub(super) cell: &'a Cell,
    pub(super) role: &'static str,
    pub(super) delay_ms: u64,
    pub(super) connections: usize,
}

/// A connection in the capture with its record.
struct Pair<'a> {
    record: Option<&'a Record>,
    tcp_us: f64,
    exchanges: &'a Exchanges,
}

/// One time of one connection; `percent` tells which of its turns.
struct Phase {
    name: &'static str,
    measured: fn(&Record, usize) -> Option<u64>,
    truth: fn(&Pair<'_>, usize) -> Option<f64>,
}

const PHASES: [Phase; 4] = [
    Phase {
        name: "tcp",
        measured: |record, _| record.phases_us.tcp,
        truth: |pair, _| Some(pair.tcp_us),
    },
    Phase {
        name: "tls",
        measured: |record, _| record.phases_us.tls,
        truth: |pair, _| Some(pair.exchanges.tls_us),
    },
    Phase {
        name: "ttfb",
        measured: |record, _| record.phases_us.ttfb,
        truth: |pair, _| Some(pair.exchanges.ttfb_us),
    },
    Phase {
        name: "turn",
        measured: |record, percent| {
            if percent == 50 {
                record.turns.p50_us
            } else {
                record.turns.p95_us
            }
        },
        truth: |pair, percent| {
            let mut turns = pair.exchanges.turns_us.clone();
            (!turns.is_empty()).then(|| percentile(&mut turns, percent))
        },
    },
];

/// The head of the cells' lines.
pub(super) fn print_head(role: &str, delay_ms: u64) {
    println!("{role}, path delay {delay_ms} ms: truth's p50 in ms, and hopline's deviation at p50 and p95");
    let columns: Vec<String> = PHASES.iter().map(|phase| format!("{:^24}", phase.name)).collect();
    println!("{:44} {}  ambiguous  turns", "cell", columns.join(" "));
}

impl Compared<'_> {
    /// Fills `verdict` and prints; fails when the capture does not tell.
    pub(super) fn judge(
        &self,
        verdict: &mut Verdict,
        truth: &Truth,
        records: &[Record],
        own: Option<&Vec<OwnTimes>>,
        ambiguous: &mut Ambiguous,
    ) -> Result<()> {
        let cell = self.cell.name(self.delay_ms);
        let name = |what: &str| format!("{cell} {}: {what}", self.role);
        let pairs = self
            .pairs(truth, records)
            .with_context(|| name("the capture is no truth"))?;
        let expected = self.connections as u64;
        verdict.count(name("connections captured"), pairs.len() as u64, expected);
        let of_cell = records
            .iter()
            .filter(|record| record.role == self.role && record.server_port() == self.cell.port);
        verdict.count(name("records"), of_cell.count() as u64, expected);
        let recorded: Vec<&Record> = pairs.iter().filter_map(|pair| pair.record).collect();
        verdict.count(name("records captured"), recorded.len() as u64, expected);

        let as_named = pairs.iter().filter(|pair| self.is_as_named(pair.exchanges)).count();
        verdict.count(name("TLS and ALPN as named, in the capture"), as_named as u64, expected);
        let as_named = recorded
            .iter()
            .filter(|record| self.is_recorded_as_named(record))
            .count();
        verdict.count(name("TLS and ALPN as named, in records"), as_named as u64, expected);

        let is_ambiguous = |record: &Record| record.ttfb_basis.as_deref() == Some("ambiguous");
        let undecided = recorded.iter().filter(|record| is_ambiguous(record)).count();
        let tally = match self.cell.server {
            Server::Jdk => &mut ambiguous.jdk,
            Server::Nginx | Server::Go | Server::Node | Server::Python => &mut ambiguous.others,
        };
        *tally = (tally.0 + undecided, tally.1 + recorded.len());

        let turns = recorded.iter().filter_map(|record| record.turns.count).sum::<u64>();
        let true_turns: usize = pairs.iter().map(|pair| pair.exchanges.turns_us.len()).sum();
        verdict.count(
            name("turns captured"),
            true_turns as u64,
            expected * (REQUESTS as u64 - 1),
        );
        verdict.count(name("turns"), turns, true_turns as u64);

        let mut columns = Vec::new();
        for phase in &PHASES {
            let counted = |pair: &&Pair<'_>| phase.name != "ttfb" || !pair.record.is_some_and(is_ambiguous);
            columns.push(self.judge_phase(verdict, phase, &pairs.iter().filter(counted).collect::<Vec<_>>()));
        }
        println!(
            "{cell:44} {}  {undecided:>4}/{:<4}  {turns:>4}/{true_turns}",
            columns.join(" "),
            recorded.len()
        );
        if let Some(own) = own.filter(|own| !own.is_empty()) {
            self.note_own_times(verdict, own);
        }
        Ok(())
    }

    fn pairs<'a>(&self, truth: &'a Truth, records: &'a [Record]) -> Result<Vec<Pair<'a>>> {
        let server = SocketAddr::new(SERVER4.into(), self.cell.port);
        let of_role = records.iter().filter(|record| record.role == self.role);
        let by_addresses: HashMap<_, &Record> = of_role.map(|record| (record.addresses(), record)).collect();
        let tcp: fn(&Conversation) -> Option<f64> = if self.role == "client" {
            Conversation::client_tcp_us
        } else {
            Conversation::server_tcp_us
        };
        let mut pairs = Vec::new();
        for (client, conversation) in truth.handshakes.to(server) {
            let addresses = (client, server);
            let exchanges = truth.exchanges.get(&addresses).context("no records in a connection")?;
            let exchanges = exchanges
                .as_ref()
                .map_err(|error| anyhow::anyhow!("{client}: {error:#}"))?;
            pairs.push(Pair {
                record: by_addresses.get(&addresses).copied(),
                tcp_us: tcp(conversation).context("no handshake")?,
                exchanges,
            });
        }
        Ok(pairs)
    }

    fn is_as_named(&self, exchanges: &Exchanges) -> bool {
        exchanges.version == self.cell.tls.name() && exchanges.alpn.as_deref() == self.cell.alpn()
    }

    /// In TLS 1.3 the agreed protocol is encrypted: then the first that was offered stands for it, which is the agreed
    /// one in all cells but those with the JDK's server, which agrees on none.
    fn is_recorded_as_named(&self, record: &Record) -> bool {
        let Some(tls) = &record.tls else { return false };
        let alpn = tls.alpn.as_deref().and_then(|offered| offered.split(',').next());
        let is_alpn = self.cell.server == Server::Jdk || alpn == self.cell.alpn();
        tls.version.as_deref() == Some(self.cell.tls.name()) && is_alpn
    }

    /// Compares at each percentile; the phase's columns of the cell's line.
    fn judge_phase(&self, verdict: &mut Verdict, phase: &Phase, pairs: &[&Pair<'_>]) -> String {
        let name = format!("{} {}: {}", self.cell.name(self.delay_ms), self.role, phase.name);
        let mut line = String::new();
        for percent in PERCENTS {
            let mut truth: Vec<f64> = pairs.iter().filter_map(|pair| (phase.truth)(pair, percent)).collect();
            let recorded = pairs.iter().filter_map(|pair| pair.record);
            let mut measured: Vec<f64> = recorded
                .filter_map(|record| (phase.measured)(record, percent))
                .map(|time| time as f64)
                .collect();
            if percent == PERCENTS[0] {
                verdict.count(format!("{name} known"), measured.len() as u64, truth.len() as u64);
            }
            if truth.is_empty() {
                // All ambiguous: judged by their share.
                return format!("{:24}", "-");
            }
            let (measured, truth) = (percentile(&mut measured, percent), percentile(&mut truth, percent));
            let tolerance_us = self.lab.phase_tolerance_us(truth);
            verdict.time_us(format!("{name} p{percent}"), measured, truth, tolerance_us);
            if percent == PERCENTS[0] {
                line = format!("{:8.3}", truth / 1e3);
                // The path and the server must be what the cell is named after.
                let least = self.least_ms(phase.name);
                verdict.at_least(format!("{name} of the capture"), truth / 1e3, least, "ms");
            }
            // Writing to a String cannot fail.
            let _ = write!(line, " {:+7.3}", (measured - truth) / 1e3);
        }
        line
    }

    /// What the path and the server add to a phase at least.
    fn least_ms(&self, phase: &str) -> f64 {
        let think_ms = if matches!(phase, "ttfb" | "turn") {
            self.cell.think_ms
        } else {
            0
        };
        (think_ms + if self.role == "client" { self.delay_ms } else { 0 }) as f64
    }

    /// They hold the client's own work too, so they are no truth.
    fn note_own_times(&self, verdict: &mut Verdict, own: &[OwnTimes]) {
        let median = |of: fn(&OwnTimes) -> f64| percentile(&mut own.iter().map(of).collect::<Vec<f64>>(), 50);
        let times = [median(|own| own.tcp), median(|own| own.tls), median(|own| own.ttfb)];
        println!(
            "{:44} {:8.3} {:15} {:8.3} {:15} {:8.3}",
            "  by curl's own clock", times[0], "", times[1], "", times[2]
        );
        for (phase, time) in ["tcp", "tls", "ttfb"].into_iter().zip(times) {
            let name = format!("{} {phase} p50 by curl's own clock", self.cell.name(self.delay_ms));
            verdict.note(name, time, "ms");
        }
    }
}
