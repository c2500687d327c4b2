//! The part of a lookup's line of `trace --json --dns` that the scenario `dns` compares. A line that lacks a key of the
//! contract does not parse.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::record::{Endpoint, Owner};

/// The resolution of one name.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Lookup {
    pub(crate) role: String,
    /// What was resolved in the end.
    pub(crate) name: String,
    /// What the program asked for.
    pub(crate) asked: String,
    pub(crate) qtype: String,
    /// `TIMEOUT` where no answer came.
    pub(crate) rcode: String,
    pub(crate) resolver: Endpoint,
    /// `udp` or `tcp`.
    pub(crate) transport: String,
    pub(crate) queries: u64,
    /// From the first query to the answer that decided.
    pub(crate) duration_us: Option<u64>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) process: Owner,
}

/// Which kind of line it is.
#[derive(Deserialize)]
struct Line {
    event: String,
}

/// The lookups among the lines of a trace.
pub(super) fn parse(text: &str) -> Result<Vec<Lookup>> {
    let mut lookups = Vec::new();
    for line in text.lines() {
        let in_line = || format!("line `{line}`");
        if serde_json::from_str::<Line>(line).with_context(in_line)?.event == "lookup" {
            lookups.push(serde_json::from_str(line).with_context(in_line)?);
        }
    }
    Ok(lookups)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A lookup of a millisecond.
    pub(crate) fn lookup(name: &str) -> Lookup {
        let text = serde_json::json!({
            "event": "lookup", "role": "client", "name": name, "asked": name, "qtype": "A", "rcode": "NOERROR",
            "resolver": {"address": "10.0.0.2", "port": 53}, "transport": "udp", "queries": 1, "duration_us": 1_000,
            "addresses": ["10.0.0.9"], "process": {"pid": 1, "comm": "c", "ancestry": []},
        });
        parse(&text.to_string()).expect("a lookup").remove(0)
    }

    #[test]
    fn other_lines_are_passed_over() {
        let lookups = parse("{\"event\":\"finished\"}\n{\"event\":\"stuck\"}\n").expect("no lookups");
        assert!(lookups.is_empty());
        assert!(
            parse("{\"event\":\"lookup\"}\n").is_err(),
            "a lookup without its members"
        );
    }
}
