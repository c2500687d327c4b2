//! Text for people: the line of one connection, the table of destinations, what `doctor` found. Pure.
//!
//! Names come from others (a process chooses its own): control characters never reach the terminal.
mod lookup;
mod path;
mod spike;
mod table;
mod top;

use std::fmt::{self, Write as _};

pub use self::{
    path::{path, path_connections},
    table::table,
    top::{Figures, top},
};
use crate::{
    connection::{ConnectionRecord, Outcome, Phase, Role, record::ProcessRecord},
    pipeline::Output,
    selfmetrics::{FeatureState, TlsTarget, TlsTargets},
};

/// Widest name in a line; longer ones lose their middle.
const NAME_WIDTH: usize = 44;

/// Ancestors of a process that are shown on one line.
const MAX_DESCENT: usize = 3;

/// Heads the lines of [`line`].
pub fn line_header() -> String {
    format!(
        "{:<12} {:<24}    {:<36} {:>7} {:>7} {:>7} {:>7} {:>7} {:>4} {:>8} {:>8}  {}",
        "TIME", "PROCESS", "DESTINATION", "DNS", "TCP", "TLS", "TTFB", "RTT", "RTX", "SENT", "RECEIVED", "OUTCOME"
    )
}

/// One connection on one line, without its line break.
pub fn line(output: &Output) -> String {
    match output {
        Output::Finished(record) => {
            let tcp = &record.tcp;
            let retransmits = &tcp.retransmits;
            let sent_again = retransmits.syn + retransmits.rto + retransmits.fast + retransmits.tlp + retransmits.other;
            format!(
                "{} {:>7} {:>7} {:>7} {:>7} {:>7} {sent_again:>4} {:>8} {:>8}  {}",
                line_start(record),
                time_or_dash(record.phases_us.dns),
                time_or_dash(record.phases_us.tcp),
                time_or_dash(record.phases_us.tls),
                time_or_dash(record.phases_us.ttfb),
                time_or_dash(tcp.rtt_us.mean),
                bytes(tcp.bytes_sent),
                bytes(tcp.bytes_received),
                ending(record),
            )
        }
        Output::Stuck(record) => {
            let phase = record.waiting.map_or("?", Phase::name);
            let syns = match record.tcp.retransmits.syn {
                0 => String::new(),
                1 => ", SYN sent again once".to_owned(),
                times => format!(", SYN sent again {times} times"),
            };
            format!(
                "{} STUCK in {phase} for {}{syns}",
                line_start(record),
                time(record.waiting_us.unwrap_or_default() as f64)
            )
        }
        Output::Lookup(record) | Output::StuckLookup(record) => lookup::line(record),
        Output::Spike(record) => spike::line(record),
        Output::Path(record) => path::line(record),
        Output::Fallback(record) => format!(
            "{:<12} FALLBACK {} {} → {} after {}, {}",
            time_of_day(&record.time),
            printable(&record.group),
            printable(&record.from),
            printable(&record.to),
            record.reason.replace('_', " "),
            descent(&record.process)
        ),
        Output::Undeclared(record) => {
            let (word, what) = match record.reason {
                "unverified" => ("UNVERIFIED", "only its own claim agrees with"),
                _ => ("UNDECLARED", "outside"),
            };
            format!(
                "{:<12} {word} {} {what} {}, {}",
                time_of_day(&record.time),
                endpoint(&record.destination.host, record.destination.port),
                printable(&record.declaration),
                descent(&record.process)
            )
        }
    }
}

/// RFC 3339: the time of day to the millisecond.
fn time_of_day(time: &str) -> &str {
    time.get(11..23).unwrap_or(time)
}

/// A process and who started it, the nearest last.
fn descent(process: &ProcessRecord) -> String {
    let ancestors = process.ancestry.iter().take(MAX_DESCENT).rev().map(String::as_str);
    let names: Vec<String> = ancestors
        .chain([process.comm.as_deref().unwrap_or("?")])
        .map(printable)
        .collect();
    names.join(" → ")
}

fn line_start(record: &ConnectionRecord) -> String {
    let time_of_day = time_of_day(&record.start);
    let process = &record.process;
    let name = process.comm.as_deref().map_or_else(|| "?".to_owned(), printable);
    let pid = process.pid.map_or_else(String::new, |pid| format!("[{pid}]"));
    let (process, arrow, peer) = match record.role {
        Role::Client => {
            let destination = &record.destination;
            (
                format!("{name}{pid}"),
                "->",
                endpoint(&destination.host, destination.port),
            )
        }
        Role::Server => {
            let remote = &record.remote;
            (
                format!("{name}{pid}:{}", record.local.port),
                "<-",
                endpoint(&remote.address, remote.port),
            )
        }
    };
    format!(
        "{time_of_day:<12} {process:<24} {arrow} {:<36}",
        shortened(&peer, NAME_WIDTH)
    )
}

fn ending(record: &ConnectionRecord) -> String {
    let failure = record.tls.as_ref().and_then(|tls| tls.outcome.as_deref());
    let outcome = match (record.outcome, failure) {
        (Some(Outcome::Tls), Some(failure)) => format!("tls {}", failure.replace('_', " ")),
        (Some(Outcome::Unanswered), _) => {
            let waited_us = record.waiting_us.unwrap_or_default();
            let phase = record.waiting.map_or("?", Phase::name);
            format!("unanswered in {phase} for {}", time(waited_us as f64))
        }
        (Some(Outcome::Abandoned), _) => match record.tcp.retransmits.syn {
            0 => "abandoned after 1 SYN".to_owned(),
            again => format!("abandoned after {} SYNs", u64::from(again) + 1),
        },
        (outcome, _) => outcome.map_or("?", Outcome::name).replace('_', " "),
    };
    let late = if record.late { ", opened before hopline" } else { "" };
    match record.tcp.closed_by {
        Some(by) => format!("{outcome}, closed by {}{late}", by.name().replace('_', " ")),
        None => format!("{outcome}{late}"),
    }
}

/// Rows as aligned lines: the columns `left` to the left, all others, which are numbers, to the right.
pub(super) fn columns<const N: usize>(rows: &[[String; N]], left: &[usize]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    });
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let written = if left.contains(&column) {
                write!(line, "{cell:<width$}  ")
            } else {
                write!(line, "{cell:>width$}  ")
            };
            written.expect("writing to memory");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What `doctor` says of the features.
pub fn features(features: &[FeatureState]) -> String {
    let width = |cells: &mut dyn Iterator<Item = usize>| cells.max().unwrap_or(0);
    let feature_width = width(&mut features.iter().map(|state| state.feature.len()));
    let hook_width = width(&mut features.iter().map(|state| state.hook.len())).max("off".len());
    let mut text = String::new();
    for state in features {
        let mark = match (state.enabled, state.switched_off) {
            (true, _) => "ok ",
            (false, true) => "off",
            (false, false) => "OFF",
        };
        let hook = if state.hook.is_empty() { "off" } else { &state.hook };
        let line = format!(
            "{mark}  {:<feature_width$}  {hook:<hook_width$}  {}",
            state.feature, state.reason
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Files with TLS code that can be probed, and what was not.
pub fn tls_targets(targets: &TlsTargets) -> String {
    let mut text = format!("\nTLS libraries   {} in use now\n", targets.targets.len());
    for target in &targets.targets {
        let TlsTarget {
            library,
            version,
            path,
            places,
            ..
        } = target;
        let path = printable(path);
        writeln!(text, "    {library:<10} {version:<8} {places:>2} places  {path}").expect("memory");
    }
    for (reason, count) in &targets.refused {
        writeln!(text, "    not looked at: {reason} ({count})").expect("memory");
    }
    text
}

/// `address:port`, with brackets around IPv6.
fn endpoint(host: &str, port: u16) -> String {
    let host = printable(host);
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Without control characters, which could steer the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// At most `width` characters, the middle left out.
pub(super) fn shortened(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let start = width / 2;
    let end = width - start - 1;
    text.chars()
        .take(start)
        .chain(['…'])
        .chain(text.chars().skip(length - end))
        .collect()
}

pub(super) fn time_or_dash(us: Option<u64>) -> String {
    us.map_or_else(|| "-".to_owned(), |us| time(us as f64))
}

/// Microseconds in the unit that suits, three significant digits.
pub(super) fn time(us: f64) -> String {
    struct Digits(f64);
    impl fmt::Display for Digits {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let decimals = match self.0 {
                ..9.995 => 2,
                ..99.95 => 1,
                _ => 0,
            };
            write!(f, "{:.decimals$}", self.0)
        }
    }
    match us {
        ..999.5 => format!("{us:.0}us"),
        ..999_500.0 => format!("{}ms", Digits(us / 1e3)),
        _ => format!("{}s", Digits(us / 1e6)),
    }
}

/// A number of bytes in the unit that suits.
fn bytes(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..10_000 => format!("{bytes}B"),
        10_000..10_240_000 => format!("{:.0}KiB", value / 1024.0),
        10_240_000..10_485_760_000 => format!("{:.0}MiB", value / 1_048_576.0),
        _ => format!("{:.0}GiB", value / 1_073_741_824.0),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        connection::{ClosedBy, Phase, RoleBasis, record as fields},
        pipeline::UndeclaredRecord,
    };

    pub(crate) fn record() -> ConnectionRecord {
        let address = |address: &str, port| fields::AddressRecord {
            address: address.to_owned(),
            port,
        };
        ConnectionRecord {
            schema: fields::SCHEMA,
            id: "b-1".to_owned(),
            node: "n".to_owned(),
            netns: 1,
            start: "2026-11-21T01:33:20.123456789Z".to_owned(),
            duration_us: 2500,
            role: Role::Client,
            role_basis: RoleBasis::Observed,
            family: "ipv4",
            local: address("10.0.0.1", 40_000),
            remote: address("10.0.0.2", 443),
            destination: fields::DestinationRecord {
                host: "10.0.0.2".to_owned(),
                port: 443,
                source: "ip",
                verified: false,
                group: String::new(),
            },
            backend: None,
            process: ProcessRecord {
                pid: Some(77),
                comm: Some("curl".to_owned()),
                ..ProcessRecord::default()
            },
            phases_us: fields::PhasesRecord {
                tcp: Some(1234),
                ..fields::PhasesRecord::default()
            },
            marks_ns: fields::MarksRecord::default(),
            ttfb_basis: None,
            late: false,
            turns: fields::TurnsRecord::default(),
            dns: None,
            tls: None,
            http: None,
            tcp: fields::TcpRecord {
                bytes_sent: 78,
                bytes_received: 20_480,
                closed_by: Some(ClosedBy::ResetRemote),
                ..fields::TcpRecord::default()
            },
            chain: None,
            waiting: None,
            waiting_us: None,
            outcome: Some(Outcome::Ok),
        }
    }

    fn check(change: impl FnOnce(&mut ConnectionRecord), stuck: bool, expected: &str) {
        let mut record = Box::new(record());
        change(&mut record);
        let line = line(&if stuck {
            Output::Stuck(record)
        } else {
            Output::Finished(record)
        });
        assert_eq!(line.split_whitespace().collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn lines() {
        check(
            |_| {},
            false,
            "01:33:20.123 curl[77] -> 10.0.0.2:443 - 1.23ms - - - 0 78B 20KiB ok, closed by reset remote",
        );
        check(
            |record| {
                record.role = Role::Server;
                record.remote.address = "fd00::2".to_owned();
                record.process.comm = Some("a\x1b[2Jb".to_owned());
                record.tcp.closed_by = None;
                record.late = true;
                record.tcp.retransmits.rto = 3;
                record.tcp.rtt_us.mean = Some(98_760);
                record.phases_us.dns = Some(2_500);
                record.phases_us.tls = Some(41_000);
                record.phases_us.ttfb = Some(52_300);
            },
            false,
            "01:33:20.123 a\u{fffd}[2Jb[77]:40000 <- [fd00::2]:443 2.50ms 1.23ms 41.0ms 52.3ms 98.8ms 3 78B 20KiB ok, opened before hopline",
        );
        check(
            |record| {
                record.waiting = Some(Phase::Ttfb);
                record.waiting_us = Some(12_340_000);
                record.outcome = Some(Outcome::Unanswered);
                record.tcp.closed_by = Some(ClosedBy::Local);
            },
            false,
            "01:33:20.123 curl[77] -> 10.0.0.2:443 - 1.23ms - - - 0 78B 20KiB unanswered in ttfb for 12.3s, closed by local",
        );
        check(
            |record| {
                record.outcome = Some(Outcome::Abandoned);
                record.tcp.closed_by = Some(ClosedBy::Local);
                record.tcp.retransmits.syn = 2;
            },
            false,
            "01:33:20.123 curl[77] -> 10.0.0.2:443 - 1.23ms - - - 2 78B 20KiB abandoned after 3 SYNs, closed by local",
        );
        check(
            |record| {
                record.waiting = Some(Phase::Tcp);
                record.outcome = None;
                record.waiting_us = Some(5_250_000);
                record.tcp.retransmits.syn = 2;
            },
            true,
            "01:33:20.123 curl[77] -> 10.0.0.2:443 STUCK in tcp for 5.25s, SYN sent again 2 times",
        );
    }

    #[test]
    fn lines_of_choices() {
        let mut record = record();
        let process = ProcessRecord {
            comm: Some("a\x1bb".to_owned()),
            ancestry: ["sh", "make", "runner", "systemd"].map(str::to_owned).into(),
            ..record.process
        };
        record.destination.host = "fd00::2".to_owned();
        let mut undeclared = UndeclaredRecord {
            schema: fields::SCHEMA,
            r#type: "undeclared",
            id: record.id,
            node: record.node,
            time: record.start,
            declaration: "builds".to_owned(),
            reason: "outside",
            destination: record.destination,
            remote: record.remote,
            process,
        };
        let check = |record: &UndeclaredRecord, expected: &str| {
            assert_eq!(line(&Output::Undeclared(Box::new(record.clone()))), expected);
        };
        check(
            &undeclared,
            "01:33:20.123 UNDECLARED [fd00::2]:443 outside builds, runner → make → sh → a\u{fffd}b",
        );
        undeclared.reason = "unverified";
        undeclared.process = ProcessRecord::default();
        check(
            &undeclared,
            "01:33:20.123 UNVERIFIED [fd00::2]:443 only its own claim agrees with builds, ?",
        );
    }

    #[test]
    fn lines_stand_under_their_header() {
        let mut record = Box::new(record());
        record.tcp.rtt_us.mean = Some(1);
        let line = line(&Output::Finished(record));
        let column = |text: &str, word: &str| text.find(word).map(|at| at + word.len());
        assert_eq!(column(&line, "1.23ms"), column(&line_header(), "TCP"));
        assert_eq!(column(&line, "20KiB"), column(&line_header(), "RECEIVED"));
    }

    #[test]
    fn units() {
        for (us, text) in [
            (0.0, "0us"),
            (999.0, "999us"),
            (999.6, "1.00ms"),
            (9_994.0, "9.99ms"),
            (9_996.0, "10.0ms"),
            (123_456.0, "123ms"),
            (999_600.0, "1.00s"),
            (75e6, "75.0s"),
        ] {
            assert_eq!(time(us), text);
        }
        for (count, text) in [
            (0, "0B"),
            (9_999, "9999B"),
            (10_240, "10KiB"),
            (1 << 24, "16MiB"),
            (1 << 35, "32GiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(shortened("abcdefghij", 5), "ab…ij");
        assert_eq!(shortened("abcde", 5), "abcde");
    }

    #[test]
    fn features_in_columns() {
        let states = [
            FeatureState {
                feature: "syn",
                hook: "fentry".into(),
                enabled: true,
                ..FeatureState::default()
            },
            FeatureState {
                feature: "existing",
                reason: "EPERM".into(),
                ..FeatureState::default()
            },
            FeatureState {
                feature: "rtt",
                switched_off: true,
                reason: "by choice".into(),
                ..FeatureState::default()
            },
        ];
        assert_eq!(
            features(&states),
            "ok   syn       fentry\nOFF  existing  off     EPERM\noff  rtt       off     by choice\n"
        );
    }
}
