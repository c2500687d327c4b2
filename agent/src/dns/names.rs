//! What names an address: the last one that this process, else its cgroup, else its network namespace resolved to it.
//!
//! Learned from lookups alone. Each name stays for as long as it may be used: programs and libc keep answers beyond their
//! TTL, and pools open connections long after a lookup, so a process's own names get a long grace, which each use renews
//! while the process runs: many programs resolve once, when they start. What others resolved is a guess, and gets a short
//! one. Two names on one address stay apart, and hopline says when one process has both.
//!
//! The unit that is bounded is a name of an address in a scope. No cgroup holds more than a quarter of all; when all are in
//! use, the cgroup that holds most gives up its oldest. The default number takes at most 32 MiB, whatever the names are
//! (`agent/tests/names_memory.rs`), and about 8 with usual ones.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{lookups::Lookup, query::Ending};
use crate::protocol::dns::DnsName;

/// A TTL below this is taken for this: resolvers' caches and libc's do the like.
const LEAST_TTL_S: u32 = 30;
/// A TTL above this is taken for this: resolvers do the like, and a server must not decide how long memory is used.
const MOST_TTL_S: u32 = 86_400;
/// How much longer than its TTL a process's own answer names an address: the JDK, .NET and connection pools go on with
/// old addresses for minutes.
const OWN_GRACE_NS: u64 = 300_000_000_000;
/// The same for an answer that another process of the cgroup had: a resolver's helper, `getent` in a start script.
const CGROUP_GRACE_NS: u64 = 60_000_000_000;
/// A connection waited for an answer when it was opened within this time of it and the process knew no such name before.
const WAITED_WITHIN_NS: u64 = 1_000_000_000;
/// The same where the process had the name already: proxies and pools resolve theirs again every few seconds, whether or not
/// a connection is due, and one that is opened between two of these lookups waits for neither.
const RENEWED_WITHIN_NS: u64 = 200_000_000;
/// What is over is kept for this long, since connections are told of later than answers and exits are.
const LINGER_NS: u64 = 10_000_000_000;
/// How often what is over is looked for.
const SWEEP_NS: u64 = 10_000_000_000;
/// A process's earlier answers with the same name and address are kept for so long: until all connections that used them
/// were looked at, which takes a second for those that stay open.
const USED_WITHIN_NS: u64 = 3_000_000_000;
/// Answers with one address that are kept of one process: more than 300 a second, or names that share the address.
const ANSWERS_OF_ADDRESS: usize = 1_024;
/// Names that are kept for an address in a wider scope.
const NAMES_OF_ADDRESS: usize = 16;

/// Units by default: a hundred pods that each use forty names with two addresses, in all three scopes.
const UNITS: usize = 24_576;

/// Whose resolution it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The process's own.
    Process,
    /// Of another process in its cgroup.
    Cgroup,
    /// Of another cgroup in its network namespace.
    Namespace,
}

/// The lookup that gave an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookupFacts {
    /// When the first query left, nanoseconds.
    pub started_ns: u64,
    /// When the answer came, nanoseconds.
    pub answered_ns: u64,
    /// Queries that it took.
    pub queries: u32,
    /// Who answered.
    pub resolver: SocketAddr,
    /// What it answered.
    pub ending: Ending,
}

/// A name for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The name that has the address, in full.
    pub name: Arc<str>,
    /// The same as the program asked for it: shorter when the search list completed it.
    pub asked: Arc<str>,
    /// Whose resolution it was.
    pub scope: Scope,
    /// There is another name in this scope that has the address.
    pub is_ambiguous: bool,
    /// The lookup.
    pub lookup: LookupFacts,
}

/// Whose names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Process(u32),
    Cgroup(u64),
    Namespace(u32),
}

impl Place {
    fn scope(self) -> Scope {
        match self {
            Self::Process(_) => Scope::Process,
            Self::Cgroup(_) => Scope::Cgroup,
            Self::Namespace(_) => Scope::Namespace,
        }
    }

    /// Units of one address at most.
    fn most(self) -> usize {
        match self {
            Self::Process(_) => ANSWERS_OF_ADDRESS,
            Self::Cgroup(_) | Self::Namespace(_) => NAMES_OF_ADDRESS,
        }
    }

    /// How long an answer is kept beside a newer one with the same name: for the connections that used it. Wider scopes
    /// keep the name alone.
    fn keeps_earlier_ns(self) -> u64 {
        match self {
            Self::Process(_) => USED_WITHIN_NS,
            Self::Cgroup(_) | Self::Namespace(_) => 0,
        }
    }

    fn grace_ns(self) -> u64 {
        match self {
            Self::Process(_) => OWN_GRACE_NS,
            Self::Cgroup(_) => CGROUP_GRACE_NS,
            Self::Namespace(_) => 0,
        }
    }
}

/// The places to look for names in, the nearest first; 0 is nobody.
fn places(pid: u32, cgroup_id: u64, netns: u32) -> impl Iterator<Item = Place> {
    let process = (pid != 0).then_some(Place::Process(pid));
    let cgroup = (cgroup_id != 0).then_some(Place::Cgroup(cgroup_id));
    let namespace = (netns != 0).then_some(Place::Namespace(netns));
    [process, cgroup, namespace].into_iter().flatten()
}

/// One lookup's result, shared by all its addresses and scopes.
#[derive(Debug)]
struct Learned {
    name: Arc<str>,
    asked: Arc<str>,
    lookup: LookupFacts,
}

/// A name of an address in a place.
#[derive(Debug)]
struct Unit {
    /// Order of all units in time.
    serial: u64,
    /// Who learned it: its share of the memory.
    cgroup_id: u64,
    learned: Arc<Learned>,
    /// The name has had the address since then: the answer's time, or that of an earlier one that this one renewed.
    since_ns: u64,
    expires_ns: u64,
    /// When the process that resolved it ended; `u64::MAX` while it runs, and in wider scopes.
    ended_ns: u64,
    /// For how long an answer or a use keeps it, nanoseconds.
    lasts_ns: u64,
    /// When the process had all that it waited for: this answer, or what came of the other address type later.
    settled_ns: u64,
    /// The process had this name for this address before the lookup.
    is_renewal: bool,
    /// A connection has it as its phase.
    is_taken: bool,
}

impl Unit {
    fn is_valid(&self, at_ns: u64) -> bool {
        self.since_ns <= at_ns && at_ns <= self.expires_ns
    }

    /// Whether a connection that was opened then can have waited for the lookup.
    fn was_awaited(&self, opened_ns: u64) -> bool {
        let within_ns = if self.is_renewal {
            RENEWED_WITHIN_NS
        } else {
            WAITED_WITHIN_NS
        };
        opened_ns.saturating_sub(self.settled_ns) <= within_ns
    }

    /// Whether a use now makes it last longer, which is looked at twice in the time that it lasts.
    fn is_renewable(&self, at_ns: u64) -> bool {
        self.since_ns <= at_ns && at_ns <= self.ended_ns && at_ns.saturating_add(self.lasts_ns / 2) >= self.expires_ns
    }

    fn is_for(&self, name: &str) -> bool {
        *self.learned.name == *name || *self.learned.asked == *name
    }

    /// When the name was last resolved before a time, as far as it is known.
    fn resolved_ns(&self, at_ns: u64) -> u64 {
        let answered_ns = self.learned.lookup.answered_ns;
        if answered_ns <= at_ns {
            answered_ns
        } else {
            self.since_ns
        }
    }
}

/// All names.
#[derive(Debug)]
pub struct Names {
    limit: usize,
    /// The oldest unit of an address first.
    units: BTreeMap<(Place, IpAddr), Vec<Unit>>,
    /// Cgroup and serial: where the unit is.
    by_age: BTreeMap<(u64, u64), (Place, IpAddr)>,
    held: HashMap<u64, usize>,
    /// The same by number.
    by_held: BTreeSet<(usize, u64)>,
    next_serial: u64,
    swept_ns: u64,
    evicted: u64,
}

impl Default for Names {
    fn default() -> Self {
        Self::new(Self::USUAL)
    }
}

impl Names {
    /// How many there may be by default.
    pub const USUAL: usize = UNITS;

    /// How many there may be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// At most `limit` units.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            units: BTreeMap::new(),
            by_age: BTreeMap::new(),
            held: HashMap::new(),
            by_held: BTreeSet::new(),
            next_serial: 0,
            swept_ns: 0,
            evicted: 0,
        }
    }

    /// Learns from a lookup that has addresses. In the host's network namespace everybody resolves everything: what one
    /// cgroup there learned says nothing of another.
    pub fn learn(&mut self, lookup: &Lookup, host_network: bool) {
        let (DnsName::Valid(name), DnsName::Valid(asked)) = (&lookup.resolved, &lookup.asked) else {
            return;
        };
        if !lookup.ending.is_no_error() {
            return;
        }
        let netns = if host_network { 0 } else { lookup.netns };
        let mut learned: Option<Arc<Learned>> = None;
        for found in &lookup.addresses {
            let address = found.address.to_canonical();
            for place in places(lookup.pid, lookup.cgroup_id, netns) {
                let learned = learned.get_or_insert_with(|| {
                    let (name, asked) = self.known(place, address, name, asked);
                    Arc::new(Learned {
                        name,
                        asked,
                        lookup: LookupFacts {
                            started_ns: lookup.started_ns,
                            answered_ns: lookup.answered_ns,
                            queries: lookup.queries,
                            resolver: lookup.resolver,
                            ending: lookup.ending,
                        },
                    })
                });
                let ttl_s = found.ttl_s.clamp(LEAST_TTL_S, MOST_TTL_S);
                let lasts_ns = u64::from(ttl_s) * 1_000_000_000 + place.grace_ns();
                let unit = Unit {
                    serial: self.next_serial,
                    cgroup_id: lookup.cgroup_id,
                    learned: Arc::clone(learned),
                    since_ns: lookup.answered_ns,
                    expires_ns: lookup.answered_ns.saturating_add(lasts_ns),
                    ended_ns: u64::MAX,
                    lasts_ns,
                    settled_ns: lookup.answered_ns,
                    is_renewal: false,
                    is_taken: false,
                };
                self.next_serial += 1;
                self.insert(place, address, unit);
            }
        }
    }

    /// A connection is opened to an address: what names it for its process lasts longer, beyond the answer's time if the
    /// process still runs. `is_same` says whether the process that runs at that time is the one that ran at another.
    ///
    /// What others of the cgroup resolved is renewed within its time alone; a network namespace has too many who may use
    /// an address for a name of their own.
    pub fn used(
        &mut self,
        pid: u32,
        cgroup_id: u64,
        address: IpAddr,
        at_ns: u64,
        mut is_same: impl FnMut(u64) -> bool,
    ) {
        let address = address.to_canonical();
        for place in places(pid, cgroup_id, 0) {
            let Some(units) = self.units.get_mut(&(place, address)) else {
                continue;
            };
            for unit in units.iter_mut().filter(|unit| unit.is_renewable(at_ns)) {
                let is_user = match place {
                    Place::Process(_) => is_same(unit.since_ns),
                    Place::Cgroup(_) | Place::Namespace(_) => at_ns <= unit.expires_ns,
                };
                if !is_user {
                    continue;
                }
                unit.expires_ns = at_ns.saturating_add(unit.lasts_ns).min(unit.ended_ns);
                // The newest now: it is not the first to go when there is no room.
                self.by_age.remove(&(unit.cgroup_id, unit.serial));
                unit.serial = self.next_serial;
                self.next_serial += 1;
                self.by_age.insert((unit.cgroup_id, unit.serial), (place, address));
            }
            if units.iter().any(|unit| unit.is_valid(at_ns)) {
                return;
            }
        }
    }

    /// A query for the address of a name has ended: lookups of that name which were under way when it was sent, those of the
    /// other address type, were waited for until then.
    pub fn query_ended(&mut self, pid: u32, name: &str, sent_ns: u64, ended_ns: u64) {
        for unit in self.of_process(pid) {
            if sent_ns <= unit.learned.lookup.answered_ns && *unit.learned.name == *name {
                unit.settled_ns = unit.settled_ns.max(ended_ns);
            }
        }
    }

    /// Another network namespace has this number by now: all names were of one that has ended. They name nothing any more, also
    /// not what was opened before this was known.
    pub fn namespace_ended(&mut self, netns: u32) {
        let first = (Place::Namespace(netns), IpAddr::from([0; 4]));
        let last = (Place::Namespace(netns), IpAddr::from([u16::MAX; 8]));
        for unit in self.units.range_mut(first..=last).flat_map(|(_, units)| units) {
            unit.expires_ns = 0;
        }
    }

    /// What names an address for a process at a time.
    pub fn name_of(&self, pid: u32, cgroup_id: u64, netns: u32, address: IpAddr, at_ns: u64) -> Option<Resolved> {
        let address = address.to_canonical();
        places(pid, cgroup_id, netns).find_map(|place| {
            let units = self.units.get(&(place, address))?;
            let valid = || units.iter().filter(|unit| unit.is_valid(at_ns));
            let unit = valid().max_by_key(|unit| (unit.resolved_ns(at_ns), unit.serial))?;
            Some(Resolved {
                name: Arc::clone(&unit.learned.name),
                asked: Arc::clone(&unit.learned.asked),
                scope: place.scope(),
                is_ambiguous: valid().any(|other| other.learned.name != unit.learned.name),
                lookup: unit.learned.lookup,
            })
        })
    }

    /// Whether a name, in lower case, had this address at a time as far as this process resolved it itself: in full, or as
    /// it asked for it.
    pub fn has_resolved(&self, pid: u32, name: &str, address: IpAddr, at_ns: u64) -> bool {
        let units = self.units.get(&(Place::Process(pid), address.to_canonical()));
        let mut units = units.into_iter().flatten();
        units.any(|unit| unit.is_valid(at_ns) && unit.is_for(name))
    }

    /// The lookup that a connection waited for, with the name in full: the process's last one before, for the name that the
    /// connection claims if it resolved that. It belongs to the first connection to each of its addresses, if that was opened
    /// when the answer had come: later ones have it from a cache, and no such phase.
    pub fn take_lookup(
        &mut self,
        pid: u32,
        address: IpAddr,
        claimed: Option<&str>,
        at_ns: u64,
    ) -> Option<(Arc<str>, LookupFacts)> {
        let units = self.units.get_mut(&(Place::Process(pid), address.to_canonical()))?;
        let answered = |unit: &&mut Unit| unit.learned.lookup.answered_ns <= at_ns && at_ns <= unit.expires_ns;
        let used = units.iter_mut().filter(answered).max_by_key(|unit| {
            let is_claimed = claimed.is_some_and(|claimed| unit.is_for(claimed));
            (is_claimed, unit.learned.lookup.answered_ns, unit.serial)
        })?;
        if !used.was_awaited(at_ns) {
            return None;
        }
        let is_first = !std::mem::replace(&mut used.is_taken, true);
        is_first.then(|| (Arc::clone(&used.learned.name), used.learned.lookup))
    }

    /// A process has ended, or runs another program: its own names end with it, those that its cgroup has from it do not.
    pub fn process_ended(&mut self, pid: u32, at_ns: u64) {
        for unit in self.of_process(pid).filter(|unit| unit.since_ns <= at_ns) {
            unit.ended_ns = unit.ended_ns.min(at_ns);
            unit.expires_ns = unit.expires_ns.min(at_ns);
        }
    }

    fn of_process(&mut self, pid: u32) -> impl Iterator<Item = &mut Unit> {
        let first = (Place::Process(pid), IpAddr::from([0; 4]));
        let last = (Place::Process(pid), IpAddr::from([u16::MAX; 8]));
        self.units.range_mut(first..=last).flat_map(|(_, units)| units)
    }

    /// Lets go of what is over, once in a while. A running process may use what it once resolved at any time: that stays for
    /// as long as there is room.
    pub fn expire(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.swept_ns) < SWEEP_NS {
            return;
        }
        self.swept_ns = now_ns;
        let is_over = |unit: &Unit| unit.expires_ns.saturating_add(LINGER_NS) < now_ns;
        let mut over = Vec::new();
        self.units.retain(|(place, _), units| {
            let may_be_used = |unit: &Unit| matches!(place, Place::Process(_)) && unit.ended_ns == u64::MAX;
            over.extend(
                units
                    .extract_if(.., |unit| is_over(unit) && !may_be_used(unit))
                    .map(|unit| (unit.cgroup_id, unit.serial)),
            );
            !units.is_empty()
        });
        for (cgroup_id, serial) in over {
            self.by_age.remove(&(cgroup_id, serial));
            self.give_back(cgroup_id);
        }
    }

    /// Names of addresses in scopes, now.
    pub fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }

    /// How many had to go before their time.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The same names where they are known already: programs ask again and again.
    fn known(&self, place: Place, address: IpAddr, name: &Arc<str>, asked: &Arc<str>) -> (Arc<str>, Arc<str>) {
        let before = self.units.get(&(place, address)).and_then(|units| {
            let same = |unit: &&Unit| unit.learned.name == *name && unit.learned.asked == *asked;
            units.iter().rfind(same)
        });
        let (name, asked) = before.map_or((name, asked), |unit| (&unit.learned.name, &unit.learned.asked));
        let asked = if name == asked { name } else { asked };
        (Arc::clone(name), Arc::clone(asked))
    }

    fn insert(&mut self, place: Place, address: IpAddr, mut unit: Unit) {
        let (cgroup_id, now_ns) = (unit.cgroup_id, unit.learned.lookup.answered_ns);
        // Most addresses have one name, and a vector's first growth is for four.
        let units = self
            .units
            .entry((place, address))
            .or_insert_with(|| Vec::with_capacity(1));
        let before_ns = unit.learned.lookup.answered_ns.saturating_sub(place.keeps_earlier_ns());
        let started_ns = unit.learned.lookup.started_ns;
        unit.is_renewal = units
            .iter()
            .any(|other| other.learned.name == unit.learned.name && other.is_valid(started_ns));
        let is_replaced =
            |other: &mut Unit| other.learned.name == unit.learned.name && other.learned.lookup.answered_ns <= before_ns;
        let mut gone: Vec<Unit> = units.extract_if(.., is_replaced).collect();
        for replaced in &gone {
            // The name has had the address all the time.
            if unit.since_ns <= replaced.expires_ns {
                unit.since_ns = unit.since_ns.min(replaced.since_ns);
            }
        }
        if units.len() == place.most() {
            gone.push(units.remove(0));
        }
        self.by_age.insert((cgroup_id, unit.serial), (place, address));
        units.push(unit);
        for gone in gone {
            self.by_age.remove(&(gone.cgroup_id, gone.serial));
            self.give_back(gone.cgroup_id);
        }
        self.take(cgroup_id);
        self.make_room(cgroup_id, now_ns);
    }

    fn make_room(&mut self, cgroup_id: u64, now_ns: u64) {
        if self.held.get(&cgroup_id).is_some_and(|held| *held > self.limit / 4) {
            self.evict_oldest_of(cgroup_id, now_ns);
        }
        if self.by_age.len() > self.limit
            && let Some((_, largest)) = self.by_held.last().copied()
        {
            self.evict_oldest_of(largest, now_ns);
        }
    }

    fn evict_oldest_of(&mut self, cgroup_id: u64, now_ns: u64) {
        let oldest = self.by_age.range((cgroup_id, 0)..=(cgroup_id, u64::MAX)).next();
        let Some((key, place)) = oldest.map(|(key, place)| (*key, *place)) else {
            return;
        };
        self.by_age.remove(&key);
        if let Some(units) = self.units.get_mut(&place) {
            // One beyond its time was kept because there was room.
            let in_time = |unit: &Unit| now_ns <= unit.expires_ns;
            let gone = units.extract_if(.., |unit| unit.serial == key.1);
            self.evicted += gone.filter(in_time).count() as u64;
            if units.is_empty() {
                self.units.remove(&place);
            }
        }
        self.give_back(cgroup_id);
    }

    fn take(&mut self, cgroup_id: u64) {
        let held = self.held.entry(cgroup_id).or_default();
        self.by_held.remove(&(*held, cgroup_id));
        *held += 1;
        self.by_held.insert((*held, cgroup_id));
    }

    fn give_back(&mut self, cgroup_id: u64) {
        if let Some(held) = self.held.get_mut(&cgroup_id) {
            self.by_held.remove(&(*held, cgroup_id));
            *held -= 1;
            if *held == 0 {
                self.held.remove(&cgroup_id);
            } else {
                self.by_held.insert((*held, cgroup_id));
            }
        }
    }
}

#[cfg(test)]
mod tests;
