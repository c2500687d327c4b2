//! Queries that resolve one name, tied together: search-path expansions, retries, other servers, TCP after a truncated
//! answer.
//!
//! Nothing on the wire says which name a program asked for; its search list does, or where that is not known the sequence of
//! names. Each queried name may be what was asked for, or that with a suffix (`bases`), and a lookup is open for whatever all
//! its queries have in common. Resolvers work
//! in sequence: a query goes on with a lookup that waits for its program, not with one that waits for a server, which is
//! another thread's. Who asks again for what he was told begins another lookup. A and AAAA are lookups of their own, since
//! they answer in their own time.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    net::SocketAddr,
    sync::Arc,
};

use self::bases::Bases;
use super::{
    queries::QUERY_TIMEOUT_NS,
    query::{Answered, Ending, Query, Transport},
    resolv_conf::SearchList,
    shares::Shares,
};
use crate::{
    connection::Role,
    protocol::dns::{Address, Answers, DnsName, QueryType},
};

mod bases;

/// Lookups by default: one cgroup may have 4 096, which stay for a second after a denial.
const OPEN: usize = 8_192;
/// A lookup is over when its program asks nothing more for this long after an answer or a time-out.
const QUIET_NS: u64 = 1_000_000_000;
/// Resolvers give a server about a second at least before they turn to another (Go's clock was seen to run 1 ms ahead): an
/// earlier query is not theirs.
const PATIENCE_NS: u64 = 900_000_000;
/// A lookup waits for that of the other address type for so long at most: a resolver that has lost one of two answers asks
/// for A alone, three servers twice for 5 s each, before it asks for AAAA again (glibc).
const SIBLING_NS: u64 = 30_000_000_000;
/// Resolvers ask for the next name of a search list at once; on a busy machine they may have to wait for the processor.
const SEARCH_GOES_ON_NS: u64 = 300_000_000;
/// The server cannot say (RFC 1035 section 4.1.1): glibc tries the next suffix.
const SERVFAIL: u16 = 2;
/// There is no such name.
const NXDOMAIN: u16 = 3;
/// Numbers of A and AAAA (RFC 1035, RFC 3596), which programs ask for together.
const ADDRESS_KINDS: [u16; 2] = [1, 28];
/// Questions of one lookup that are remembered as answered: a search list has fewer names.
const ANSWERED: usize = 32;
/// Open lookups with one base that are looked at to find the one that a query belongs to.
const PROBES: usize = 16;

/// The resolution of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The process that asked; 0 when unknown.
    pub pid: u32,
    /// Its cgroup.
    pub cgroup_id: u64,
    /// Its network namespace, by inode number.
    pub netns: u32,
    /// What the program asked for, as far as the search list tells.
    pub asked: DnsName,
    /// The last name that was queried: on success the one that has the addresses.
    pub resolved: DnsName,
    /// What was asked for, by number.
    pub kind: u16,
    /// The server of the last query.
    pub resolver: SocketAddr,
    /// How it ended.
    pub ending: Ending,
    /// When the first query left, nanoseconds.
    pub started_ns: u64,
    /// When the answer came that ended it, or when its last query timed out; nanoseconds.
    pub answered_ns: u64,
    /// Queries that it took.
    pub queries: u32,
    /// One of them went over TCP.
    pub tcp: bool,
    /// The addresses.
    pub addresses: Vec<Address>,
    /// What the name is an alias of, first to last; only when it ended with what it asked for.
    pub aliases: Vec<DnsName>,
}

impl Lookup {
    /// The type that was asked for, as a label.
    pub fn query_type(&self) -> QueryType {
        QueryType::of(self.kind)
    }
}

/// A lookup that waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingLookup {
    /// The process that asks; 0 when unknown.
    pub pid: u32,
    /// Its cgroup.
    pub cgroup_id: u64,
    /// Its network namespace, by inode number.
    pub netns: u32,
    /// What the program asked for, as far as the search list tells by now.
    pub asked: DnsName,
    /// What was asked for, by number.
    pub kind: u16,
    /// The server of the last query.
    pub resolver: SocketAddr,
    /// When the first query left, nanoseconds.
    pub since_ns: u64,
    /// Queries so far.
    pub queries: u32,
}

/// An answer that did not end its lookup: a program may go on after it.
#[derive(Debug)]
struct Held {
    rcode: u16,
    answered_ns: u64,
    answers: Answers,
}

#[derive(Debug)]
struct Open {
    first: Query,
    bases: Bases,
    last: Query,
    queries: u32,
    tcp: bool,
    /// The latest answer since the last query.
    held: Option<Held>,
    /// Hashes of the questions that were answered for good, by "no such name" or "nothing of this type".
    answered: Vec<u64>,
    /// Not over before then, as its program waits for its sibling.
    not_before_ns: u64,
    /// It has been reported as stuck.
    told: bool,
}

/// Open lookups.
///
/// One with three suffixes takes about 800 bytes: with the default of 8 192 it is about 7 MiB, and 23 at worst (32 suffixes
/// that are all in one another, names of 253 bytes, truncated answers of 32 addresses).
#[derive(Debug)]
pub struct Lookups {
    /// By id, which is their order in time.
    open: BTreeMap<u64, Open>,
    /// Process, type, hash of a base, id.
    by_base: BTreeSet<(u32, u16, u64, u64)>,
    /// When each is over if nothing happens.
    by_deadline: BTreeSet<(u64, u64)>,
    /// The lookups of outstanding queries.
    by_query: HashMap<u64, u64>,
    hasher: RandomState,
    shares: Shares,
    next_id: u64,
    refused: u64,
}

impl Default for Lookups {
    fn default() -> Self {
        Self::new(Self::USUAL)
    }
}

impl Lookups {
    /// How many there may be by default.
    pub const USUAL: usize = OPEN;

    /// How many there may be.
    pub fn limit(&self) -> usize {
        self.shares.limit()
    }

    /// At most `limit` lookups, of which one cgroup gets half at most.
    pub fn new(limit: usize) -> Self {
        Self {
            open: BTreeMap::new(),
            by_base: BTreeSet::new(),
            by_deadline: BTreeSet::new(),
            by_query: HashMap::new(),
            hasher: RandomState::new(),
            shares: Shares::new(limit),
            next_id: 0,
            refused: 0,
        }
    }

    /// A client's query has left. `search` is the list of its process, if that could be read. Each query's end must be told
    /// too.
    pub fn sent(&mut self, query: &Query, search: Option<&SearchList>) {
        if query.role != Role::Client {
            return;
        }
        let bases = Bases::of(query.question.name.as_str(), search);
        let id = match self.find(query, &bases) {
            Some(id) => {
                self.go_on(id, query, &bases);
                id
            }
            None if self.shares.take(query.cgroup_id) => self.begin(query, bases),
            None => {
                self.refused += 1;
                return;
            }
        };
        self.by_query.insert(query.number, id);
    }

    /// A query has ended. Gives the lookup that is over with it: the one that has what it asked for.
    pub fn answered(&mut self, answered: &Answered) -> Option<Lookup> {
        let id = self.by_query.remove(&answered.query.number)?;
        let open = self.open.get_mut(&id)?;
        // When nothing answers, the deadline ends it.
        let Ending::Answered(rcode) = answered.ending else {
            return None;
        };
        let is_final = rcode == 0 && answered.answers.is_found && !answered.truncated;
        let is_definite = matches!(rcode, 0 | NXDOMAIN) && !answered.truncated;
        if is_definite && open.answered.len() < ANSWERED {
            open.answered.push(self.hasher.hash_one(&answered.query.question));
        }
        // The program went on to another name: an answer to an earlier one only counts if it is one.
        if !is_final && answered.query.question != open.last.question {
            return None;
        }
        let before_ns = open.deadline_ns();
        let mut answers = answered.answers.clone();
        if !is_final {
            // It may be kept for a while, and long chains are as long as a server likes.
            answers.aliases = Vec::new();
        }
        open.held = Some(Held {
            rcode,
            answered_ns: answered.ended_ns,
            answers,
        });
        if is_final {
            open.last.question = answered.query.question.clone();
            open.last.peer = answered.query.peer;
            self.by_deadline.remove(&(before_ns, id));
            return self.end(id);
        }
        let deadline_ns = open.deadline_ns();
        self.by_deadline.remove(&(before_ns, id));
        self.by_deadline.insert((deadline_ns, id));
        None
    }

    /// Ends the lookups that nothing came for any more.
    pub fn expire(&mut self, now_ns: u64) -> Vec<Lookup> {
        let mut ended = Vec::new();
        while let Some((deadline_ns, id)) = self.by_deadline.first().copied()
            && deadline_ns <= now_ns
        {
            self.by_deadline.pop_first();
            if self.waits_for_sibling(id, deadline_ns)
                && let Some(open) = self.open.get_mut(&id)
            {
                open.not_before_ns = deadline_ns + QUIET_NS;
                self.by_deadline.insert((open.deadline_ns(), id));
            } else {
                ended.extend(self.end(id));
            }
        }
        ended
    }

    /// Whether the program still waits for AAAA where this is A, or the other way round: what becomes of the one shows only
    /// then. An answer waits for a sibling without one; what has none, for one that was asked later.
    fn waits_for_sibling(&self, id: u64, now_ns: u64) -> bool {
        let Some(open) = self.open.get(&id) else {
            return false;
        };
        if now_ns.saturating_sub(open.last.sent_ns) > SIBLING_NS {
            return false;
        }
        self.siblings(open)
            .any(|sibling| sibling.held.is_none() && (open.held.is_some() || sibling.last.sent_ns > open.last.sent_ns))
    }

    /// Lookups of A where this is AAAA, or the other way round, of the same process for what may be the same name.
    fn siblings<'a>(&'a self, open: &'a Open) -> impl Iterator<Item = &'a Open> {
        let first = &open.first;
        let kind = first.question.kind;
        let is_address = ADDRESS_KINDS.contains(&kind);
        let other = ADDRESS_KINDS.into_iter().find(|other| is_address && *other != kind);
        let keys = other.into_iter().flat_map(move |other| {
            let bases = open.bases.iter(first.question.name.as_str());
            bases.map(move |base| (first.pid, other, self.hasher.hash_one(base)))
        });
        keys.flat_map(|(pid, other, hash)| {
            let same = self.by_base.range((pid, other, hash, 0)..=(pid, other, hash, u64::MAX));
            same.take(PROBES).filter_map(|(.., id)| self.open.get(id))
        })
    }

    /// Whether a query asks for what this lookup was told already: that is another lookup, unless its sibling has waited in
    /// vain, after which libc asks for both again.
    fn was_told(&self, open: &Open, query: &Query) -> bool {
        let waits = |sibling: &Open| sibling.held.is_none() && sibling.has_waited(query);
        open.answered.contains(&self.hasher.hash_one(&query.question)) && !self.siblings(open).any(waits)
    }

    /// Where the search list is not known, another name is the next of a search only when it leaves at once after a denial, of
    /// this name or its sibling's: programs may ask for names that begin alike.
    fn is_searched(&self, open: &Open, query: &Query, bases: &Bases) -> bool {
        let is_known = !open.bases.is_guess && !bases.is_guess;
        is_known
            || query.question == open.last.question
            || open.held.is_some()
                && [open]
                    .into_iter()
                    .chain(self.siblings(open))
                    .any(|denied| denied.was_denied_before(query))
    }

    /// Lookups that have waited for `after_ns`, the longest waiting first.
    pub fn longer_than(&self, after_ns: u64, now_ns: u64) -> impl Iterator<Item = WaitingLookup> {
        let waits = move |open: &&Open| open.waits_for(now_ns) >= Some(after_ns);
        self.open.values().filter(waits).map(Open::waiting)
    }

    /// Those that have waited for `after_ns`, each once, the longest waiting first.
    pub fn newly_stuck(&mut self, after_ns: u64, now_ns: u64) -> Vec<WaitingLookup> {
        let is_new = |open: &&mut Open| !open.told && open.waits_for(now_ns) >= Some(after_ns);
        let stuck = self.open.values_mut().filter(is_new);
        stuck
            .map(|open| {
                open.told = true;
                open.waiting()
            })
            .collect()
    }

    /// Open lookups now.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Queries that found their cgroup's share used up, and are part of no lookup.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The lookup that a query goes on with: the one whose query it repeats, else the one that waits the longest for it.
    fn find(&self, query: &Query, bases: &Bases) -> Option<u64> {
        let ids = bases.iter(query.question.name.as_str()).flat_map(|base| {
            let (pid, kind, hash) = (query.pid, query.question.kind, self.hasher.hash_one(base));
            let same = self.by_base.range((pid, kind, hash, 0)..=(pid, kind, hash, u64::MAX));
            same.take(PROBES).map(|(.., id)| *id)
        });
        let fitting = ids.filter_map(|id| {
            let open = self.open.get(&id)?;
            let belongs = !self.was_told(open, query) && self.is_searched(open, query, bases);
            Some((open.fit(query, bases).filter(|_| belongs)?, id))
        });
        fitting.min().map(|(_, id)| id)
    }

    fn begin(&mut self, query: &Query, bases: Bases) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let open = Open {
            first: query.clone(),
            bases,
            last: query.clone(),
            queries: 1,
            tcp: query.transport == Transport::Tcp,
            held: None,
            answered: Vec::new(),
            not_before_ns: 0,
            told: false,
        };
        self.by_deadline.insert((open.deadline_ns(), id));
        for base in open.bases.iter(open.first.question.name.as_str()) {
            self.by_base.insert(self.base_key(query, base, id));
        }
        self.open.insert(id, open);
        id
    }

    fn go_on(&mut self, id: u64, query: &Query, bases: &Bases) {
        let Some(mut open) = self.open.remove(&id) else { return };
        self.by_deadline.remove(&(open.deadline_ns(), id));
        let name = open.first.question.name.clone();
        let gone = open
            .bases
            .keep_common(name.as_str(), bases, query.question.name.as_str());
        for base in gone.iter(name.as_str()) {
            self.by_base.remove(&self.base_key(query, base, id));
        }
        open.last = query.clone();
        open.queries = open.queries.saturating_add(1);
        open.tcp |= query.transport == Transport::Tcp;
        open.held = None;
        open.not_before_ns = 0;
        self.by_deadline.insert((open.deadline_ns(), id));
        self.open.insert(id, open);
    }

    fn base_key(&self, query: &Query, base: &str, id: u64) -> (u32, u16, u64, u64) {
        (query.pid, query.question.kind, self.hasher.hash_one(base), id)
    }

    /// Takes a lookup out; its deadline is gone already.
    fn end(&mut self, id: u64) -> Option<Lookup> {
        let open = self.open.remove(&id)?;
        self.shares.give_back(open.first.cgroup_id);
        for base in open.bases.iter(open.first.question.name.as_str()) {
            self.by_base.remove(&self.base_key(&open.first, base, id));
        }
        Some(open.into_lookup())
    }
}

impl Open {
    /// When it is over if nothing happens.
    fn deadline_ns(&self) -> u64 {
        let ended_ns = self.held.as_ref().map(|held| held.answered_ns);
        let quiet_ns = ended_ns.unwrap_or(self.last.sent_ns + QUERY_TIMEOUT_NS) + QUIET_NS;
        quiet_ns.max(self.not_before_ns)
    }

    /// For how long it has waited; `None` once it has an answer.
    fn waits_for(&self, now_ns: u64) -> Option<u64> {
        self.held.is_none().then(|| now_ns.saturating_sub(self.first.sent_ns))
    }

    /// How well a query goes on with this lookup: 0 when it repeats the last one, 1 when the program may go on by now,
    /// `None` when it does not belong here.
    fn fit(&self, query: &Query, bases: &Bases) -> Option<u8> {
        let (own_name, name) = (self.first.question.name.as_str(), query.question.name.as_str());
        if !self.bases.have_common(own_name, bases, name) {
            None
        } else if query.socket == self.last.socket && query.question == self.last.question {
            Some(0)
        } else {
            let may_go_on = self.held.is_some() || self.has_waited(query) || self.turns_to_tcp(query);
            may_go_on.then_some(1)
        }
    }

    /// Whether the query is the last one once more, now over TCP. A resolver whose answer for A was truncated closes its
    /// socket and asks for both again (glibc): what comes for AAAA after that nobody hears.
    fn turns_to_tcp(&self, query: &Query) -> bool {
        (self.last.transport, query.transport) == (Transport::Udp, Transport::Tcp)
            && (query.peer, &query.question) == (self.last.peer, &self.last.question)
    }

    /// Just before this query was sent, with an answer after which resolvers go on to the next name of a search list.
    fn was_denied_before(&self, query: &Query) -> bool {
        self.held.as_ref().is_some_and(|held| {
            let is_at_once = query.sent_ns.saturating_sub(held.answered_ns) <= SEARCH_GOES_ON_NS;
            matches!(held.rcode, 0 | SERVFAIL | NXDOMAIN) && is_at_once
        })
    }

    /// For as long as a resolver gives a server, when this query was sent.
    fn has_waited(&self, query: &Query) -> bool {
        query.sent_ns.saturating_sub(self.last.sent_ns) >= PATIENCE_NS
    }

    fn asked(&self) -> DnsName {
        let DnsName::Valid(name) = &self.first.question.name else {
            return DnsName::Invalid;
        };
        let asked = self.bases.best(name);
        DnsName::Valid(if asked.len() == name.len() {
            Arc::clone(name)
        } else {
            asked.into()
        })
    }

    fn waiting(&self) -> WaitingLookup {
        WaitingLookup {
            pid: self.first.pid,
            cgroup_id: self.first.cgroup_id,
            netns: self.first.netns,
            asked: self.asked(),
            kind: self.first.question.kind,
            resolver: self.last.peer,
            since_ns: self.first.sent_ns,
            queries: self.queries,
        }
    }

    fn into_lookup(self) -> Lookup {
        let asked = self.asked();
        let (ending, answered_ns, answers) = match self.held {
            Some(held) => (Ending::Answered(held.rcode), held.answered_ns, held.answers),
            None => (
                Ending::Timeout,
                self.last.sent_ns + QUERY_TIMEOUT_NS,
                Answers::default(),
            ),
        };
        Lookup {
            pid: self.first.pid,
            cgroup_id: self.first.cgroup_id,
            netns: self.first.netns,
            asked,
            resolved: self.last.question.name,
            kind: self.first.question.kind,
            resolver: self.last.peer,
            ending,
            started_ns: self.first.sent_ns,
            answered_ns,
            queries: self.queries,
            tcp: self.tcp,
            addresses: answers.addresses,
            aliases: answers.aliases,
        }
    }
}

#[cfg(test)]
mod tests;
