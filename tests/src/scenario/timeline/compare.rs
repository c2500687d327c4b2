//! Judges what hopline recorded of one cell and role against the capture on that side, and prints the cell's line.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use super::REQUESTS;
use super::cells::{Cell, Server, Tls};
use super::clients::OwnTimes;
use crate::capture::decrypted::{ByConnection, Exchanges};
use crate::capture::{Conversation, Conversations};
use crate::hopline::Record;
use crate::lab::Tolerance;
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
    pub(super) tolerance: Tolerance,
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
    println!("{:44} {}  exact/inf./amb.  turns", "cell", columns.join(" "));
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
        let (pairs, doubt) = self.pairs(truth, records)?;
        if let Some(doubt) = doubt {
            verdict.trouble(format!("{}: {doubt}", name("the capture is no truth")));
        }
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
        let as_named = pairs.iter().filter(|pair| self.is_recorded_as_named(pair)).count();
        verdict.count(name("TLS and ALPN as named, in records"), as_named as u64, expected);

        let has_basis = |record: &Record, basis: &str| record.ttfb_basis.as_deref() == Some(basis);
        let [exact, inferred, undecided] = ["exact", "inferred", "ambiguous"]
            .map(|basis| recorded.iter().filter(|record| has_basis(record, basis)).count());
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
            let counted = |pair: &&Pair<'_>| {
                phase.name != "ttfb" || !pair.record.is_some_and(|record| has_basis(record, "ambiguous"))
            };
            columns.push(self.judge_phase(verdict, phase, &pairs.iter().filter(counted).collect::<Vec<_>>()));
        }
        println!(
            "{cell:44} {}  {:^15}  {turns:>4}/{true_turns}",
            columns.join(" "),
            format!("{exact}/{inferred}/{undecided}")
        );
        if let Some(own) = own.filter(|own| !own.is_empty()) {
            self.note_own_times(verdict, own);
        }
        Ok(())
    }

    /// Connections of which the capture tells all; and why it does not of the first where it does not.
    fn pairs<'a>(&self, truth: &'a Truth, records: &'a [Record]) -> Result<(Vec<Pair<'a>>, Option<String>)> {
        let server = SocketAddr::new(SERVER4.into(), self.cell.port);
        let of_role = records.iter().filter(|record| record.role == self.role);
        let by_addresses: HashMap<_, &Record> = of_role.map(|record| (record.addresses(), record)).collect();
        let tcp: fn(&Conversation) -> Option<f64> = if self.role == "client" {
            Conversation::client_tcp_us
        } else {
            Conversation::server_tcp_us
        };
        let mut pairs = Vec::new();
        let mut doubt = None;
        for (client, conversation) in truth.handshakes.to(server) {
            let addresses = (client, server);
            let exchanges = truth
                .exchanges
                .get(&addresses)
                .context("tshark and the capture differ on which connections there are")?;
            let exchanges = match exchanges {
                Ok(exchanges) => exchanges,
                Err(error) => {
                    doubt.get_or_insert(format!("{client}: {error:#}"));
                    continue;
                }
            };
            pairs.push(Pair {
                record: by_addresses.get(&addresses).copied(),
                tcp_us: tcp(conversation).context("no handshake")?,
                exchanges,
            });
        }
        Ok((pairs, doubt))
    }

    fn is_as_named(&self, exchanges: &Exchanges) -> bool {
        exchanges.version == self.cell.tls.name() && exchanges.alpn.as_deref() == self.cell.alpn()
    }

    /// In TLS 1.3 the agreed protocol is encrypted: then it is not told where several were offered, and where one was,
    /// that one may be told although the server (the JDK's) agreed on none.
    fn is_recorded_as_named(&self, pair: &Pair<'_>) -> bool {
        let Some(tls) = pair.record.and_then(|record| record.tls.as_ref()) else {
            return false;
        };
        let (told, truth) = (tls.alpn.as_ref(), pair.exchanges);
        let is_hidden = self.cell.tls == Tls::V13
            && match told {
                None => truth.offered.len() > 1,
                Some(_) => truth.offered.len() == 1 && told == truth.offered.first(),
            };
        tls.version.as_deref() == Some(self.cell.tls.name()) && (told == truth.alpn.as_ref() || is_hidden)
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
            let tolerance_us = self.tolerance.of_phase_us(truth);
            if percent == PERCENTS[1] && self.tolerance == Tolerance::Vm {
                // Of the few connections there it is the slowest: between device and socket an emulated machine loses
                // tens of milliseconds now and then.
                verdict.note(format!("{name} p{percent} off by"), measured - truth, "us");
            } else {
                verdict.time_us(format!("{name} p{percent}"), measured, truth, tolerance_us);
            }
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

    /// What the path and the server add to a phase at least. Node's timers may be a millisecond early.
    fn least_ms(&self, phase: &str) -> f64 {
        let think_ms = if matches!(phase, "ttfb" | "turn") {
            self.cell.think_ms.saturating_sub(1)
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

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use serde_json::{Value, json};

    use super::super::cells;
    use super::*;
    use crate::hopline::{Sabotage, read_records};

    const CONNECTIONS: u16 = 50;

    fn client(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 99, 1, 2], 40_000 + number))
    }

    /// Connections whose times differ, so that percentiles do.
    fn truth(cell: &Cell) -> Truth {
        let mut packets = Vec::new();
        let mut exchanges = ByConnection::new();
        for number in 0..CONNECTIONS {
            let from = client(number);
            for answers in [false, true] {
                let ((source, source_port), (target, target_port)) = if answers {
                    ((SERVER4.octets(), cell.port), ([10, 99, 1, 2], from.port()))
                } else {
                    (([10, 99, 1, 2], from.port()), (SERVER4.octets(), cell.port))
                };
                let mut tcp = PacketBuilder::ipv4(source, target, 64)
                    .tcp(source_port, target_port, 1, 1000)
                    .syn();
                if answers {
                    tcp = tcp.ack(2);
                }
                let mut packet = Vec::new();
                tcp.write(&mut packet, &[]).expect("a vector takes every packet");
                packets.push((u64::from(answers) * 20_000_000, packet));
            }
            let found = Exchanges {
                version: cell.tls.name(),
                offered: cell.alpn().map(str::to_owned).into_iter().collect(),
                alpn: cell.alpn().map(str::to_owned),
                tls_us: 21_000.0 + f64::from(number),
                ttfb_us: 70_000.0 + f64::from(number),
                turns_us: vec![70_000.0, 70_100.0],
            };
            exchanges.insert((from, SocketAddr::new(SERVER4.into(), cell.port)), Ok(found));
        }
        Truth {
            handshakes: Conversations::new(packets.iter().map(|(time, packet)| (*time, packet.as_slice()))),
            exchanges,
        }
    }

    /// What hopline says of one of them when all is right.
    fn record(cell: &Cell, number: u16) -> Value {
        json!({
            "schema": 2, "event": "finished", "role": "client", "role_basis": "observed", "family": "ipv4", "duration_us": 1,
            "local": {"address": "10.99.1.2", "port": 40_000 + number},
            "remote": {"address": SERVER4.to_string(), "port": cell.port},
            "destination": {"host": "x", "port": cell.port, "source": "sni", "verified": true, "group": ""},
            "process": {"pid": 1, "comm": "x", "ancestry": []},
            "phases_us": {"dns": null, "tcp": 20_000, "tls": 21_000 + number, "ttfb": 70_000 + u32::from(number)},
            "ttfb_basis": "exact", "late": false,
            "turns": {"count": 2, "p50_us": 70_000, "p95_us": 70_100, "overlapping": 0},
            "tls": {"version": cell.tls.name(), "alpn": cell.alpn()},
            "tcp": {"rtt_us": {"min": 1, "mean": 1, "p50": 1, "p99": 1, "var": 1}, "retransmits": {"syn": 0, "rto": 0, "fast": 0, "tlp": 0, "other": 0},
                    "bytes_sent": 1, "bytes_received": 1, "closed_by": "local"},
            "waiting": null, "waiting_us": null, "outcome": "ok"
        })
    }

    /// Names of the rows that are wrong when hopline says `change`d records and these are falsified.
    fn wrong(sabotage: Option<Sabotage>, change: impl Fn(u16, &mut Value)) -> Vec<String> {
        let cells = cells::all(cells::Choice::Short);
        let cell = &cells[0];
        let directory = tempfile::tempdir().expect("a directory");
        let [input, output] = ["records", "verdict"].map(|name| directory.path().join(name));
        let lines: Vec<String> = (0..CONNECTIONS)
            .map(|number| {
                let mut record = record(cell, number);
                change(number, &mut record);
                record.to_string()
            })
            .collect();
        std::fs::write(&input, lines.join("\n")).expect("records");
        let records = read_records(&input, sabotage).expect("records");
        let mut verdict = Verdict::new("timeline");
        let mut ambiguous = Ambiguous::default();
        let compared = Compared {
            tolerance: Tolerance::Host,
            cell,
            role: "client",
            delay_ms: 20,
            connections: CONNECTIONS.into(),
        };
        compared
            .judge(&mut verdict, &truth(cell), &records, None, &mut ambiguous)
            .expect("truth");
        ambiguous.judge(&mut verdict, 20);
        verdict.write_json(&output).expect("verdict");
        let text = std::fs::read_to_string(&output).expect("verdict");
        let document: Value = serde_json::from_str(&text).expect("JSON");
        let rows = document["rows"].as_array().expect("rows");
        let wrong = rows.iter().filter(|row| row["ok"] == false);
        wrong
            .map(|row| row["name"].to_string().trim_matches('"').to_owned())
            .collect()
    }

    fn check(sabotage: Option<Sabotage>, change: impl Fn(u16, &mut Value), expected: &[&str]) {
        let wrong = wrong(sabotage, change);
        assert_eq!(wrong.len(), expected.len(), "{wrong:#?}");
        for (name, end) in wrong.iter().zip(expected) {
            assert!(name.ends_with(end), "{name} is not {end}");
        }
    }

    #[test]
    fn the_truth_passes_and_sabotage_does_not() {
        check(None, |_, _| {}, &[]);
        let phases = ["tcp", "tls", "ttfb", "turn"];
        let shifted: Vec<String> = phases
            .iter()
            .flat_map(|phase| PERCENTS.map(|at| format!("{phase} p{at}")))
            .collect();
        let shifted: Vec<&str> = shifted.iter().map(String::as_str).collect();
        check(Some(Sabotage::Shift), |_, _| {}, &shifted);
        let dropped = [
            "records",
            "records captured",
            "in records",
            "turns",
            "tcp known",
            "tls known",
            "ttfb known",
            "turn known",
        ];
        check(Some(Sabotage::Drop), |_, _| {}, &dropped);
    }

    #[test]
    fn an_ambiguous_first_byte_is_not_compared_but_few_may_be() {
        let ambiguous = |below: u16| {
            move |number: u16, record: &mut Value| {
                if number < below {
                    record["ttfb_basis"] = json!("ambiguous");
                    record["phases_us"]["ttfb"] = json!(1);
                }
            }
        };
        check(None, ambiguous(1), &[]);
        check(None, ambiguous(2), &["all but the JDK's server"]);
    }

    #[test]
    fn another_version_or_protocol_is_wrong() {
        let version = |_, record: &mut Value| record["tls"]["version"] = json!("1.1");
        check(None, version, &["TLS and ALPN as named, in records"]);
        let alpn = |_, record: &mut Value| record["tls"]["alpn"] = json!("spdy/3");
        check(None, alpn, &["TLS and ALPN as named, in records"]);
    }
}
