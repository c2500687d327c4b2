//! The table of destinations: a row each, the phases first, then what waits and what failed. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

/// The phases of a connection, in order.
pub(super) const PHASES: [&str; 4] = ["dns", "tcp", "tls", "ttfb"];
/// Widest name that is shown whole.
const NAME: usize = 29;

/// Median and 95th percentile, microseconds.
pub(super) type Both = (f64, f64);

/// One destination.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    pub(super) name: String,
    /// Of each of [`PHASES`].
    pub(super) phases: [Option<Both>; 4],
    pub(super) ok: u64,
    /// Count by phase.
    pub(super) waiting: BTreeMap<String, u64>,
    /// Count by reason.
    pub(super) failed: BTreeMap<String, u64>,
    /// Slower than it was.
    pub(super) is_slower: bool,
}

/// The table; `colour` for a terminal.
pub(super) fn render(title: &str, rows: &[Row], colour: bool) -> String {
    let mut text = format!("  {:<NAME$}", "");
    for phase in PHASES {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            " {:>13}",
            format!("---{:-<7}-", format!(" {} ", phase.to_uppercase()))
        );
    }
    let _ = write!(text, "\n  {title:<NAME$}");
    for _ in PHASES {
        let _ = write!(text, " {:>6} {:>6}", "p50", "p95");
    }
    let _ = writeln!(text, " {:>4} {:<7} FAILED", "OK", "WAITING");
    for row in rows {
        let mark = if row.is_slower { '!' } else { ' ' };
        let mut line = format!("{mark} {:<NAME$}", shortened(&row.name));
        for both in row.phases {
            let [p50, p95] = [both.map(|both| both.0), both.map(|both| both.1)].map(time);
            let _ = write!(line, " {p50:>6} {p95:>6}");
        }
        let _ = write!(
            line,
            " {:>4} {:<7} {}",
            row.ok,
            counts(&row.waiting),
            counts(&row.failed)
        );
        let line = line.trim_end();
        let _ = if row.is_slower && colour {
            writeln!(text, "\x1b[31m{line}\x1b[0m")
        } else {
            writeln!(text, "{line}")
        };
    }
    text
}

/// Rows of `/api/v1/destinations`: over the agent's whole life.
pub(super) fn of_agent(destinations: &Value) -> Vec<Row> {
    destinations.as_array().into_iter().flatten().map(row).collect()
}

fn row(destination: &Value) -> Row {
    let both = |key: &str| {
        let quantiles = destination.get(key)?;
        Some((quantiles["p50"].as_f64()?, quantiles["p95"].as_f64()?))
    };
    let counters = &destination["counters"];
    let mut failed = numbers(&counters["connections"]);
    let ok = failed.remove("ok").unwrap_or_default();
    let reasons = numbers(&counters["tls_failures"]);
    if !reasons.is_empty() {
        // They say more.
        failed.remove("tls");
        failed.extend(reasons);
    }
    let name = endpoint(destination["destination"].as_str().unwrap_or("?"), &destination["port"]);
    Row {
        name: if destination["role"] == "server" {
            format!("<- {name}")
        } else {
            name
        },
        phases: PHASES.map(|phase| both(&format!("{phase}_us"))),
        ok,
        waiting: numbers(&destination["waiting_by_phase"]),
        failed,
        is_slower: false,
    }
}

/// `host:port`, with brackets around an IPv6 address.
pub(super) fn endpoint(host: &str, port: &Value) -> String {
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    match port.as_u64() {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}

/// The members that are numbers above 0.
fn numbers(object: &Value) -> BTreeMap<String, u64> {
    let members = object.as_object().into_iter().flatten();
    members
        .filter_map(|(name, value)| Some((name.clone(), value.as_u64().filter(|count| *count > 0)?)))
        .collect()
}

/// `3 refused, 1 reset`.
fn counts(by_name: &BTreeMap<String, u64>) -> String {
    let all: Vec<String> = by_name
        .iter()
        .map(|(name, count)| format!("{count} {}", name.trim_start_matches("cert_").replace('_', " ")))
        .collect();
    all.join(", ")
}

/// Microseconds in the unit that suits.
pub(super) fn time(us: Option<f64>) -> String {
    match us {
        None => "-".to_owned(),
        Some(us) if us < 999.5 => format!("{us:.0}us"),
        Some(us) if us < 9_995.0 => format!("{:.2}ms", us / 1e3),
        Some(us) if us < 99_950.0 => format!("{:.1}ms", us / 1e3),
        Some(us) if us < 999_500.0 => format!("{:.0}ms", us / 1e3),
        Some(us) => format!("{:.2}s", us / 1e6),
    }
}

/// At most as wide as the column, the middle left out; nothing that could steer the terminal.
fn shortened(name: &str) -> String {
    let characters: Vec<char> = name
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if characters.len() <= NAME {
        return characters.into_iter().collect();
    }
    let (start, end) = (NAME / 2, NAME - NAME / 2 - 1);
    let ends = characters[..start]
        .iter()
        .chain(&['…'])
        .chain(&characters[characters.len() - end..]);
    ends.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_under_their_head_and_fit_120_columns() {
        let row = Row {
            name: "a-name-that-is-far-too-long-for-a-column.lab.test:443".to_owned(),
            phases: [
                Some((512.0, 1_234.0)),
                Some((98_760.0, 123_456.0)),
                None,
                Some((2e6, 2e6)),
            ],
            ok: 12,
            waiting: [("tls".to_owned(), 1)].into(),
            failed: [("cert_unknown_authority".to_owned(), 3)].into(),
            is_slower: true,
        };
        let text = render("MIRROR", std::slice::from_ref(&row), false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[2],
            "! a-name-that-is…n.lab.test:443  512us 1.23ms 98.8ms  123ms      -      -  2.00s  2.00s   12 1 tls   3 unknown authority"
        );
        assert!(lines.iter().all(|line| line.chars().count() <= 120), "{text}");
        let column = |line: &str, word: &str| {
            let before = line.split(word).next().map_or(0, |before| before.chars().count());
            before + word.len()
        };
        assert_eq!(column(lines[1], "p95"), column(lines[2], "1.23ms"));
        assert!(render("MIRROR", &[row], true).contains("\x1b[31m! a-name"));
    }

    #[test]
    fn rows_of_the_agent() {
        let answer = serde_json::json!([{
            "role": "client", "destination": "fd00::2", "port": 80, "waiting_by_phase": {"tcp": 1, "tls": 0},
            "tcp_us": {"p50": 100, "p95": 200, "p99": 300}, "tls_us": null,
            "counters": {"connections": {"ok": 7, "refused": 2, "tls": 1}, "tls_failures": {"closed": 1}},
        }, {"role": "server", "destination": "nginx", "port": null, "counters": {"connections": {}}}]);
        let rows = of_agent(&answer);
        assert_eq!(rows[0].name, "[fd00::2]:80");
        assert_eq!(rows[0].phases, [None, Some((100.0, 200.0)), None, None]);
        assert_eq!((rows[0].ok, counts(&rows[0].waiting)), (7, "1 tcp".to_owned()));
        assert_eq!(counts(&rows[0].failed), "1 closed, 2 refused");
        assert_eq!(rows[1].name, "<- nginx");
    }
}
