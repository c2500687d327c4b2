//! Chains through a local proxy: which connections may be linked, whose records wait for the verdict, what is counted.
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use agent_ebpf::{
    connection::{ConnectionState, FLAG_LATE},
    timeline::{PROTOCOL_HTTP1, PROTOCOL_TLS, RECENT_TURNS, turn_begun_ns},
};

use super::{Attached, Output, Pipeline, choices::Heard};
use crate::{
    aggregate::{Leg, LegLabels, Legs, LegsSnapshot},
    capacity::{Share, TableUse},
    chains::{Chains, Exchange, Id, Link, Side, Turns},
    connection::{
        ConnectionRecord, Endpoints, Role,
        record::{ChainRecord, UpstreamRecord},
    },
    protocol::first_byte::Basis,
    windows::WINDOW_NS,
};

/// A record of a connection that may be linked waits for so long: a link is judged two seconds after the answers.
const HELD_NS: u64 = 3_000_000_000;
/// Connections are known for so long after their end: exchanges on kept ones are judged after eight seconds.
const KNOWN_NS: u64 = 12_000_000_000;
/// Connections whose round trips are known; more have no legs.
const MOST: usize = 16_384;
/// Records that wait; more do not.
const MOST_HELD: usize = 8_192;

/// What is known of chains.
#[derive(Debug)]
pub(super) struct Linking {
    most: usize,
    most_held: usize,
    chains: Chains,
    known: HashMap<Id, Known>,
    /// Records by connection, with the time until which they wait.
    held: BTreeMap<Id, (u64, Box<ConnectionRecord>)>,
    legs: Legs,
}

/// A connection that may be a leg.
#[derive(Debug, Default)]
struct Known {
    /// Sum and number of its RTT samples, by its latest report and when its last window was counted.
    rtt: (u64, u32),
    counted: (u64, u32),
    counted_ns: u64,
    /// Whom it leads to, outbound ones alone.
    upstream: Option<LegLabels>,
    /// Which leg of which chain it is.
    leg: Option<(LegLabels, Leg)>,
    chain: Option<ChainRecord>,
    closed_ns: Option<u64>,
}

impl Linking {
    pub(super) fn new(share: Share) -> Self {
        Self {
            most: share.of(MOST),
            most_held: share.of(MOST_HELD),
            chains: Chains::new(share),
            known: HashMap::new(),
            held: BTreeMap::new(),
            legs: Legs::default(),
        }
    }

    pub(super) fn uses(&self) -> [TableUse; 3] {
        [
            TableUse::new("chain_connections", self.known.len(), self.most),
            TableUse::new("chain_records", self.held.len(), self.most_held),
            self.chains.usage(),
        ]
    }

    /// A process listens.
    pub(super) fn listens(&mut self, pid: u32, now_ns: u64) {
        self.chains.listens(pid, now_ns);
    }

    /// A connection was heard of, for the first time or again.
    pub(super) fn heard(&mut self, attached: &Attached, role: Role, heard: &Heard<'_>) {
        let Some(pid) = self.listener(attached, role) else {
            return;
        };
        let (state, now_ns) = (heard.state, heard.now_ns);
        let exchange = exchange(attached, role, heard);
        let side = match role {
            Role::Client => Side::Outbound,
            Role::Server => Side::Inbound,
        };
        self.chains.report(pid, side, exchange, &turns(heard), now_ns);
        let id = (state.cookie, state.attempt);
        if !self.chains.may_link(pid, now_ns) || self.known.len() >= self.most && !self.known.contains_key(&id) {
            return;
        }
        let known = self.known.entry(id).or_default();
        known.rtt = (state.rtt.sum_us, state.rtt.count);
        known.closed_ns = heard.ended_ns;
        if role == Role::Client {
            known.upstream.get_or_insert_with(|| upstream(attached, state));
        }
        if known.leg.is_some() && (heard.ended_ns.is_some() || known.counted_ns + WINDOW_NS <= now_ns) {
            count_rtt(&mut self.legs, known, now_ns);
        }
    }

    /// Its CLOSE was lost: it is kept no longer than one that has ended.
    pub(super) fn gone(&mut self, id: Id, now_ns: u64) {
        if let Some(known) = self.known.get_mut(&id) {
            known.closed_ns = Some(now_ns);
        }
    }

    /// The chain of a connection that has ended; `Err` while that may still come.
    fn chain_of(&self, attached: &Attached, role: Role, state: &ConnectionState, now_ns: u64) -> Verdict {
        let id = (state.cookie, state.attempt);
        if let Some(chain) = self.known.get(&id).and_then(|known| known.chain.clone()) {
            return Verdict::Linked(Box::new(chain));
        }
        let may_link = self
            .listener(attached, role)
            .is_some_and(|pid| self.chains.may_link(pid, now_ns));
        if may_link && self.held.len() < self.most_held {
            Verdict::Later
        } else {
            Verdict::None
        }
    }

    fn listener(&self, attached: &Attached, role: Role) -> Option<u32> {
        let owner = &attached.owner;
        let parent_pid = if role == Role::Client { owner.parent_pid } else { 0 };
        self.chains.listener(owner.pid, parent_pid)
    }

    fn link(&mut self, link: &Link, name: impl Fn(Id) -> String, now_ns: u64) {
        let Some(upstream) = self.known.get(&link.outbound).and_then(|known| known.upstream.clone()) else {
            return;
        };
        for (leg, duration_ns) in [
            (Leg::ClientProxy, link.client_proxy_ns),
            (Leg::Proxy, link.proxy_ns),
            (Leg::ProxyUpstream, link.proxy_upstream_ns),
        ] {
            self.legs.duration(&upstream, leg, duration_ns);
        }
        let us = |ns: u64| (ns + 500) / 1_000;
        let ends = [
            (link.inbound, link.outbound, Leg::ClientProxy),
            (link.outbound, link.inbound, Leg::ProxyUpstream),
        ];
        for (id, other, leg) in ends {
            let chain = ChainRecord {
                leg: leg.name(),
                other: name(other),
                upstream: UpstreamRecord {
                    host: upstream.destination.to_string(),
                    port: upstream.port.unwrap_or_default(),
                },
                client_proxy_us: us(link.client_proxy_ns),
                proxy_us: us(link.proxy_ns),
                proxy_upstream_us: us(link.proxy_upstream_ns),
            };
            if let Some((_, record)) = self.held.get_mut(&id) {
                record.chain.get_or_insert_with(|| chain.clone());
            }
            if let Some(known) = self.known.get_mut(&id) {
                known.leg = Some((upstream.clone(), leg));
                known.chain.get_or_insert(chain);
                count_rtt(&mut self.legs, known, now_ns);
            }
        }
    }

    /// Records that have waited long enough, as they came.
    fn release(&mut self, now_ns: u64, is_end: bool) -> Vec<ConnectionRecord> {
        let mut ready = Vec::new();
        for (id, (until_ns, record)) in std::mem::take(&mut self.held) {
            if is_end || until_ns <= now_ns || record.chain.is_some() {
                ready.push((until_ns, *record));
            } else {
                self.held.insert(id, (until_ns, record));
            }
        }
        ready.sort_by_key(|(until_ns, _)| *until_ns);
        ready.into_iter().map(|(_, record)| record).collect()
    }

    pub(super) fn snapshot(&self) -> LegsSnapshot {
        let counts = self.chains.counts();
        self.legs.snapshot([
            ("linked", counts.linked),
            ("ambiguous", counts.ambiguous),
            ("unproven", counts.unproven),
        ])
    }
}

/// What is to become of a record.
enum Verdict {
    Linked(Box<ChainRecord>),
    Later,
    None,
}

impl Pipeline {
    /// Tells a finished connection, with its chain: now, or when that is known.
    pub(super) fn tell_finished(
        &mut self,
        mut record: ConnectionRecord,
        attached: &Attached,
        role: Role,
        state: &ConnectionState,
    ) {
        let now_ns = self.now_ns;
        match self.linking.chain_of(attached, role, state, now_ns) {
            Verdict::Linked(chain) => record.chain = Some(*chain),
            Verdict::Later => {
                let id = (state.cookie, state.attempt);
                self.linking.held.insert(id, (now_ns + HELD_NS, Box::new(record)));
                return;
            }
            Verdict::None => {}
        }
        self.tell(Output::Finished(Box::new(record)));
    }

    /// Links what can be judged by now.
    pub(super) fn look_for_links(&mut self, now_ns: u64, is_end: bool) {
        for link in self.linking.chains.judge(now_ns, is_end) {
            let boot_id = Arc::<str>::from(self.settings.boot_id.as_str());
            self.linking.link(&link, |id| super::records::id(&boot_id, id), now_ns);
        }
        for record in self.linking.release(now_ns, is_end) {
            if self.collect {
                self.tell(Output::Finished(Box::new(record)));
            }
        }
        let is_kept = |known: &Known| known.closed_ns.is_none_or(|closed_ns| closed_ns + KNOWN_NS > now_ns);
        self.linking.known.retain(|_, known| is_kept(known));
    }
}

/// Exchanges after the first that a report tells of.
fn turns(heard: &Heard<'_>) -> Turns {
    let timeline = &heard.state.timeline;
    let (timed, overlapping) = heard.turns_before;
    let fresh = timeline.turns.wrapping_sub(timed).min(timeline.turns);
    let is_new = heard.first_seen_ns == heard.now_ns;
    let ended = (timeline.turns - fresh.min(RECENT_TURNS as u32)..timeline.turns).map(|turn| {
        let at = turn as usize % RECENT_TURNS;
        let begun_ns = turn_begun_ns(timeline.recent_turns_begun[at], heard.now_ns);
        (begun_ns, begun_ns + u64::from(timeline.recent_turns_us[at]) * 1_000)
    });
    Turns {
        ended: ended.collect(),
        open_ns: (timeline.turn_ns != 0 && is_past_handshake(heard.state)).then_some(timeline.turn_ns),
        // Of one that overlaps another nobody knows when it was answered, nor what a late connection was at.
        missed: fresh > RECENT_TURNS as u32
            || timeline.turns_overlapping != overlapping
            || is_new && heard.state.flags & FLAG_LATE != 0,
    }
}

/// In a handshake the marks of request and turn are the kernel machine's own.
fn is_past_handshake(state: &ConnectionState) -> bool {
    state.timeline.protocol != PROTOCOL_TLS || state.timeline.tls_done_ns != 0
}

/// The mean of the samples since the last window.
fn count_rtt(legs: &mut Legs, known: &mut Known, now_ns: u64) {
    let (sum_us, count) = known.rtt;
    let fresh = count.wrapping_sub(known.counted.1);
    if let Some((labels, leg)) = &known.leg
        && count > known.counted.1
    {
        let mean_ns = sum_us.saturating_sub(known.counted.0) * 1_000 / u64::from(fresh);
        legs.rtt(labels, *leg, mean_ns);
        known.counted = known.rtt;
        known.counted_ns = now_ns;
    }
}

fn upstream(attached: &Attached, state: &ConnectionState) -> LegLabels {
    let wanted = Endpoints::of(state).wanted();
    let host = attached.claim.as_ref().map(|claim| Arc::clone(&claim.host));
    LegLabels {
        destination: host.unwrap_or_else(|| wanted.address.to_string().into()),
        port: Some(wanted.port),
        group: Arc::clone(&attached.group.name),
    }
}

fn exchange(attached: &Attached, role: Role, heard: &Heard<'_>) -> Exchange {
    let state = heard.state;
    let timeline = &state.timeline;
    let mark = |ns: u64| (ns != 0).then_some(ns);
    let opened_ns = [state.intent_ns, state.syn_ns, state.established_ns];
    let opened_ns = opened_ns.into_iter().find_map(mark).unwrap_or(heard.first_seen_ns);
    let http = heard.facts.and_then(|facts| facts.http.as_ref());
    Exchange {
        id: (state.cookie, state.attempt),
        opened_ns,
        begun_ns: match role {
            Role::Client => mark(state.intent_ns).or(mark(state.syn_ns)),
            Role::Server => mark(timeline.request_ns).filter(|_| is_past_handshake(state)),
        },
        answered_ns: heard
            .answer
            .filter(|answer| answer.basis != Basis::Ambiguous)
            .map(|answer| answer.at_ns),
        closed_ns: heard.ended_ns,
        request: mark(attached.request).or_else(|| http.and_then(|http| http.request)),
        host: attached.claim.as_ref().map(|claim| Arc::clone(&claim.host)),
        went_on: timeline.turns > 0 || timeline.turns_overlapping > 0 || timeline.turn_ns != 0,
        // Kept by `chains`, from what it hears of turns.
        went_on_ns: None,
        is_serial: timeline.protocol == PROTOCOL_HTTP1,
    }
}
