//! Lookups as the client's capture shows them. Every name is asked for once, so its first label tells its queries from all
//! others; what belongs together in time is the contract's rule. Pure.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::capture::dns::Message;

/// A lookup is over when nothing is asked for this long after an answer.
const QUIET_NS: u64 = 1_000_000_000;
/// A query has no answer after this long.
const TIMEOUT_NS: u64 = 5_000_000_000;

/// One lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lookup {
    pub(super) kind: u16,
    /// The name of the last query.
    pub(super) name: String,
    pub(super) resolver: SocketAddr,
    pub(super) queries: u64,
    pub(super) tcp: bool,
    pub(super) started_ns: u64,
    /// When the answer came that decided, and its rcode.
    pub(super) answer: Option<(u64, u8)>,
    /// It has what was asked for.
    pub(super) is_found: bool,
    /// It is the first of its name: what the program asked for is known from its search list.
    pub(super) is_first: bool,
    last_ns: u64,
}

impl Lookup {
    fn begin(query: &Message, is_first: bool) -> Self {
        Self {
            kind: query.kind,
            name: query.name.clone(),
            resolver: query.destination,
            queries: 0,
            tcp: false,
            started_ns: query.time_ns,
            answer: None,
            is_found: false,
            is_first,
            last_ns: query.time_ns,
        }
    }

    /// Whether a query at this time is of another lookup.
    fn is_over(&self, now_ns: u64) -> bool {
        let ended_ns = self.answer.map_or(self.last_ns + TIMEOUT_NS, |(time_ns, _)| time_ns);
        self.is_found || now_ns >= ended_ns + QUIET_NS
    }

    pub(super) fn duration_us(&self) -> Option<f64> {
        self.answer
            .map(|(time_ns, _)| (time_ns.saturating_sub(self.started_ns)) as f64 / 1e3)
    }

    /// `TIMEOUT` without an answer.
    pub(super) fn rcode(&self) -> &'static str {
        self.answer
            .map_or("TIMEOUT", |(_, rcode)| crate::nameserver::script::rcode_name(rcode))
    }
}

/// The first label of a name.
pub(super) fn token(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

/// The lookups of each first label and type, in order of time.
pub(super) type Lookups = HashMap<(String, u16), Vec<Lookup>>;

/// All lookups.
pub(super) fn lookups(messages: &[Message]) -> Lookups {
    let mut all = Lookups::new();
    for message in messages {
        let of_name = all.entry((token(&message.name).to_owned(), message.kind)).or_default();
        if message.is_response {
            if let Some(lookup) = of_name.last_mut() {
                answer(lookup, message);
            }
            continue;
        }
        if of_name.last().is_none_or(|lookup| lookup.is_over(message.time_ns)) {
            of_name.push(Lookup::begin(message, of_name.is_empty()));
        }
        let lookup = of_name.last_mut().expect("there is one by now");
        lookup.name.clone_from(&message.name);
        lookup.queries += 1;
        lookup.tcp |= !message.is_udp;
        lookup.last_ns = message.time_ns;
        lookup.answer = None;
    }
    all
}

fn answer(lookup: &mut Lookup, message: &Message) {
    let is_found = message.rcode == 0 && message.answers > 0 && !message.truncated;
    // A program that went on does not mind what it hears of an earlier name, unless that is what it looks for.
    if !lookup.is_found && (is_found || message.name == lookup.name) {
        lookup.name.clone_from(&message.name);
        lookup.answer = Some((message.time_ns, message.rcode));
        lookup.is_found = is_found;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: u8 = 0;
    const DENIED: u8 = 1;
    const FOUND: u8 = 2;

    /// Messages as milliseconds, name and what it is; lookups as queries, name and milliseconds.
    fn check(messages: &[(u64, &str, u8)], expected: &[(u64, &str, Option<u64>)]) {
        let messages: Vec<Message> = messages
            .iter()
            .map(|(time_ms, name, what)| Message {
                time_ns: time_ms * 1_000_000,
                is_udp: true,
                source: "10.0.0.1:4000".parse().expect("an address"),
                destination: "10.0.0.2:53".parse().expect("an address"),
                is_response: *what != ASKED,
                id: 1,
                name: (*name).to_owned(),
                kind: 1,
                rcode: if *what == DENIED { 3 } else { 0 },
                truncated: false,
                answers: if *what == FOUND { 2 } else { 0 },
            })
            .collect();
        let found = lookups(&messages);
        let found: Vec<(u64, &str, Option<u64>)> = found
            .values()
            .flatten()
            .map(|lookup| {
                let duration_ms = lookup.duration_us().map(|time_us| time_us as u64 / 1_000);
                (lookup.queries, lookup.name.as_str(), duration_ms)
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_belongs_together() {
        check(
            &[
                (0, "x.a", ASKED),
                (1, "x.a", DENIED),
                (2, "x.b", ASKED),
                (9, "x.b", FOUND),
            ],
            &[(2, "x.b", Some(9))],
        );
        check(&[(0, "x.a", ASKED), (1_000, "x.a", ASKED)], &[(2, "x.a", None)]);
        check(
            &[(0, "x.a", ASKED), (1, "x.a", DENIED), (1_002, "x.b", ASKED)],
            &[(1, "x.a", Some(1)), (1, "x.b", None)],
        );
        check(
            &[
                (0, "x.a", ASKED),
                (1, "x.a", FOUND),
                (2, "x.a", ASKED),
                (3, "x.a", FOUND),
            ],
            &[(1, "x.a", Some(1)), (1, "x.a", Some(1))],
        );
    }
}
