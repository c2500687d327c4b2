//! Legs of a call chain: which connection of a proxy to its upstream serves which request of a client.
//!
//! A link needs the same process, an exchange that lies within the other in time, and the same request line, or the same
//! host where nothing else was under way. In doubt there is none: it is counted. First exchanges are judged here, what has
//! to do with later ones in `turns`. Reads no clock; called by `pipeline`.
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use crate::capacity::{Share, TableUse};

mod turns;

pub use turns::Turns;

/// Cookie of a socket, and the number of its attempt.
pub type Id = (u64, u32);

/// So long after both answers a link is judged: open connections are told of once a second, so by then all that were under
/// way are known.
const JUDGED_AFTER_NS: u64 = 2_000_000_000;
/// Whose client's answer has not come by then stays without a link.
const PATIENCE_NS: u64 = 30_000_000_000;
/// What has ended is remembered for this long.
const KEPT_NS: u64 = 10_000_000_000;
/// A process without an outgoing connection for this long is no proxy.
const PROXY_NS: u64 = 60_000_000_000;
/// Processes that listen, at most.
const MOST_PROCESSES: usize = 1_024;
/// Connections of each direction that are remembered of a proxy, and of another process that listens.
const MOST_OF_PROXY: usize = 1_024;
const MOST_OF_OTHERS: usize = 64;
/// Later exchanges of each direction that are remembered of a proxy.
const MOST_TURNS: usize = 2_048;
const MOST_TURNS_OF_OTHERS: usize = 16;
/// Requests of its own that are remembered of a proxy, and for how long.
const MOST_OWN: usize = 64;
const OWN_NS: u64 = 60_000_000_000;

/// Which end of a chain's process a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A client opened it.
    Inbound,
    /// The process opened it.
    Outbound,
}

/// A connection and its first exchange, as of its latest report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exchange {
    /// Which connection.
    pub id: Id,
    /// When it was opened.
    pub opened_ns: u64,
    /// Inbound, when the request began to arrive; outbound, when `connect` was called. `None`: not yet.
    pub begun_ns: Option<u64>,
    /// When the answer began to pass.
    pub answered_ns: Option<u64>,
    /// When the connection ended.
    pub closed_ns: Option<u64>,
    /// Hash of the request line, where it is in clear.
    pub request: Option<u64>,
    /// By SNI or Host.
    pub host: Option<Arc<str>>,
    /// There were exchanges after the first: what they asked for nobody knows.
    pub went_on: bool,
    /// When the first of those began.
    pub went_on_ns: Option<u64>,
    /// Nothing is asked before the last answer has come (HTTP/1): what is under way is all that is.
    pub is_serial: bool,
}

/// An outbound connection serves an inbound one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The client's connection.
    pub inbound: Id,
    /// The one to the upstream.
    pub outbound: Id,
    /// From the client's request to its answer, nanoseconds.
    pub client_proxy_ns: u64,
    /// The part of it that is not `proxy_upstream_ns`.
    pub proxy_ns: u64,
    /// From `connect`, of a later exchange the request, to the upstream's answer, nanoseconds.
    pub proxy_upstream_ns: u64,
}

/// What became of exchanges of proxies with upstreams while a client waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// Linked.
    pub linked: u64,
    /// Several fitted.
    pub ambiguous: u64,
    /// One fitted in time, and nothing that was said proves it.
    pub unproven: u64,
}

/// Connections of each direction, and later exchanges of each, that are remembered of all proxies together: with more than
/// sixteen of them each may have its part.
const MOST_IN_ALL: usize = 32_768;

/// Connections of processes that listen.
#[derive(Debug)]
pub struct Chains {
    by_pid: HashMap<u32, Proxy>,
    most_in_all: usize,
    /// Each proxy's part of that.
    part: usize,
    counts: LinkCounts,
}

#[derive(Debug, Default)]
struct Proxy {
    inbound: BTreeMap<Id, Exchange>,
    outbound: BTreeMap<Id, Known>,
    /// When the latest outgoing connection was heard of.
    called_ns: Option<u64>,
    /// When a connection had to be forgotten before its time: what is under way then is not all known.
    forgot_ns: Option<u64>,
    heard_ns: u64,
    /// Requests that it made while no client waited, such as health checks, and when: they prove nothing.
    own_requests: VecDeque<(u64, u64)>,
    /// Exchanges after the first, and what could not be judged without them.
    kept: turns::Kept,
}

#[derive(Debug)]
struct Known {
    exchange: Exchange,
    is_judged: bool,
}

enum Verdict {
    Later,
    /// No client waited: a connection of the process's own.
    Own,
    /// No client waited for its first answer, but some were connected.
    Kept,
    /// Nobody answered.
    Failed,
    Ambiguous,
    Unproven,
    Linked(Link),
}

impl Default for Chains {
    fn default() -> Self {
        Self::new(Share::WHOLE)
    }
}

impl Chains {
    /// Nothing yet; this share of the usual numbers is remembered.
    pub fn new(share: Share) -> Self {
        let most_in_all = share.of(MOST_IN_ALL);
        Self {
            by_pid: HashMap::new(),
            most_in_all,
            part: most_in_all,
            counts: LinkCounts::default(),
        }
    }

    /// Connections of both directions that are remembered.
    pub fn usage(&self) -> TableUse {
        let of = |proxy: &Proxy| proxy.inbound.len() + proxy.outbound.len();
        let others = MOST_PROCESSES * MOST_OF_OTHERS;
        let entries = self.by_pid.values().map(of).sum();
        TableUse::new("chain_exchanges", entries, 2 * self.most_in_all + others)
    }

    /// A process listens.
    pub fn listens(&mut self, pid: u32, now_ns: u64) {
        if pid == 0 {
            return;
        }
        if self.by_pid.len() >= MOST_PROCESSES && !self.by_pid.contains_key(&pid) {
            let oldest = self.by_pid.iter().min_by_key(|(pid, proxy)| (proxy.heard_ns, **pid));
            if let Some(oldest) = oldest.map(|(pid, _)| *pid) {
                self.by_pid.remove(&oldest);
            }
        }
        self.by_pid.entry(pid).or_default().heard_ns = now_ns;
    }

    /// The process whose clients a connection of `pid` may serve: itself, or its parent if that listens.
    pub fn listener(&self, pid: u32, parent_pid: u32) -> Option<u32> {
        [pid, parent_pid]
            .into_iter()
            .find(|pid| *pid != 0 && self.by_pid.contains_key(pid))
    }

    /// The latest report of a connection; `pid` is of [`Self::listener`].
    pub fn report(&mut self, pid: u32, side: Side, mut exchange: Exchange, turns: &Turns, now_ns: u64) {
        let Some(proxy) = self.by_pid.get_mut(&pid) else { return };
        proxy.heard_ns = now_ns;
        let is_proxy = proxy.called_ns.is_some_and(|called_ns| called_ns + PROXY_NS > now_ns);
        let known = match side {
            Side::Inbound => proxy.inbound.get(&exchange.id),
            Side::Outbound => proxy.outbound.get(&exchange.id).map(|known| &known.exchange),
        };
        let begun_ns = turns.ended.first().map(|(begun_ns, _)| *begun_ns).or(turns.open_ns);
        exchange.went_on_ns = known.and_then(|known| known.went_on_ns).or(begun_ns);
        let most_turns = if is_proxy {
            MOST_TURNS.min(self.part)
        } else {
            MOST_TURNS_OF_OTHERS
        };
        let most = MOST_OF_PROXY.min(self.part);
        proxy.kept.report(side, &exchange, turns, most_turns, now_ns);
        match side {
            Side::Inbound => {
                proxy.inbound.insert(exchange.id, exchange);
                proxy.trim(if is_proxy { most } else { MOST_OF_OTHERS }, most, now_ns);
            }
            Side::Outbound => {
                proxy.called_ns = Some(now_ns);
                let is_judged = proxy.outbound.get(&exchange.id).is_some_and(|known| known.is_judged);
                proxy.outbound.insert(exchange.id, Known { exchange, is_judged });
                proxy.trim(most, most, now_ns);
            }
        }
    }

    /// Whether a record of this connection should wait for the verdict.
    pub fn may_link(&self, pid: u32, now_ns: u64) -> bool {
        let called = |proxy: &Proxy| proxy.called_ns.is_some_and(|called_ns| called_ns + PROXY_NS > now_ns);
        self.by_pid.get(&pid).is_some_and(called)
    }

    /// Links that can be judged by now, or all of them at the end.
    pub fn judge(&mut self, now_ns: u64, is_end: bool) -> Vec<Link> {
        let mut links = Vec::new();
        let proxies = self.by_pid.values().filter(|proxy| !proxy.outbound.is_empty()).count();
        let before = std::mem::replace(&mut self.part, self.most_in_all / proxies.max(1));
        for proxy in self.by_pid.values_mut() {
            if self.part < before {
                proxy.trim(MOST_OF_PROXY.min(self.part), MOST_OF_PROXY.min(self.part), now_ns);
                proxy.kept.trim(MOST_TURNS.min(self.part), now_ns);
            }
            let due: Vec<Id> = proxy
                .outbound
                .iter()
                .filter(|(_, known)| !known.is_judged)
                .map(|(id, _)| *id)
                .collect();
            for id in due {
                let verdict = proxy.verdict(id, now_ns, is_end);
                match &verdict {
                    Verdict::Later => continue,
                    Verdict::Own => proxy.kept.asked_alone(id, now_ns),
                    Verdict::Failed => {}
                    // What they ask later may tell more.
                    Verdict::Kept | Verdict::Ambiguous | Verdict::Unproven => {
                        if let Some(known) = proxy.outbound.get(&id) {
                            proxy.kept.leave(&known.exchange);
                        }
                    }
                    Verdict::Linked(link) => {
                        self.counts.linked += 1;
                        links.push(*link);
                    }
                }
                let Some(known) = proxy.outbound.get_mut(&id) else {
                    continue;
                };
                known.is_judged = true;
                if let (Verdict::Own, Some(request)) = (verdict, known.exchange.request) {
                    proxy.asked_alone(request, now_ns);
                }
            }
            // Nobody can say any more what they served.
            self.counts.ambiguous += proxy.kept.take_unjudged();
            for verdict in proxy.judge_kept(now_ns, is_end) {
                match verdict {
                    turns::Verdict::Later | turns::Verdict::Own(None) => {}
                    turns::Verdict::Own(Some(request)) => proxy.asked_alone(request, now_ns),
                    turns::Verdict::Ambiguous => self.counts.ambiguous += 1,
                    turns::Verdict::Unproven => self.counts.unproven += 1,
                    turns::Verdict::Linked(link) => {
                        self.counts.linked += 1;
                        links.push(link);
                    }
                }
            }
            proxy.expire(now_ns);
        }
        links.sort_unstable_by_key(|link| link.outbound);
        links
    }

    /// What became of them so far.
    pub fn counts(&self) -> LinkCounts {
        self.counts
    }
}

impl Proxy {
    /// Forgets the connections that were heard of first, down to these numbers.
    fn trim(&mut self, inbound: usize, outbound: usize, now_ns: u64) {
        let before = self.inbound.len() + self.outbound.len();
        while self.inbound.len() > inbound {
            self.inbound.pop_first();
        }
        while self.outbound.len() > outbound {
            self.outbound.pop_first();
        }
        if self.inbound.len() + self.outbound.len() < before {
            self.forgot_ns = Some(now_ns);
            self.kept.forgot(now_ns);
        }
    }

    fn verdict(&self, id: Id, now_ns: u64, is_end: bool) -> Verdict {
        let Some(Known { exchange: out, .. }) = self.outbound.get(&id) else {
            return Verdict::Own;
        };
        let (Some(begun_ns), Some(answered_ns)) = (out.begun_ns, out.answered_ns) else {
            // One that was never answered is no leg; it may still be.
            return if out.closed_ns.is_some() {
                Verdict::Failed
            } else {
                Verdict::Later
            };
        };
        if now_ns.saturating_sub(answered_ns) < JUDGED_AFTER_NS && !is_end {
            return Verdict::Later;
        }
        let waiting: Vec<&Exchange> = self.inbound.values().filter(|one| one.may_wait_at(begun_ns)).collect();
        if waiting.is_empty() {
            let is_connected = self.inbound.values().any(|one| one.is_open_at(begun_ns));
            return if is_connected { Verdict::Kept } else { Verdict::Own };
        }
        let fitting: Vec<&Exchange> = waiting
            .iter()
            .copied()
            .filter(|one| !one.is_known_at(begun_ns) || !differs(one, out))
            .collect();
        let [inbound] = fitting[..] else {
            return if fitting.is_empty() {
                Verdict::Unproven
            } else {
                Verdict::Ambiguous
            };
        };
        let Some(client_answered_ns) = inbound.answered_ns else {
            let is_over = is_end || inbound.closed_ns.is_some() || now_ns.saturating_sub(answered_ns) > PATIENCE_NS;
            return if is_over { Verdict::Unproven } else { Verdict::Later };
        };
        if now_ns.saturating_sub(client_answered_ns) < JUDGED_AFTER_NS && !is_end {
            return Verdict::Later;
        }
        let Some(client_begun_ns) = inbound.begun_ns.filter(|_| inbound.is_known_at(begun_ns)) else {
            return Verdict::Ambiguous;
        };
        if client_answered_ns < answered_ns {
            // The client was answered by something else.
            return Verdict::Unproven;
        }
        let is_blind = self.forgot_ns.is_some_and(|forgot_ns| forgot_ns + KEPT_NS > begun_ns);
        let within = client_begun_ns..=client_answered_ns;
        let others: Vec<&Exchange> = self
            .outbound
            .values()
            .map(|known| &known.exchange)
            .filter(|other| other.id != id && other.answered_ns.is_some())
            .filter(|other| other.begun_ns.is_some_and(|ns| within.contains(&ns)))
            .collect();
        if is_blind || others.iter().any(|other| !differs(inbound, other)) {
            return Verdict::Ambiguous;
        }
        let is_own = |request: u64| self.own_requests.iter().any(|(own, _)| *own == request);
        let same_request = inbound.request.is_some_and(|request| !is_own(request)) && inbound.request == out.request;
        let same_host = inbound.host.is_some() && inbound.host == out.host;
        let is_alone = waiting.len() == 1 && others.is_empty() && !self.has_pooled(id, client_begun_ns);
        let is_opaque = inbound.request.is_none() || out.request.is_none();
        let is_proven = same_request || same_host && is_alone && is_opaque;
        if !is_proven {
            return Verdict::Unproven;
        }
        let (client_proxy_ns, proxy_upstream_ns) = (client_answered_ns - client_begun_ns, answered_ns - begun_ns);
        Verdict::Linked(Link {
            inbound: inbound.id,
            outbound: id,
            client_proxy_ns,
            proxy_ns: client_proxy_ns.saturating_sub(proxy_upstream_ns),
            proxy_upstream_ns,
        })
    }

    /// It asked for this while no client waited.
    fn asked_alone(&mut self, request: u64, now_ns: u64) {
        self.own_requests.push_back((request, now_ns));
        if self.own_requests.len() > MOST_OWN {
            self.own_requests.pop_front();
        }
    }

    /// What could not be judged by first exchanges alone.
    fn judge_kept(&mut self, now_ns: u64, is_end: bool) -> Vec<turns::Verdict> {
        if self.kept.is_idle() {
            return Vec::new();
        }
        let Self {
            inbound,
            outbound,
            own_requests,
            kept,
            ..
        } = self;
        let firsts = turns::Firsts {
            inbound,
            outbound: outbound.values().map(|known| &known.exchange).collect(),
            is_own: &|request| own_requests.iter().any(|(own, _)| *own == request),
        };
        kept.judge(&firsts, now_ns, is_end)
    }

    /// Whether another connection to an upstream was open then: it may have served the client.
    fn has_pooled(&self, id: Id, at_ns: u64) -> bool {
        self.outbound.values().map(|known| &known.exchange).any(|other| {
            other.id != id && other.opened_ns < at_ns && other.closed_ns.is_none_or(|closed_ns| closed_ns > at_ns)
        })
    }

    fn expire(&mut self, now_ns: u64) {
        let is_fresh = |exchange: &Exchange| {
            exchange
                .closed_ns
                .is_none_or(|closed_ns| closed_ns + KEPT_NS + PATIENCE_NS > now_ns)
        };
        self.kept.expire(now_ns);
        self.own_requests.retain(|(_, at_ns)| at_ns + OWN_NS > now_ns);
        self.inbound.retain(|_, exchange| is_fresh(exchange));
        self.outbound.retain(|_, known| is_fresh(&known.exchange));
    }
}

impl Exchange {
    /// When nobody can wait for its answer any more.
    fn is_over_ns(&self) -> Option<u64> {
        self.answered_ns.or(self.went_on_ns).or(self.closed_ns)
    }

    fn is_open_at(&self, at_ns: u64) -> bool {
        self.opened_ns <= at_ns && self.closed_ns.is_none_or(|closed_ns| at_ns <= closed_ns)
    }

    /// Whether its client may be waiting for an answer at this time.
    fn may_wait_at(&self, at_ns: u64) -> bool {
        self.is_open_at(at_ns) && (self.went_on || self.is_known_at(at_ns))
    }

    /// It is the first exchange that is under way at this time, whose request is known.
    fn is_known_at(&self, at_ns: u64) -> bool {
        let ends_ns = self.answered_ns.or(self.closed_ns).unwrap_or(u64::MAX);
        self.begun_ns
            .is_some_and(|begun_ns| (begun_ns..=ends_ns).contains(&at_ns))
    }
}

/// What both say excludes that one serves the other.
fn differs(inbound: &Exchange, outbound: &Exchange) -> bool {
    matches!((inbound.request, outbound.request), (Some(one), Some(other)) if one != other)
}

#[cfg(test)]
mod tests;
