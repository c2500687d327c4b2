//! Who went on to another host of a group because the first one did not serve it.
//!
//! Pure; time is an argument. `pipeline` reports every client connection to a group, whole each time, and asks on its
//! ticks. A connection is judged some time after it was opened: by then all that was before it has been heard of, since
//! open connections are told of once a second. In doubt nothing is a fallback.
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{attribution::Process, connection::Outcome};

/// A connection later than this after the trouble has nothing to do with it.
const WITHIN_NS: u64 = 60_000_000_000;
/// The same for a refusal by HTTP status on a connection that has gone on: who goes elsewhere for it does so at once.
const SOON_NS: u64 = 2_000_000_000;
/// So long after its opening a connection is judged.
const JUDGED_AFTER_NS: u64 = 2_000_000_000;
/// An ended process is remembered for this long: events of its connections may come later.
const GRACE_NS: u64 = 5_000_000_000;
/// Ended processes that are known as such in that time: a process of one connection may have ended before that is heard of.
const MAX_ENDED: usize = 16_384;
/// A process that nothing was heard of for so long is forgotten: open connections are told of once a minute.
const SILENT_NS: u64 = 180_000_000_000;
/// Processes that are followed at once.
const MAX_PROCESSES: usize = 512;
/// Connections that are remembered of each, the latest ones.
const MAX_ATTEMPTS: usize = 64;

/// Where a connection's name is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// It has one.
    Named,
    /// It has none and will have none: the address is what was asked for.
    Literal,
    /// It ended before it could say one: any name of the group may stand behind the address.
    Unknown,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The connect, or a reset before any answer.
    Transport(Outcome),
    /// The TLS handshake.
    Tls,
    /// It was closed while its request waited for an answer, or its handshake for an end.
    Closed,
    /// The same, when the time ran out.
    Timeout,
    /// The status of the answer, in clear.
    Http(u16),
    /// It waited for too long, and still did.
    Stuck,
}

impl Reason {
    /// The value in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transport(outcome) => outcome.name(),
            Self::Tls => "tls",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Http(..500) => "http_4xx",
            Self::Http(_) => "http_5xx",
            Self::Stuck => "stuck",
        }
    }
}

/// How far a connection has come, as of its latest report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Since when it waits, or waited last, for the end of its connect, of its handshake, or for its first answer.
    pub waited_since_ns: Option<u64>,
    /// When its first answer came; `None` for one that is an error.
    pub answered_ns: Option<u64>,
    /// When it failed, and how.
    pub failed: Option<(u64, Reason)>,
    /// When it ended.
    pub closed_ns: Option<u64>,
    /// It has gone on after its first exchange.
    pub went_on: bool,
}

/// One client connection to a group.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Cookie of its socket, and the number of its attempt.
    pub id: (u64, u32),
    /// When `connect` was called.
    pub opened_ns: u64,
    /// Its group.
    pub group: Arc<str>,
    /// Its name or address.
    pub host: Arc<str>,
    /// What that is worth.
    pub naming: Naming,
    /// How far it has come.
    pub progress: Progress,
}

/// A process went on to another host.
#[derive(Clone, Debug)]
pub struct Fallback {
    /// Which.
    pub process: Arc<Process>,
    /// Its cgroup.
    pub cgroup_id: u64,
    /// The group of both hosts.
    pub group: Arc<str>,
    /// Who did not serve it.
    pub from: Arc<str>,
    /// Where it went.
    pub to: Arc<str>,
    /// Why.
    pub reason: Reason,
    /// When that was.
    pub failed_ns: u64,
    /// When the connection to the other host was opened.
    pub opened_ns: u64,
}

/// The connections of each process to groups.
#[derive(Debug)]
pub struct Fallbacks {
    stuck_after_ns: u64,
    /// By process id, so that what is found has an order.
    by_pid: BTreeMap<u32, Client>,
    /// When these ended, whether anything was heard of them or not.
    ended: HashMap<u32, u64>,
    evicted: u64,
}

#[derive(Debug)]
struct Client {
    process: Arc<Process>,
    cgroup_id: u64,
    /// By the time of their opening.
    attempts: Vec<Known>,
    heard_ns: u64,
    ended_ns: Option<u64>,
    /// Something is to be judged.
    is_open: bool,
}

/// A connection, and what was made of it.
#[derive(Debug)]
struct Known {
    attempt: Attempt,
    /// Its trouble has been counted.
    is_left: bool,
    /// It is where a fallback went.
    is_reached: bool,
}

impl Fallbacks {
    /// What waits for `stuck_after_ns` is in trouble.
    pub fn new(stuck_after_ns: u64) -> Self {
        Self {
            stuck_after_ns,
            by_pid: BTreeMap::new(),
            ended: HashMap::new(),
            evicted: 0,
        }
    }

    /// Processes that had to be forgotten before their time.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The latest report of a connection.
    pub fn report(&mut self, process: &Arc<Process>, cgroup_id: u64, attempt: Attempt, now_ns: u64) {
        // Whoever owns it, it is not one process.
        if process.pid == 0 {
            return;
        }
        if self.by_pid.len() >= MAX_PROCESSES && !self.by_pid.contains_key(&process.pid) {
            self.forget_one();
        }
        let ended_ns = self.ended.get(&process.pid).copied();
        let client = self.by_pid.entry(process.pid).or_insert_with(|| Client {
            process: Arc::clone(process),
            cgroup_id,
            attempts: Vec::new(),
            heard_ns: now_ns,
            ended_ns,
            is_open: false,
        });
        client.process = Arc::clone(process);
        client.cgroup_id = cgroup_id;
        client.heard_ns = now_ns;
        client.is_open = true;
        if let Some(known) = client
            .attempts
            .iter_mut()
            .find(|known| known.attempt.id == attempt.id && known.attempt.group == attempt.group)
        {
            known.attempt = attempt;
            return;
        }
        if client.attempts.len() >= MAX_ATTEMPTS {
            client.attempts.remove(0);
        }
        let place = client
            .attempts
            .partition_point(|known| known.attempt.opened_ns <= attempt.opened_ns);
        client.attempts.insert(
            place,
            Known {
                attempt,
                is_left: false,
                is_reached: false,
            },
        );
    }

    /// A process began under this id: what another did under it before is over.
    pub fn began(&mut self, pid: u32) {
        self.by_pid.remove(&pid);
        self.ended.remove(&pid);
    }

    /// The process ended.
    pub fn ended(&mut self, pid: u32, now_ns: u64) {
        if let Some(client) = self.by_pid.get_mut(&pid) {
            client.ended_ns = Some(now_ns);
        }
        // Without room it is remembered for as long as a silent one.
        if self.ended.len() < MAX_ENDED {
            self.ended.insert(pid, now_ns);
        }
    }

    /// What is certain by now, each once.
    pub fn take(&mut self, now_ns: u64) -> Vec<Fallback> {
        let found = self.judge(now_ns.saturating_sub(JUDGED_AFTER_NS));
        self.by_pid.retain(|_, client| {
            let ended = client
                .ended_ns
                .is_some_and(|at_ns| now_ns.saturating_sub(at_ns) >= GRACE_NS);
            !ended && now_ns.saturating_sub(client.heard_ns) < SILENT_NS
        });
        self.ended.retain(|_, at_ns| now_ns.saturating_sub(*at_ns) < GRACE_NS);
        found
    }

    /// What can be said when nothing more will be heard.
    pub fn finish(&mut self) -> Vec<Fallback> {
        self.judge(u64::MAX)
    }

    /// Judges what was opened until then.
    fn judge(&mut self, until_ns: u64) -> Vec<Fallback> {
        let stuck_after_ns = self.stuck_after_ns;
        let mut found = Vec::new();
        for client in self.by_pid.values_mut().filter(|client| client.is_open) {
            client.judge(until_ns, stuck_after_ns, &mut found);
        }
        found
    }

    /// Makes room: the one that was not heard of for the longest time goes.
    fn forget_one(&mut self) {
        let longest = self.by_pid.iter().min_by_key(|(_, client)| client.heard_ns);
        if let Some(pid) = longest.map(|(pid, _)| *pid) {
            self.by_pid.remove(&pid);
            self.evicted += 1;
        }
    }
}

impl Client {
    fn judge(&mut self, until_ns: u64, stuck_after_ns: u64, found: &mut Vec<Fallback>) {
        self.is_open = self.attempts.iter().any(|known| known.attempt.opened_ns > until_ns);
        for at in 0..self.attempts.len() {
            let known = &self.attempts[at];
            if known.is_reached || known.attempt.naming == Naming::Unknown || known.attempt.opened_ns > until_ns {
                continue;
            }
            let to = known.attempt.clone();
            let Some((from, failed_ns, reason)) = self.origin(&to, stuck_after_ns) else {
                continue;
            };
            found.push(Fallback {
                process: Arc::clone(&self.process),
                cgroup_id: self.cgroup_id,
                group: Arc::clone(&to.group),
                from,
                to: Arc::clone(&to.host),
                reason,
                failed_ns,
                opened_ns: to.opened_ns,
            });
            self.attempts[at].is_reached = true;
            // Every try there was before is part of the same trouble.
            for known in &mut self.attempts {
                let is_part = known.attempt.trouble(&to, stuck_after_ns).is_some();
                known.is_left |= is_part;
            }
        }
    }

    /// The trouble because of which a connection was opened: the last one before it.
    fn origin(&self, to: &Attempt, stuck_after_ns: u64) -> Option<(Arc<str>, u64, Reason)> {
        let left = self.attempts.iter().filter(|known| !known.is_left);
        let troubles = left.filter_map(|known| {
            let (at_ns, reason) = known.attempt.trouble(to, stuck_after_ns)?;
            let from = &known.attempt;
            (!self.is_over(from, to, at_ns, reason) && !self.was_there(from, to, at_ns))
                .then_some((from, at_ns, reason))
        });
        let (from, at_ns, reason) = troubles.max_by_key(|(_, at_ns, _)| *at_ns)?;
        Some((Arc::clone(&from.host), at_ns, reason))
    }

    /// The first host served the process after all before it went elsewhere: in another try, or all the time.
    fn is_over(&self, from: &Attempt, to: &Attempt, failed_ns: u64, reason: Reason) -> bool {
        let others = self.attempts.iter().map(|known| &known.attempt);
        let mut same = others.filter(|other| other.group == from.group && other.host == from.host);
        same.any(|other| {
            let Some(answered_ns) = other.progress.answered_ns.filter(|at_ns| *at_ns <= to.opened_ns) else {
                return false;
            };
            match reason {
                // One answer refuses one request: others say nothing about it.
                Reason::Http(_) => other.opened_ns >= failed_ns,
                _ => answered_ns > from.opened_ns,
            }
        })
    }

    /// The process was at the other host already while it tried the first: it uses both.
    fn was_there(&self, from: &Attempt, to: &Attempt, failed_ns: u64) -> bool {
        let mut others = self.attempts.iter().map(|known| &known.attempt);
        others.any(|other| {
            other.id != to.id
                && other.group == to.group
                && other.host == to.host
                && other.opened_ns < failed_ns
                && other.progress.closed_ns.is_none_or(|at_ns| at_ns > from.opened_ns)
        })
    }
}

impl Attempt {
    /// The trouble of this connection, when the one to another host may have been opened because of it.
    fn trouble(&self, to: &Self, stuck_after_ns: u64) -> Option<(u64, Reason)> {
        if self.group != to.group || self.host == to.host {
            return None;
        }
        let progress = &self.progress;
        let until_ns = progress.failed.map(|(at_ns, _)| at_ns);
        if let Some((at_ns, reason)) = progress.failed
            && at_ns <= to.opened_ns
        {
            let gave_up = matches!(reason, Reason::Transport(Outcome::Abandoned | Outcome::Other));
            if self.naming == Naming::Unknown && (to.naming != Naming::Literal || gave_up) {
                // Another address of the host that it went on to, or the slower one of two that were tried at once.
                return None;
            }
            let refused = matches!(reason, Reason::Http(_)) && progress.went_on;
            let within_ns = if refused { SOON_NS } else { WITHIN_NS };
            return (to.opened_ns - at_ns <= within_ns).then_some((at_ns, reason));
        }
        let stuck_ns = progress.waited_since_ns?.saturating_add(stuck_after_ns);
        let until_ns = until_ns
            .or(progress.answered_ns)
            .or(progress.closed_ns)
            .unwrap_or(u64::MAX);
        let waited = stuck_ns <= to.opened_ns && to.opened_ns < until_ns && to.opened_ns - stuck_ns <= WITHIN_NS;
        (waited && self.naming != Naming::Unknown).then_some((stuck_ns, Reason::Stuck))
    }
}

#[cfg(test)]
mod tests;
