//! The table of `top`, made of what `/api/v1/destinations` says: what is in trouble first, then what has most traffic.
//! Pure; fields that an older agent does not know are shown as missing.
use std::{cmp::Reverse, fmt::Write as _};

use serde_json::Value;

use super::{endpoint, shortened, time};

const PHASES: [&str; 4] = ["dns", "tcp", "tls", "ttfb"];
/// Widest name that is shown whole.
const NAME: usize = 34;

/// Which figures are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figures {
    /// Since the agent's start.
    SinceStart,
    /// Of the last five seconds.
    LastWindow,
}

/// The table of at most so many rows, and how many there would be. `colour` for a terminal: trouble is red.
pub fn top(destinations: &Value, figures: Figures, most_rows: usize, colour: bool) -> String {
    let mut all: Vec<&Value> = destinations.as_array().into_iter().flatten().collect();
    all.sort_by_cached_key(|destination| Reverse((trouble(destination), traffic(destination))));
    let mut text = header();
    for destination in all.iter().take(most_rows) {
        let in_trouble = trouble(destination) != Trouble::default();
        let line = row(destination, figures, if in_trouble { '!' } else { ' ' });
        let line = line.trim_end();
        if in_trouble && colour {
            writeln!(text, "\x1b[31m{line}\x1b[0m")
        } else {
            writeln!(text, "{line}")
        }
        .expect(MEMORY);
    }
    if all.len() > most_rows {
        writeln!(text, "  and {} more", all.len() - most_rows).expect(MEMORY);
    }
    text
}

const MEMORY: &str = "writing to memory";

fn header() -> String {
    let mut text = format!("  {:<NAME$}", "");
    for phase in PHASES {
        write!(
            text,
            " {:>13}",
            format!("---{:-<7}-", format!(" {} ", phase.to_uppercase()))
        )
        .expect(MEMORY);
    }
    write!(text, "   ---- RTT ----\n  {:<NAME$}", "DESTINATION").expect(MEMORY);
    for _ in PHASES {
        write!(text, " {:>6} {:>6}", "p50", "p95").expect(MEMORY);
    }
    writeln!(
        text,
        "  {:>6} {:>6} {:>6} {:>5} {:>6} {:<14} FAILED",
        "p50", "p99", "RTX", "OPEN", "OK", "WAITING"
    )
    .expect(MEMORY);
    text
}

fn row(destination: &Value, figures: Figures, mark: char) -> String {
    let of = match figures {
        Figures::SinceStart => destination,
        Figures::LastWindow => &destination["window"],
    };
    let us = |name: &str, quantile: &str| {
        let us = of[format!("{name}_us")][quantile].as_f64();
        us.map_or_else(|| "-".to_owned(), time)
    };
    let mut line = format!("{mark} {:<NAME$}", shortened(&name(destination), NAME));
    for phase in PHASES {
        write!(line, " {:>6} {:>6}", us(phase, "p50"), us(phase, "p95")).expect(MEMORY);
    }
    let again = of["retransmit_ratio"]
        .as_f64()
        .map_or_else(|| "-".to_owned(), |ratio| format!("{:.1}%", ratio * 100.0));
    let ok = match figures {
        Figures::SinceStart => &destination["counters"]["outcomes"]["ok"],
        Figures::LastWindow => &of["ok"],
    };
    write!(
        line,
        "  {:>6} {:>6} {again:>6} {:>5} {:>6} {:<14} {}",
        us("rtt", "p50"),
        us("rtt", "p99"),
        open(destination),
        number(ok),
        waiting(destination),
        failed(destination)
    )
    .expect(MEMORY);
    line
}

fn name(destination: &Value) -> String {
    let host = destination["destination"].as_str().unwrap_or("?");
    let port = destination["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    let name = port.map_or_else(|| "(all others)".to_owned(), |port| endpoint(host, port));
    if destination["role"] == "server" {
        format!("<- {name}")
    } else {
        name
    }
}

/// What is wrong now, the worst kind first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Trouble {
    rules: usize,
    waiting: u64,
    errors: u64,
}

fn trouble(destination: &Value) -> Trouble {
    Trouble {
        rules: destination["active_rules"].as_array().map_or(0, Vec::len),
        waiting: number(&destination["waiting"]),
        errors: number(&destination["window"]["errors"]),
    }
}

fn traffic(destination: &Value) -> (u64, u64) {
    let counters = &destination["counters"];
    let bytes = number(&counters["bytes_sent"]) + number(&counters["bytes_received"]);
    (number(&counters["outcomes"]["ok"]), bytes)
}

/// Connections that are open, in whatever state.
fn open(destination: &Value) -> u64 {
    let states = destination["active"].as_object().into_iter().flatten();
    states
        .filter(|(state, _)| *state != "listen")
        .map(|(_, count)| number(count))
        .sum()
}

/// What waits, by phase, and the longest.
fn waiting(destination: &Value) -> String {
    let waiting = listed(&destination["waiting_by_phase"]);
    if waiting.is_empty() {
        return "-".to_owned();
    }
    format!("{waiting}, {}", time(number(&destination["longest_wait_us"]) as f64))
}

/// What failed and what is raised.
fn failed(destination: &Value) -> String {
    let rules = destination["active_rules"].as_array().into_iter().flatten();
    let rules = rules.filter_map(|rule| Some(rule.as_str()?.replace('_', " ")));
    let errors = listed(&destination["errors"]);
    let all: Vec<String> = rules.chain((!errors.is_empty()).then_some(errors)).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(", ") }
}

fn listed(counts: &Value) -> String {
    let counts = counts.as_object().into_iter().flatten();
    let listed: Vec<String> = counts
        .map(|(name, count)| (name, number(count)))
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{count} {}", name.replace('_', " ")))
        .collect();
    listed.join(", ")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn destinations() -> Value {
        let calm = json!({
            "role": "client", "destination": "calm.test", "port": 443, "active": {"established": 2, "listen": 7},
            "waiting": 0, "waiting_by_phase": {"tls": 0}, "active_rules": [], "errors": {}, "retransmit_ratio": 0.0123,
            "tcp_us": {"p50": 1_500.0, "p95": 2_000.0}, "rtt_us": {"p50": 900.0, "p99": 80_000.0},
            "window": {"errors": 0, "ok": 3, "tcp_us": {"p50": 9.0, "p95": 9.0}},
            "counters": {"outcomes": {"ok": 49}, "bytes_sent": 1},
        });
        let mut slow = calm.clone();
        slow["destination"] = json!("fd00::1");
        slow["waiting"] = json!(3);
        slow["waiting_by_phase"]["tls"] = json!(3);
        slow["longest_wait_us"] = json!(5_110_000);
        slow["errors"] = json!({"refused": 2, "tls unknown_ca": 1});
        slow["counters"]["outcomes"]["ok"] = json!(1);
        let mut spike = calm.clone();
        spike["role"] = json!("server");
        spike["destination"] = json!("a\u{1b}b");
        spike["active_rules"] = json!(["rtt_spike"]);
        let other = json!({"role": "client", "destination": "other", "port": null});
        json!([other, calm, slow, spike])
    }

    fn words(table: &str) -> Vec<String> {
        let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        table.lines().skip(2).map(line).collect()
    }

    #[test]
    fn trouble_first_then_traffic() {
        assert_eq!(
            words(&top(&destinations(), Figures::SinceStart, 9, false)),
            [
                "! <- a\u{fffd}b:443 - - 1.50ms 2.00ms - - - - 900us 80.0ms 1.2% 2 49 - rtt spike",
                "! [fd00::1]:443 - - 1.50ms 2.00ms - - - - 900us 80.0ms 1.2% 2 1 3 tls, 5.11s 2 refused, 1 tls unknown ca",
                "calm.test:443 - - 1.50ms 2.00ms - - - - 900us 80.0ms 1.2% 2 49 - -",
                "(all others) - - - - - - - - - - - 0 0 - -",
            ]
        );
    }

    #[test]
    fn of_the_last_window_and_cut() {
        let table = top(&destinations(), Figures::LastWindow, 3, true);
        assert_eq!(
            words(&table)[2..],
            ["calm.test:443 - - 9us 9us - - - - - - - 2 3 - -", "and 1 more"]
        );
        assert_eq!(table.matches("\x1b[31m").count(), 2);
        let column = |line: &str, word: &str| line.find(word).map(|at| at + word.len());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(column(lines[1], "OPEN"), column(lines[4], "     2"));
    }
}
