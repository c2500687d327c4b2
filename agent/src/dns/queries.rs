//! The table of outstanding queries: which answer belongs to which, and which query never had one.
//!
//! Only an answer that was asked for counts: on the same socket, from the same server, with the same id, to the same
//! question, in time. Anything else is counted by reason and gone. No cgroup can fill the table for the others.
use std::{
    collections::{BTreeMap, HashMap, VecDeque, hash_map},
    net::SocketAddr,
};

use super::{
    ignored::{Ignored, IgnoredCounts},
    query::{Answered, Ending, Observed, Query, QueryEvent},
    shares::Shares,
};
use crate::{
    connection::Role,
    protocol::dns::{Answers, Message},
};

/// A query without an answer for this long has none: resolvers and programs use 5 s by default.
pub const QUERY_TIMEOUT_NS: u64 = 5_000_000_000;

/// Queries by default: what 3 000 a second leave that are never answered.
const OUTSTANDING: usize = 16_384;
/// Queries with one id on one socket that wait at once: three servers asked at once, five times each, are fewer.
const SAME_ID: usize = 16;
/// Time-outs that are remembered, so that a late answer is told from one that nobody asked for ...
const LATE_KEPT: usize = 4_096;
/// ... and for how long.
const LATE_NS: u64 = 60_000_000_000;

/// What an answer has in common with its query before the question is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    role: Role,
    socket: u64,
    id: u16,
    /// Clients of a server choose their ids each for itself. A client's socket chooses for all its servers.
    client: Option<SocketAddr>,
}

impl Key {
    fn new(role: Role, socket: u64, id: u16, peer: SocketAddr) -> Self {
        Self {
            role,
            socket,
            id,
            client: (role == Role::Server).then_some(peer),
        }
    }

    fn of(query: &Query) -> Self {
        Self::new(query.role, query.socket, query.id, query.peer)
    }
}

/// Outstanding queries.
///
/// By default 16 384, which takes about 10 MiB when each is for a name of 253 bytes.
#[derive(Debug)]
pub struct Queries {
    /// By number, which is their order in time.
    outstanding: BTreeMap<u64, Query>,
    /// Numbers for each key, the newest last.
    by_key: HashMap<Key, Vec<u64>>,
    shares: Shares,
    late: Late,
    next_number: u64,
    ignored: IgnoredCounts,
}

impl Default for Queries {
    fn default() -> Self {
        Self::new(Self::USUAL)
    }
}

impl Queries {
    /// How many there may be by default.
    pub const USUAL: usize = OUTSTANDING;

    /// How many there may be.
    pub fn limit(&self) -> usize {
        self.shares.limit()
    }

    /// A table of at most `limit` queries, of which one cgroup gets half at most.
    pub fn new(limit: usize) -> Self {
        Self {
            outstanding: BTreeMap::new(),
            by_key: HashMap::new(),
            shares: Shares::new(limit),
            late: Late::default(),
            next_number: 0,
            ignored: IgnoredCounts::default(),
        }
    }

    /// A message passed. `None` when it has no part in anything.
    pub fn observe(&mut self, observed: &Observed<'_>) -> Option<QueryEvent> {
        let message = observed.message;
        let done = if message.is_response == observed.is_query_direction {
            Err(Ignored::Direction)
        } else if message.opcode != 0 {
            Err(Ignored::Opcode)
        } else if message.is_response {
            self.answer(observed).map(QueryEvent::Answered)
        } else {
            self.query(observed).map(QueryEvent::Sent)
        };
        done.map_err(|reason| self.ignored.count(reason)).ok()
    }

    /// Ends what has waited for too long, in the order in which it was sent.
    pub fn expire(&mut self, now_ns: u64) -> Vec<Answered> {
        self.late.expire(now_ns);
        let mut ended = Vec::new();
        while let Some((_, query)) = self.outstanding.first_key_value()
            && now_ns.saturating_sub(query.sent_ns) > QUERY_TIMEOUT_NS
            && let Some(query) = self.remove(query.number)
        {
            let ended_ns = query.sent_ns + QUERY_TIMEOUT_NS;
            self.late.remember(&query, ended_ns);
            ended.push(Answered {
                query,
                ending: Ending::Timeout,
                ended_ns,
                truncated: false,
                answers: Answers::default(),
            });
        }
        ended
    }

    /// Outstanding queries now.
    pub fn len(&self) -> usize {
        self.outstanding.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// Messages that had no part in anything, by reason.
    pub fn ignored(&self) -> IgnoredCounts {
        self.ignored
    }

    fn query(&mut self, observed: &Observed<'_>) -> Result<Query, Ignored> {
        let message = observed.message;
        // A message without a question is never read as a query.
        let question = message.question.clone().ok_or(Ignored::OtherQuestion)?;
        let key = Key::new(observed.role, observed.socket, message.id, observed.peer);
        let same: &[u64] = self.by_key.get(&key).map_or(&[], Vec::as_slice);
        if same.len() >= SAME_ID {
            return Err(Ignored::Repeated);
        }
        let is_retry = same
            .iter()
            .filter_map(|number| self.outstanding.get(number))
            .any(|query| query.peer == observed.peer && query.question == question);
        if !self.shares.take(observed.cgroup_id) {
            return Err(Ignored::Crowded);
        }
        let query = Query {
            number: self.next_number,
            role: observed.role,
            transport: observed.transport,
            socket: observed.socket,
            peer: observed.peer,
            pid: observed.pid,
            cgroup_id: observed.cgroup_id,
            netns: observed.netns,
            id: message.id,
            question,
            sent_ns: observed.time_ns,
            is_retry,
        };
        self.next_number += 1;
        self.by_key.entry(key).or_default().push(query.number);
        self.outstanding.insert(query.number, query.clone());
        Ok(query)
    }

    fn answer(&mut self, observed: &Observed<'_>) -> Result<Answered, Ignored> {
        let query = self.asked(observed)?;
        if observed.time_ns.saturating_sub(query.sent_ns) > QUERY_TIMEOUT_NS {
            return Err(Ignored::Late);
        }
        let query = self.remove(query.number).ok_or(Ignored::Unsolicited)?;
        Ok(Answered {
            query,
            ending: Ending::Answered(observed.message.rcode),
            ended_ns: observed.time_ns,
            truncated: observed.message.truncated,
            answers: observed.message.answers.clone(),
        })
    }

    /// The latest query that a message answers, or why there is none.
    fn asked(&self, observed: &Observed<'_>) -> Result<&Query, Ignored> {
        let key = Key::new(observed.role, observed.socket, observed.message.id, observed.peer);
        let mut reason = if self.late.knows(key, observed.peer) {
            Ignored::Late
        } else {
            Ignored::Unsolicited
        };
        let same: &[u64] = self.by_key.get(&key).map_or(&[], Vec::as_slice);
        for query in same.iter().rev().filter_map(|number| self.outstanding.get(number)) {
            match (query.peer == observed.peer, is_answer_to(observed.message, query)) {
                (true, true) => return Ok(query),
                (true, false) if reason != Ignored::Late => reason = Ignored::OtherQuestion,
                (false, _) if reason == Ignored::Unsolicited => reason = Ignored::WrongServer,
                _ => {}
            }
        }
        Err(reason)
    }

    fn remove(&mut self, number: u64) -> Option<Query> {
        let query = self.outstanding.remove(&number)?;
        self.shares.give_back(query.cgroup_id);
        if let hash_map::Entry::Occupied(mut same) = self.by_key.entry(Key::of(&query)) {
            same.get_mut().retain(|other| *other != number);
            if same.get().is_empty() {
                same.remove();
            }
        }
        Some(query)
    }
}

/// Some servers leave the question out of an error.
fn is_answer_to(message: &Message, query: &Query) -> bool {
    message
        .question
        .as_ref()
        .is_none_or(|question| *question == query.question)
}

/// Queries that ended as time-outs lately.
#[derive(Debug, Default)]
struct Late {
    ended_ns: HashMap<(Key, SocketAddr), u64>,
    /// The same, oldest first.
    order: VecDeque<(u64, (Key, SocketAddr))>,
}

impl Late {
    fn knows(&self, key: Key, peer: SocketAddr) -> bool {
        self.ended_ns.contains_key(&(key, peer))
    }

    fn remember(&mut self, query: &Query, ended_ns: u64) {
        let key = (Key::of(query), query.peer);
        self.ended_ns.insert(key, ended_ns);
        self.order.push_back((ended_ns, key));
        if self.order.len() > LATE_KEPT {
            self.forget_oldest();
        }
    }

    fn expire(&mut self, now_ns: u64) {
        while let Some((ended_ns, _)) = self.order.front()
            && now_ns.saturating_sub(*ended_ns) >= LATE_NS
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((ended_ns, key)) = self.order.pop_front()
            && self.ended_ns.get(&key) == Some(&ended_ns)
        {
            self.ended_ns.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests;
