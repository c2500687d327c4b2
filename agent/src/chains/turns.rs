//! Exchanges on connections that are kept: which one of an upstream's connection serves which one of a client's.
//!
//! What an exchange after the first asks for nobody reads. So only three things together prove a link: it lies within the
//! client's, both connections are of the same host, and nothing else of the process was under way that could be either end.
use std::{
    collections::{BTreeMap, VecDeque},
    ops::RangeInclusive,
};

use super::{Exchange, Id, Link, Side, differs};

/// So long after an exchange all others of that time are known: open connections that move are told of within six seconds.
const JUDGED_AFTER_NS: u64 = 8_000_000_000;
/// A client that has not been answered by then stays without a link.
const PATIENCE_NS: u64 = 30_000_000_000;
/// What has ended is remembered for this long.
const KEPT_NS: u64 = PATIENCE_NS + JUDGED_AFTER_NS;
/// A connection that asked while no client waited proves nothing for this long.
const OWN_NS: u64 = 60_000_000_000;
/// Such connections that are remembered.
const MOST_OWN: usize = 256;
/// Beginnings are known to a unit of 1 024 ns, durations to a microsecond.
const CLOCK_NS: u64 = 2_100;

/// An exchange on a connection.
#[derive(Clone, Debug)]
struct Span {
    exchange: Exchange,
    begun_ns: u64,
    /// `None`: it lasts.
    ended_ns: Option<u64>,
}

/// What a report of a connection tells of its exchanges after the first.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    /// New ones: when each began and ended.
    pub ended: Vec<(u64, u64)>,
    /// One lasts since then.
    pub open_ns: Option<u64>,
    /// There were others, of which only this is known.
    pub missed: bool,
}

/// Exchanges of one process.
#[derive(Debug, Default)]
pub(super) struct Kept {
    inbound: VecDeque<Span>,
    outbound: VecDeque<Span>,
    /// The latest one of each connection, while it lasts.
    open: [BTreeMap<Id, u64>; 2],
    /// Outbound ones that wait for their verdict, and how many found no room.
    due: VecDeque<Span>,
    unjudged: u64,
    /// Of what began before, some is not known.
    blind_until_ns: u64,
    /// Connections that asked while no client waited, such as health checks, and when.
    own: BTreeMap<Id, u64>,
}

/// What is known beside: first exchanges, and requests of the process's own.
pub(super) struct Firsts<'a> {
    pub(super) inbound: &'a BTreeMap<Id, Exchange>,
    pub(super) outbound: Vec<&'a Exchange>,
    pub(super) is_own: &'a dyn Fn(u64) -> bool,
}

/// What became of an outbound exchange.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Later,
    /// No client waited; what it asked for, where that is known.
    Own(Option<u64>),
    Ambiguous,
    Unproven,
    Linked(Link),
}

impl Kept {
    /// A connection was heard of; `most` exchanges of each side are remembered.
    pub(super) fn report(&mut self, side: Side, exchange: &Exchange, turns: &Turns, most: usize, now_ns: u64) {
        if turns.missed {
            self.blind_until_ns = now_ns;
        }
        let open = &mut self.open[side as usize];
        match turns.open_ns.filter(|_| exchange.closed_ns.is_none()) {
            Some(open_ns) => drop(open.insert(exchange.id, open_ns)),
            None => drop(open.remove(&exchange.id)),
        }
        if open.len() > most {
            open.pop_first();
            self.blind_until_ns = now_ns;
        }
        for (begun_ns, ended_ns) in &turns.ended {
            let span = Span {
                exchange: Exchange {
                    // Of later ones nobody knows what they ask for.
                    request: None,
                    ..exchange.clone()
                },
                begun_ns: *begun_ns,
                ended_ns: Some(*ended_ns),
            };
            if side == Side::Outbound {
                self.due.push_back(span.clone());
            }
            let spans = match side {
                Side::Inbound => &mut self.inbound,
                Side::Outbound => &mut self.outbound,
            };
            spans.push_back(span);
            if spans.len() > most
                && let Some(oldest) = spans.pop_front()
            {
                self.blind_until_ns = self.blind_until_ns.max(oldest.ended_ns.unwrap_or(now_ns));
            }
        }
        self.trim(most, now_ns);
    }

    /// Forgets the oldest exchanges, down to this number of each side.
    pub(super) fn trim(&mut self, most: usize, now_ns: u64) {
        for spans in [&mut self.inbound, &mut self.outbound] {
            while spans.len() > most
                && let Some(oldest) = spans.pop_front()
            {
                self.blind_until_ns = self.blind_until_ns.max(oldest.ended_ns.unwrap_or(now_ns));
            }
        }
        while self.due.len() > most {
            self.due.pop_front();
            self.unjudged += 1;
        }
    }

    /// How many lost their place before their verdict, since the last time.
    pub(super) fn take_unjudged(&mut self) -> u64 {
        std::mem::take(&mut self.unjudged)
    }

    /// Nothing waits for a verdict.
    pub(super) fn is_idle(&self) -> bool {
        self.due.is_empty()
    }

    /// A connection had to be forgotten.
    pub(super) fn forgot(&mut self, now_ns: u64) {
        self.blind_until_ns = now_ns;
    }

    /// A first exchange that could not be linked with a first one.
    pub(super) fn leave(&mut self, exchange: &Exchange) {
        if let (Some(begun_ns), Some(ended_ns)) = (exchange.begun_ns, exchange.answered_ns) {
            self.due.push_back(Span {
                exchange: exchange.clone(),
                begun_ns,
                ended_ns: Some(ended_ns),
            });
        }
    }

    /// A connection asked while no client waited.
    pub(super) fn asked_alone(&mut self, id: Id, now_ns: u64) {
        self.own.insert(id, now_ns);
        if self.own.len() > MOST_OWN {
            self.own.pop_first();
        }
    }

    /// Judges what can be judged by now, or all at the end.
    pub(super) fn judge(&mut self, firsts: &Firsts<'_>, now_ns: u64, is_end: bool) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for span in std::mem::take(&mut self.due) {
            let verdict = self.verdict(&span, firsts, now_ns, is_end);
            match &verdict {
                Verdict::Later => {
                    self.due.push_back(span);
                    continue;
                }
                Verdict::Own(_) => self.asked_alone(span.exchange.id, now_ns),
                Verdict::Ambiguous | Verdict::Unproven | Verdict::Linked(_) => {}
            }
            verdicts.push(verdict);
        }
        verdicts
    }

    fn verdict(&self, out: &Span, firsts: &Firsts<'_>, now_ns: u64, is_end: bool) -> Verdict {
        let answered_ns = out.ended_ns.unwrap_or(now_ns);
        let age_ns = now_ns.saturating_sub(answered_ns);
        if age_ns < JUDGED_AFTER_NS && !is_end {
            return Verdict::Later;
        }
        let at_ns = out.begun_ns;
        // On HTTP/2 another may have asked meanwhile, and been answered first.
        let until_ns = if out.exchange.is_serial { at_ns } else { answered_ns };
        let waiting = self.waiting(firsts, &(at_ns..=until_ns));
        if waiting.is_empty() {
            return Verdict::Own(out.exchange.request);
        }
        let is_own = out.exchange.request.is_some_and(|request| (firsts.is_own)(request));
        if is_own || self.own.contains_key(&out.exchange.id) {
            return Verdict::Unproven;
        }
        let mut fitting = waiting.iter().filter(|one| !differs(&one.exchange, &out.exchange));
        let (Some(client), None) = (fitting.next(), fitting.next()) else {
            let none_fits = waiting.iter().all(|one| differs(&one.exchange, &out.exchange));
            return if none_fits {
                Verdict::Unproven
            } else {
                Verdict::Ambiguous
            };
        };
        let Some(client_answered_ns) = client.ended_ns else {
            let is_over = is_end || age_ns > PATIENCE_NS;
            return if is_over { Verdict::Unproven } else { Verdict::Later };
        };
        if now_ns.saturating_sub(client_answered_ns) < JUDGED_AFTER_NS && !is_end {
            return Verdict::Later;
        }
        if self.blind_until_ns > client.begun_ns || self.asks_another(out, client, firsts) {
            return Verdict::Ambiguous;
        }
        let same_request = client.exchange.request.is_some() && client.exchange.request == out.exchange.request;
        let same_host = client.exchange.host.is_some() && client.exchange.host == out.exchange.host;
        let is_opaque = client.exchange.request.is_none() || out.exchange.request.is_none();
        let is_within = client.begun_ns <= at_ns && answered_ns <= client_answered_ns + CLOCK_NS;
        let is_proven = same_request || same_host && is_opaque;
        if !is_within || !is_proven {
            return Verdict::Unproven;
        }
        let client_proxy_ns = client_answered_ns - client.begun_ns;
        let proxy_upstream_ns = answered_ns.saturating_sub(at_ns).min(client_proxy_ns);
        Verdict::Linked(Link {
            inbound: client.exchange.id,
            outbound: out.exchange.id,
            client_proxy_ns,
            proxy_ns: client_proxy_ns - proxy_upstream_ns,
            proxy_upstream_ns,
        })
    }

    /// Clients' exchanges that were under way then.
    fn waiting(&self, firsts: &Firsts<'_>, then: &RangeInclusive<u64>) -> Vec<Span> {
        let is_under_way = |begun_ns: u64, ended_ns: Option<u64>| {
            begun_ns <= *then.end() && ended_ns.is_none_or(|ended_ns| *then.start() <= ended_ns)
        };
        let first = firsts.inbound.values().filter_map(|exchange| {
            let (begun_ns, ended_ns) = (exchange.begun_ns?, exchange.is_over_ns());
            is_under_way(begun_ns, ended_ns).then(|| Span {
                exchange: exchange.clone(),
                begun_ns,
                // Whose answer is in doubt has none.
                ended_ns: exchange.answered_ns,
            })
        });
        let later = self
            .inbound
            .iter()
            .filter(|span| is_under_way(span.begun_ns, span.ended_ns));
        let open = self.open[Side::Inbound as usize].iter().filter_map(|(id, begun_ns)| {
            let exchange = firsts.inbound.get(id)?;
            is_under_way(*begun_ns, None).then(|| Span {
                exchange: Exchange {
                    request: None,
                    ..exchange.clone()
                },
                begun_ns: *begun_ns,
                ended_ns: None,
            })
        });
        first.chain(later.cloned()).chain(open).collect()
    }

    /// Whether the process asked another upstream as well while this client waited.
    fn asks_another(&self, out: &Span, client: &Span, firsts: &Firsts<'_>) -> bool {
        let is_other = |exchange: &Exchange, begun_ns: u64, ended_ns: Option<u64>| {
            let is_itself = (exchange.id, begun_ns) == (out.exchange.id, out.begun_ns);
            // On HTTP/2 one more may have gone out while another was under way.
            let until_ns = if exchange.is_serial { Some(begun_ns) } else { ended_ns };
            let is_late = client.ended_ns.is_some_and(|client_ns| client_ns < begun_ns);
            !is_itself && !is_late && until_ns.is_none_or(|until_ns| client.begun_ns <= until_ns)
        };
        let first = firsts.outbound.iter().any(|exchange| {
            let begun = exchange.begun_ns.filter(|_| !differs(&client.exchange, exchange));
            begun.is_some_and(|begun_ns| is_other(exchange, begun_ns, exchange.is_over_ns()))
        });
        let mut later = self.outbound.iter();
        let mut open = firsts.outbound.iter().filter_map(|exchange| {
            let begun_ns = self.open[Side::Outbound as usize].get(&exchange.id)?;
            Some((exchange, *begun_ns))
        });
        first
            || later.any(|span| is_other(&span.exchange, span.begun_ns, span.ended_ns))
            || open.any(|(exchange, begun_ns)| is_other(exchange, begun_ns, None))
    }

    pub(super) fn expire(&mut self, now_ns: u64) {
        let is_kept = |span: &Span| span.ended_ns.is_none_or(|ended_ns| ended_ns + KEPT_NS > now_ns);
        self.inbound.retain(is_kept);
        self.outbound.retain(is_kept);
        self.own.retain(|_, at_ns| *at_ns + OWN_NS > now_ns);
    }
}
