//! What `compare` found, as a table for people and as JSON. Pure.
//!
//! Names in certificates are the server's choice: control characters never reach the terminal.
use serde_json::{Value, json};

use super::human::{columns, printable, shortened, time, time_or_dash};
use crate::{
    cli::fail_if::{FailIf, Quantity},
    compare::{Judged, Row},
    fetch::{Chain, Presented},
};

/// Widest URL and widest name of a certificate; longer ones lose their middle.
const URL_WIDTH: usize = 60;
const NAME_WIDTH: usize = 40;
const COLUMNS: usize = 19;
const LEFT: [usize; 7] = [0, 1, 13, 14, 15, 16, 18];

/// The table, the best row marked, and which it is.
pub fn table(rows: &[Row]) -> String {
    let head = [
        "", "URL", "OK", "FAILED", "DNS p50", "DNS p95", "TCP p50", "TCP p95", "TLS p50", "TLS p95", "TTFB p50",
        "TTFB p95", "SUM p50", "TLS", "CIPHER", "CHAIN", "OCSP", "EXPIRES", "FAILURES",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows.iter().map(line));
    let mut text = columns(&lines, &LEFT);
    if let Some(best) = rows.iter().find(|row| row.is_best) {
        let sum = time_or_dash(best.total_us());
        let url = printable(&best.url);
        text.extend(["\nbest: ", &url, ", ", &sum, " in sum of the medians\n"]);
    }
    text
}

fn line(row: &Row) -> [String; COLUMNS] {
    let [dns, tcp, tls, ttfb] = row.phases.all().map(|quantiles| {
        let us = |us: Option<u64>| time_or_dash(us);
        [us(quantiles.map(|both| both.p50)), us(quantiles.map(|both| both.p95))]
    });
    let [dns_p50, dns_p95] = dns;
    let [tcp_p50, tcp_p95] = tcp;
    let [tls_p50, tls_p95] = tls;
    let [ttfb_p50, ttfb_p95] = ttfb;
    let dash = || "-".to_owned();
    let (version, cipher) = row.agreed.clone().unwrap_or_else(|| (dash(), dash()));
    let presented = row.presented.as_ref();
    let read = presented.and_then(|presented| presented.chain.as_ref());
    let failures: Vec<String> = row
        .failures
        .iter()
        .map(|(reason, count)| format!("{count} {}", reason.replace('_', " ")))
        .collect();
    [
        if row.is_best { "*" } else { "" }.to_owned(),
        shortened(&printable(&row.url), URL_WIDTH),
        row.ok.to_string(),
        (row.requests - row.ok).to_string(),
        dns_p50,
        dns_p95,
        tcp_p50,
        tcp_p95,
        tls_p50,
        tls_p95,
        ttfb_p50,
        ttfb_p95,
        time_or_dash(row.total_us()),
        version,
        cipher,
        presented.map_or_else(dash, chain),
        presented.map_or_else(dash, |presented| {
            if presented.is_stapled { "stapled" } else { "none" }.to_owned()
        }),
        read.map_or_else(dash, |read| format!("{}d", read.expires_days())),
        failures.join(", "),
    ]
}

/// What is missing or unknown, else what else is wrong.
fn chain(presented: &Presented) -> String {
    let Some(read) = &presented.chain else {
        return "unreadable".to_owned();
    };
    if let Some(missing) = &read.missing {
        let name = shortened(&printable(missing), NAME_WIDTH);
        let is_intermediate = presented.fault == Some("cert_missing_intermediate");
        return format!("{} {name}", if is_intermediate { "lacks" } else { "unknown issuer" });
    }
    match presented.fault {
        Some(fault) => format!("complete, {}", fault.trim_start_matches("cert_").replace('_', " ")),
        None => "complete".to_owned(),
    }
}

/// All rows and the conditions that hold.
pub fn json(rows: &[Row], judged: &[Judged<'_>]) -> Value {
    let held: Vec<Value> = judged
        .iter()
        .filter_map(|judged| match judged {
            Judged::Holds(condition, row, _) => Some(json!({ "condition": condition.text, "url": row.url })),
            Judged::NotMeasured(..) => None,
        })
        .collect();
    json!({ "rows": rows.iter().map(json_row).collect::<Vec<_>>(), "fail_if": held })
}

fn json_row(row: &Row) -> Value {
    let presented = row.presented.as_ref();
    let (version, cipher) = row.agreed.clone().unzip();
    let tls = (row.agreed.is_some() || presented.is_some()).then(|| {
        json!({
            "version": version,
            "cipher": cipher,
            "chain": presented.and_then(|presented| presented.chain.as_ref()).map(json_chain),
            "fault": presented.and_then(|presented| presented.fault),
            "ocsp_stapled": presented.map(|presented| presented.is_stapled),
        })
    });
    json!({
        "url": row.url,
        "host": row.host,
        "requests": row.requests,
        "ok": row.ok,
        "measured": row.measured,
        "failures": row.failures,
        "phases_us": row.phases,
        "total_us": row.total_us(),
        "tls": tls,
        "best": row.is_best,
    })
}

fn json_chain(chain: &Chain) -> Value {
    json!({
        "complete": chain.missing.is_none(),
        "missing": chain.missing,
        "subject": chain.subject,
        "expires_days": chain.expires_days(),
    })
}

/// A condition that holds, or could not be judged, as one line.
pub fn judged(judged: &Judged<'_>) -> String {
    let about = |condition: &FailIf, row: &Row| format!("--fail-if '{}': {}", condition.text, printable(&row.url));
    match judged {
        Judged::Holds(condition, row, value) => {
            let value = match condition.quantity {
                Quantity::Phase(..) => time(*value as f64),
                Quantity::Failures => value.to_string(),
                Quantity::Expires => format!("{:.1}d", *value as f64 / 86_400.0),
            };
            format!("{} has {} = {value}", about(condition, row), condition.quantity)
        }
        Judged::NotMeasured(condition, row) => {
            format!(
                "{} was not judged, there is no {}",
                about(condition, row),
                condition.quantity
            )
        }
    }
}

#[cfg(test)]
mod tests;
