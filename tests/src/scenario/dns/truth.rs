//! Lookups as the client's capture shows them. Every name is asked for once, so its first label tells its queries from all
//! others. A lookup is over with the answer that it asked for, or when its program asks nothing more. Pure.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::capture::dns::Message;

/// A program that goes on after an answer does so within this time, unless it waits for the other type of address.
const PROMPT_NS: u64 = 500_000_000;
/// Who has no answer by then may ask again: timers are late.
const PATIENT_NS: u64 = 1_005_000_000;

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
    last_ns: u64,
    last_source: SocketAddr,
}

/// All lookups of one type that begin with one label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Name {
    /// In order of time. There is more than one where a program asks again for what it was told.
    pub(super) lookups: Vec<Lookup>,
    /// The program paused within a lookup: A waited for AAAA or the reverse, or it asked elsewhere before its time. Where
    /// hopline ends a lookup there is a matter of milliseconds.
    pub(super) is_unclear: bool,
}

impl Lookup {
    fn begin(query: &Message) -> Self {
        Self {
            kind: query.kind,
            name: query.name.clone(),
            resolver: query.destination,
            queries: 0,
            tcp: false,
            started_ns: query.time_ns,
            answer: None,
            is_found: false,
            last_ns: query.time_ns,
            last_source: query.source,
        }
    }

    /// Whether it goes on with this query at a time that leaves no doubt.
    fn goes_on_with(&self, query: &Message) -> bool {
        if let Some((time_ns, _)) = self.answer {
            return query.time_ns.saturating_sub(time_ns) < PROMPT_NS;
        }
        let turns_to_tcp = !query.is_udp && !self.tcp && query.name == self.name;
        query.source == self.last_source || turns_to_tcp || query.time_ns.saturating_sub(self.last_ns) > PATIENT_NS
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

/// Answers that came when their client, which waits so long, had perhaps turned away: what it heard nobody knows.
pub(super) fn late_answers(messages: &[Message], timeout: Duration) -> usize {
    let in_time_ns = timeout.as_nanos() as u64 * 9 / 10;
    let mut asked = HashMap::new();
    let mut late = 0;
    for message in messages {
        let key = |client| (client, message.id, message.kind, message.name.clone());
        if !message.is_response {
            asked.insert(key(message.source), message.time_ns);
        } else if let Some(asked_ns) = asked.get(&key(message.destination)) {
            late += usize::from(message.time_ns.saturating_sub(*asked_ns) > in_time_ns);
        }
    }
    late
}

/// The first label of a name.
pub(super) fn token(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

/// By first label and type.
pub(super) type Names = HashMap<(String, u16), Name>;

/// All lookups.
pub(super) fn names(messages: &[Message]) -> Names {
    let mut all = Names::new();
    for message in messages {
        let of_name = all.entry((token(&message.name).to_owned(), message.kind)).or_default();
        let last = of_name.lookups.last_mut();
        if message.is_response {
            if let Some(lookup) = last {
                answer(lookup, message);
            }
            continue;
        }
        match last.filter(|lookup| !lookup.is_found) {
            Some(lookup) => of_name.is_unclear |= !lookup.goes_on_with(message),
            None => of_name.lookups.push(Lookup::begin(message)),
        }
        let lookup = of_name.lookups.last_mut().expect("there is one by now");
        lookup.name.clone_from(&message.name);
        lookup.resolver = message.destination;
        lookup.queries += 1;
        lookup.tcp |= !message.is_udp;
        lookup.last_ns = message.time_ns;
        lookup.last_source = message.source;
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
    fn check(messages: &[(u64, &str, u8)], expected: &[(u64, &str, Option<u64>)]) -> bool {
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
        let names = names(&messages);
        let found: Vec<(u64, &str, Option<u64>)> = names
            .values()
            .flat_map(|name| &name.lookups)
            .map(|lookup| {
                let duration_ms = lookup.duration_us().map(|time_us| time_us as u64 / 1_000);
                (lookup.queries, lookup.name.as_str(), duration_ms)
            })
            .collect();
        assert_eq!(found, expected);
        names.values().any(|name| name.is_unclear)
    }

    #[test]
    fn what_belongs_together() {
        let search = [
            (0, "x.a", ASKED),
            (1, "x.a", DENIED),
            (2, "x.b", ASKED),
            (9, "x.b", FOUND),
        ];
        assert!(!check(&search, &[(2, "x.b", Some(9))]));
        let retry = [(0, "x.a", ASKED), (1_000, "x.a", ASKED)];
        assert!(!check(&retry, &[(2, "x.a", None)]));
        let twice = [
            (0, "x.a", ASKED),
            (1, "x.a", FOUND),
            (2, "x.a", ASKED),
            (3, "x.a", FOUND),
        ];
        assert!(!check(&twice, &[(1, "x.a", Some(1)), (1, "x.a", Some(1))]));
        let pause = [(0, "x.a", ASKED), (1, "x.a", DENIED), (1_002, "x.b", ASKED)];
        assert!(check(&pause, &[(2, "x.b", None)]));
    }
}
